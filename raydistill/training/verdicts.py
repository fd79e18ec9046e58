"""Whether a step's loss and gradient are finite numbers, without waiting for a GPU to say so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.errors import NonFiniteLossError


@dataclass(frozen=True)
class _Open:
    """What a device has been asked and has not been heard on."""

    bad: Tensor
    arrived: torch.cuda.Event
    parts: dict[str, Tensor]
    step: str


class Verdicts:
    """Of each step in turn.

    A processor is asked at once. A GPU that is asked has first to finish the step, and then waits while the next one is put together; so it is told not to change
    any weight where something is not finite (the optimizer's own `found_inf`), and is heard on it when the next step has been handed to it.
    """

    def __init__(self) -> None:
        self._open: _Open | None = None

    def ask(self, parts: dict[str, Tensor], step: str) -> Tensor | None:
        """Look at a step whose gradients are ready.

        Args:
            parts: what has to be finite, by name, scalars without gradient; all of them.
            step: what it is called in the error.

        Returns:
            Scalar float, 1 = the weights are to stay as they are, for the optimizer; None where all has been looked at.

        Raises:
            NonFiniteLossError: something is not finite, in this step or, on a GPU, in the one before; it was not taken.
        """
        self.settle()
        bad = 1.0 - torch.isfinite(torch.stack([value.float() for value in parts.values()])).all().float()
        if not bad.is_cuda:
            if bool(bad):
                raise _refusal(parts, step)
            return None
        arriving = bad.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._open = _Open(arriving, arrived, parts, step)
        return bad

    def settle(self) -> None:
        """Hear what is open.

        Raises:
            NonFiniteLossError: something was not finite in the last step; it was not taken.
        """
        if self._open is None:
            return
        last, self._open = self._open, None
        last.arrived.synchronize()
        if bool(last.bad):
            raise _refusal(last.parts, last.step)


def _refusal(parts: dict[str, Tensor], step: str) -> NonFiniteLossError:
    culprit = next(name for name, value in parts.items() if not bool(torch.isfinite(value)))
    return NonFiniteLossError(
        f"{culprit} became {float(parts[culprit])} at {step}",
        expected="a finite number",
        consequence="every weight would become NaN; the step was not taken and earlier checkpoints are sound",
        remedy="lower training.learning_rate, use precision fp32, or lower the weight of this term; or look at the teacher, "
        "whose outputs are checked on processors only",
    )
