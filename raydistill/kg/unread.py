"""What lies beside a graph's files and was not read: a file of texts under a name of its own would be missed in silence."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from raydistill.kg.folders import files_of

_ENDINGS = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".parquet", ".del", ".dict", ".nt", ".ttl")
_NO_DATA = ("readme", "licen", "copying", "notice", "citation", "requirements")
_SHOWN = 6


def unread_notes(folder: Path, read: Collection[str], text_files: Iterable[str], *, has_texts: bool) -> tuple[str, ...]:
    """Return a sentence on the files of a folder that may hold part of the graph and were not read, or none.

    Args:
        folder: the source.
        read: names of the files that were read.
        text_files: names that texts would be read from in this layout.
        has_texts: some text was read; without any the sentence is a warning.
    """
    names = [
        path.name
        for path in files_of(folder)
        if path.name.removesuffix(".gz").lower().endswith(_ENDINGS)
        and not path.name.lower().startswith(_NO_DATA)
        and path.name not in read
    ]
    if not names:
        return ()
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    warning = "" if has_texts else "Warning: no texts were found. "
    return (
        f"{warning}Not read: {', '.join(names[:_SHOWN])}{more}; "
        f"texts would be read from {', '.join(text_files)} (docs/data.md).",
    )
