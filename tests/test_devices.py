from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from raydistill.devices import CONTEXT_BYTES, best_device, keep_to, sent, sent_once, tokens_at_once


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


def test_what_several_ask_for_is_sent_once_and_again_when_it_has_changed() -> None:
    """A mask that is copied for each term; or one that was changed, of which the device has the former."""
    tensor, elsewhere = torch.arange(5), torch.device("meta")
    there = sent_once(tensor, elsewhere)
    assert there.device == elsewhere
    assert sent_once(tensor, elsewhere) is there
    tensor.add_(1)
    assert sent_once(tensor, elsewhere) is not there
    assert sent_once(tensor, torch.device("cpu")) is tensor
    with torch.inference_mode():
        assert sent_once(torch.arange(5), elsewhere).shape == (5,)


@pytest.mark.parametrize(
    ("share", "gigabytes", "limits"),
    [(0.0, 24, []), (1.0, 24, []), (0.5, 24, [0.5 - CONTEXT_BYTES / (24 << 30)]), (0.25, 2, [0.125])],
)
def test_process_with_a_part_of_a_gpu_takes_no_more_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, share: float, gigabytes: int, limits: list[float]
) -> None:
    """A trial that fails because the one beside it has taken nearly all of the GPU; or all of them together, with what CUDA takes, more than there is."""
    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=gigabytes << 30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    keep_to(share)
    assert found == limits
