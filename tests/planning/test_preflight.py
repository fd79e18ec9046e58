from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference
from raydistill.errors import CapabilityError, ConfigError
from raydistill.planning.ground import Ground
from raydistill.planning.preflight import preflight

Maker = Callable[..., CampaignConfig]


@pytest.mark.parametrize(
    ("grades", "sections", "match"),
    [
        ([{"layers": 6}, {"layers": 2, "layer_map": [1, 12]}], {}, r"2-layers2: layer map \[1, 12\].*layer 12"),
        ([{"layers": 6}, {"layers": 2, "init": "teacher", "layer_map": [1, 6]}], {}, r"layer map \[1, 6\].*layer 6"),
        ([{"layers": 2, "layer_map": {"choice": ["skip", [3, 12]]}}], {}, r"with \{'layer_map': \[3, 12\]\}"),
        ([{"layers": 2, "init": {"choice": ["pretrained", "teacher"]}, "layer_map": [1, 7]}], {"teacher": {"layers": 6}},
         r"with \{'init': 'teacher'\}: layer map \[1, 7\]"),
        ([{"layers": 3, "method": {"name": "logits", "alpha": {"uniform": [0.5, 1.5]}}}], {}, r"with \{'method.alpha': 1.5\}"),
        ([{"layers": 3, "method": {"name": "pkd", "beta": {"uniform": [-1, 1]}}}], {}, r"with \{'method.beta': -1"),
        ([{"layers": 3, "learning_rate": {"uniform": [-1.0, 0.001]}}], {}, r"with \{'learning_rate': -1"),
        ([{"layers": 13}], {}, "1-layers13 is deeper than 0-teacher above it, which has 12"),
        ([{"layers": 3}], {"teacher": {"layers": 24}}, "a teacher of 24 layers from an encoder of 12"),
        ([{"layers": 3}], {"resources": {"backend": "inline", "workers_per_trial": 2}}, "inline trials have one"),
        ([{"layers": 3}], {"resources": {"workers_per_trial": {"max": 3}, "backend": "inline"}}, "inline trials have one"),
        ([{"layers": 3}], {"resources": {"workers_per_trial": 513}}, "512 examples for 513 workers"),
        ([{"layers": 3}], {"ladders": {"depths": [3, 2]}}, "LadderSearch instead of Campaign"),
    ],
)  # fmt: skip
def test_impossible_grade_is_refused(
    campaign: Maker, ground: Ground, grades: list[dict[str, Any]], sections: dict[str, Any], match: str
) -> None:
    """The teacher would train for hours before the grade below it turned out impossible."""
    with pytest.raises(CapabilityError, match=match):
        preflight(campaign(*grades, **sections), ground)


def test_all_problems_are_told_at_once(campaign: Maker, ground: Ground) -> None:
    """A reader would mend one grade, start again, and meet the next."""
    config = campaign({"layers": 2, "layer_map": [1, 12]}, {"layers": 1, "layer_map": [30]})
    with pytest.raises(CapabilityError, match="2 parts") as caught:
        preflight(config, ground)
    assert "1-layers2" in str(caught.value)
    assert "2-layers1" in str(caught.value)


def test_grid_over_an_interval_is_refused(campaign: Maker, ground: Ground) -> None:
    """A grid over an interval has no end."""
    config = campaign({"layers": 3, "mask_ratio": {"uniform": [0.0, 0.2]}}, search={"algorithm": "grid"})
    with pytest.raises(ConfigError, match="grid search over mask_ratio, which is uniform"):
        preflight(config, ground)


