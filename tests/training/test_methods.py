from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.methods import METHOD_SECTIONS, has_teacher, is_baseline, masks_itself, sees_masks
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError
from raydistill.training.methods.baselines import patience_layers, spaced_layers
from raydistill.training.methods.registry import assemble
from raydistill.training.methods.reinforced import warmup_epochs
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.parts import TrialParts

Config = Callable[..., TrialConfig]


def shapes(
    student: int, teacher: int, heads: tuple[int, int] = (4, 4), *, width: int = 32, opens: bool = True
) -> Shapes:
    """Of a student of 16 units, and a teacher of some width."""
    return Shapes(Shape(student, 16, heads[0], opens), Shape(teacher, width, heads[1], opens))


DEPTHS = shapes(3, 6)
ALIKE = shapes(3, 6, width=16)


def weights(config: TrialConfig, depths: Shapes = DEPTHS) -> dict[str, float]:
    return {term.name: term.weight for term in assemble(config, depths)}


def pmd(trial_config: Config, alpha: float, beta: float, ratio: float, **more: Any) -> TrialConfig:
    return trial_config(method={"name": "pmd", "alpha": alpha, "beta": beta, **more}, mask_ratio=ratio)


def test_weights_are_those_of_the_formulas(trial_config: Config) -> None:
    """Weights that belong to other terms than the method's formula says."""
    assert weights(pmd(trial_config, 0.2, 0.3, 0.1), ALIKE) == pytest.approx({"ce": 0.5, "score": 0.2, "mgfd": 0.3})
    assert weights(trial_config(method={"name": "logits", "alpha": 0.4})) == pytest.approx({"ce": 0.6, "kl": 0.4})
    mse = trial_config(method={"name": "logits", "alpha": 0.4, "divergence": "mse"})
    assert weights(mse) == pytest.approx({"ce": 0.6, "score": 0.4})
    pkd = trial_config(method={"name": "pkd", "alpha": 0.4, "beta": 7.0})
    assert weights(pkd) == pytest.approx({"ce": 0.6, "kl": 0.4, "patience": 7.0})
    assert weights(trial_config(method={"name": "none"})) == {"ce": 1.0}


@pytest.mark.parametrize("name", [name for name, section in METHOD_SECTIONS.items() if section.taught])
def test_what_a_section_says_is_taught_is_all_that_is(trial_config: Config, name: str) -> None:
    """A term that a section forgot: a student that a teacher tells something is what others are measured against."""
    section = METHOD_SECTIONS[name]
    needed = {"width": 12} if "width" in section.model_fields else {}
    method = {"name": name, **needed, **dict.fromkeys(section.taught, 0)}
    config = trial_config(method=method, init="teacher")
    assert is_baseline(config.method)
    # It is one student, whoever is above it.
    assert not has_teacher(config.method)
    assert weights(config, ALIKE) == {"ce": 1.0}
    for weight in section.taught:
        taught = trial_config(method={**method, weight: 1}, init="teacher")
        assert not is_baseline(taught.method)
        assert len(weights(taught, ALIKE)) > 1


def test_what_planning_believes_of_a_method_is_what_its_terms_do(
    parts_of: Callable[..., TrialParts], each_method: str
) -> None:
    """A method whose terms look at masked texts, and whose mask ratio planning sets to 0 because nobody told it; or one that is trained without the teacher it needs."""
    parts = parts_of(each_method, mask_ratio=0.2, view="separate")
    config, terms = parts.config, parts.trainer.terms
    assert has_teacher(config.method) == any(term.teacher_needs is not None for term in terms)
    # Who masks for itself has a view of its own.
    sees = any("corrupted" in (term.on, term.teacher_on) for term in terms)
    assert sees == (sees_masks(config.method) or masks_itself(config.method))


def test_masked_features_are_off_at_ratio_zero(trial_config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """T8. A constant zero that merely shrinks the contrastive term, as in the public code."""
    with caplog.at_level(logging.INFO, "raydistill.training.methods.pmd"):
        assert weights(pmd(trial_config, 0.2, 0.3, 0.0)) == pytest.approx({"ce": 0.8, "score": 0.2})
    [record] = caplog.records
    assert "mask ratio 0" in record.getMessage()
    assert "0.3 goes back to pmd's contrastive term" in record.getMessage()


def test_nothing_is_logged_where_nothing_is_switched_off(
    trial_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """T8. A line that says something happened which did not."""
    with caplog.at_level(logging.INFO, "raydistill.training.methods.pmd"):
        weights(pmd(trial_config, 0.2, 0.3, 0.1), ALIKE)
        weights(pmd(trial_config, 0.2, 0.0, 0.0))
    assert caplog.records == []


def test_terms_without_weight_are_left_out(trial_config: Config) -> None:
    """A teacher that is run for a term that counts nothing."""
    terms = assemble(pmd(trial_config, 0.0, 0.0, 0.2), DEPTHS)
    assert [term.name for term in terms] == ["ce"]
    assert all(term.teacher_needs is None for term in terms)


def test_presets_of_pmd_set_what_they_say(trial_config: Config) -> None:
    """The public code's losses under the paper's name, or half of them."""
    paper = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1), ALIKE)}
    code = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1, preset="reference"), ALIKE)}
    assert (paper["ce"].reduction, code["ce"].reduction) == ("mean", "sum")  # type: ignore[attr-defined]
    assert (paper["mgfd"].preset, code["mgfd"].preset) == ("paper", "reference")  # type: ignore[attr-defined]


