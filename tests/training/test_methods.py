from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.trial import TrialConfig
from raydistill.training.methods import Depths, assemble, patience_layers

Config = Callable[..., TrialConfig]
DEPTHS = Depths(student=3, teacher=6)


def weights(config: TrialConfig, depths: Depths = DEPTHS) -> dict[str, float]:
    return {term.name: term.weight for term in assemble(config, depths)}


def pmd(trial_config: Config, alpha: float, beta: float, ratio: float, **more: Any) -> TrialConfig:
    return trial_config(method={"name": "pmd", "alpha": alpha, "beta": beta, **more}, mask_ratio=ratio)


def test_weights_are_those_of_the_formulas(trial_config: Config) -> None:
    """Weights that belong to other terms than the method's formula says."""
    assert weights(pmd(trial_config, 0.2, 0.3, 0.1)) == pytest.approx({"ce": 0.5, "score": 0.2, "mgfd": 0.3})
    assert weights(trial_config(method={"name": "logits", "alpha": 0.4})) == pytest.approx({"ce": 0.6, "kl": 0.4})
    mse = trial_config(method={"name": "logits", "alpha": 0.4, "divergence": "mse"})
    assert weights(mse) == pytest.approx({"ce": 0.6, "score": 0.4})
    pkd = trial_config(method={"name": "pkd", "alpha": 0.4, "beta": 7.0})
    assert weights(pkd) == pytest.approx({"ce": 0.6, "kl": 0.4, "patience": 7.0})
    assert weights(trial_config(method={"name": "none"})) == {"ce": 1.0}


def test_masked_features_are_off_at_ratio_zero(trial_config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """T8. A constant zero that merely shrinks the contrastive term, as in the public code."""
    with caplog.at_level(logging.INFO, "raydistill.training.methods"):
        assert weights(pmd(trial_config, 0.2, 0.3, 0.0)) == pytest.approx({"ce": 0.8, "score": 0.2})
    [record] = caplog.records
    assert "mask ratio 0" in record.getMessage()
    assert "0.3 goes back to the contrastive term" in record.getMessage()


def test_nothing_is_logged_where_nothing_is_switched_off(
    trial_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    """T8. A line that says something happened which did not."""
    with caplog.at_level(logging.INFO, "raydistill.training.methods"):
        weights(pmd(trial_config, 0.2, 0.3, 0.1))
        weights(pmd(trial_config, 0.2, 0.0, 0.0))
    assert caplog.records == []


def test_terms_without_weight_are_left_out(trial_config: Config) -> None:
    """A teacher that is run for a term that counts nothing."""
    terms = assemble(pmd(trial_config, 0.0, 0.0, 0.2), DEPTHS)
    assert [term.name for term in terms] == ["ce"]
    assert all(term.teacher_needs is None for term in terms)


def test_presets_of_pmd_set_what_they_say(trial_config: Config) -> None:
    """The public code's losses under the paper's name, or half of them."""
    paper = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1), DEPTHS)}
    code = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1, preset="reference"), DEPTHS)}
    assert (paper["ce"].reduction, code["ce"].reduction) == ("mean", "sum")  # type: ignore[attr-defined]
    assert (paper["mgfd"].preset, code["mgfd"].preset) == ("paper", "reference")  # type: ignore[attr-defined]


def test_masked_features_compare_the_last_layers(trial_config: Config) -> None:
    """The student's last layer against the teacher's layer of the same number."""
    terms = {term.name: term for term in assemble(pmd(trial_config, 0.1, 0.1, 0.1), Depths(student=3, teacher=12))}
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
    assert patience_layers(match, Depths(student, teacher)) == expected


def test_student_of_one_layer_has_no_patience_term(trial_config: Config) -> None:
    """A mean over no layers: NaN from the first step on."""
    config = trial_config(layers=1, method={"name": "pkd"})
    assert weights(config, Depths(student=1, teacher=4)).keys() == {"ce", "kl"}
