"""A graph between its source and its dataset directory: keys turned into ids, and texts beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raydistill.errors import DataError
from raydistill.kg.text import clean_text
from raydistill.kg.triples import SPLITS, Split


@dataclass(frozen=True, eq=False)
class Graph:
    """A whole graph with texts.

    Attributes:
        layout: the layout it was read from.
        entity_keys: in id order.
        entity_names: cleaned.
        entity_descriptions: cleaned; empty where there is none.
        relation_keys: in id order.
        relation_phrases: cleaned.
        triples: per split `(n, 3)` int32.
        unnamed: `(entities,)`, True = the source has no name, so one was made from the key.
        unphrased: `(relations,)`, True = the source has no phrase, so one was made from the key.
        notes: what the reader decided, in whole sentences.
    """

    layout: str
    entity_keys: list[str]
    entity_names: list[str]
    entity_descriptions: list[str]
    relation_keys: list[str]
    relation_phrases: list[str]
    triples: dict[Split, npt.NDArray[np.int32]]
    unnamed: npt.NDArray[np.bool_]
    unphrased: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    @property
    def num_entities(self) -> int:
        """Number of entities."""
        return len(self.entity_keys)

    @property
    def num_relations(self) -> int:
        """Number of relations, without inverses."""
        return len(self.relation_keys)

    def all_triples(self) -> npt.NDArray[np.int32]:
        """Return the triples of all splits, train first."""
        return np.concatenate([self.triples[split] for split in SPLITS])


@dataclass(frozen=True)
class Texts:
    """What a source says about its entities and relations, cleaned.

    Attributes:
        names: entity key to name.
        descriptions: entity key to description.
        phrases: relation key to phrase.
        listed: entity keys that are part of the graph even if they stand in no triple.
        notes: what the reader decided, in whole sentences.
    """

    names: Mapping[str, str]
    descriptions: Mapping[str, str]
    phrases: Mapping[str, str]
    listed: Sequence[str] = ()
    notes: tuple[str, ...] = ()


def assemble(layout: str, splits: Mapping[Split, list[pa.Array]], texts: Texts) -> Graph:
    """Number entities and relations, those listed first, and give each its text.

    What is not listed is numbered as it appears: heads before tails, train before valid before test.

    Args:
        layout: name of the layout.
        splits: per split three string arrays: heads, relations, tails.
        texts: what the source says about them.

    Raises:
        DataError: train has no triple; whether valid and test may have none is for the caller to say.
    """
    if not len(splits["train"][0]):
        raise no_triple("train", "check the file")
    parts = [splits[split][column] for split in SPLITS for column in (0, 2)]
    entity_keys, ends = _number(texts.listed, parts)
    relation_keys, relations = _number([], [splits[split][1] for split in SPLITS])
    triples = {
        split: np.column_stack((ends[2 * index], relations[index], ends[2 * index + 1]))
        for index, split in enumerate(SPLITS)
    }
    names, unnamed = _fill(entity_keys, texts.names, words_of_key)
    phrases, unphrased = _fill(relation_keys, texts.phrases, phrase_of_key)
    descriptions = [texts.descriptions.get(key, "") for key in entity_keys]
    notes = (*texts.notes, *_left_out(texts, entity_keys, relation_keys))
    return Graph(layout, entity_keys, names, descriptions, relation_keys, phrases, triples, unnamed, unphrased, notes)


def no_triple(split: Split, remedy: str) -> DataError:
    """Return the error for a split that holds nothing."""
    return DataError(
        f"the {split} split holds no triple",
        expected="at least one triple in each of train, valid and test",
        consequence="nothing could be learnt, selected or reported",
        remedy=remedy,
    )


def words_of_key(key: str) -> str:
    """Make a name from a key: underscores become spaces."""
    return clean_text(key.replace("_", " ")) or key


def phrase_of_key(key: str) -> str:
    """Make a phrase from a relation's key.

    A Freebase path is read from its leaf, and a word that stood among the last three is not said again:
    "/people/person/place_of_birth" becomes "place of birth person people".

    Source:
        SimKGC's preprocessing of FB15k-237 and WN18RR relations.
    """
    if not key.startswith("/"):
        return words_of_key(key)
    said: list[str] = []
    for word in key.replace("./", "/").replace("_", " ").strip().split("/"):
        if word not in said[-3:]:
            said.append(word)
    return clean_text(" ".join(reversed(said))) or key


def _number(listed: Iterable[str], parts: list[pa.Array]) -> tuple[list[str], list[npt.NDArray[np.int32]]]:
    first = pa.array(list(listed), type=pa.large_string())
    encoded = pa.concat_arrays([first, *(part.cast(pa.large_string()) for part in parts)]).dictionary_encode()
    ids = encoded.indices.to_numpy().astype(np.int32, copy=False)
    cuts = np.cumsum([len(first), *(len(part) for part in parts)])
    return encoded.dictionary.to_pylist(), np.split(ids, cuts[:-1])[1:]


def _fill(
    keys: list[str], known: Mapping[str, str], fallback: Callable[[str], str]
) -> tuple[list[str], npt.NDArray[np.bool_]]:
    texts = [known.get(key, "") for key in keys]
    missing = np.array([not text for text in texts], dtype=np.bool_)
    return [text or fallback(key) for text, key in zip(texts, keys, strict=True)], missing


def _left_out(texts: Texts, entity_keys: list[str], relation_keys: list[str]) -> list[str]:
    unused = {
        "entities that have a text but stand": (texts.names.keys() | texts.descriptions.keys()) - set(entity_keys),
        "relations that have a phrase but stand": texts.phrases.keys() - set(relation_keys),
    }
    return [f"{len(keys)} {what} in no triple were left out." for what, keys in unused.items() if keys]
