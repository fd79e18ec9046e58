"""Token pieces: every name, description and relation phrase of a graph, tokenised once and kept in a memory-mapped Arrow file.

The texts of a batch are put together from pieces (`assembly.py`), because which neighbour names may stand in a text depends on the triple.
A piece that continues a text is tokenised with its leading space and a name that is followed by a colon together with it, so that the joined
pieces are exactly what tokenising the joined text gives, for WordPiece and byte-level BPE alike.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydistill.data.arrow import read_arrow, write_arrow
from raydistill.kg.store import Dataset
from raydistill.kg.text import inverse_phrase

logger = logging.getLogger(__name__)
FOLDER = "tokens"
"""Where the files lie in a dataset directory. They come and go with training, so the dataset's manifest does not list them."""
FORMAT = 2
"""Of the files; those of another one are left alone."""
LONGEST_PIECE = 512
"""Tokens kept of a piece. No text is longer (`data.max_tokens` is bounded by it), so nothing that could be used is cut."""
TOKENS_AT_ONCE = 2**20
"""Looked at together, where all are gone through."""
TEXTS_AT_ONCE = 20_000
"""Given to the tokenizer together. What it makes of a text takes a hundred times the room of its token ids, until they are taken out."""


@dataclass(frozen=True)
class TokenPieces:
    """Pieces of a graph's texts; row numbers count all kinds through.

    Args:
        tokens: `(tokens,)` int32, all pieces one after another.
        offsets: `(pieces + 1,)` int64, where each piece starts.
        num_entities: entities of the graph.
        num_relations: relations of the graph, inverses not counted.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    num_entities: int
    num_relations: int

    def name(self, entity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of names that are the whole text."""
        return entity

    def name_colon(self, entity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of names followed by a colon."""
        return entity + self.num_entities

    def description(self, entity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of descriptions, which continue a text."""
        return entity + 2 * self.num_entities

    def inner_name(self, entity: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of names that continue a text (neighbours)."""
        return entity + 3 * self.num_entities

    def relation(self, relation: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of relation phrases, inverse relations included."""
        return relation + 4 * self.num_entities

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each piece."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def occurring(self) -> NDArray[np.int64]:
        """Token ids that occur, `(ids,)`, ascending."""
        # Neither a copy of all tokens nor a sort: they may be memory-mapped because there are so many.
        occurs = np.zeros(int(self.tokens.max(initial=-1)) + 1, bool)
        for begin in range(0, len(self.tokens), TOKENS_AT_ONCE):
            occurs[self.tokens[begin : begin + TOKENS_AT_ONCE]] = True
        return np.flatnonzero(occurs)


@dataclass(frozen=True)
class PieceTexts:
    """The texts of all pieces in row order, each made when its turn comes: a list of them would take more room than the graph."""

    dataset: Dataset

    def __len__(self) -> int:
        return 4 * self.dataset.num_entities + 2 * self.dataset.num_relations

    def __iter__(self) -> Iterator[str]:
        names, phrases = self.dataset.entity_names, self.dataset.relation_phrases
        yield from names
        yield from (f"{name}:" for name in names)
        yield from (f" {text}" if text else "" for text in self.dataset.entity_descriptions)
        yield from (f" {name}" for name in names)
        yield from phrases
        yield from map(inverse_phrase, phrases)


def tokenize_pieces(texts: Iterable[str], tokenizer: Any, num_entities: int, num_relations: int) -> TokenPieces:
    """Tokenise every piece once, without special tokens, TEXTS_AT_ONCE at a time."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    tokens, counts, left = [np.empty(0, np.int32)], [np.zeros(1, np.int64)], iter(texts)
    while some := list(itertools.islice(left, TEXTS_AT_ONCE)):
        # Under no name, so that one part's encodings are gone before the next one's come.
        rows = [encoding.ids[:LONGEST_PIECE] for encoding in backend.encode_batch_fast(some, add_special_tokens=False)]
        counts.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        tokens.append(np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(counts[-1].sum())))
    return TokenPieces(np.concatenate(tokens), np.cumsum(np.concatenate(counts)), num_entities, num_relations)


def load_or_tokenize(dataset: Dataset, tokenizer: Any, tokenizer_fingerprint: str) -> TokenPieces:
    """Pieces of a dataset, from the Arrow file beside it when there is one for this tokenizer, else made and kept there.

    A damaged file is made anew. A read-only dataset directory is no obstacle: the pieces then stay in memory.
    """
    key = hashlib.sha256(
        f"{FORMAT} {dataset.fingerprint} {tokenizer_fingerprint} {LONGEST_PIECE}".encode()
    ).hexdigest()[:16]
    path = Path(dataset.path) / FOLDER / f"{key}.arrow"
    if path.exists():
        kept = _read(path, dataset.num_entities, dataset.num_relations)
        if kept is not None:
            return kept
        logger.warning("%s is damaged; the texts are tokenised again", path)
    pieces = tokenize_pieces(PieceTexts(dataset), tokenizer, dataset.num_entities, dataset.num_relations)
    try:
        _write(pieces, path)
    except OSError as problem:
        logger.info("%s cannot be written (%s); the token pieces stay in memory", path, problem.strerror)
        return pieces
    return _read(path, dataset.num_entities, dataset.num_relations) or pieces


def is_sound(path: Path) -> bool:
    """Whether a kept file holds exactly the pieces that were written into it, by the digest beside it."""
    return _read(path, 0, 0) is not None


def _write(pieces: TokenPieces, path: Path) -> None:
    rows = pa.LargeListArray.from_arrays(pa.array(pieces.offsets), pa.array(pieces.tokens))
    write_arrow(pa.table({"tokens": rows}), path)


def _read(path: Path, num_entities: int, num_relations: int) -> TokenPieces | None:
    """The pieces in the file, memory-mapped; None where they are not what was written."""
    table = read_arrow(path)
    if table is None or table.column_names != ["tokens"] or table["tokens"].num_chunks != 1:
        return None
    column = table["tokens"].chunk(0)
    tokens, offsets = (part.to_numpy(zero_copy_only=True) for part in (column.values, column.offsets))
    return TokenPieces(tokens, offsets, num_entities, num_relations)