def test_given_teacher_sets_the_depth(campaign: Maker) -> None:
    """A student of twelve layers would be asked to start from a teacher of six."""
    shallow = Ground("d", "e", 12, TeacherReference(path="/t", digest="a"), 6)
    assert [plan.layers for plan in preflight(campaign({"layers": 6}), shallow)] == [6, 6]
    with pytest.raises(CapabilityError, match="deeper than 0-teacher"):
        preflight(campaign({"layers": 9}), shallow)


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"given_teacher_foreign": True}, "teacher.checkpoint /t has another tokenizer than the encoder"),
        ({"given_teacher_tokens": 32}, "/t has positions for 32 tokens, and data.max_tokens is 50; lower it to 32"),
    ],
)
def test_given_teacher_that_cannot_read_the_texts_is_refused_where_it_teaches(
    campaign: Maker, facts: dict[str, Any], match: str
) -> None:
    """A trial that fails although everything was known; or a baseline that is refused, which no teacher has a part in."""
    ground = Ground("d", "e", 12, TeacherReference(path="/t", digest="a"), 6, **facts)
    given = {"teacher": {"checkpoint": "/t"}}
    alone, taught = ({"layers": 4, "method": {"name": name}} for name in ("none", "logits"))
    for first in (taught, {**alone, "init": "teacher"}):
        with pytest.raises(CapabilityError, match=f"grade 1-layers4: .*{match}"):
            preflight(campaign(first, **given), ground)
    below = {**taught, "layers": 3}
    assert preflight(campaign(alone, below, **given), ground)
    with pytest.raises(CapabilityError, match=f"grade 2-layers3: .*{match}"):
        preflight(campaign(alone, below, **given, schedule={"name": "independent"}), ground)
    several = {"layers": 3, "method": {"name": "reinforced"}}
    with pytest.raises(CapabilityError, match=f"grade 2-layers3: .*{match}"):
        preflight(campaign(alone, several, **given), ground)
    assert preflight(campaign(alone, {**several, "method": {"name": "reinforced", "earlier": False}}, **given), ground)


def test_possible_campaign_passes(campaign: Maker, ground: Ground) -> None:
    """A refusal of PMD's own ladder would make the product useless."""
    ladder = [{"layers": n, "mask_ratio": ratio} for n, ratio in ((12, 0.2), (9, 0.1), (6, 0.05), (3, 0.0))]
    assert [plan.layers for plan in preflight(campaign(*ladder), ground)] == [12, 12, 9, 6, 3]


@pytest.mark.parametrize(
    ("schedule", "places", "checkpoint", "told"),
    [
        ("pipelined", 1, None, ["3 grades run one after another; give it at least 3"]),
        ("pipelined", 2, None, ["3 grades cannot all move at once; give it at least 3"]),
        ("pipelined", 1, "/t", ["2 grades run one after another; give it at least 2"]),
        ("pipelined", 2, "/t", []),
        ("pipelined", 3, None, []),
        ("pipelined", "auto", None, []),
        ("sequential", 1, None, []),
    ],
)
def test_pipeline_without_a_place_for_each_grade_is_told(
    campaign: Maker,
    ground: Ground,
    caplog: pytest.LogCaptureFixture,
    schedule: str,
    places: int | str,
    checkpoint: str | None,
    told: list[str],
) -> None:
    """The number looks like one of each grade: grades that were to move at once would run one after another, and nobody knew why."""
    sections: dict[str, Any] = {"schedule": {"name": schedule}, "resources": {"concurrent_trials": places}}
    with caplog.at_level(logging.WARNING):
        preflight(campaign({"layers": 6}, {"layers": 3}, teacher={"checkpoint": checkpoint}, **sections), ground)
    assert len(caplog.messages) == len(told)
    assert all(part in message for part, message in zip(told, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ({"name": "minilm", "teacher_layer": 6}, "teacher_layer is 6, and its teacher has 6 layers"),
        ({"name": "minilm", "teacher_layer": {"choice": [6, 4]}}, "teacher_layer is 6, and its teacher has 6 layers"),
        ({"name": "minilm", "variant": "minilmv2", "relation_heads": 7}, "relation_heads is 7, which does not divide"),
        (
            {"name": "minilm", "variant": "minilmv2", "relation_heads": {"choice": [8, 7]}},
            "relation_heads is 7, which does not divide",
        ),
        ({"name": "self-feature", "groups": 7}, "groups is 7, which does not divide the student's 384"),
        ({"name": "education", "stages": 4}, "stages is 4, and the student has 3 layers"),
        ({"name": "education", "stages": {"choice": [2, 4]}}, "stages is 4, and the student has 3 layers"),
        ({"name": "education", "stages": 2, "end": {"uniform": [0.01, 0.8]}}, "they would begin with the epochs 1, 1"),
        (
            {"name": "education", "stages": {"choice": [2, 3]}, "end": {"choice": [0.6, 0.01]}},
            "stages is 3 in .* they would begin with the epochs 1, 1, 1",
        ),
        ({"name": "education", "end": 0.01}, "they would begin with the epochs 1, 1, 1"),
        ({"name": "education"}, "stages is 3, and the graph has 2 relations with a training triple"),
    ],
)
def test_method_that_fits_no_models_of_a_lower_grade_is_refused(
    campaign: Maker, method: dict[str, Any], match: str
) -> None:
    """A campaign that fails when all grades but the last are trained."""
    ground = Ground("d", "e", 12, encoder_width=384, num_relations=2)
    with pytest.raises(CapabilityError, match=match) as caught:
        preflight(campaign({"layers": 6}, {"layers": 3, "method": method}), ground)
    assert "grade 2-layers3" in str(caught.value)


