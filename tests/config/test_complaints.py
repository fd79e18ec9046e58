"""One readable line per mistake, whatever pydantic says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.errors import ConfigError

MASK_RATIO = "expected a number in [0, 1), or {choice: [...]} or {uniform: [low, high]}"
SEED = "expected an integer of at least 0"
LAYER_MAP = "expected uniform, first, last or skip, or a list of integers of at least 0 or {choice: [...]}"


def lines_for(changes: dict[str, Any]) -> list[str]:
    content: dict[str, Any] = {"data": {"path": "x"}, "encoder": {"name": "y"}, "grades": [{"layers": 3}], **changes}
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    first, *lines = caught.value.received.split("\n  - ")
    assert re.fullmatch(rf"config: {len(lines)} problems? in the configuration", first)
    return lines


@pytest.mark.parametrize(
    ("resources", "line"),
    [
        ({"workers_per_trial": {"min": 4, "max": 1}}, "workers_per_trial: min is 4 and max is 1; exchange them"),
        ({"workers_per_trial": {"mim": 1, "max": 4}}, "workers_per_trial.mim: unknown key 'mim'; did you mean 'min'?"),
        ({"workers_per_trial": {"min": 0, "max": 4}}, "workers_per_trial.min: received 0; expected an integer of at least 1"),
        ({"workers_per_trial": {"min": 1}}, "workers_per_trial.max: this key is required; expected an integer of at least 1"),
        (
            {"workers_per_trial": 0},
            "workers_per_trial: received 0; expected an integer of at least 1 or a section with the keys min, max",
        ),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker is 1.5; a worker gets a part of one GPU, or whole ones: give a number below 1 or a whole one"),
    ],
)  # fmt: skip
def test_resources_that_cannot_be_given_are_refused_by_their_key(resources: dict[str, Any], line: str) -> None:
    """Ray says of half a GPU more than one that it is no integer, hours later, in the log of a worker."""
    [told] = lines_for({"resources": resources})
    assert told in (f"resources.{line}", f"resources: {line}")


@pytest.mark.parametrize(
    ("grade", "line"),
    [
        ({"mask_ratio": 1.5}, f"grades.0.mask_ratio: received 1.5; {MASK_RATIO}"),
        ({"mask_ratio": None}, f"grades.0.mask_ratio: received null; {MASK_RATIO}"),
        ({"mask_ratio": [0.1, 0.2]}, f"grades.0.mask_ratio: received [0.1, 0.2]; {MASK_RATIO}"),
        (
            {"mask_ratio": {"uniform": [0.5, 0.2]}},
            "grades.0.mask_ratio: the lower bound must be below the upper one, received [0.5, 0.2]",
        ),
        (
            {"mask_ratio": {"choice": [0.1, 1.5]}},
            "grades.0.mask_ratio.choice.1: received 1.5; expected a number in [0, 1)",
        ),
        ({"mask_ratio": {"choice": []}}, "grades.0.mask_ratio.choice: received 0 entries; expected at least 1"),
        ({"mask_ratio": {"uniform": 0.3}}, "grades.0.mask_ratio.uniform: received 0.3; expected a list of 2 numbers"),
        ({"mask_ratio": {"uniform": [0.3]}}, "grades.0.mask_ratio.uniform.1: an entry is missing; expected a number"),
        (
            {"mask_ratio": {"chioce": [0.1]}},
            f"grades.0.mask_ratio: unknown key 'chioce'; {MASK_RATIO}; did you mean 'choice'?",
        ),
        (
            {"mask_ratio": {"choice": [0.1], "uniform": [0.1, 0.2]}},
            f'grades.0.mask_ratio: received {{"choice": [0.1], "uniform": [0.1, 0.2]}}; {MASK_RATIO}',
        ),
        ({"mask_ratio": {"uniform": [0.5, 1.2]}}, "grades.0: a mask ratio lies in [0, 1), received uniform [0.5, 1.2]"),
        (
            {"mask_ratio": {"choice": [0.1, 0.2, 0.1]}},
            "grades.0.mask_ratio: each value is listed once, received [0.1, 0.2, 0.1]; remove the repeated one",
        ),
        ({"layer_map": "skp"}, f'grades.0.layer_map: received "skp"; {LAYER_MAP}'),
        ({"layer_map": [0, 1]}, "grades.0: layer map [0, 1] names 2 layers for a student of 3"),
        ({"layer_map": [0, -1, 2]}, "grades.0.layer_map.1: received -1; expected an integer of at least 0"),
        (
            {"layer_map": {"choice": ["skip", "lst"]}},
            'grades.0.layer_map.choice.1: received "lst"; expected uniform, first, last or skip, or a list of integers of at least 0',
        ),
        (
            {"learning_rate": {"log_uniform": [0, 1]}},
            "grades.0.learning_rate.log_uniform.0: received 0; expected a number above 0",
        ),
        ({"epochs": "many"}, 'grades.0.epochs: received "many"; expected an integer of at least 1 or null'),
        ({"mask_ration": 0.1}, "grades.0.mask_ration: unknown key 'mask_ration'; did you mean 'mask_ratio'?"),
        ({"batch_size": 8}, "grades.0.batch_size: unknown key 'batch_size'; did you mean training.batch_size?"),
        (
            {"method": {"name": "pmd", "alhpa": 0.1}},
            "grades.0.method.alhpa: unknown key 'alhpa'; did you mean 'alpha'?",
        ),
        (
            {"method": "pmd"},
            'grades.0.method: received "pmd"; expected a section whose name is amd, boot, combined, distilbert, dkd, dq, education, homodistil, logits, mgsr, minilm, none, pkd, pmd, reinforced, self-feature or tinybert, or null',
        ),
    ],
)
def test_mistake_in_a_grade_is_one_line(grade: dict[str, Any], line: str) -> None:
    """A union complains once per alternative, in the names of Python types; nobody finds the mistake in that."""
    assert lines_for({"grades": [{"layers": 3, **grade}]}) == [line]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trainig": {}}, "trainig: unknown key 'trainig'; did you mean 'training'?"),
        ({"batch_size": 3}, "batch_size: unknown key 'batch_size'; did you mean training.batch_size?"),
        (
            {"method": {"name": "pdm"}},
            "method: unknown method 'pdm'; expected one of amd, boot, combined, distilbert, dkd, dq, education, homodistil, logits, mgsr, minilm, none, pkd, pmd, reinforced, self-feature, tinybert; did you mean 'pmd'?",
        ),
        (
            {"method": {"name": "pmd", "mask_ration": 1}},
            "method.mask_ration: unknown key 'mask_ration'; did you mean grades.0.mask_ratio?",
        ),
        (
            {"method": {"alpha": 0.1}},
            "method: no `name` given; expected a section whose name is amd, boot, combined, distilbert, dkd, dq, education, homodistil, logits, mgsr, minilm, none, pkd, pmd, reinforced, self-feature or tinybert",
        ),
        ({"grades": []}, "grades: received 0 entries; expected at least 1"),
        ({"data": {}}, "data.path: this key is required; expected text"),
        (
            {"teacher": {"layers": 2}},
            "the campaign: a student of 3 layers stands below a teacher of 2; depth may only fall down the ladder",
        ),
        (
            {"grades": [{"layers": 3}, {"layers": 6}]},
            "the campaign: a student of 6 layers stands below a teacher of 3; depth may only fall down the ladder",
        ),
        (
            {"compare": {"methods": [{"name": "pmd"}, {"name": "pmd"}]}},
            "compare: methods and seeds are compared once each; remove the repeated one",
        ),
        ({"compare": {"methods": [{"name": "pmd"}], "seeds": [-1]}}, f"compare.seeds.0: received -1; {SEED}"),
        (
            {"compare": {"methods": [{"name": "pmd"}]}, "grades": [{"layers": 3, "method": {"name": "none"}}]},
            "the campaign: every grade has a method of its own, so the methods of `compare` would be used nowhere; remove that of the grades to be compared, or "
            "remove `compare`",
        ),
        (
            {"compare": {"methods": [{"name": "pmd"}]}, "method": {"name": "none"}},
            "the campaign: `method` would be ignored, because `compare.methods` lists what is run; move it there and "
            "remove `method`",
        ),
        (
            {"compare": {"methods": [{"name": "pmd"}]}, "seed": 3},
            "the campaign: `seed` would be ignored, because `compare.seeds` lists what is run; move it there and remove "
            "`seed`",
        ),
        (
            {
                "grades": [{"layers": 3}, {"layers": 2, "epochs": 4}],
                "search": {"early_stopping": "asha", "grace_epochs": 4},
                "training": {"epochs": 3},
            },
            "the campaign: search.grace_epochs is 4, and no student trains for more than 4 epochs, so early stopping would "
            "stop nothing; lower grace_epochs, or set search.early_stopping to none",
        ),
        (
            {"resources": {"concurrent_ladders": 3}},
            "the campaign: resources.concurrent_ladders is 3, and without a section `ladders` there is one ladder; remove resources.concurrent_ladders, or add that section",
        ),
        ({1: 2}, "1: the key 1 is not text"),
    ],
)
def test_mistake_elsewhere_is_one_line(changes: dict[str, Any], line: str) -> None:
    """A suggestion from the wrong section, or a lost path, sends the reader to the wrong line."""
    assert lines_for(changes) == [line]


def test_alpha_and_beta_leave_the_task_a_share() -> None:
    """With alpha + beta of 1 or more nothing holds the student to the graph, and the loss may fall for ever."""
    [line] = lines_for({"method": {"name": "pmd", "alpha": 0.5, "beta": 0.5}})
    assert line.startswith("method: alpha + beta can reach 1; expected below 1")
    [line] = lines_for({"method": {"name": "pmd", "alpha": {"choice": [0.1, 0.8]}, "beta": {"uniform": [0, 0.3]}}})
    assert line.startswith("method: alpha + beta can reach 1.1; expected below 1")


@pytest.mark.parametrize(
    "method",
    [
        {"name": "mgsr", "contrastive": 0, "clipped": {"choice": [0, 1]}, "span": {"uniform": [0, 1]}},
        {"name": "amd", "contrastive": 0, "prediction": {"choice": [0, 2]}, "feature": 0},
        {"name": "distilbert", "contrastive": 0, "prediction": 0, "cosine": 0},
        {"name": "tinybert", "contrastive": 0, "embedding": 0, "attention": 0, "hidden": 0, "prediction": 0},
    ],
)
def test_a_loss_of_nothing_is_refused(method: dict[str, Any]) -> None:
    """A search that reaches a trial without a term, hours after it began."""
    [line] = lines_for({"method": method})
    assert "can all be 0; expected one of them above 0" in line


def test_a_teacher_that_is_named_twice_is_refused() -> None:
    """One teacher that counts as two."""
    [line] = lines_for({"method": {"name": "reinforced", "teachers": ["a", "b", "a"]}})
    assert line.startswith("method: teachers are a, b, a; expected each once")


def test_parts_and_their_teachers_are_equally_many() -> None:
    """A part that nobody teaches, or a teacher that is trained for nothing. One may teach several parts."""
    [line] = lines_for({"method": {"name": "education", "stages": 3, "teachers": ["a", "b"]}})
    assert line.startswith(
        "method: teachers are 2, and stages is 3; expected a checkpoint for each part, or none at all"
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([{"name": "pmd"}, {"name": "pmd", "alpha": 0.3}], "parts are pmd, pmd; expected each method once"),
        ([{"name": "pmd"}], "received 1 entries; expected at least 2"),
        ([{"name": "pmd"}, {"name": "boot"}], "boot's examples are random and have no right answer"),
        (
            [{"name": "pmd"}, {"name": "none"}],
            "none is one of the parts; expected methods that go together, and none is training without a teacher and has nothing to add",
        ),
        ([{"name": "pmd"}, {"name": "nonne"}], "unknown method 'nonne'"),
        (
            [{"name": "pmd"}, {"name": "combined", "parts": []}],
            "combined is a list of methods itself and has no terms of its own; write its parts in this list",
        ),
        ([{"name": "pmd"}, {"name": "amd"}], "train the deepest candidate of amd alone"),
        ([{"name": "pmd"}, {"name": "minilm", "relaton": 2}], "unknown key 'relaton'"),
        (
            [{"name": "dq"}, {"name": "homodistil", "width": 12}],
            "dq and homodistil are parts; expected one method at most",
        ),
        ([{"name": "pmd"}, {"name": "education"}], "its student grows, so the layers that the terms of others look at"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(parts: list[dict[str, Any]], told: str) -> None:
    """Two terms of one name, or a sum of one."""
    [line] = lines_for({"method": {"name": "combined", "parts": parts}})
    assert line.startswith("method")
    assert told in line


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"depths": [3, 2, 3]}, "depths are [3, 2, 3]; expected each once"),
        ({"depths": []}, "received 0 entries; expected at least 1"),
        ({"intermediate": [64, 32, 64]}, "intermediate are [64, 32, 64]; expected each once"),
        ({"intermediate": [0]}, "received 0; expected an integer of at least 1"),
        ({"depths": [0, 3]}, "received 0; expected an integer of at least 1"),
        ({"student_layers": -1}, "received -1; expected an integer of at least 0"),
    ],
)
def test_candidates_that_are_none_are_refused(method: dict[str, Any], told: str) -> None:
    """A candidate without a layer, or one that counts twice."""
    [line] = lines_for({"method": {"name": "amd", **method}})
    assert line.startswith("method")
    assert told in line


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    """Mending one mistake per attempt costs an attempt per mistake."""
    lines = lines_for(
        {"training": {"batch_size": 1, "epochs": 0, "lerning_rate": 3}, "method": {"name": "pmd", "alpha": 2}}
    )
    assert [line.split(":")[0] for line in lines] == [
        "method.alpha",
        "training.batch_size",
        "training.epochs",
        "training.lerning_rate",
    ]
