"""Quantised encoders: what they compute, what decides it, how they are stored, and that a trained model survives it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raydistill.data.assembly import TextAssembler
from raydistill.data.texts import Texts
from raydistill.errors import CapabilityError, EncoderError
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import BiEncoder
from raydistill.models.features import QKV, Needs
from raydistill.models.loading import load_encoder
from raydistill.models.vocabulary import trim_embeddings
from raydistill.students.build import take_layers
from raydistill.students.packing import load_packed, packed_ternary, unpacked_ternary, write_float
from raydistill.students.quantization import Quantization, quantize
from raydistill.students.quantized import Formats, formats_of, install, ranges_of, uninstall
from raydistill.students.quantizers import clipped, rounded
from raydistill.students.storing import store_weights, stored_encoder

FORMATS = [Formats(8, 8, 8), Formats(2, 2, 8), Formats(2, 8, 8), Formats(16, 16, 16), Formats(8, 8, 32)]
Make = Callable[..., BiEncoder]


@pytest.fixture
def assembler(tokenizers: dict[str, Any], dataset: Dataset, assembler_of: Callable[..., TextAssembler]) -> Any:
    """The graph's texts, by kind of encoder."""
    return lambda kind="bert": assembler_of(tokenizers[kind], dataset, max_tokens=40)


@pytest.fixture
def texts(assembler: Any, dataset: Dataset) -> Callable[..., Texts]:
    """All entities' texts."""
    return lambda kind="bert": assembler(kind).entity_texts(np.arange(dataset.num_entities))


@pytest.fixture
def model_of(encoder_folder: Callable[..., Path]) -> Make:
    """A new model of two unlike towers, in evaluation mode."""

    def make(kind: str = "bert", *, shared: bool = False) -> BiEncoder:
        query, entity = (load_encoder(encoder_folder(kind)) for _ in range(2))
        for parameter in entity.parameters():
            parameter.data *= 1.1
        return BiEncoder(query, query if shared else entity).eval()

    return make


def calibrated(model: BiEncoder, formats: Formats, texts: Texts) -> BiEncoder:
    quantize(model, formats, [("query", texts), ("entity", texts)])
    return model.eval()


def vectors(model: BiEncoder, texts: Texts) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.encode(texts, tower).vectors for tower in ("query", "entity")])


def test_float_formats_are_the_encoder_itself(model_of: Make, texts: Callable[..., Texts]) -> None:
    """A wrapper that computes something else before a bit is taken away."""
    plain, same = model_of(), model_of()
    for encoder in (same.query_encoder, same.entity_encoder):
        install(encoder, Formats(32, 32, 32))
    assert torch.equal(vectors(same, texts()), vectors(plain, texts()))
    assert not list(ranges_of(same.query_encoder))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_encoder_is_that_of_rounded_numbers_written_out(model_of: Make, texts: Callable[..., Texts], kind: str) -> None:
    """A weight, an input or one of attention's four operands that is not rounded, or rounded where it should not be: a loop over texts and heads is the twin."""
    model = calibrated(model_of(kind), Formats(8, 2, 8), texts(kind))
    encoder: Any = model.query_encoder
    limits = {name: one.limit for name, one in ranges_of(encoder)}
    layers, heads = len(encoder.encoder.layer), model.num_heads
    # 6 products and 4 operands of attention in each layer.
    assert len(limits) == 10 * layers
    given = texts(kind).select(torch.tensor([2]))

    def product(place: str, x: Tensor) -> Tensor:
        linear = encoder.get_submodule(place)
        return clipped(x, limits[f"{place}.inputs"], 8) @ rounded(linear.weight, 8).T + linear.bias

    with torch.no_grad():
        parts = encoder.embeddings
        first = 0 if kind == "bert" else parts.padding_idx + 1
        rows = (
            (parts.word_embeddings, given.tokens),
            (parts.token_type_embeddings, given.types),
            (parts.position_embeddings, torch.arange(len(given.tokens)) + first),
        )
        x = parts.LayerNorm(sum(rounded(table.weight, 2, by_row=True)[places] for table, places in rows))
        for number in range(layers):
            at, layer = f"encoder.layer.{number}", encoder.encoder.layer[number]
            own = f"{at}.attention.self"
            q, k, v = (
                clipped(product(f"{own}.{one}", x), limits[f"{own}.operands.{plural}"], 8)
                for one, plural in (("query", "queries"), ("key", "keys"), ("value", "values"))
            )
            seen = []
            for head in torch.arange(q.shape[1]).view(heads, -1):
                shares = (q[:, head] @ k[:, head].T * len(head) ** -0.5).softmax(-1)
                seen.append(clipped(shares, limits[f"{own}.operands.shares"], 8) @ v[:, head])
            out = product(f"{at}.attention.output.dense", torch.cat(seen, dim=1))
            x = layer.attention.output.LayerNorm(out + x)
            inner = nn.functional.gelu(product(f"{at}.intermediate.dense", x))
            x = layer.output.LayerNorm(product(f"{at}.output.dense", inner) + x)
        expected = nn.functional.normalize(x.mean(0), dim=0)
        received = model.encode(given, "query").vectors[0]
    torch.testing.assert_close(received, expected, atol=1e-5, rtol=0)
    plain = model_of(kind)
    assert (plain.encode(given, "query").vectors[0] - received).abs().max() > 1e-3