def test_structural_teacher_of_raw_scores_is_refused(campaign: Maker) -> None:
    """Cosines that are pulled to scores of a table, in whichever unit those are, hours after the campaign began."""
    tables, text = (TeacherReference(path=f"/{name}", digest=name * 32) for name in ("ab", "cd"))
    ground = Ground("d", "e", 12, others={"tables": tables, "text": text}, structural=frozenset([tables.digest]))

    def named(place: str, objective: str) -> CampaignConfig:
        return campaign({"layers": 3}, method={"name": "reinforced", "teachers": [place], "objective": objective})

    with pytest.raises(CapabilityError, match=r"objective is mse.* /ab is a structural model.* set it to kl"):
        preflight(named("tables", "mse"), ground)
    assert preflight(named("tables", "kl"), ground)
    assert preflight(named("text", "mse"), ground)


def test_structural_teacher_is_nobodys_only_one(campaign: Maker) -> None:
    """A part that a model teaches which its page says only ever teaches beside others."""
    tables, text = (TeacherReference(path=f"/{name}", digest=name * 32) for name in ("ab", "cd"))
    ground = Ground("d", "e", 12, others={"tables": tables, "text": text}, structural=frozenset([tables.digest]))
    school = {"name": "education", "stages": 2, "teachers": ["text", "tables"]}
    with pytest.raises(CapabilityError, match=r"names /ab, which is a structural model.* use method reinforced"):
        preflight(campaign({"layers": 4, "epochs": 4}, method=school), ground)
    assert preflight(campaign({"layers": 4, "epochs": 4}, method={**school, "teachers": ["text", "text"]}), ground)


