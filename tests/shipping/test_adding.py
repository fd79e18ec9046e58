"""Entities that are added to a predictor: candidates like the others, and refusals where a name has no one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydistill.errors import PredictionError
from raydistill.kg.store import Dataset
from raydistill.shipping.predictor import Predictor

Load = Callable[..., Predictor]


@pytest.fixture
def load(teacher_checkpoint: Callable[..., Path], dataset_folder: Path) -> Load:
    """A predictor of its own for each test."""
    return lambda bits=32: Predictor.load(teacher_checkpoint(), dataset_folder, entity_bits=bits)


@pytest.mark.parametrize("bits", [8, 32])
def test_added_entities_are_candidates_beside_the_others(load: Load, dataset: Dataset, bits: int) -> None:
    """Appended out of order, or in other bits, an entity answers for another one."""
    predictor, before = load(bits), load(bits)
    predictor.add(["Paris", "  Lima "], ["a city on the  Seine", ""])
    count = dataset.num_entities
    assert len(predictor.entity_vectors) == count + 2
    old, new = (one.tails("ann", "lives in", 99) for one in (before, predictor))
    was, now = ({answer.key: answer.score for answer in some} for some in (old, new))
    assert {key: score for key, score in now.items() if key not in ("Paris", "Lima")} == pytest.approx(was, abs=1e-6)
    assert [answer.score for answer in new] == sorted(now.values(), reverse=True)
    scores = {answer.name: answer.score for answer in new if not answer.known}
    assert scores["Paris"] == pytest.approx(before.score("ann", "lives in", "Paris: a city on the Seine"), abs=0.02)
    assert scores["Lima"] == pytest.approx(before.score("ann", "lives in", "Lima"), abs=0.02)
    assert predictor.score("ann", "lives in", "paris") == pytest.approx(scores["Paris"], abs=1e-6)


def test_added_entity_can_be_asked_about(load: Load) -> None:
    """Read without its description, it would be another text than the one that is a candidate."""
    predictor = load()
    expected = predictor.tails("Paris: a city on the Seine", "instance of", 99)
    predictor.add(["Paris"], ["a city on the Seine"])
    found = {answer.key: answer.score for answer in predictor.tails("Paris", "instance of", 99, new=True)}
    assert found.keys() == {answer.key for answer in expected} | {"Paris"}
    assert [found[answer.key] for answer in expected] == pytest.approx([answer.score for answer in expected], abs=1e-6)
    predictor.add(["Oslo (Minnesota)"])
    assert len(predictor.heads("Oslo (Minnesota)", "lives in", 99)) == len(predictor.entity_vectors)


def test_neither_cache_nor_another_predictor_learns_of_it(load: Load, dataset: Dataset) -> None:
    """The next call would rank entities that its graph does not have."""
    predictor = load()
    predictor.add(["Paris"])
    predictor.add([])
    again = load()
    assert len(again.entity_vectors) == dataset.num_entities
    assert torch.equal(
        again.entity_vectors.tensors()["vectors"], predictor.entity_vectors.tensors()["vectors"][: dataset.num_entities]
    )


@pytest.mark.parametrize(
    ("names", "descriptions", "said"),
    [
        (["Paris", "Paris"], None, "'Paris' is there twice"),
        (["Paris", " Paris"], ["one", "another"], "'Paris' is there twice"),
        (["Springfield"], None, "'Springfield' is an entity already"),
        (["Paris", "rome", "city"], None, "'rome' is an entity already, and so are 1 more"),
        (["Lima"], None, "'Lima' is an entity already"),
        (["Paris", " "], None, "name 2 is empty"),
        (["Paris"], [], "1 names and 0 descriptions"),
        ("Paris", None, "names = 'Paris', one text"),
        (["Paris"], "a city", "descriptions = 'a city', one text"),
    ],
)
def test_names_without_one_meaning_are_refused(
    load: Load, names: list[str], descriptions: list[str] | None, said: str
) -> None:
    """Two entities of one name answer for each other; and what is refused must leave nothing behind."""
    predictor = load()
    predictor.add(["Lima"])
    size = len(predictor.entity_vectors)
    with pytest.raises(PredictionError, match=said):
        predictor.add(names, descriptions)
    assert len(predictor.entity_vectors) == size