def test_masked_features_compare_the_last_layers(trial_config: Config) -> None:
    """The student's last layer against the teacher's layer of the same number."""
    terms = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1), shapes(3, 12, width=16))}
    assert terms["mgfd"].student_needs.layers == {2}
    assert terms["mgfd"].teacher_needs is not None
    assert terms["mgfd"].teacher_needs.layers == {11}
    assert (terms["ce"].on, terms["score"].on, terms["mgfd"].on) == ("clean", "clean", "corrupted")


@pytest.mark.parametrize(
    ("match", "student", "teacher", "expected"),
    [
        ("skip", 6, 12, (1, 3, 5, 7, 9)),
        ("last", 6, 12, (6, 7, 8, 9, 10)),
        ("skip", 3, 12, (3, 7)),
        ("last", 3, 12, (9, 10)),
        ("skip", 9, 12, (0, 1, 3, 4, 5, 7, 8, 9)),
        ("skip", 12, 12, tuple(range(11))),
        ("last", 12, 12, tuple(range(11))),
        ("skip", 2, 6, (2,)),
    ],
)
def test_patience_layers_are_those_of_the_paper(
    match: str, student: int, teacher: int, expected: tuple[int, ...]
) -> None:
    """PKD-skip and PKD-last of Sun et al., counted from zero: BERT6 learns from layers 2, 4, 6, 8, 10 or 7 to 11."""
    assert patience_layers(match, shapes(student, teacher)) == expected


def test_student_of_one_layer_has_no_patience_term(trial_config: Config) -> None:
    """A mean over no layers: NaN from the first step on."""
    config = trial_config(layers=1, method={"name": "pkd"})
    assert weights(config, shapes(1, 4)).keys() == {"ce", "kl"}


def test_weights_of_the_newer_methods(trial_config: Config) -> None:
    """A term that nobody asked for, or one that is missing."""
    dkd = trial_config(method={"name": "dkd", "contrastive": 0.5}, training={"epochs": 24})
    assert weights(dkd) == {"ce": 0.5, "dkd": 1.0}
    tinybert = trial_config(method={"name": "tinybert", "contrastive": 0, "attention": 3.0})
    assert weights(tinybert) == {"embedding": 1.0, "hidden": 1.0, "attention": 3.0, "kl": 1.0}
    minilm = trial_config(method={"name": "minilm", "relation": 2.0})
    assert weights(minilm) == {"ce": 1.0, "attention_relation": 2.0, "value_relation": 2.0}
    second = trial_config(method={"name": "minilm", "variant": "minilmv2"})
    assert weights(second).keys() == {"ce", "query_relation", "key_relation", "value_relation"}
    mgsr = trial_config(method={"name": "mgsr", "span": 0.25})
    assert weights(mgsr) == {"ce": 1.0, "clipped": 1.0, "span": 0.25}
    reinforced = trial_config(method={"name": "reinforced", "alpha": 0.3})
    assert weights(reinforced) == pytest.approx({"ce": 0.7, "selected": 0.3})
    alone = trial_config(method={"name": "self-feature", "gamma": 0.3})
    assert weights(alone, shapes(6, 0)) == {"ce": 1.0, "earlier_self": 1.0, "transport": 0.3}


def test_combined_method_has_the_terms_of_all_and_one_contrastive_term(trial_config: Config) -> None:
    """A task that counts twice, or two terms of one name of which one is lost."""
    parts = [
        {"name": "tinybert", "contrastive": 0.4, "attention": 0},
        {"name": "logits", "alpha": 0.3},
        {"name": "minilm"},
    ]
    found = weights(trial_config(method={"name": "combined", "parts": parts}))
    assert found == pytest.approx(
        {
            "ce": 0.4,
            "tinybert.embedding": 1.0,
            "tinybert.hidden": 1.0,
            "tinybert.kl": 1.0,
            "logits.kl": 0.3,
            "minilm.attention_relation": 1.0,
            "minilm.value_relation": 1.0,
        }
    )
    masked = trial_config(
        method={"name": "combined", "parts": [{"name": "minilm"}, {"name": "pmd", "alpha": 0.2, "beta": 0.3}]},
        mask_ratio=0.1,
    )
    assert weights(masked, ALIKE)["pmd.mgfd"] == 0.3
    assert weights(masked, ALIKE)["ce"] == 1.0


