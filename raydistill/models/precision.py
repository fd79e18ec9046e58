"""Which precision matrix products are made in: bfloat16 where a device has instructions for it, else float32.

PyTorch makes bfloat16 products anywhere. Without instructions for it each takes fifty to a hundred times as long as in float32, and nobody says so.
"""

from __future__ import annotations

import logging
import platform
from typing import Literal

import torch

from raydistill.models.biencoder import Precision

logger = logging.getLogger(__name__)
WantedPrecision = Literal["auto", "fp32", "bf16"]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        # AVX-512 alone would do: it is what oneDNN asks for, and makes the products out of float32 ones, at half their rate.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def chosen_precision(wanted: WantedPrecision, device: torch.device) -> Precision:
    """The precision to work in; a wish is granted, with a warning where it costs much."""
    fast = has_bfloat16(device)
    if wanted == "auto":
        return "bf16" if fast else "fp32"
    if wanted == "bf16" and not fast:
        logger.warning(
            "this %s has no instructions for bfloat16, so training.precision=bf16 may be a hundred times slower than fp32; "
            "training.precision=auto takes bf16 only where it is fast",
            "GPU" if device.type == "cuda" else "processor",
        )
    return wanted