def test_captured_queries_are_those_that_attention_multiplies(model_of: Make, texts: Callable[..., Texts]) -> None:
    """Attention compared with the teacher's that the student never computed."""
    model = calibrated(model_of(), Formats(8, 8, 8), texts())
    limit = {name: one.limit for name, one in ranges_of(model.query_encoder)}[
        "encoder.layer.1.attention.self.operands.keys"
    ]
    with torch.no_grad():
        keys = model.encode(texts(), "query", Needs(frozenset({QKV(1)}))).states[QKV(1)][:, 1]
    assert torch.equal(clipped(keys, limit, 8), keys)
    assert len(keys.unique()) <= 255


def test_text_is_encoded_alike_in_any_company(model_of: Make, texts: Callable[..., Texts]) -> None:
    """The public code's ranges come from whatever is encoded at once, so a ranking depends on the order of a batch (1e-2 in a toy).

    Ours are frozen. What is left is rounding in the products of other shapes, which may carry a number over the boundary of two levels: it is bit-equal on most
    machines, and far below what another range does on all.
    """
    model = calibrated(model_of(), Formats(8, 8, 8), texts())
    everything = texts()
    together = vectors(model, everything)[: len(everything)]
    alone = torch.cat(
        [model.encode(everything.select(torch.tensor([number])), "query").vectors for number in range(len(everything))]
    )
    assert (alone - together).abs().max() < 2e-3
    before = {name: one.limit.clone() for name, one in ranges_of(model.query_encoder)}
    # Beside a text whose activations are a hundred times as large as any.
    longest = int(everything.lengths.argmax())
    pair = everything.select(torch.tensor([longest, 1]))
    larger = torch.where(pair.text_of_token == 0, 100.0, 1.0)[:, None]
    embeddings: Any = model.query_encoder.embeddings
    embeddings.LayerNorm.register_forward_hook(lambda _, __, output: output * larger)
    with torch.no_grad():
        beside = model.encode(pair, "query").vectors
    assert (beside[0] - together[longest]).abs().max() > 0.05
    assert (beside[1] - together[1]).abs().max() < 2e-3
    assert all(torch.equal(one.limit, before[name]) for name, one in ranges_of(model.query_encoder))


