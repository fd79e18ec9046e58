"""Finding the files of a layout in a folder, plain or gzipped, and saying what was looked for when one is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from raydistill.errors import DataError
from raydistill.kg.triples import SPLITS, Split

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "dev", "val", "validation"),
    "test": ("test",),
}
CUT_REMEDY = "cut valid and test out of the triples that are there with --hold-out 0.1 (in Python, hold_out=0.1)"
_NO_TRIPLES = ("entit", "relation", "readme", "licen", "fb15k_mid", "wordnet-mlj12", "wikidata5m_")
"""How names begin that are never taken for a graph's one file of triples, nor are those of `looks_held_out`."""
_HELD_OUT: dict[Split, re.Pattern[str]] = {
    "valid": re.compile(r"valid|dev|eval|val(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"test|eval", re.IGNORECASE),
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
        raise _missing(folder, names, "add the file, or name another layout")
    return found


def split_files(folder: Path, patterns: Sequence[Sequence[str]], *, may_lack: bool) -> dict[Split, Path]:
    """Return the triple file of each split.

    Args:
        folder: the source.
        patterns: names with a * where the name of a split stands, in groups: a later group is looked at only where an
            earlier one has no file.
        may_lack: valid and test may have no file, and a folder without any split's file may hold all triples in one
            file of another name.

    Raises:
        DataError: a split that is needed has no file, or several.
    """
    found: dict[Split, Path] = {}
    for split in SPLITS:
        for group in patterns:
            path = find_file(folder, *_names(split, group))
            if path is not None:
                found[split] = path
                break
    endings = tuple(pattern.removeprefix("*") for group in patterns for pattern in group)
    alone = None if found else lone_file(folder, endings)
    if may_lack and alone is not None:
        return {"train": alone}
    for split in SPLITS:
        if split in found or (may_lack and split != "train"):
            continue
        remedy = "add the file, or name another layout"
        if split != "train" and "train" in found:
            remedy = f"add the file, or {CUT_REMEDY}"
        elif alone is not None:
            remedy = f"if {alone.name} holds all triples, {CUT_REMEDY}; docs/data.md shows every layout"
        raise _missing(folder, [name for group in patterns for name in _names(split, group)], remedy)
    return found


def lone_file(folder: Path, endings: Sequence[str]) -> Path | None:
    """Return the only file of a folder that may hold triples by its ending, whatever its name, unless that says it is valid or test; None where there are none or several."""
    found = [
        path
        for path in files_of(folder)
        if path.name.removesuffix(".gz").endswith(tuple(endings))
        and not path.name.lower().startswith(_NO_TRIPLES)
        and not looks_held_out(path, SPLITS)
    ]
    return found[0] if len(found) == 1 else None


def looks_held_out(path: Path, splits: Iterable[Split]) -> bool:
    """Tell whether the name of a file begins like one of these splits, of which train has no such names."""
    return any(_HELD_OUT[split].match(path.name) for split in splits if split in _HELD_OUT)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder by name, without hidden ones.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", expected="a readable folder", remedy="check rights") from error


def listing(folder: Path, limit: int = 12) -> str:
    """Return the names in a folder for an error message."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}", expected="a readable folder", remedy="check rights") from error
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest if names else "no files"


def _names(split: Split, patterns: Sequence[str]) -> list[str]:
    return [pattern.replace("*", name) for name in SPLIT_NAMES[split] for pattern in patterns]


def _missing(folder: Path, names: Sequence[str], remedy: str) -> DataError:
    return DataError(
        f"{folder} holds {listing(folder)}",
        expected=f"{' or '.join(names)} (or the same with .gz)",
        consequence="the graph would lack a part",
        remedy=remedy,
    )
