from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from raydistill.devices import CONTEXT_BYTES, KeepsSent, best_device, keep_to, sent, tokens_at_once


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


@dataclass(frozen=True)
class Owner(KeepsSent):
    tensor: torch.Tensor


def test_what_several_ask_for_is_sent_once_and_stays_with_its_owner() -> None:
    """A mask that is copied for each term; a copy that goes along to another process; one made where no gradient can come of it."""
    owner, elsewhere = Owner(torch.arange(5)), torch.device("meta")
    with torch.inference_mode():
        first = owner.there("tensor", elsewhere)
    there = owner.there("tensor", elsewhere)
    assert there.device == elsewhere
    assert there is not first
    assert owner.there("tensor", elsewhere) is there
    assert owner.there("tensor", torch.device("cpu")) is owner.tensor
    assert replace(owner).there("tensor", elsewhere) is not there
    assert vars(pickle.loads(pickle.dumps(owner))).keys() == {"tensor"}


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
