from __future__ import annotations

import torch

from raydistill.devices import best_device, sent, tokens_at_once


def test_micro_batches_are_as_large_as_a_device_wants_them() -> None:
    """A GPU that is given a processor's micro-batches, or a wish that is not granted."""
    assert tokens_at_once("auto", torch.device("cpu")) == 2048
    assert tokens_at_once("auto", torch.device("cuda")) == 131072
    assert tokens_at_once(64, torch.device("cuda")) == 64


def test_tensors_arrive_as_they_were() -> None:
    """A copy that is not the tensor."""
    tensor = torch.arange(5)
    assert torch.equal(sent(tensor, best_device()).cpu(), tensor)
    assert sent(tensor, torch.device("cpu")) is tensor
