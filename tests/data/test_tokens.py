from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydistill.data import tokens
from raydistill.data.tokens import PieceTexts, TokenPieces, load_or_tokenize, tokenize_pieces
from raydistill.kg.store import Dataset


@pytest.fixture
def at(dataset: Dataset, tmp_path: Path) -> Dataset:
    """The graph, its directory being a new one."""
    return replace(dataset, path=tmp_path)


def equal(one: TokenPieces, other: TokenPieces) -> bool:
    return bool(np.array_equal(one.tokens, other.tokens) and np.array_equal(one.offsets, other.offsets))


def test_pieces_are_tokenised_once_and_read_back_equal(at: Dataset, tokenizer: Any) -> None:
    """Minutes of tokenising at every start, or other token ids after the first one."""
    first = load_or_tokenize(at, tokenizer, "one")
    again = load_or_tokenize(at, None, "one")
    assert equal(first, again)
    assert equal(first, tokenize_pieces(PieceTexts(at), tokenizer, at.num_entities, at.num_relations))
    assert (first.tokens.dtype, first.offsets.dtype, len(first.offsets)) == (np.int32, np.int64, 4 * 8 + 2 * 4 + 1)
    assert not again.tokens.flags.owndata, "the pieces are copied into memory instead of being mapped"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pieces_do_not_depend_on_how_many_are_tokenised_together(
    dataset: Dataset, tokenizers: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens lost, or offsets that begin anew, where one part ends; hence other texts of a graph that is large enough for two."""
    texts, size = PieceTexts(dataset), (dataset.num_entities, dataset.num_relations)
    assert len(texts) == len(list(texts)) == 4 * 8 + 2 * 4
    whole = tokenize_pieces(texts, tokenizers[kind], *size)
    alone = [tokenizers[kind](text, add_special_tokens=False)["input_ids"] for text in texts]
    assert whole.tokens.tolist() == [token for row in alone for token in row]
    assert np.diff(whole.offsets).tolist() == list(map(len, alone))
    for at_once in (1, 2, 3, len(texts)):
        monkeypatch.setattr(tokens, "TEXTS_AT_ONCE", at_once)
        parts = tokenize_pieces(texts, tokenizers[kind], *size)
        assert equal(parts, whole)
        assert (parts.tokens.dtype, parts.offsets.dtype) == (np.int32, np.int64)


def test_long_piece_is_cut(dataset: Dataset, tokenizer: Any) -> None:
    """A description of a whole book, most of whose tokens no text can hold."""
    pieces = tokenize_pieces(["city " * 600, "city"], tokenizer, 1, 0)
    assert np.diff(pieces.offsets).tolist() == [tokens.LONGEST_PIECE, pieces.offsets[2] - tokens.LONGEST_PIECE]


def test_occurring_tokens_are_those_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose embedding row is trimmed away although a text names it."""
    some = np.random.default_rng(0).integers(0, 40, 30).astype(np.int32)
    for at_once in (1, 7, 30, 31):
        monkeypatch.setattr(tokens, "TOKENS_AT_ONCE", at_once)
        found = TokenPieces(some, np.array([0, 30]), 1, 0).occurring()
        assert (found.tolist(), found.dtype) == (sorted(set(some.tolist())), np.int64)
    assert TokenPieces(some[:0], np.array([0, 0]), 1, 0).occurring().tolist() == []


def test_pieces_of_another_tokenizer_or_graph_are_not_taken(at: Dataset, tokenizers: dict[str, Any]) -> None:
    """Token ids of one vocabulary read by an encoder with another, or the texts of an older version of the graph."""
    bert = load_or_tokenize(at, tokenizers["bert"], "bert")
    roberta = load_or_tokenize(at, tokenizers["roberta"], "roberta")
    assert not equal(bert, roberta)
    renamed = replace(at, fingerprint="other", entity_names=[name + " x" for name in at.entity_names])
    assert not equal(bert, load_or_tokenize(renamed, tokenizers["bert"], "bert"))


def test_directory_that_cannot_be_written_is_no_obstacle(
    at: Dataset, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A shared, read-only dataset that cannot be trained on."""
    (Path(at.path) / "tokens").write_text("a file where a directory would be")
    with caplog.at_level(logging.INFO, "raydistill.data.tokens"):
        pieces = load_or_tokenize(at, tokenizer, "one")
    assert equal(pieces, tokenize_pieces(PieceTexts(at), tokenizer, at.num_entities, at.num_relations))
    assert "stay in memory" in caplog.text


def test_interrupted_write_leaves_nothing(at: Dataset, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file under the final name, or a disk that fills up with what was begun."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raydistill.data.arrow.os.replace", full)
    pieces = load_or_tokenize(at, tokenizer, "one")
    assert equal(pieces, tokenize_pieces(PieceTexts(at), tokenizer, at.num_entities, at.num_relations))
    assert list((Path(at.path) / "tokens").iterdir()) == []


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_damaged_file_is_made_anew(at: Dataset, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Other token ids, hence other texts, for the rest of a campaign, without a sign; or a crash that only deleting a hidden file cures."""
    sound = load_or_tokenize(at, tokenizer, "one")
    expected = TokenPieces(sound.tokens.copy(), sound.offsets.copy(), sound.num_entities, sound.num_relations)
    [path] = (Path(at.path) / "tokens").glob("*.arrow")
    content = path.read_bytes()
    inside = content.index(expected.tokens[:40].tobytes())
    damages: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "cut": lambda: content[: len(content) // 2],
        "cut at the end": lambda: content[:-1],
        "noise": lambda: b"\0" * len(content),
        "a token": lambda: _flip(content, inside + 5),
        "an offset": lambda: _flip(content, content.index(expected.offsets[1:9].tobytes())),
    }
    for name, damage in damages.items():
        caplog.clear()
        path.unlink()  # the mapped file itself is left as it is: whoever reads it keeps sound pieces
        path.write_bytes(damage())
        assert equal(load_or_tokenize(at, tokenizer, "one"), expected), name
        assert "damaged" in caplog.text, name
        assert path.read_bytes() == content, name
