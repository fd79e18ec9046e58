"""AdamW with its groups, the learning rate as a function of the step, and the moments as named tensors for the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.temporary import is_lasting
from raydistill.students.reshaping import StructureChange
from raydistill.training.own import named_parameters

OWN_RATE = 1.0e-3
"""Peak learning rate of what begins anew: that of a pre-trained model would leave it where it began."""


class Optimizer:
    """AdamW over a model's trainable parameters.

    Weight decay acts on matrices only (not on biases, LayerNorm or the temperature; PMD's code decays them too, which pulls the temperature
    towards 1). The learning rate rises linearly over the warm-up steps and falls linearly to zero.

    Args:
        model: the model.
        learning_rate: at the end of the warm-up.
        weight_decay: on matrices.
        warmup_steps: steps of rising learning rate.
        total_steps: step at which the learning rate reaches zero.
        own: what terms learn for themselves, by their names; it begins anew in each trial, and learns at OWN_RATE where the model's rate is lower.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        total_steps: int,
        own: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.model, self.own, self.weight_decay = model, own or {}, weight_decay
        self.learning_rate, self.warmup_steps, self.total_steps = learning_rate, warmup_steps, total_steps
        self.adopt()

    def adopt(self) -> None:
        """Begin anew with the parameters that there are now, without moments."""
        besides = list(named_parameters(self.own))
        everything = [*self.model.named_parameters(), *besides]
        self.named = [(name, parameter) for name, parameter in everything if parameter.requires_grad]
        lasts = is_lasting(self.model)
        # What a model has only while it learns begins anew, too.
        new = {name for name, _ in besides} | {name for name, _ in self.named if not lasts(name)}
        models = [one for name, one in self.named if name not in new]
        groups: list[dict[str, Any]] = [
            {"params": [one for one in models if one.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [one for one in models if one.ndim < 2], "weight_decay": 0.0},
        ]
        self.factors = [1.0, 1.0]
        if new:
            groups.append({"params": [one for name, one in self.named if name in new], "weight_decay": 0.0})
            self.factors.append(max(1.0, OWN_RATE / self.learning_rate))
        self.adamw = torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)

    def follow(self, change: StructureChange) -> None:
        """Take up the parameters that there are after a change of the model, each with what is left of its moments."""
        before = {name: self.adamw.state[one] for name, one in self.named if one in self.adamw.state}
        self.adopt()
        for name, parameter in self.named:
            for key, value in before.get(name, {}).items():
                self.adamw.state[parameter][key] = value if key == "step" else change.of(name, value)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters."""
        return [parameter for _, parameter in self.named]

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero over the whole training."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        left = self.total_steps - step
        return self.learning_rate * max(0.0, left / max(1, self.total_steps - self.warmup_steps))

    def step(self, step: int, unless: Tensor | None = None) -> None:
        """Take one step with the gradients that are there, and forget them.

        Args:
            step: counted from zero over the whole training.
            unless: scalar on the device of the weights, 1 = leave them, and the moments, as they are; None = take it in any case.
        """
        # What gradient scalers tell fused optimizers, which look at it on the device.
        self.adamw.found_inf = unless  # type: ignore[attr-defined]
        for group, factor in zip(self.adamw.param_groups, self.factors, strict=True):
            group["lr"] = factor * self.rate(step)
        self.adamw.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Free the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Moments and step counts by parameter name, on the CPU."""
        found = {}
        for name, parameter in self.named:
            for key, value in self.adamw.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value.detach().to("cpu").clone().contiguous()
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, parameter in self.named:
            state = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if state:
                self.adamw.state[parameter] = {
                    key: value if key == "step" and parameter.device.type == "cpu" else value.to(parameter.device)
                    for key, value in state.items()
                }
