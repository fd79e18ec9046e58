"""How a quantised encoder lies on disk: whole numbers of one or two bytes, or four ternary ones to a byte, with their scales; the rest in float32.

`packed.safetensors` holds of each rounded matrix NAME `NAME.codes` and `NAME.scale`, of every other tensor the tensor, of each activation's range
PLACE `PLACE.limit`, and in its header the numbers of bits. Unpacked, it computes what the encoder computed that was packed, bit for bit. Matrices outside of the layers (the
pooler's, which nothing here uses) are rounded like those inside.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from raydistill.errors import EncoderError
from raydistill.models.loading import shaped_encoder
from raydistill.models.vocabulary import whole_state
from raydistill.students.quantized import EMBEDDINGS, Formats, formats_of, install, ranges_of, uninstall
from raydistill.students.quantizers import FLOAT, TERNARY, codes_of, value_of

FILE, HEADER, KIND = "packed.safetensors", "raydistill", "packed 1"
CODES, SCALE, LIMIT = ".codes", ".scale", ".limit"
_IN_A_BYTE = 4


def packed_tensors(state: Mapping[str, Tensor], formats: Formats) -> dict[str, Tensor]:
    """What is stored of an encoder's weights, by name; on the CPU, contiguous."""
    found = {}
    for name, tensor in state.items():
        bits, by_row = _format(name, tensor, formats)
        if bits == FLOAT:
            found[name] = tensor
            continue
        codes, scale = codes_of(tensor, bits, by_row=by_row)
        found[f"{name}{CODES}"] = packed_ternary(codes) if bits == TERNARY else codes.to(_type(bits))
        found[f"{name}{SCALE}"] = scale.clone()
    return found


def packed_ternary(codes: Tensor) -> Tensor:
    """Codes -1, 0 and 1 of any shape, four to a byte, the first in the lowest bits; uint8, `(ceil(codes / 4),)`."""
    flat = (codes.reshape(-1) + 1).to(torch.uint8)
    fours = nn.functional.pad(flat, (0, -len(flat) % _IN_A_BYTE)).view(-1, _IN_A_BYTE)
    return fours[:, 0] | fours[:, 1] << 2 | fours[:, 2] << 4 | fours[:, 3] << 6


def unpacked_ternary(packed: Tensor, shape: torch.Size) -> Tensor:
    """Back again, int8."""
    fours = torch.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], dim=1)
    return (fours.reshape(-1)[: shape.numel()].to(torch.int8) - 1).view(shape)


def write_packed(folder: Path, encoder: nn.Module) -> None:
    """Store the weights and ranges of a quantised encoder, its whole vocabulary among them, in a folder that is there."""
    formats = formats_of(encoder)
    assert formats is not None, "only a quantised encoder can be packed"
    tensors = packed_tensors(whole_state(encoder), formats)
    for place, one in ranges_of(encoder):
        tensors[f"{place}{LIMIT}"] = one.limit.detach().to("cpu").clone()
    # One entry: several would be written in any order, and equal work would have other bytes.
    header = json.dumps({"kind": KIND, **asdict(formats)}, sort_keys=True)
    save_file(tensors, folder / FILE, metadata={HEADER: header})


def load_packed(folder: Path) -> nn.Module:
    """The encoder that was packed, in evaluation mode: its weights are rounded numbers already, its activations are rounded as they were.

    Raises:
        EncoderError: the file is damaged, of another version, or does not belong to the configuration beside it.
    """
    formats, tensors = _read(folder)
    encoder = shaped_encoder(folder)
    try:
        with torch.no_grad():
            for name, tensor in encoder.state_dict().items():
                tensor.copy_(_unpacked(name, tensor, formats, tensors))
        # What has been rounded is on its levels: to round it again could move a scale by a bit.
        install(encoder, Formats(FLOAT, FLOAT, formats.activations))
        for place, one in ranges_of(encoder):
            one.know(tensors.pop(f"{place}{LIMIT}"))
    except (KeyError, RuntimeError) as problem:
        raise _unreadable(folder, str(problem).splitlines()[0]) from None
    if tensors:
        raise _unreadable(folder, f"{sorted(tensors)[0]} belongs to nothing")
    return encoder


def write_float(packed: Path, folder: Path) -> None:
    """Write a packed encoder as `transformers` can load it: the same weights in float32. Its activations are not rounded there.

    Args:
        packed: an encoder's folder of a checkpoint.
        folder: to be made.
    """
    encoder = load_packed(packed)
    uninstall(encoder)
    folder.mkdir(parents=True)
    save_file(whole_state(encoder), folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(packed / "config.json", folder / "config.json")


def _format(name: str, tensor: Tensor, formats: Formats) -> tuple[int, bool]:
    """Bits of a tensor, and whether each row has a scale of its own."""
    if name in {f"embeddings.{one}.weight" for one in EMBEDDINGS}:
        return formats.embeddings, True
    return (formats.weights if tensor.ndim == 2 else FLOAT), False


def _type(bits: int) -> torch.dtype:
    return torch.int8 if bits <= 8 else torch.int16


def _read(folder: Path) -> tuple[Formats, dict[str, Tensor]]:
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if header.get("kind") != KIND:
                raise _unreadable(folder, f"its kind is {header.get('kind')!r}, expected {KIND!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Formats(*(int(header[name]) for name in ("weights", "embeddings", "activations"))), tensors
    except (OSError, ValueError, KeyError, SafetensorError) as problem:
        raise _unreadable(folder, str(problem).splitlines()[0]) from None


def _unpacked(name: str, like: Tensor, formats: Formats, tensors: dict[str, Tensor]) -> Tensor:
    bits, _ = _format(name, like, formats)
    if bits == FLOAT:
        return tensors.pop(name)
    codes, scale = tensors.pop(f"{name}{CODES}"), tensors.pop(f"{name}{SCALE}")
    return value_of(unpacked_ternary(codes, like.shape) if bits == TERNARY else codes, scale)


def _unreadable(folder: Path, why: str) -> EncoderError:
    return EncoderError(
        f"the packed encoder in {folder} cannot be loaded: {why}",
        expected=f"config.json and {FILE} that belong together and are whole",
        consequence="there would be no model to train or to ask",
        remedy="take another checkpoint of the trial, or train again",
    )