@pytest.mark.parametrize("loudness", [1.0, 100.0])
@pytest.mark.parametrize("formats", [Formats(8, 8, 8), Formats(2, 2, 8)], ids=str)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_text_is_encoded_to_the_same_bits_beside_any_texts_of_the_same_lengths(
    model_of: Make, texts: Callable[..., Texts], kind: str, formats: Formats, loudness: float
) -> None:
    """A range or a scale that comes of what is encoded at once, in evaluation or in training, however little it moves: among equal shapes nothing else rounds differently."""
    given = texts(kind)
    # In the order in which they are encoded, so that a token's row is known.
    given = given.select(given.lengths.argsort(descending=True, stable=True))
    model, owner = calibrated(model_of(kind), formats, given), given.text_of_token
    embeddings: Any = model.entity_encoder.embeddings
    drawn = torch.randint(
        5, len(embeddings.word_embeddings.weight), owner.shape, generator=torch.Generator().manual_seed(0)
    )
    volume = torch.ones(len(owner), 1)
    embeddings.LayerNorm.register_forward_hook(lambda _, __, output: output * volume)
    for training in (False, True):
        model.train(training)
        plain = model.encode(given, "entity").vectors.detach()
        for number in range(len(given)):
            own = owner == number
            volume[~own] = loudness
            company = given.with_tokens(torch.where(own, given.tokens, drawn))
            found = model.encode(company, "entity").vectors.detach()
            volume.fill_(1.0)
            assert torch.equal(found[number], plain[number])
            assert (found != plain).any(1).sum() == len(given) - 1, "the company stayed as it was"


def test_ranges_change_in_training_alone_and_once_a_step(model_of: Make, texts: Callable[..., Texts]) -> None:
    """A range that moves with validation, with the gradient cache's second pass, or with an attempt that is made again."""

    class Alone:
        def __call__(self, tensor: Tensor) -> Tensor:
            return tensor

        def largest(self, tensor: Tensor) -> Tensor:
            return tensor

    def limits(twice: bool, failed: bool) -> list[dict[str, Tensor]]:
        model = model_of()
        reshaper, found = Quantization(Formats(8, 8, 8), 0.75), []
        reshaper.prepare(model)
        assert not reshaper.complete
        for step in range(2):
            model.train()
            if failed:
                model.encode(texts(), "query")
                for parameter in model.parameters():
                    parameter.data *= 2
                model.encode(texts(), "query")
                for parameter in model.parameters():
                    parameter.data /= 2
                reshaper.forget()
            part = texts().select(torch.tensor([step, step + 2]))
            for _ in range(2 if twice else 1):
                for tower in ("query", "entity"):
                    model.encode(part, tower)  # type: ignore[arg-type]
            reshaper.after_backward(model, step, Alone())
            model.eval()
            model.encode(texts(), "query")
            found.append(reshaper.tensors())
        assert reshaper.complete
        return found

    once = limits(twice=False, failed=False)
    for other in (limits(twice=True, failed=False), limits(twice=False, failed=True)):
        for first, second in zip(once, other, strict=True):
            assert first.keys() == second.keys()
            assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(*(torch.stack(list(step.values())) for step in once))


def test_range_moves_by_its_memory() -> None:
    """A range that forgets at once, or never learns."""
    from raydistill.students.quantized import Range

    one = Range(8).train()
    values = torch.tensor([1.0, -4.0])
    assert torch.equal(one(values), values), "rounded before anything was known"
    for largest, expected in ((4.0, 4.0), (8.0, 5.0), (0.0, 5.0), (1.0, 4.0)):
        one.learn(torch.tensor(largest), 0.75)
        assert one.limit.item() == expected
    assert one(torch.tensor([9.0])).item() == 4.0


def test_range_that_saw_only_zeros_is_as_one_that_saw_nothing() -> None:
    """Everything rounded to 0 afterwards; or one student before it was interrupted, and another when it goes on."""
    from raydistill.students.quantized import Range

    one, restored = Range(8).train(), Range(8).train()
    one.learn(torch.tensor(0.0), 0.75)
    restored.know(one.limit)
    for each in (one, restored):
        assert each(torch.tensor([3.0])).item() == 3.0
        each.learn(torch.tensor(8.0), 0.75)
        assert each.limit.item() == 8.0


