"""A JSON list read piece by piece, so that a list of any length needs the memory of its longest piece."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from raydistill.errors import DataError
from raydistill.kg.columns import chunks_of

_MOST_CHARACTERS = 1 << 26
_SPACE = " \t\r\n"


def items_of(path: Path, chunk_bytes: int = 1 << 22) -> Iterator[tuple[int, object]]:
    """Return the items of a list, each with the number of the line on which it begins.

    Args:
        path: a file that holds one JSON list, plain or packed by gzip.
        chunk_bytes: about so much is read at a time.

    Raises:
        DataError: the file cannot be read, or is no JSON list.
    """
    reader = _Reader(path, chunk_bytes)
    if reader.next_character() != "[":
        raise reader.refused("it does not begin with [")
    reader.position += 1
    if reader.next_character() == "]":
        reader.position += 1
    else:
        while True:
            if not reader.next_character():
                raise reader.refused("the list is not closed")
            line = reader.line
            yield line, reader.next_item()
            after = reader.next_character()
            if after not in (",", "]"):
                raise reader.refused("neither , nor ] after an item")
            reader.position += 1
            if after == "]":
                break
    if reader.next_character():
        raise reader.refused("something follows the list")


class _Reader:
    """A window that moves over the text of a file."""

    def __init__(self, path: Path, chunk_bytes: int) -> None:
        self.path = path
        self.position = 0
        self.line = 1
        self._text = ""
        self._counted = 0
        self._chunks = chunks_of(path, chunk_bytes)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._is_whole = False

    def next_character(self) -> str:
        """Move to the next character that is no space and return it; nothing at the end."""
        while True:
            text, at = self._text, self.position
            while at < len(text) and text[at] in _SPACE:
                at += 1
            self.position = at
            if at < len(text) or not self._read_on():
                break
        self.line += self._text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._text[self.position : self.position + 1]

    def next_item(self) -> object:
        """Return the item that begins here, and move behind it."""
        while True:
            try:
                item, end = self._json.raw_decode(self._text, self.position)
            except (ValueError, RecursionError) as error:
                # What cannot be read may only not have been read to its end.
                if len(self._text) - self.position > _MOST_CHARACTERS or not self._read_on():
                    raise self.refused(str(getattr(error, "msg", error))) from error
                continue
            if end < len(self._text) or not self._read_on():
                self.position = end
                return item

    def refused(self, why: str) -> DataError:
        """Return the error for what stands here."""
        return DataError(
            f"{self.path}:{self.line}: {why}",
            expected="one JSON list of objects, as SimKGC's preprocess.py writes it",
            consequence="part of the graph would be missing",
            remedy="write the file again, or remove it to have the other files of the folder read",
        )

    def _read_on(self) -> bool:
        """Add the next piece to the window, from which what lies behind is dropped; False at the end of the file."""
        if self._is_whole:
            return False
        chunk = next(self._chunks, None)
        self._is_whole = chunk is None
        try:
            added = self._decode.decode(chunk or b"", final=self._is_whole)
        except UnicodeDecodeError as error:
            raise self.refused(f"not UTF-8 ({error.reason})") from error
        self.line += self._text.count("\n", self._counted, self.position)
        self._text = self._text[self.position :] + added
        self.position = self._counted = 0
        return True
