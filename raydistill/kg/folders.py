"""Finding the files of a layout in a folder, plain or gzipped, and saying what was looked for when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydistill.errors import DataError
from raydistill.kg.triples import SPLITS, Split

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "dev", "val"),
    "test": ("test",),
}


def find_file(folder: Path, *names: str) -> Path | None:
    """Return the one file of these names in a folder, with or without .gz, or None.

    Raises:
        DataError: there are several, so that it is not clear which one is meant.
    """
    try:
        paths = [folder / (name + packed) for name in names for packed in ("", ".gz")]
        found = [path for path in paths if path.exists()]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", expected="a readable folder", remedy="check rights") from error
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {', '.join(path.name for path in found)}",
            expected="one of them",
            consequence="the one that was not meant might be read",
            remedy="move the others away",
        )
    return found[0] if found else None


def need_file(folder: Path, *names: str) -> Path:
    """Return the one file of these names.

    Raises:
        DataError: there is none, or there are several.
    """
    found = find_file(folder, *names)
    if found is None:
        raise DataError(
            f"{folder} holds {listing(folder)}",
            expected=f"{' or '.join(names)} (or the same with .gz)",
            consequence="the graph would lack a part",
            remedy="add the file, or name another layout",
        )
    return found


def split_files(folder: Path, endings: Sequence[str]) -> dict[Split, Path]:
    """Return the triple file of each split.

    Args:
        folder: the source.
        endings: what may follow the name of a split, such as ".tsv".

    Raises:
        DataError: a split has no file, or several.
    """
    return {
        split: need_file(folder, *(name + ending for name in SPLIT_NAMES[split] for ending in endings))
        for split in SPLITS
    }


def listing(folder: Path, limit: int = 12) -> str:
    """Return the names in a folder for an error message."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", expected="a readable folder", remedy="check rights") from error
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest if names else "no files"