@pytest.mark.parametrize("formats", FORMATS, ids=str)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_unpacked_encoder_computes_the_same_bits(
    model_of: Make, texts: Callable[..., Texts], tmp_path: Path, kind: str, formats: Formats
) -> None:
    """A promoted model that is nearly the one that was validated: a scale in another precision, a range that is lost, a row of another scale."""
    model = calibrated(model_of(kind), formats, texts(kind))
    loaded = []
    for name in ("query_encoder", "entity_encoder"):
        folder = tmp_path / name
        folder.mkdir()
        encoder: Any = getattr(model, name)
        encoder.config.save_pretrained(folder)
        store_weights(folder, encoder)
        assert [path.name for path in folder.glob("*.safetensors")] == ["packed.safetensors"]
        loaded.append(stored_encoder(folder))
    again = BiEncoder(*loaded).eval()
    assert torch.equal(vectors(again, texts(kind)), vectors(model, texts(kind)))
    # And again, from what was loaded.
    (tmp_path / "second").mkdir()
    loaded[0].config.save_pretrained(tmp_path / "second")
    store_weights(tmp_path / "second", loaded[0])
    second = BiEncoder(stored_encoder(tmp_path / "second"), loaded[1]).eval()
    assert torch.equal(vectors(second, texts(kind)), vectors(model, texts(kind)))


def test_whole_vocabulary_is_packed(model_of: Make, texts: Callable[..., Texts], tmp_path: Path) -> None:
    """Words of other graphs that are gone from the checkpoint, or are rounded with another one's scale."""
    model = model_of()
    original = model.query_encoder.embeddings.word_embeddings.weight.detach().clone()  # type: ignore[union-attr, operator]
    used = torch.cat([torch.tensor([0]), texts().tokens]).unique()  # with the encoder's padding
    for encoder in (model.query_encoder, model.entity_encoder):
        trim_embeddings(encoder, used)
    calibrated(model, Formats(8, 8, 8), texts())
    with torch.no_grad():
        model.query_encoder.embeddings.word_embeddings.weight.add_(0.01)  # type: ignore[union-attr, operator]
    before = vectors(model, texts())
    model.query_encoder.config.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    store_weights(tmp_path, model.query_encoder)
    found: Any = load_packed(tmp_path)
    table = found.embeddings.word_embeddings.weight
    expected = original.clone()
    expected[used] += 0.01
    assert torch.equal(table, rounded(expected, 8, by_row=True))
    assert torch.equal(vectors(BiEncoder(found, model.entity_encoder), texts()), before)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 1024])
