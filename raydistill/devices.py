"""Processors and GPUs: which one to work on, how much to give it at once, and how tensors get there."""

from __future__ import annotations

import gc
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

TokensAtOnce = int | Literal["auto"]
CONTEXT_BYTES = 600 * 2**20
"""What CUDA itself takes of a GPU in each process."""


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tokens_at_once(wanted: TokensAtOnce, device: torch.device) -> int:
    """How many tokens are encoded at a time: on a processor no more than its caches hold, on a GPU so many that it does not wait for the next part."""
    if wanted != "auto":
        return wanted
    return 131072 if device.type == "cuda" else 2048


def give_memory_back() -> None:
    """Leave to others on a GPU what this process has of it and does not use: a smaller student needs less than the trial before it in the same process."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def keep_to(share: float) -> None:
    """Take no more of a GPU than a share of its memory, in a process that was given less than a whole one; nothing otherwise.

    Ray counts shares and keeps nobody to them: whoever comes first would keep nearly all of the GPU, and the next one would find no room.
    """
    if 0 < share < 1 and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(max(share - CONTEXT_BYTES / whole, share / 2))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for what the device still has to do.

    A plain copy from ordinary memory to a GPU waits until the GPU has done everything it was asked for, and then the GPU waits for what comes next.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class KeepsSent:
    """A frozen dataclass of tensors that several ask for on a device: each is sent there once, and the copy is kept as long as the tensor's owner lives."""

    def there(self, name: str, device: torch.device) -> Tensor:
        """The tensor of that name on a device."""
        tensor: Tensor = getattr(self, name)
        # What is made in inference mode would be of no use to a step with gradient.
        if tensor.device == device or torch.is_inference_mode_enabled():
            return sent(tensor, device)
        kept: dict[tuple[str, torch.device], Tensor] = self.__dict__.setdefault("_sent", {})
        if (name, device) not in kept:
            kept[name, device] = sent(tensor, device)
        return kept[name, device]

    def __getstate__(self) -> dict[str, Any]:
        # Neither copies nor what was worked out of the fields goes along to another process.
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
