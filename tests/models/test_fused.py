"""Layers as a GPU takes them, with its attention kernel played by a processor."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounter
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from raydistill.data.texts import Texts
from raydistill.models import fused
from raydistill.models.attention import in_groups
from raydistill.models.biencoder import BiEncoder, Pooling
from raydistill.models.features import Needs
from raydistill.models.fused import (
    Attention,
    CompiledOrPlain,
    attention_for,
    can_be_fused,
    flash_attention,
    fused_layer,
    fused_layers,
    try_out,
)

sys.path.insert(0, str(Path(__file__).parent))
from played import of_one_text, on_a_gpu, played

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "vocab_size": 50,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
}


def encoder_of(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**SIZES)) if kind == "bert" else RobertaModel(RobertaConfig(**SIZES))
    return model.train()


def texts_of(*lengths: int) -> Texts:
    tokens = torch.arange(sum(lengths)) % 50
    return Texts(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool), torch.tensor(lengths))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_layers_give_what_their_simple_twin_gives(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Queries, keys and values in another order, heads mixed up, or a text that sees its neighbour: values and gradients differ."""
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", of_one_text)
    encoder, texts = encoder_of(kind), texts_of(9, 8, 5, 2, 2, 1)
    wanted = torch.randn(27, 32, generator=torch.Generator().manual_seed(2))
    found = []
    for through in (in_groups(texts, torch.device("cpu")), _uncompiled(texts)):
        hidden = torch.randn(27, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        states = hidden
        for layer in encoder.encoder.layer:
            states, _ = through(layer, states, False)
        weights = [layer.attention.self.key.weight for layer in encoder.encoder.layer]
        found.append((states, *torch.autograd.grad((states * wanted).sum(), [hidden, *weights])))
    for twin, own in zip(*found, strict=True):
        assert torch.allclose(twin, own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_go_through_a_gpu_in_any_order(monkeypatch: pytest.MonkeyPatch, kind: str, pooling: Pooling) -> None:
    """Texts that were to be sorted first: vectors or states of another text, places counted over its end, or a gradient that is another's."""
    encoder, texts = encoder_of(kind), texts_of(2, 9, 5, 1, 8, 2)
    if kind == "bert":
        texts = replace(texts, types=torch.arange(27) % 2)
    model, found = BiEncoder(encoder, encoder, pooling=pooling), []
    assert not model.reads_at_once
    weights = [encoder.embeddings.position_embeddings.weight, encoder.embeddings.token_type_embeddings.weight]
    for on_gpu in (False, True):
        if on_gpu:
            on_a_gpu(monkeypatch)
        output = model.encode(texts, "entity", Needs(frozenset({0, 2})))
        wanted = torch.randn(27, 32, generator=torch.Generator().manual_seed(2))
        value = (output.states[2] * wanted).sum() + output.vectors[:, 0].sum()
        found.append((output.vectors, output.states[0], output.states[2], *torch.autograd.grad(value, weights)))
    for twin, own in zip(*found, strict=True):
        assert torch.allclose(twin, own, atol=1e-5, rtol=1e-4)


def test_one_encoder_of_both_sides_reads_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A growing student whose candidates go through the layers above its queries, or two encoders of which one reads all."""
    on_a_gpu(monkeypatch)
    one, other = encoder_of("bert"), encoder_of("bert", 1)
    assert BiEncoder(one, one).reads_at_once
    assert not BiEncoder(one, other).reads_at_once
    growing = BiEncoder(one, one)
    growing.tops["entity"] = nn.Identity()
    assert not growing.reads_at_once
    padded = BiEncoder(one, one)
    padded.packs = False
    assert not padded.reads_at_once


def test_one_compilation_serves_all_layers_models_and_texts() -> None:
    """A layer that is compiled again for every number of tokens, every layer and every model: minutes in each trial."""
    counter = CompileCounter()
    compiled = torch.compile(fused_layer, dynamic=True, backend=counter)
    student, teacher = encoder_of("bert"), encoder_of("bert", 1).eval().requires_grad_(False)
    torch._dynamo.reset()
    for lengths in ((9, 8, 5, 2), (7, 7, 3), (12, 4, 4, 4, 2)):
        bounds = nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
        with torch.no_grad():
            states = torch.randn(sum(lengths), 32)
            for layer in teacher.encoder.layer:
                states, _ = compiled(layer, states, bounds, max(lengths), played, False)
        states = torch.randn(sum(lengths), 32, requires_grad=True)
        for layer in student.encoder.layer:
            states, _ = compiled(layer, states, bounds, max(lengths), played, False)
    assert counter.frame_count == 2


def test_gradients_are_taken_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled graph that gives its buffers away on the first way back: no term's own gradient can be measured."""
    monkeypatch.setattr(fused, "has_triton", lambda: True)
    monkeypatch.setattr(torch._functorch.config, "donated_buffer", True)
    fused.compiled_layer.cache_clear()
    plain = fused.compiled_layer()
    assert isinstance(plain, CompiledOrPlain)
    torch._dynamo.reset()
    # Without a compiler for the kernels themselves, but with the graph of the way back that it would have made.
    layer = torch.compile(fused_layer, dynamic=True, backend="aot_eager")
    encoder, bounds = encoder_of("bert"), torch.tensor([0, 3, 5], dtype=torch.int32)
    hidden = torch.randn(5, 32, requires_grad=True)
    states, _ = layer(encoder.encoder.layer[0], hidden, bounds, 3, played, True)
    first, again = (torch.autograd.grad(states.sum(), [hidden], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_without_a_working_compiler_layers_are_computed_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """A trial that ends because a machine has no compiler; or a failure that is asked for again at every layer."""
    asked = 0

    def compiled(layer: Any, hidden: Tensor, bounds: Tensor, longest: int, attention: Attention, capture: bool) -> Any:
        nonlocal asked
        asked += 1
        raise TorchDynamoException("no compiler here\nand much more")

    function = CompiledOrPlain(
        lambda layer, hidden, bounds, longest, attention, capture: (hidden + longest, None),
        compiled,
        TorchDynamoException,
    )
    with caplog.at_level(logging.WARNING):
        found = [function(None, torch.zeros(1), torch.zeros(1), 2, played, False) for _ in range(3)]
    assert [float(one) for one, _ in found] == [2.0, 2.0, 2.0]
    assert asked == 1
    assert [record.getMessage() for record in caplog.records] == [
        "layers cannot be compiled (no compiler here): they are computed as they are, and training is slower than it need be"
    ]


def test_a_kernel_that_cannot_be_compiled_gives_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trial that ends because a machine has triton but no C compiler, or no GPU that it knows."""
    monkeypatch.setattr(fused, "has_triton", lambda: True)
    fused.short_attention.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = [attention_for(longest, 32) for longest in (20, 20, 200)]
    fused.short_attention.cache_clear()
    assert found == [flash_attention] * 3
    [said] = [record.getMessage() for record in caplog.records]
    assert "FlashAttention takes its place" in said


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_kernel_is_tried_wherever_it_is_first_needed_and_leaves_no_trace(around: Callable[[], Any]) -> None:
    """A kernel that is taken for broken because a teacher needs it first, which has no gradient; or dropout that is another one the second time."""

    def attention(states: Tensor, bounds: Tensor, longest: int, scale: float, drop: float) -> Tensor:
        return torch.nn.functional.dropout(states[:, 0], drop) * scale

    def broken(states: Tensor, bounds: Tensor, longest: int, scale: float, drop: float) -> Tensor:
        raise RuntimeError("no compiler here")

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with around():
        try_out(attention, torch.device("cpu"))
        with pytest.raises(RuntimeError, match="no compiler here"):
            try_out(broken, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("width", "heads", "hindered"), [(32, 4, False), (40, 2, True), (48, 2, False), (544, 2, True)]
)
def test_encoder_that_cannot_take_this_way_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, width: int, heads: int, hindered: bool
) -> None:
    """Training that is ten times slower than its neighbour's, and nobody knows why."""
    monkeypatch.setattr(fused, "_device_is_able", lambda: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
    fused._tell_once.cache_clear()
    config = SimpleNamespace(hidden_size=width, num_attention_heads=heads)
    model = SimpleNamespace(config=config, encoder=SimpleNamespace(layer=[]))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert can_be_fused(model, torch.device("cuda")) is not hindered
    assert len(caplog.records) == hindered


def test_a_processor_does_not_take_this_way() -> None:
    """A kernel asked for where there is none."""
    assert not can_be_fused(encoder_of("bert"), torch.device("cpu"))


def _uncompiled(texts: Texts) -> Any:
    return fused_layers(texts, torch.device("cpu"), fused_layer)
