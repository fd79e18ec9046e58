"""Sizes of packed checkpoints of BERT-base, against those that were computed for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from raydistill.students.packing import packed_tensors, write_packed
from raydistill.students.quantized import Formats, install, ranges_of

FLOAT_MB = 875.9
"""Two towers of 12 layers in float32."""
TIMES_SMALLER = {(12, 8): 4.0, (6, 8): 6.5, (3, 8): 9.6, (12, 2): 15.7, (6, 2): 25.8, (3, 2): 37.9}


def bert_base(layers: int) -> nn.Module:
    """One of so many layers, of arbitrary weights."""
    with torch.device("meta"):
        made: nn.Module = BertModel(BertConfig(num_hidden_layers=layers))
    made = made.to_empty(device="cpu").eval()
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.fill_(0.01 * (number + 1)).view(-1)[::3] = -0.5
    return made


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    """Three layers: 45 million parameters."""
    return bert_base(3)


def weights(encoder: nn.Module, layers: int) -> dict[str, Tensor]:
    """The same encoder's with so many layers; layers have equal sizes."""
    own = {name: tensor for name, tensor in encoder.state_dict().items() if ".layer." not in name}
    layer = {name: tensor for name, tensor in encoder.state_dict().items() if ".layer.0." in name}
    for number in range(layers):
        own |= {name.replace(".layer.0.", f".layer.{number}."): tensor for name, tensor in layer.items()}
    return own


def size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "bits"), TIMES_SMALLER)
def test_file_is_as_small_as_was_computed(encoder: nn.Module, tmp_path: Path, layers: int, bits: int) -> None:
    """Codes stored as floats or one to a byte, a pooler in full precision, or two tables: bytes that only the file itself tells."""
    quantised = bert_base(layers)
    formats = Formats(bits, bits, 8)
    install(quantised, formats)
    for _, one in ranges_of(quantised):
        one.know(torch.tensor(1.0))
    write_packed(tmp_path, quantised)
    found = 2 * (tmp_path / "packed.safetensors").stat().st_size
    assert found / 1e6 == pytest.approx(FLOAT_MB / TIMES_SMALLER[layers, bits], rel=0.02)
    # What sizes are computed with below is this file but for its header and ranges.
    assert found == pytest.approx(2 * size(packed_tensors(weights(encoder, layers), formats)), rel=0.002)


def test_float_size_is_that_of_the_table(encoder: nn.Module) -> None:
    """Ratios to another model."""
    assert 2 * size(weights(encoder, 12)) / 1e6 == pytest.approx(FLOAT_MB, rel=1e-3)


@pytest.mark.parametrize(("layers", "bits"), TIMES_SMALLER)
def test_sizes_are_within_two_percent_of_the_table(encoder: nn.Module, layers: int, bits: int) -> None:
    """219.7 MB of 12 layers at 8 bits, and the rest of the table; from the tensors that are stored, one layer standing for all."""
    one, three = (size(packed_tensors(weights(encoder, depth), Formats(bits, bits, 8))) for depth in (0, 1))
    found = 2 * (one + layers * (three - one)) / 1e6
    assert found == pytest.approx(FLOAT_MB / TIMES_SMALLER[layers, bits], rel=0.02)
    if (layers, bits) == (12, 8):
        assert found == pytest.approx(219.7, rel=0.02)
