"""Examples that nobody wrote down, and texts of no meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from raydistill.data.assembly import TextAssembler
from raydistill.data.synthetic import RANDOM_ENTITIES, SyntheticSource, random_graph, without_triples
from raydistill.data.tokens import PieceTexts, tokenize_pieces
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule


class Sealed(Dataset):
    """A graph whose triples raise when touched, and that counts who tried."""

    reads = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("train", "valid", "test", "split"):
            type(self).reads += 1
            raise AssertionError(f"{name} was touched")
        return super().__getattribute__(name)


def sealed(dataset: Dataset) -> Sealed:
    """The same graph, sealed, and nobody has tried."""
    Sealed.reads = 0
    return Sealed(**{name: getattr(dataset, name) for name in Dataset.__dataclass_fields__})


def test_examples_are_a_function_of_seed_epoch_and_step() -> None:
    """A resumed epoch, or another worker, that learns from other examples."""
    source = SyntheticSource(9, 3, 50, 16, 7)
    whole = list(source.batches(1))
    assert source.steps_per_epoch == len(whole) == 4
    assert [len(batch) for batch in whole] == [12, 13, 13, 12]
    for first in range(4):
        rest = list(SyntheticSource(9, 3, 50, 16, 7).batches(1, first))
        assert all(np.array_equal(*pair) for pair in zip(rest, whole[first:], strict=True))
    others = [SyntheticSource(9, 3, 50, 16, 8).batches(1), source.batches(2)]
    assert not any(np.array_equal(whole[0], next(other)) for other in others)
    assert not np.array_equal(whole[1], whole[2])


def test_all_heads_relations_of_both_directions_and_tails_occur() -> None:
    """An inverse relation, or the last entity, that is never asked about."""
    examples = np.concatenate(list(SyntheticSource(5, 2, 2000, 100, 0).batches(0)))
    assert examples.dtype == np.int32
    for column, count in enumerate((5, 4, 5)):
        assert np.bincount(examples[:, column], minlength=count).min() > 2000 / count / 2


def test_examples_come_again_in_no_epoch() -> None:
    """A teacher's outputs kept for texts that are never seen again."""
    assert SyntheticSource(5, 2, 20, 10, 0).triples is None


def test_texts_without_triples_are_the_graphs_texts(
    tokenizer: Any, dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> None:
    """Another graph's texts, neighbours' names among them, or a split that was looked at."""
    seal = sealed(dataset)
    alone = assembler_of(tokenizer, without_triples(seal), rule=TextRule(max_neighbors=0))
    real = assembler_of(tokenizer, dataset, rule=TextRule(max_neighbors=0))
    everyone = np.arange(dataset.num_entities)
    assert np.array_equal(alone.entity_texts(everyone).tokens, real.entity_texts(everyone).tokens)
    assert Sealed.reads == 0
    assert len(without_triples(seal).train) == len(without_triples(seal).valid) == len(without_triples(seal).test) == 0


def test_random_texts_have_the_lengths_and_the_tokens_of_real_ones_and_no_more(
    tokenizer: Any, dataset: Dataset, assembler_of: Callable[..., TextAssembler]
) -> None:
    """A real text among random ones, tokens outside a trimmed vocabulary, or texts of no graph's length."""
    seal = sealed(dataset)
    pieces = tokenize_pieces(PieceTexts(dataset), tokenizer, dataset.num_entities, dataset.num_relations)
    graph, random = random_graph(seal, pieces, 3)
    assert Sealed.reads == 0
    real = assembler_of(tokenizer, dataset, rule=TextRule(max_neighbors=0))
    made = TextAssembler(random, graph, real.layout, TextRule(max_neighbors=0), real.max_tokens)
    texts = made.entity_texts(np.arange(RANDOM_ENTITIES))
    true = real.entity_texts(np.arange(dataset.num_entities))
    assert set(texts.lengths.tolist()) == set(true.lengths.tolist())
    assert set(texts.tokens.tolist()) <= set(real.token_ids().tolist())
    assert len(np.unique(random.tokens)) == len(np.unique(pieces.tokens))
    queries = made.query_texts(np.arange(50), np.arange(50) % (2 * dataset.num_relations))
    assert int(queries.lengths.max()) <= real.max_tokens
    known = {tuple(part) for part in true.tokens.split(true.lengths.tolist()) if len(part) > 6}
    assert not known & {tuple(part) for part in texts.tokens.split(texts.lengths.tolist())}
    again, other = (random_graph(seal, pieces, seed)[1] for seed in (3, 4))
    assert texts.ids is queries.ids is None, "its entities are none of the graph's"
    assert np.array_equal(again.tokens, random.tokens)
    assert not np.array_equal(other.tokens[:100], random.tokens[:100])
