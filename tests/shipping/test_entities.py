"""Entity vectors in one byte a number: what they are, what they cost, and that parts of a table do not show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydistill.errors import CapabilityError
from raydistill.shipping import entities
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.predictor import Predictor
from raydistill.students.quantizers import rounded


def unit_rows(count: int, width: int = 384) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(0)))


def test_codes_and_scale_of_a_row_by_hand() -> None:
    """The largest number of a row is code 127; levels shared by all rows would leave a row of small numbers with few of them."""
    kept = EntityVectors.of(torch.tensor([[1.27, -0.64, 0.003], [0.0127, 0.0, -0.0001]]), 8)
    assert kept.codes.dtype == torch.int8
    assert kept.codes.tolist() == [[127, -64, 0], [127, 0, -1]]
    assert kept.scale is not None
    assert kept.scale.tolist() == pytest.approx([0.01, 0.0001])
    assert kept.scores(torch.tensor([[1.0, 2.0, 0.0]]))[0].tolist() == pytest.approx([1.27 - 1.28, 0.0127])
    assert kept.numbers(torch.tensor([1])).flatten().tolist() == pytest.approx([0.0127, 0.0, -0.0001])


def test_scores_are_those_of_the_numbers_the_evaluation_ranks_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate --entity-bits 8` would speak of other answers than `predict --entity-bits 8` gives."""
    vectors, query = unit_rows(50), unit_rows(3)
    whole = EntityVectors.of(vectors, 8)
    scores = whole.scores(query)
    assert torch.allclose(scores, query @ rounded(vectors, 8, by_row=True).T, atol=1e-6)
    monkeypatch.setattr(entities, "_ROWS_AT_ONCE", 7)
    assert torch.allclose(whole.scores(query), scores, atol=1e-6)


def test_eight_bits_take_a_quarter_and_little_from_a_cosine() -> None:
    """The price of a quarter of the memory has to be known: of 384 units, half a step in each number moves a cosine by thousandths."""
    vectors = unit_rows(2000)
    exact, kept = EntityVectors.of(vectors), EntityVectors.of(vectors, 8)
    taken = [sum(part.nbytes for part in one.tensors().values()) for one in (exact, kept)]
    assert taken == [2000 * 384 * 4, 2000 * 384 + 2000 * 4]
    assert (kept.scores(vectors[:3]) - exact.scores(vectors[:3])).abs().max() < 5e-3


@pytest.mark.parametrize("bits", [8, 32])
def test_vectors_that_come_in_parts_are_those_that_come_at_once(bits: int) -> None:
    """Homonyms share one vector: the wrong one, or a scale of another's, answers for an entity nobody asked about."""
    vectors, place = unit_rows(7), torch.tensor([6, 0, 0, 3, 5])
    whole = EntityVectors.of(vectors[place], bits).tensors()
    parts = EntityVectors.gathered(iter([vectors[:3], vectors[3:6], vectors[6:]]), place, bits).tensors()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_on_a_gpu_are_those_of_the_processor() -> None:
    """Codes and buffers that lie on two devices end in a traceback on the machine that has one."""
    vectors, gpu = unit_rows(5000), torch.device("cuda")
    kept = EntityVectors.of(vectors, 8)
    there = EntityVectors.of(vectors.to(gpu), 8)
    assert torch.equal(there.codes.cpu(), kept.codes)
    for one in (there, kept.to(gpu)):
        assert torch.allclose(one.scores(vectors[:3].to(gpu)).cpu(), kept.scores(vectors[:3]), atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_other_bits_are_refused(bits: int) -> None:
    """Sixteen bits in an int8 wrap around without a word."""
    with pytest.raises(CapabilityError, match=f"entity vectors in {bits} bits"):
        EntityVectors.of(unit_rows(2), bits)


def test_predictor_answers_from_eight_bits(
    teacher_checkpoint: Callable[..., Path], dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kept under one name, the vectors of a call in float32 would be taken for those in 8 bits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exact = Predictor.load(teacher_checkpoint(), dataset_folder)
    kept = Predictor.load(teacher_checkpoint(), dataset_folder, entity_bits=8)
    assert kept.entity_vectors.scale is not None
    relation = exact.dataset.relation_keys[0]
    count = exact.dataset.num_entities
    ours, theirs = (
        {one.key: one.score for one in predictor.tails(exact.dataset.entity_keys[0], relation, count)}
        for predictor in (kept, exact)
    )
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours != theirs
