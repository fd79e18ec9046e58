"""Vectors kept between calls: the same ones, never another model's, and never damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydistill.shipping import vectors
from raydistill.shipping.entities import EntityVectors
from raydistill.shipping.vectors import cache_folder, remembered
from raydistill.students.quantizers import ENTITY_BITS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Encoder:
    def __init__(self, seed: int, bits: int = 32) -> None:
        self.seed, self.bits, self.calls = seed, bits, 0

    def __call__(self) -> EntityVectors:
        self.calls += 1
        return EntityVectors.of(torch.randn(5, 3, generator=torch.Generator().manual_seed(self.seed)), self.bits)


def equal(one: EntityVectors, other: EntityVectors) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.mark.parametrize("bits", ENTITY_BITS)
def test_second_call_encodes_nothing_and_gives_the_same_bits(bits: int) -> None:
    """A user with forty thousand entities would wait minutes for every single answer."""
    encoder = Encoder(0, bits)
    first, second = remembered("a", 5, encoder), remembered("a", 5, encoder)
    assert encoder.calls == 1
    assert equal(first, second)


def test_other_model_and_grown_graph_are_encoded_anew() -> None:
    """Vectors of another checkpoint rank entities that were never asked for."""
    one, other = Encoder(0), Encoder(1)
    remembered("a", 5, one)
    assert not equal(remembered("b", 5, other), remembered("a", 5, one))
    remembered("a", 6, other)
    assert other.calls == 2


@pytest.mark.parametrize("content", [b"", b"x" * 300, None])
def test_damaged_file_is_made_anew(content: bytes | None) -> None:
    """One flipped bit in a vector changes answers without a word."""
    encoder = Encoder(0)
    expected = remembered("a", 5, encoder)
    [path] = cache_folder().iterdir()
    if content is None:
        flipped = bytearray(path.read_bytes())
        flipped[-1] ^= 1
        content = bytes(flipped)
    path.write_bytes(content)
    assert equal(remembered("a", 5, encoder), expected)
    assert encoder.calls == 2


@pytest.mark.parametrize("bits", ENTITY_BITS)
@pytest.mark.parametrize("changed", [(b'"vectors"', b'"factors"'), (b"[5,3]", b"[3,5]"), (b'"I8"', b'"U8"')])
def test_file_whose_header_changed_is_made_anew(bits: int, changed: tuple[bytes, bytes]) -> None:
    """The same bytes under another name, in another shape or read as another type are other vectors, or a traceback."""
    encoder = Encoder(0, bits)
    expected = remembered("a", 5, encoder)
    [path] = cache_folder().iterdir()
    content = path.read_bytes()
    path.write_bytes(content.replace(*changed))
    assert equal(remembered("a", 5, encoder), expected)
    assert encoder.calls == (2 if changed[0] in content else 1)


def test_cache_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search over a hundred students would fill the home directory."""
    monkeypatch.setattr(vectors, "MOST_KEPT", 2)
    for name in "abc":
        remembered(name, 5, Encoder(0))
    assert len(list(cache_folder().iterdir())) == 2


def test_read_only_cache_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers often have no home to write to."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(remembered("a", 5, Encoder(0))) == 5
