from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from raydistill.errors import NonFiniteLossError
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.optimizer import Optimizer
from raydistill.training.parts import TrialParts
from raydistill.training.verdicts import Verdicts, _Open

NAN, ONE = torch.tensor(float("nan")), torch.tensor(1.0)


class Arrived:
    """An event of a device that has done everything."""

    def __init__(self) -> None:
        self.asked = 0

    def synchronize(self) -> None:
        """Wait."""
        self.asked += 1


@pytest.mark.parametrize(
    ("parts", "culprit"),
    [({"ce": NAN, "loss": NAN}, "ce"), ({"ce": ONE, "loss": ONE, "gradient norm": ONE / 0}, "gradient norm")],
)
def test_a_processor_is_asked_at_once(parts: dict[str, torch.Tensor], culprit: str) -> None:
    """A step taken with a gradient that is none, or an error that names the wrong part."""
    verdicts = Verdicts()
    assert verdicts.ask({"ce": ONE, "loss": ONE}, "epoch 1, step 0") is None
    with pytest.raises(NonFiniteLossError, match=f"{culprit} became (nan|inf) at epoch 1, step 1"):
        verdicts.ask(parts, "epoch 1, step 1")


def test_what_a_device_says_is_heard_once_and_named_after_its_own_step() -> None:
    """A refusal that is lost, repeated for the next step, or said of the step that came after."""
    verdicts, arrived = Verdicts(), Arrived()
    verdicts._open = _Open(torch.tensor(1.0), arrived, {"ce": NAN}, "epoch 1, step 7")  # type: ignore[arg-type]
    with pytest.raises(NonFiniteLossError, match="ce became nan at epoch 1, step 7"):
        verdicts.ask({"ce": ONE}, "epoch 1, step 8")
    verdicts.settle()
    verdicts._open = _Open(torch.tensor(0.0), arrived, {"ce": ONE}, "epoch 1, step 9")  # type: ignore[arg-type]
    verdicts.settle()
    assert arrived.asked == 2


def test_optimizer_leaves_everything_as_it_is_where_it_is_told_so() -> None:
    """Weights that became NaN before anybody looked; moments or step counts of a step that was not taken."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = Optimizer(model, learning_rate=0.1, weight_decay=0.1, warmup_steps=0, total_steps=10)

    def step(gradient: float, unless: float | None) -> dict[str, torch.Tensor]:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step(1, None if unless is None else torch.tensor(unless))
        weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        return {**weights, **optimizer.tensors()}

    taken = step(1.0, None)
    left = step(float("nan"), 1.0)
    assert left.keys() == taken.keys()
    assert all(torch.equal(left[name], taken[name]) for name in taken)
    assert all(parameter.grad is None for parameter in model.parameters())
    again = step(1.0, 0.0)
    assert not any(torch.equal(again[name], taken[name]) for name in taken)


@pytest.mark.parametrize("writes", [True, False])
def test_no_worker_saves_a_step_that_a_device_did_not_take(
    parts_of: Callable[..., TrialParts], tmp_path: Path, writes: bool
) -> None:
    """A checkpoint that counts a step nobody took; or a refusal that the first worker alone hears, while the others wait for it in an exchange."""
    parts, keeper = parts_of("none"), CheckpointKeeper(tmp_path, keep=1, writes=writes)
    for save in (keeper.save_inside_epoch, lambda parts: keeper.save_epoch(parts, {})):
        parts.trainer.verdicts._open = _Open(torch.tensor(1.0), Arrived(), {"ce": NAN}, "epoch 1, step 2")  # type: ignore[arg-type]
        with pytest.raises(NonFiniteLossError, match="step 2"):
            save(parts)
    assert not list(tmp_path.iterdir())
