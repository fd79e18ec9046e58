"""What the choice of teachers learns for itself: the policy, and what reward is usual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raydistill.objectives.selection import FEATURES, probabilities

GAIN = 8.0
"""By which the raw output is multiplied, so that some hundred steps at the usual rate get anywhere."""
KEPT = 0.9
"""Of the usual reward, in each step."""


class Policy(nn.Module):
    """pi(a_bk = 1) = sigmoid(W s_bk + b), with one W for all teachers: whoever stands where is of no matter. Begins undecided, at one half.

    Args:
        width: of the student's vectors, the part of s_bk that is the example's own.
    """

    usual: Tensor
    usual_before: Tensor
    told_at: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features, self.example = nn.Linear(FEATURES, 1), nn.Linear(width, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("usual", torch.tensor(0.0))
        self.register_buffer("usual_before", torch.tensor(0.0))
        self.register_buffer("told_at", torch.tensor(-1))

    def forward(self, features: Tensor, vectors: Tensor) -> Tensor:
        """Probability that each teacher is switched on, `(batch, teachers)`, from `(batch, teachers, FEATURES)` and the student's query vectors `(batch, width)`, to which no gradient goes."""
        raw = self.features(features.detach())[..., 0] + self.example(vectors.detach().float())
        return probabilities(GAIN * raw)

    def before(self, reward: Tensor, step: int) -> Tensor:
        """The usual reward before a step (from 0), which it is told the reward of; the first one finds usual what it got itself.

        A step may be taken again: it then finds what it found at first, and the reward counts once.
        """
        reward, again = reward.detach().to(self.usual), self.told_at == step
        known = torch.where(self.told_at < 0, reward, self.usual)
        self.usual_before = torch.where(again, self.usual_before, known)
        self.usual = KEPT * self.usual_before + (1 - KEPT) * reward
        self.told_at = torch.full_like(self.told_at, step)
        return self.usual_before

    @torch.no_grad()
    def narrow(self, units: Tensor) -> None:
        """Keep the weights of these units of the student's vectors, in their new order."""
        weight = self.example.weight
        weight.data = weight.data.index_select(1, units.to(weight.device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Whatever the student's width was then."""
        weight = self.example.weight
        weight.data = torch.empty_like(state_dict[f"{prefix}example.weight"], device=weight.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