def test_four_ternary_numbers_fit_into_a_byte(count: int) -> None:
    """A code in its neighbour's place, or a last byte that is cut."""
    codes = torch.randint(-1, 2, (count,), generator=torch.Generator().manual_seed(count))
    packed = packed_ternary(codes.float())
    assert (packed.dtype, len(packed)) == (torch.uint8, -(-count // 4))
    assert torch.equal(unpacked_ternary(packed, codes.shape), codes.to(torch.int8))
    # 1, 0, -1 and 1 are 2, 1, 0 and 2, the first in the lowest bits.
    assert packed_ternary(torch.tensor([1.0, 0, -1, 1])).tolist() == [2 + 4 * 1 + 16 * 0 + 64 * 2]


def test_float_version_loads_with_transformers(model_of: Make, texts: Callable[..., Texts], tmp_path: Path) -> None:
    """The way out for who has no raydistill: other weights than those that were computed with."""
    from transformers import AutoModel

    model = calibrated(model_of(), Formats(2, 8, 8), texts())
    (tmp_path / "packed").mkdir()
    encoder: Any = model.entity_encoder
    encoder.config.save_pretrained(tmp_path / "packed")
    store_weights(tmp_path / "packed", encoder)
    write_float(tmp_path / "packed", tmp_path / "float")
    loaded, info = AutoModel.from_pretrained(tmp_path / "float", output_loading_info=True)
    assert not any(info.values()), info
    weight = loaded.encoder.layer[0].attention.self.query.weight
    assert torch.equal(weight, rounded(encoder.encoder.layer[0].attention.self.query.weight, 2))
    assert torch.equal(loaded.encoder.layer[1].output.dense.bias, encoder.encoder.layer[1].output.dense.bias)
    # Without rounding of activations, as everybody else would compute it.
    uninstall(encoder)
    given = torch.tensor([[3, 7, 9, 4]])
    torch.testing.assert_close(loaded(given).last_hidden_state, encoder(given).last_hidden_state, atol=1e-6, rtol=0)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-9]), "cannot be loaded"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be loaded"),
    "of no kind": (lambda file: save_file(load_file(file), file), "its kind is None"),
    "of another depth": (
        lambda file: (file.parent / "config.json").write_text(
            (file.parent / "config.json").read_text().replace('"num_hidden_layers": 4', '"num_hidden_layers": 3')
        ),
        "belongs to nothing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_pack_is_refused(model_of: Make, texts: Callable[..., Texts], tmp_path: Path, damage: str) -> None:
    """Layers of random weights, or a traceback out of a library."""
    model = calibrated(model_of(), Formats(8, 8, 8), texts())
    model.query_encoder.config.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    store_weights(tmp_path, model.query_encoder)
    spoil, told = DAMAGES[damage]
    spoil(tmp_path / "packed.safetensors")
    with pytest.raises(EncoderError, match=told) as caught:
        stored_encoder(tmp_path)
    assert caught.value.remedy


def test_student_takes_what_a_quantised_teacher_computes_with(
    model_of: Make, texts: Callable[..., Texts], tmp_path: Path
) -> None:
    """A next grade whose layers are rounded twice, or begin with numbers that its teacher never used."""
    model = calibrated(model_of(), Formats(2, 8, 8), texts())
    before = vectors(model, texts())
    student: Any = take_layers(model.query_encoder, (1, 3))
    assert formats_of(student) is None
    assert not list(ranges_of(student))
    assert {type(one) for one in student.modules() if isinstance(one, nn.Linear)} == {nn.Linear}
    taken, source = (
        one.attention.self.key.weight for one in (student.encoder.layer[1], model.query_encoder.encoder.layer[3])
    )  # type: ignore[union-attr, index]
    assert torch.equal(taken, rounded(source, 2))
    assert taken.requires_grad
    assert torch.equal(vectors(model, texts()), before), "the teacher was changed"
    install(student, Formats(8, 8, 8))


def test_fused_layers_are_left_to_encoders_that_multiply_what_is_there(
    model_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that looks at weights alone: on a GPU nothing would be rounded in training, and everything in ranking."""
    from raydistill.models import fused

    monkeypatch.setattr(fused, "_device_is_able", lambda: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
    encoder, on_gpu = model_of().query_encoder, torch.device("cuda")
    assert fused.can_be_fused(encoder, on_gpu)
    install(encoder, Formats(8, 8, 32))
    assert not fused.can_be_fused(encoder, on_gpu)
    uninstall(encoder)
    install(encoder, Formats(8, 8, 8))
    assert not fused.can_be_fused(encoder, on_gpu)


def test_shared_towers_are_quantised_once(model_of: Make, texts: Callable[..., Texts]) -> None:
    """One encoder rounded twice, with two sets of ranges of which one is never read."""
    model = model_of(shared=True)
    reshaper = Quantization(Formats(8, 8, 8), 0.9)
    reshaper.prepare(model)
    assert len(reshaper.tensors()) == len(list(ranges_of(model.query_encoder)))
    with pytest.raises(AssertionError, match="twice"):
        install(model.query_encoder, Formats(8, 8, 8))


def test_encoder_of_unknown_parts_is_refused(model_of: Make, texts: Callable[..., Texts]) -> None:
    """Attention that is left in full precision without a word."""
    model = model_of()
    model.packs = False
    with pytest.raises(CapabilityError, match="unknown parts"):
        quantize(model, Formats(), [("query", texts())])


def test_tower_without_calibration_is_refused(model_of: Make, texts: Callable[..., Texts]) -> None:
    """Half a model that is rounded."""
    with pytest.raises(CapabilityError, match="no text of the calibration went through entity_encoder"):
        quantize(model_of(), Formats(), [("query", texts())])


def test_calibration_leaves_weights_and_mode_alone(model_of: Make, texts: Callable[..., Texts]) -> None:
    """Ranges of dropped units, or a model that cannot be trained on."""
    model = model_of().train()
    before = copy.deepcopy(model.state_dict())
    quantize(model, Formats(8, 8, 8), [("query", texts()), ("entity", texts())])
    assert model.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(one.known and one.seen is None for _, one in ranges_of(model.query_encoder))
