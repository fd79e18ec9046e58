from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raydistill.data.assembly import NOTHING, TextAssembler
from raydistill.data.texts import Texts
from raydistill.data.tokens import TokenPieces
from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex, TextRule, clean_text, entity_text, inverse_phrase
from raydistill.kg.triples import with_inverses

Assemble = Callable[..., TextAssembler]
Row = tuple[list[int], list[int], list[bool]]
RULES = (TextRule(), TextRule(max_neighbors=0), TextRule(max_neighbors=1), TextRule(3, 5), TextRule(10, 1000))


def rows(texts: Texts) -> Iterator[Row]:
    lengths = texts.lengths.tolist()
    columns = (texts.tokens.split(lengths), texts.types.split(lengths), texts.special.split(lengths))
    for tokens, types, special in zip(*columns, strict=True):
        yield tokens.tolist(), types.tolist(), special.tolist()


def joined(tokenizer: Any, max_tokens: int, *texts: str) -> Row:
    """What the tokenizer itself makes of the joined text."""
    encoded = tokenizer(
        *texts,
        truncation="longest_first",
        max_length=max_tokens,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
    )
    return encoded["input_ids"], encoded["token_type_ids"], [bool(x) for x in encoded["special_tokens_mask"]]


def phrases(dataset: Dataset) -> list[str]:
    return [*dataset.relation_phrases, *map(inverse_phrase, dataset.relation_phrases)]


def check_all(tokenizer: Any, dataset: Dataset, assembler: TextAssembler, rule: TextRule) -> None:
    """Every text of every training triple, and of every entity alone, against the joined text."""
    neighbors = NeighborIndex.from_triples(dataset.train, dataset.num_entities)

    def text(entity: int, answer: int | None) -> str:
        names, descriptions = dataset.entity_names, dataset.entity_descriptions
        return entity_text(entity, names, descriptions, neighbors=neighbors, rule=rule, answer=answer)

    heads, relations, tails = with_inverses(dataset.train, dataset.num_relations).T.astype(np.int64)
    everything = np.arange(dataset.num_entities)
    limit, words = assembler.max_tokens, phrases(dataset)
    expected = [joined(tokenizer, limit, text(h, t), words[r]) for h, r, t in zip(heads, relations, tails, strict=True)]
    assert list(rows(assembler.query_texts(heads, relations, tails))) == expected
    expected = [joined(tokenizer, limit, text(h, None), words[r]) for h, r in zip(heads, relations, strict=True)]
    assert list(rows(assembler.query_texts(heads, relations))) == expected
    expected = [joined(tokenizer, limit, text(t, h)) for t, h in zip(tails, heads, strict=True)]
    assert list(rows(assembler.entity_texts(tails, heads))) == expected
    assert list(rows(assembler.entity_texts(everything))) == [
        joined(tokenizer, limit, text(e, None)) for e in everything
    ]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("max_tokens", [8, 9, 13, 21, 32, 512])
def test_pieces_make_the_text_that_tokenising_the_joined_text_makes(
    tokenizer: Any, dataset: Dataset, assembler_of: Assemble, max_tokens: int, rule: TextRule
) -> None:
    """Texts put together from pieces that differ from what the encoder was pre-trained to read, at any length and rule."""
    check_all(tokenizer, dataset, assembler_of(tokenizer, dataset, max_tokens=max_tokens, rule=rule), rule)


SPEECH = st.text(alphabet="ab cdst019.,:;!?'’\"()-–—_/&%#@éÉßñÅı́挪威한あ🎈‍\xa0\u200b", max_size=24).map(clean_text)
NAME = SPEECH.map(lambda text: text or "x")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAME, min_size=8, max_size=8),
    descriptions=st.lists(SPEECH, min_size=8, max_size=8),
    words=st.lists(NAME, min_size=4, max_size=4),
    max_tokens=st.integers(8, 60),
)
def test_pieces_of_any_words_make_the_joined_text(
    tokenizer: Any,
    graph_of: Callable[..., Dataset],
    assembler_of: Assemble,
    names: list[str],
    descriptions: list[str],
    words: list[str],
    max_tokens: int,
) -> None:
    """A merge across a seam: punctuation, contractions, other scripts, combining marks and invisible characters at the end of a piece."""
    dataset = graph_of(names=names, descriptions=descriptions, phrases=words)
    check_all(tokenizer, dataset, assembler_of(tokenizer, dataset, max_tokens=max_tokens), TextRule())


