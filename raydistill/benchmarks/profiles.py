"""Where the time of a step goes by kind of operation: a profile of what a trainer asks PyTorch for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from raydistill.benchmarks.machine import waiting

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "dot", "mv", "_scaled_dot_product", "_flash", "_efficient"),
    "activation": ("gelu",),
    "normalisation": ("native_layer_norm", "linalg_vector_norm", "norm"),
    "dropout": ("native_dropout", "bernoulli", "_fused_dropout", "dropout"),
    "softmax": ("_softmax", "_log_softmax", "logsumexp"),
    "optimizer": ("_fused_adamw", "_foreach", "addcdiv", "addcmul", "lerp", "sqrt"),
    "embedding": ("embedding", "index_select", "index_add", "embedding_dense"),
    "copies": (
        "copy",
        "_to_copy",
        "cat",
        "clone",
        "index",
        "fill",
        "zero",
        "zeros",
        "ones",
        "masked",
        "stack",
        "scatter",
    ),
    "sums": ("sum", "add", "mul", "sub", "div", "mean", "neg", "pow"),
}
KERNELS = {
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "splitk", "gemv"),
    "attention": ("flash_fwd", "flash_bwd", "fmha"),
    "compiled layers": ("triton_",),
    "softmax": ("softmax",),
    "optimizer": ("multi_tensor", "adam", "lpnorm"),
    "embedding": ("embedding", "sort", "scan", "indexing_backward", "segment_reduce", "unique", "sum_and_scatter"),
    "copies": ("memcpy", "memset", "copy", "catarray", "fill", "index", "gather", "scatter", "masked"),
    "sums": ("reduce", "elementwise"),
}
"""What the names of a GPU's kernels have in them. What is compiled has no other name, and belongs to no operation of PyTorch's."""
OWN_ATTENTION = ("_forward", "_backward")
"""The kernels of `models/short_attention.py`."""
REST, OUTSIDE = "other operations", "Python, and waiting"


def kind_of(operation: str) -> str:
    """The kind of an operation of PyTorch's, by its name: `aten::addmm` is a matrix product."""
    name = operation.removeprefix("aten::").removesuffix("_")
    for kind, names in KINDS.items():
        if any(name == one or name.startswith(f"{one}_") for one in names):
            return kind
    return REST


def kernel_kind(kernel: str) -> str:
    """The kind of a GPU's kernel, by its name."""
    name = kernel.lower()
    if name in OWN_ATTENTION:
        return "attention"
    return next((kind for kind, words in KERNELS.items() if any(word in name for word in words)), REST)


@dataclass(frozen=True)
class Profile:
    """Means over some steps.

    Attributes:
        seconds: by kind of operation; what no operation accounts for is Python's.
        operations: how many a step asks for: a GPU's kernels and copies, or PyTorch's operations, those inside others included.
    """

    seconds: dict[str, float]
    operations: float

    @property
    def row(self) -> dict[str, float]:
        """The figures of a table's row."""
        return {"seconds": sum(self.seconds.values()), "operations": self.operations, **self.seconds}


def profile_of(step: Callable[[], Any], steps: int, device: torch.device) -> Profile:
    """Where the time of a step goes.

    Args:
        step: takes one step.
        steps: how many, after one that is not counted.
        device: where they are computed. On a GPU the seconds are the GPU's, and the rest is when it waited.
    """
    wait = waiting(device)
    step()
    on_gpu = device.type == "cuda"
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        for _ in range(steps):
            step()
        if wait is not None:
            wait()
    whole = (time.perf_counter() - began) / steps
    seconds: dict[str, float] = {}
    operations = 0
    for event in found.key_averages():
        if (event.device_type == DeviceType.CPU) == on_gpu:
            # On a GPU kernels are counted, and not again with the operations that launched them: compiled ones have none.
            continue
        if on_gpu and event.is_user_annotation:
            # A span in which kernels run, such as an optimizer's step.
            continue
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        kind = kernel_kind(event.key) if on_gpu else kind_of(event.key)
        seconds[kind] = seconds.get(kind, 0.0) + spent / 1e6 / steps
        operations += event.count
    seconds[OUTSIDE] = max(0.0, whole - sum(seconds.values()))
    return Profile(dict(sorted(seconds.items(), key=lambda item: -item[1])), operations / steps)
