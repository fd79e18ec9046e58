"""What lies beside a graph's files and was not read: a file of texts under a name of its own would be missed in silence, and a split would be replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from raydistill.errors import DataError
from raydistill.kg.folders import files_of, looks_held_out
from raydistill.kg.triples import Split

_ENDINGS = (".txt", ".tsv", ".csv", ".json", ".jsonl", ".parquet", ".del", ".dict", ".nt", ".ttl")
_NO_DATA = ("readme", "licen", "copying", "notice", "citation", "requirements")
_NO_TRIPLES = (".py", ".sh", ".md", ".ipynb", ".log", ".pdf", ".png")
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


def refuse_unread_splits(folder: Path, read: Collection[str], missing: Collection[Split]) -> None:
    """Refuse to have splits cut beside a file that may hold one of them.

    Args:
        folder: the source.
        read: names of the files that were read.
        missing: the splits that would be cut.

    Raises:
        DataError: a file that was not read has a name that begins like one of these splits.
    """
    unread = unread_splits(folder, read, missing)
    if not unread:
        return
    raise DataError(
        f"{folder}: a share to hold out, and {', '.join(unread[:_SHOWN])}, not read",
        expected=f"no other file that may be the {' or the '.join(missing)} split",
        consequence="a split that is given would be replaced, and results could not be compared with others'",
        remedy=f"rename {unread[0]} as train is named, with {' or '.join(missing)} in place of train; if it is no split, move it away",
    )


def unread_splits(folder: Path, read: Collection[str], missing: Collection[Split]) -> list[str]:
    """Return the names of the files that were not read and begin like one of these splits."""
    return [
        path.name
        for path in files_of(folder)
        if path.name not in read and looks_held_out(path, missing) and not path.name.lower().endswith(_NO_TRIPLES)
    ]
