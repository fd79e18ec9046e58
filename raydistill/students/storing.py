"""How encoders are stored, each in the format that fits it: float32 as `transformers` writes it, or packed where it computes with fewer bits."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder
from raydistill.models.vocabulary import whole_state
from raydistill.students.packing import FILE, load_packed, write_packed
from raydistill.students.quantized import formats_of

MASTER = "master"
"""Begins the names of weights that a trial goes on with."""


def store_weights(folder: Path, encoder: nn.Module) -> None:
    """Write an encoder's weights, whole vocabulary, into a folder that is there."""
    if formats_of(encoder) is not None:
        write_packed(folder, encoder)
    else:
        save_file(whole_state(encoder), folder / "model.safetensors", metadata={"format": "pt"})


def stored_encoder(folder: Path) -> nn.Module:
    """The encoder of a folder, in evaluation mode, however it was stored.

    Raises:
        EncoderError: the weights are damaged, or do not fit the configuration.
    """
    return load_packed(folder) if (folder / FILE).exists() else load_encoder(folder)


def master_weights(model: BiEncoder) -> dict[str, Tensor]:
    """What training needs to go on where the stored weights are rounded: all parameters as they are, on the CPU; nothing of a model that is stored as it is."""
    if formats_of(model.query_encoder) is None:
        return {}
    return {f"{MASTER}.{name}": one.detach().to("cpu").clone() for name, one in model.named_parameters()}


def load_master_weights(model: BiEncoder, tensors: dict[str, Tensor]) -> bool:
    """Take back what `master_weights` gave; False = there was nothing."""
    for name, parameter in model.named_parameters():
        if f"{MASTER}.{name}" not in tensors:
            return False
        parameter.data.copy_(tensors[f"{MASTER}.{name}"])
    return True
