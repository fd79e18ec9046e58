from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydistill.data.micro_batches import micro_batches
from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder, pool
from raydistill.models.features import Needs

Make = Callable[..., BiEncoder]
LAYERS = Needs(frozenset({0, 2, 3}))


def one_by_one(model: BiEncoder, texts: Texts, tower: Any, how: str = "mean") -> tuple[Tensor, dict[int, Tensor]]:
    """The slow twin: each text alone, without padding, its states caught by hooks on the layers."""
    encoder = model.encoder(tower)
    caught: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS.layers}

    def catch(layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            caught[layer].append((output if isinstance(output, Tensor) else output[0])[0])

        return encoder.encoder.layer[layer].register_forward_hook(hook)  # type: ignore[union-attr, index]

    hooks = [catch(layer) for layer in LAYERS.layers]
    vectors = []
    lengths = texts.lengths.tolist()
    for tokens, types in zip(texts.tokens.split(lengths), texts.types.split(lengths), strict=True):
        states = encoder(input_ids=tokens[None], token_type_ids=types[None]).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "max": states.max(0).values}[how]
        vectors.append(vector / vector.norm())
    for hook in hooks:
        hook.remove()
    return torch.stack(vectors), {layer: torch.cat(states) for layer, states in caught.items()}


@pytest.mark.parametrize("tokens", [1, 30, 64, 100, 200, 10_000])
def test_micro_batches_of_any_size_give_what_one_text_at_a_time_gives(
    model_of: Make, kind: str, queries: Texts, tokens: int
) -> None:
    """Vectors given to the wrong texts after sorting by length, padding that leaks into them, or states out of order."""
    model = model_of(kind, tokens_per_micro_batch=tokens)
    vectors, states = one_by_one(model, queries, "query")
    output = model.encode(queries, "query", LAYERS)
    torch.testing.assert_close(output.vectors, vectors, atol=1e-5, rtol=0)
    assert output.states.keys() == states.keys()
    for layer, expected in states.items():
        torch.testing.assert_close(output.states[layer], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_both_towers_pool_as_asked(model_of: Make, kind: str, queries: Texts, how: Any) -> None:
    """A tower that is passed over, or another pooling than the configured one."""
    model = model_of(kind, pooling=how, tokens_per_micro_batch=90)
    for tower in ("query", "entity"):
        expected, _ = one_by_one(model, queries, tower, how)
        torch.testing.assert_close(model.encode(queries, tower).vectors, expected, atol=1e-5, rtol=0)  # type: ignore[arg-type]
    towers = [model.encode(queries, tower).vectors for tower in ("query", "entity")]  # type: ignore[arg-type]
    assert (towers[0] - towers[1]).abs().max() > 1e-3


def test_gradients_do_not_depend_on_micro_batches(model_of: Make, kind: str, queries: Texts) -> None:
    """Memory bounded at the price of a wrong gradient."""
    gradients = []
    for tokens in (30, 10_000):
        model = model_of(kind, tokens_per_micro_batch=tokens)
        output = model.encode(queries, "query", LAYERS)
        weights = torch.linspace(-1, 1, output.vectors.numel()).view_as(output.vectors)
        (output.vectors * weights).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


def test_captured_states_are_the_hidden_states_of_transformers(model_of: Make, kind: str, queries: Texts) -> None:
    """Layers counted from the embeddings here and from the first layer there: a student that imitates the wrong layer."""
    model = model_of(kind)
    output = model.encode(queries, "query", Needs(frozenset({0, 1, 3})))
    assert set(output.states) == {0, 1, 3}
    for number in range(len(queries)):
        text = queries.select(torch.tensor([number]))
        hidden = model.query_encoder(
            input_ids=text.tokens[None], token_type_ids=text.types[None], output_hidden_states=True
        ).hidden_states
        mine = queries.text_of_token == number
        for layer, states in output.states.items():
            torch.testing.assert_close(states[mine], hidden[layer + 1][0], atol=1e-5, rtol=1e-5)


def test_nothing_is_captured_that_was_not_asked_for(model_of: Make, kind: str, queries: Texts) -> None:
    """States of all layers kept in memory though no term looks at them."""
    model = model_of(kind)
    assert model.encode(queries, "query").states == {}
    with pytest.raises(IndexError):
        model.encode(queries, "query", Needs(frozenset({4})))


def test_padding_changes_no_vector(model_of: Make, kind: str, queries: Texts) -> None:
    """A short text whose vector depends on which long text shares its batch."""
    model = model_of(kind)
    together = model.encode(queries, "query").vectors
    longest = int(queries.lengths.argmax())
    for number in range(len(queries)):
        pair = model.encode(queries.select(torch.tensor([number, longest])), "query").vectors
        torch.testing.assert_close(pair[0], together[number], atol=1e-5, rtol=0)


def test_no_texts_give_empty_outputs_with_gradient(model_of: Make, kind: str, queries: Texts) -> None:
    """A worker whose share of a small batch is empty, and which fails while the others wait for it."""
    model = model_of(kind)
    none = queries.select(torch.zeros(0, dtype=torch.int64))
    output = model.encode(none, "entity", LAYERS)
    assert output.vectors.shape == (0, 16)
    assert {layer: states.shape for layer, states in output.states.items()} == dict.fromkeys(LAYERS.layers, (0, 16))
    (output.vectors.sum() + output.states[0].sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_vectors_are_float32_and_of_length_one_under_bfloat16(model_of: Make, kind: str, queries: Texts) -> None:
    """Cosines beyond 1, or scores that lose all but three digits."""
    exact = model_of(kind).encode(queries, "query").vectors
    rough = model_of(kind, precision="bf16").encode(queries, "query").vectors
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.norm(dim=1), torch.ones(len(queries)), atol=1e-5, rtol=0)
    assert 0 < (rough - exact).abs().max() < 0.1


@pytest.mark.parametrize("packs", [True, False])
def test_encoder_of_one_type_takes_all_tokens_to_be_of_it(model_of: Make, packs: bool) -> None:
    """A tokenizer that tells two parts of a text apart, and an encoder that has learnt one: the second part is read at another place, or not at all."""
    model = model_of(kind="roberta")
    model.packs = packs
    lengths = torch.tensor([5, 3])
    tokens, special = torch.tensor([7, 8, 9, 10, 11, 7, 9, 12]), torch.zeros(8, dtype=torch.bool)
    one, two = (
        model.eval().encode(Texts(tokens, types, special, lengths), "query").vectors
        for types in (torch.zeros(8, dtype=torch.int64), torch.tensor([0, 0, 0, 1, 1, 0, 1, 1]))
    )
    assert torch.equal(one, two)


def test_type_that_an_encoder_does_not_have_is_refused(model_of: Make) -> None:
    """A token of a third type that is read as one of the first, a place further on."""
    texts = Texts(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 0]), torch.zeros(3, dtype=torch.bool), torch.tensor([3]))
    with pytest.raises(IndexError, match="type 2 for an encoder of 2 types"):
        model_of().encode(texts, "query")