def test_description_longer_than_any_text_is_cut_as_the_tokenizer_cuts_it(
    tokenizer: Any, graph_of: Callable[..., Dataset], assembler_of: Assemble
) -> None:
    """Pieces are kept to a limit: one shorter than the longest text would cut texts twice."""
    dataset = graph_of(descriptions=["rome " * 700, *["oslo " * 300] * 7], phrases=["in " * 400] * 4)
    check_all(tokenizer, dataset, assembler_of(tokenizer, dataset, max_tokens=512), TextRule())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_answer_never_stands_in_the_text_that_asks_for_it(
    tokenizer: Any, graph_of: Callable[..., Dataset], assembler_of: Assemble, rule: TextRule
) -> None:
    """A training text that shows its own answer: the loss falls, and nothing is learnt."""
    dataset = graph_of(names=[str(number) * 3 for number in range(1, 9)])
    assembler = assembler_of(tokenizer, dataset, rule=rule)
    heads, relations, tails = with_inverses(dataset.train, dataset.num_relations).T.astype(np.int64)

    def shows(texts: Texts, entities: np.ndarray) -> list[bool]:
        inner = [tokenizer(f" {dataset.entity_names[e]}", add_special_tokens=False)["input_ids"] for e in entities]
        return [
            any(tokens[at : at + len(name)] == name for at in range(len(tokens)))
            for (tokens, _, _), name in zip(rows(texts), inner, strict=True)
        ]

    assert not any(shows(assembler.query_texts(heads, relations, tails), tails))
    assert not any(shows(assembler.entity_texts(tails, heads), heads))
    if rule.max_neighbors:
        assert any(shows(assembler.query_texts(heads, relations), tails)), (
            "the graph shows no answer: nothing was tested"
        )
        assert any(shows(assembler.entity_texts(tails), heads))


@pytest.mark.parametrize("tower", ["query", "entity"])
@pytest.mark.parametrize("max_tokens", [8, 12, 16, 20, 24, 28, 33, 41, 512])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_effective_exclusion_tells_equal_texts_from_different_ones(
    tokenizer: Any, dataset: Dataset, assembler_of: Assemble, rule: TextRule, max_tokens: int, tower: str
) -> None:
    """Texts taken for equal that are not (one shows an answer), or encoded twice though they are equal."""
    assembler = assembler_of(tokenizer, dataset, max_tokens=max_tokens, rule=rule)
    size, all_relations = dataset.num_entities, 2 * dataset.num_relations
    entities, excluded, relations = (part.reshape(-1) for part in np.indices((size, size, all_relations)))
    alone = (
        assembler.neighbor_count[entities] == 1
    )  # with its only neighbour a text may lose its colon beyond the limit
    if tower == "query":
        effective = assembler.effective_exclusion(entities, excluded, relations)
        texts = [assembler.query_texts(entities, relations, left_out) for left_out in (None, excluded)]
    else:
        effective = assembler.effective_exclusion(entities, excluded)
        texts = [assembler.entity_texts(entities, left_out) for left_out in (None, excluded)]
    differs = np.array([one != other for one, other in zip(rows(texts[0]), rows(texts[1]), strict=True)])
    assert (effective[differs] == excluded[differs]).all()
    if tokenizer.mask_token == "[MASK]":  # in bytes all names begin alike, so one may replace another at the limit
        assert (effective[~differs & ~alone] == NOTHING).all()
    assert max_tokens < 33 or differs.any() == bool(rule.max_neighbors)


def test_token_ids_are_those_that_texts_hold(tokenizer: Any, dataset: Dataset, assembler_of: Assemble) -> None:
    """An embedding row that is trimmed away although texts name it."""
    assembler, everyone = assembler_of(tokenizer, dataset, max_tokens=512), np.arange(dataset.num_entities)
    heads, relations = (part.reshape(-1) for part in np.indices((dataset.num_entities, 2 * dataset.num_relations)))
    held = {*assembler.entity_texts(everyone).tokens.tolist(), *assembler.query_texts(heads, relations).tokens.tolist()}
    ids = assembler.token_ids()
    assert held <= set(ids.tolist())
    assert ids.tolist() == sorted({*assembler.pieces.tokens.tolist(), *held})
    assert ids.dtype == np.int64


def test_pieces_are_not_copied(tokenizer: Any, dataset: Dataset, assembler_of: Assemble) -> None:
    """Gigabytes of tokens that lie memory-mapped on disk, and in the memory of each worker besides."""
    assembler = assembler_of(tokenizer, dataset)
    held = [value for value in vars(assembler).values() if isinstance(value, np.ndarray)]
    assert held
    assert all(value.size < len(assembler.pieces.tokens) for value in held)


def test_texts_of_pieces_without_tokens_are_special_tokens(
    tokenizer: Any, dataset: Dataset, assembler_of: Assemble
) -> None:
    """A graph of names that the tokenizer makes nothing of, which fails where its first text is put together."""
    real = assembler_of(tokenizer, dataset)
    nothing = TokenPieces(np.empty(0, np.int32), np.zeros_like(real.pieces.offsets), 8, 4)
    bare = TextAssembler(nothing, dataset, real.layout, TextRule(), 64)
    frame = real.layout.single
    assert bare.entity_texts(np.arange(2)).tokens.tolist() == 2 * [*frame.prefix, *frame.suffix]


def test_no_texts_are_no_error(tokenizer: Any, dataset: Dataset, assembler_of: Assemble) -> None:
    """A split or share without rows that fails in the middle of an evaluation."""
    assembler, none = assembler_of(tokenizer, dataset), np.zeros(0, np.int64)
    assert len(assembler.entity_texts(none)) == len(assembler.query_texts(none, none)) == 0