def test_weights_rise_and_fall_along_the_epochs(trial_config: Config) -> None:
    """A ramp that never arrives, or that takes from one term what it does not give to the other."""
    dkd = trial_config(method={"name": "dkd", "warmup_ratio": 0.25}, training={"epochs": 8})
    [_, decoupled] = assemble(dkd, DEPTHS)
    assert [decoupled.weight_at(epoch) for epoch in range(4)] == [0.5, 1.0, 1.0, 1.0]
    alone = trial_config(method={"name": "self-feature", "smoothing": 0.2}, training={"epochs": 5})
    terms = {term.name: term for term in assemble(alone, shapes(6, 0))}
    assert [terms["earlier_self"].weight_at(epoch) for epoch in range(5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert terms["ce"].weight_at(0) == 1.0
    for epoch in range(5):
        assert terms["ce"].weight_at(epoch) + terms["earlier_self"].weight_at(epoch) == pytest.approx(1.0)
    plain = trial_config(method={"name": "self-feature", "smoothing": 0.0})
    assert weights(plain, shapes(6, 0)).keys() == {"ce", "transport"}


@pytest.mark.parametrize(
    ("ratio", "epochs", "whole"), [(0, 10, 0), (0.1, 3, 1), (0.1, 10, 1), (0.5, 4, 2), (0.95, 10, 9), (0.5, 1, 0)]
)
def test_all_teachers_are_on_for_some_epochs_and_never_for_all(ratio: float, epochs: int, whole: int) -> None:
    """A warm start that short trainings leave out, or a policy that never has a say."""
    assert warmup_epochs(ratio, epochs) == whole


@pytest.mark.parametrize(("layers", "shallow"), [(12, (3, 7)), (6, (1, 3)), (3, (0, 1)), (2, (0,))])
def test_shallow_layers_are_a_third_and_two_thirds_of_the_way_up(
    trial_config: Config, layers: int, shallow: tuple[int, ...]
) -> None:
    """A last layer that learns from itself."""
    terms = assemble(trial_config(method={"name": "self-feature"}), shapes(layers, 0))
    [transport] = [term for term in terms if term.name == "transport"]
    assert (transport.shallow, transport.deep) == (shallow, layers - 1)  # type: ignore[attr-defined]


def test_student_of_one_layer_has_no_shallow_one(trial_config: Config) -> None:
    """A mean over no layers."""
    assert weights(trial_config(method={"name": "self-feature"}), shapes(1, 0)).keys() == {"ce", "earlier_self"}


def test_teachers_layers_are_spaced_evenly() -> None:
    """TinyBERT's uniform map, counted from zero: 4 of 12 layers learn from 3, 6, 9 and 12."""
    assert spaced_layers(shapes(4, 12)) == (2, 5, 8, 11)
    assert spaced_layers(shapes(6, 6)) == tuple(range(6))


@pytest.mark.parametrize(
    ("method", "given", "match"),
    [
        ({"name": "minilm"}, shapes(3, 6, (4, 8)), "4 heads, its teacher 8"),
        ({"name": "tinybert"}, shapes(3, 6, (4, 8)), "4 heads, its teacher 8"),
        ({"name": "dq", "hidden": 0.0}, shapes(3, 6, (4, 8)), "4 heads, its teacher 8"),
        ({"name": "minilm"}, shapes(3, 6, opens=False), "cannot be had"),
        ({"name": "minilm", "variant": "minilmv2"}, shapes(3, 6, opens=False), "cannot be had"),
        (
            {"name": "minilm", "variant": "minilmv2", "relation_heads": 5},
            shapes(3, 6),
            "5 relation heads for a student 16",
        ),
        ({"name": "minilm", "teacher_layer": 6}, shapes(3, 6), "teacher_layer is 6, and the teacher has 6"),
        ({"name": "pmd"}, shapes(3, 6), "masked features unit by unit; the student is 16 wide, its teacher 32"),
        ({"name": "self-feature", "groups": 5}, shapes(3, 0), "groups is 5, and the student has 16"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    trial_config: Config, method: dict[str, Any], given: Shapes, match: str
) -> None:
    """Heads compared with others than their own, or a shape error in the first step."""
    with pytest.raises(CapabilityError, match=match) as caught:
        assemble(trial_config(method=method, mask_ratio=0.1), given)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["tinybert", "dq"])
def test_heads_of_attention_without_weight_are_not_compared(trial_config: Config, name: str) -> None:
    """A refusal because of a term that is left out."""
    config = trial_config(method={"name": name, "attention": 0.0, "hidden": 0.0})
    assert "attention" not in weights(config, shapes(3, 6, (4, 8)))


def test_relations_are_compared_across_widths_without_parameters(trial_config: Config) -> None:
    """A projection that is trained, saved and thrown away for what no width plays a part in: a student of 12 units, a teacher of 24, 4 heads."""
    wide = Shapes(Shape(3, 12, 4), Shape(6, 24, 4))
    for method in ({"name": "minilm"}, {"name": "minilm", "variant": "minilmv2"}):
        terms = assemble(trial_config(method=method), wide)
        assert len(terms) > 2
        assert all(term.own is None for term in terms)


def test_second_minilm_divides_unequal_heads_alike(trial_config: Config) -> None:
    """The way out that the refusal names."""
    config = trial_config(method={"name": "minilm", "variant": "minilmv2", "relation_heads": 8})
    terms = assemble(config, shapes(3, 6, (4, 8)))
    assert {term.heads for term in terms if term.name != "ce"} == {8}  # type: ignore[attr-defined]