def test_value_that_changes_nothing_is_told_of(
    campaign: Maker, ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    """A search whose trials do the same work, or a row of a table that is another one's."""
    idle = {"name": "logits", "divergence": "mse", "temperature": "search"}
    parts = {"name": "combined", "parts": [idle, {"name": "pmd", "preset": "reference", "over_hidden": "sum"}]}
    with caplog.at_level(logging.WARNING, "raydistill.planning.hints"):
        preflight(campaign({"layers": 6}, {"layers": 3}, method=parts, search={"trials": 2}), ground)
    assert [record.getMessage() for record in caplog.records] == [
        "method logits has temperature, which changes nothing: divergence mse compares the scores as they are, and trials that differ in it alone do the same work; "
        "leave it out",
        "method pmd has over_hidden, which changes nothing: preset reference pools and normalises masked features instead; leave it out",
    ]


@pytest.mark.parametrize(
    ("grade", "search", "told"),
    [
        ({"mask_ratio": {"choice": [0.1, 0.2]}}, {}, "1-layers2: mask_ratio would be searched, and one trial"),
        ({"mask_ratio": {"uniform": [0.0, 0.2]}}, {}, "mask_ratio would be searched"),
        ({"mask_ratio": {"choice": [0.0]}}, {}, ""),
        ({"mask_ratio": {"choice": [0.1, 0.2]}, "trials": 2}, {}, ""),
        ({"mask_ratio": {"choice": [0.1, 0.2]}}, {"trials": 2}, ""),
        ({"mask_ratio": {"choice": [0.1, 0.2]}}, {"algorithm": "grid"}, ""),
        ({"mask_ratio": 0.2}, {}, ""),
    ],
)
def test_search_of_one_point_is_told_of(
    campaign: Maker, ground: Ground, caplog: pytest.LogCaptureFixture, grade: Any, search: Any, told: str
) -> None:
    """`search.trials` is 1 unless somebody says more: a search over mask ratios that tries a single one, and says nothing."""
    config = campaign({"layers": 2, **grade}, search=search, method={"name": "pmd"})
    with caplog.at_level(logging.WARNING, "raydistill.planning.hints"):
        preflight(config, ground)
    assert len(caplog.messages) == bool(told)
    assert told in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"method": {"name": "minilm"}},
            "1-layers2: mask_ratio changes nothing under method minilm with view separate",
        ),
        ({"method": {"name": "minilm"}, "view": "shared"}, ""),
        ({"method": {"name": "pmd"}}, ""),
        ({"compare": {"methods": [{"name": "minilm"}, {"name": "pmd"}], "seeds": [0]}}, ""),
        ({"compare": {"methods": [{"name": "minilm"}, {"name": "none"}], "seeds": [0]}}, "method minilm, method none"),
        ({"method": {"name": "boot"}, "view": "shared"}, "under method boot with view shared; leave mask_ratio out"),
        (
            {
                "compare": {
                    "methods": [
                        {"name": "combined", "parts": [{"name": "pmd"}, {"name": "logits"}]},
                        {"name": "combined", "parts": [{"name": "minilm"}, {"name": "logits"}]},
                    ],
                    "seeds": [0],
                }
            },
            "",
        ),
    ],
)
def test_masks_that_nobody_looks_at_are_told_of(
    campaign: Maker, ground: Ground, caplog: pytest.LogCaptureFixture, changes: Any, told: str
) -> None:
    """Ratios that are all the same trial, or one that is never applied."""
    with caplog.at_level(logging.WARNING, "raydistill.planning.hints"):
        preflight(campaign({"layers": 2, "mask_ratio": 0.2}, **changes), ground)
    assert len(caplog.messages) == bool(told)
    assert told in caplog.text


@pytest.mark.parametrize(("examples", "words"), [(None, 0), (100, 1), (769, 0), (1, 1), (768, 1)])
def test_batch_that_holds_the_whole_graph_is_told_of(
    campaign: Maker, caplog: pytest.LogCaptureFixture, examples: int | None, words: int
) -> None:
    """Fifty epochs of one step each, and a poor table without a reason."""
    config = campaign({"layers": 6, "epochs": 7}, {"layers": 3}, training={"batch_size": 256, "epochs": 5})
    with caplog.at_level(logging.WARNING, "raydistill.planning.hints"):
        preflight(config, Ground("d", "e", 12, epoch_examples=examples))
    assert len(caplog.messages) == words
    if examples == 768:
        assert "768 examples has 3 steps of training.batch_size 256, so a grade's 7 epochs" in caplog.messages[0]
        assert "change the weights 21 times; lower batch_size (to 38, say)" in caplog.messages[0]
