"""Trials of every method on the tiny encoder, and what a step of theirs does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raydistill.config.trial import TeacherAt, TrialConfig
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.trial import EpochReport, run_trial

METHODS: dict[str, dict[str, Any]] = {
    "pmd": {"name": "pmd", "alpha": 0.2, "beta": 0.3},
    "pmd-sum": {"name": "pmd", "alpha": 0.2, "beta": 0.3, "over_hidden": "sum"},
    "pmd-reference": {"name": "pmd", "alpha": 0.2, "beta": 0.3, "preset": "reference"},
    "pmd-logits": {"name": "pmd", "alpha": 0.2, "beta": 0.3, "score_space": "logits"},
    "kl": {"name": "logits", "alpha": 0.4, "temperature": 3.0},
    "mse": {"name": "logits", "alpha": 0.4, "divergence": "mse"},
    "pkd": {"name": "pkd", "alpha": 0.4, "beta": 5.0},
    "pkd-last": {"name": "pkd", "alpha": 0.4, "beta": 5.0, "match": "last", "pooling": "cls"},
    "dkd": {"name": "dkd", "beta": 2.0, "temperature": 2.0, "warmup_ratio": 1.0},
    "tinybert": {"name": "tinybert"},
    "distilbert": {"name": "distilbert"},
    "dq": {"name": "dq"},
    "dq-ternary": {"name": "dq", "weight_bits": 2, "embedding_bits": 8},
    "minilm": {"name": "minilm"},
    "minilmv2": {"name": "minilm", "variant": "minilmv2", "relation_heads": 8, "teacher_layer": 1, "contrastive": 0.5},
    "mgsr": {"name": "mgsr", "length": 3},
    "mgsr, drawn": {"name": "mgsr", "length": 3, "drawn": True},
    "self-feature": {"name": "self-feature", "groups": 8, "projection": True, "smoothing": 0.5},
    "amd": {"name": "amd", "temperature": 2.0},
    "amd, narrower": {"name": "amd", "intermediate": [12]},
    "homodistil": {"name": "homodistil", "width": 12, "end": 0.5, "temperature": 2.0},
    "homodistil at once": {"name": "homodistil", "width": 12, "end": 0.1},
    "homodistil+tinybert": {
        "name": "combined",
        "parts": [{"name": "homodistil", "width": 8, "intermediate": 20, "end": 0.5}, {"name": "tinybert"}],
    },
    "pmd+tinybert": {
        "name": "combined",
        "parts": [{"name": "pmd", "alpha": 0.2, "beta": 0.3}, {"name": "tinybert"}, {"name": "minilm"}],
    },
    "boot": {"name": "boot", "score": 0.5},
    "boot-random": {"name": "boot", "source": "text-free", "t_max": 0.9, "step": 0.3, "examples": 20, "score": 0.1},
    "education": {"name": "education", "stages": 2, "temperature": 3.0},
    "education, a teacher for each part": {"name": "education", "stages": 2, "temperature": 3.0},
    "reinforced": {"name": "reinforced", "temperature": 3.0, "warmup_ratio": 0},
    "reinforced, warmed up": {"name": "reinforced", "temperature": 3.0, "warmup_ratio": 0.5},
    "reinforced, structural": {"name": "reinforced", "temperature": 3.0, "warmup_ratio": 0},
    "none": {"name": "none"},
}
ALONE = ("none", "self-feature")
"""Methods without a teacher."""
OF_PARTS = "education, a teacher for each part"
"""The grade above gives layers at most."""


@pytest.fixture(scope="session")
def methods() -> dict[str, dict[str, Any]]:
    """All of METHODS."""
    return METHODS


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Every method in every variant."""
    name: str = request.param
    return name


@pytest.fixture(params={one["name"]: name for name, one in reversed(METHODS.items())}.values())
def each_method(request: pytest.FixtureRequest) -> str:
    """Every method once, in the first of its variants."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def config_of(
    trial_config: Callable[..., TrialConfig], teacher_checkpoint: Callable[..., Path], structural_folder: Path
) -> Callable[..., TrialConfig]:
    """The configuration of a trial of one of METHODS, with a teacher where the method has one, and a wider one where it has two, or two others; pmd masks 20 %."""

    def make(name: str = "pmd", **changes: Any) -> TrialConfig:
        kind = changes.get("encoder", {}).get("kind", "bert")
        if name.startswith("pmd"):
            changes = {"mask_ratio": 0.2, **changes}
        if name.startswith("homodistil"):
            changes = {"init": "teacher", **changes}
        if name not in (*ALONE, OF_PARTS) or changes.get("init") == "teacher":
            changes = {"teacher": teacher_checkpoint(kind), **changes}
        if name.startswith("reinforced"):
            others = [teacher_checkpoint(kind, width=24)]
            others += [structural_folder] if name.endswith("structural") else []
            changes = {"others": [{"path": str(one), "digest": verify_checkpoint(one)} for one in others], **changes}
        if name == OF_PARTS:
            named = teacher_checkpoint(kind, width=24), teacher_checkpoint(kind)
            changes = {"others": [{"path": str(one), "digest": verify_checkpoint(one)} for one in named], **changes}
        return trial_config(method=METHODS[name], **changes)

    return make


@pytest.fixture(scope="session")
def parts_of(config_of: Callable[..., TrialConfig]) -> Callable[..., TrialParts]:
    """The parts of such a trial, built anew."""

    def make(name: str = "pmd", **changes: Any) -> TrialParts:
        return build_parts(config_of(name, **changes), World.alone())

    return make


@pytest.fixture(scope="session")
def train() -> Callable[..., list[EpochReport]]:
    """Run a trial to its end: `train(config, directory)`, and `teacher_at` where its teacher changes."""

    def run(config: TrialConfig, directory: Path, teacher_at: TeacherAt | None = None) -> list[EpochReport]:
        return list(run_trial(config, directory, World.alone(), teacher_at))

    return run


class InterruptedTrialError(Exception):
    """What an interrupted trial dies of."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a trial that dies before its n-th step: `interrupt(config, directory, 4)`."""
    from raydistill.training.optimizer import Optimizer

    def run(config: TrialConfig, directory: Path, step: int, teacher_at: TeacherAt | None = None) -> None:
        original = Optimizer.step

        def dying(self: Optimizer, number: int, unless: torch.Tensor | None = None) -> None:
            if number >= step:
                raise InterruptedTrialError
            original(self, number, unless)

        with monkeypatch.context() as patch:
            patch.setattr(Optimizer, "step", dying)
            with pytest.raises(InterruptedTrialError):
                list(run_trial(config, directory, World.alone(), teacher_at))

    return run


@pytest.fixture(scope="session")
def weights_of() -> Callable[..., dict[str, torch.Tensor]]:
    """A copy of a model's weights."""

    def copy(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    return copy