def test_texts_that_were_read_in_inference_mode_can_be_learnt_from(model_of: Make, kind: str, queries: Texts) -> None:
    """Places of tokens that were worked out where no gradient can come of them, and are kept."""
    model = model_of(kind, pooling="cls")
    with torch.inference_mode():
        model.encode(queries, "query")
    assert model.encode(queries, "query").vectors.requires_grad


def test_pooling_by_hand() -> None:
    """Padding in a mean or maximum: two texts, the second one token long, its padding huge."""
    hidden = torch.tensor([[[1.0, -2.0], [3.0, -6.0]], [[-1.0, 4.0], [1e6, 1e6]]])
    real = torch.tensor([[True, True], [True, False]])
    assert pool(hidden, real, "mean").tolist() == [[2.0, -4.0], [-1.0, 4.0]]
    assert pool(hidden, real, "max").tolist() == [[3.0, -2.0], [-1.0, 4.0]]
    assert pool(hidden, real, "cls").tolist() == [[1.0, -2.0], [-1.0, 4.0]]


@pytest.mark.parametrize("tokens", [1, 7, 20, 1000])
def test_micro_batches_cover_every_text_once_within_the_limit(tokens: int) -> None:
    """Texts left out or encoded twice, or a micro-batch that does not fit the memory."""
    lengths = torch.tensor([3, 9, 1, 4, 4, 9, 2, 30])
    parts = list(micro_batches(lengths, tokens))
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    for part in parts:
        assert len(part) == 1 or len(part) * int(lengths[part].max()) <= tokens
    if tokens == 20:
        assert [lengths[part].tolist() for part in parts] == [[30], [9, 9], [4, 4, 3, 2, 1]]


def test_shared_towers_are_one_encoder(model_of: Make, kind: str, queries: Texts) -> None:
    """Shared towers that hold two copies: twice the memory, and weights that drift apart."""
    model = model_of(kind, shared=True)
    assert model.shared_towers
    assert torch.equal(model.encode(queries, "query").vectors, model.encode(queries, "entity").vectors)
    alone = sum(parameter.numel() for parameter in model.query_encoder.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == alone + 1
    assert not model_of(kind).shared_towers


def test_temperature_starts_where_asked_and_may_be_frozen(model_of: Make) -> None:
    """A frozen temperature that is trained, or an inverse taken twice."""
    assert model_of().inverse_temperature.item() == pytest.approx(20.0)
    frozen = model_of(temperature=0.5, train_temperature=False)
    assert frozen.inverse_temperature.item() == pytest.approx(2.0)
    assert not frozen.log_inverse_temperature.requires_grad
    assert (model_of().num_layers, model_of().hidden_size) == (4, 16)


def test_micro_batches_pad_little_and_lose_no_text() -> None:
    """One long text in a batch of short ones made two tokens of three padding, and a step 1.7 times as long."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 60, (2000,), generator=generator)
    parts = list(micro_batches(lengths, 16384))
    assert torch.equal(torch.sort(torch.cat(parts)).values, torch.arange(2000))
    padded = sum(len(part) * int(lengths[part].max()) for part in parts)
    assert padded <= 1.05 * int(lengths.sum()) + 64 * len(parts)
    assert all(len(part) * int(lengths[part].max()) <= 16384 for part in parts)
    assert not list(micro_batches(lengths[:0], 16384))
