"""A linear layer of which a part can be at work while it trains: what models inside a model have in common with it."""

from __future__ import annotations

from torch import Tensor, nn


class NarrowableLinear(nn.Linear):
    """Takes the place of a linear layer, whose parameters it keeps. While it trains it may use its first outputs or inputs alone; in evaluation it is whole.

    Args:
        linear: the one in whose place it stands.
        outputs: whether outputs can be left out; False = inputs, of which it is then given fewer.

    Attributes:
        units: how many are used in training; None = all.
    """

    def __init__(self, linear: nn.Linear, *, outputs: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.outputs = outputs
        self.units: int | None = None
        self.train(linear.training)

    def forward(self, states: Tensor) -> Tensor:
        """Of states `(..., inputs)`."""
        if self.units is None or not self.training:
            return super().forward(states)
        if self.outputs:
            return nn.functional.linear(states, self.weight[: self.units], self.bias[: self.units])
        return nn.functional.linear(states, self.weight[:, : self.units], self.bias)
