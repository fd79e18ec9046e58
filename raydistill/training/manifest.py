"""The manifest of a checkpoint: SHA-256 and size of every file, written last, so that what carries one was complete when it was written.

Nothing here imports torch: the process of a search verifies what it promotes, and has no other use for it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from raydistill.errors import CheckpointError

NAME, RECORD = "manifest.json", "raydistill.json"
_REMEDY = "use another checkpoint of the trial (raydistill verify RUN lists the good ones), or train again"


def verify_checkpoint(path: str | Path) -> str:
    """Check every byte of a checkpoint; returns its digest.

    Raises:
        CheckpointError: it is not there, is another kind of directory, or is damaged, naming the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such checkpoint",
            expected="a checkpoint directory",
            consequence="there would be no model",
            remedy="check the path",
        )
    if not (path / RECORD).exists():
        _refuse_other_directories(path)
    return verify_manifest(path)


def _refuse_other_directories(path: Path) -> None:
    """A run or a dataset is no damaged checkpoint: what has to be mended is the argument."""
    promoted = "`raydistill status RUN` and its report.html name the promoted ones"
    kinds = {"ledger": ("run", f"name a checkpoint of the run; {promoted}")}
    kinds["entities.parquet"] = ("dataset", f"name a checkpoint below a run directory; {promoted}")
    for name, (kind, remedy) in kinds.items():
        if (path / name).exists():
            raise CheckpointError(
                f"{path} is a {kind} directory",
                expected="a checkpoint directory",
                consequence="there would be no model",
                remedy=remedy,
            )


def write_manifest(directory: Path) -> str:
    """Hash every file below `directory`, sync them all, write the manifest; returns the digest that names this content."""
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            files[path.relative_to(directory).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": _hash_and_sync(path),
            }
    with open(directory / NAME, "wb") as file:
        file.write(_canonical(files))
        file.flush()
        os.fsync(file.fileno())
    return _digest(files)


def verify_manifest(directory: Path) -> str:
    """Check every file against the manifest; returns the digest.

    Raises:
        CheckpointError: naming the first file that is missing, added, cut, unreadable, or changed by as little as a bit.
    """
    files = read_manifest(directory)
    try:
        _compare(directory, files)
    except OSError as problem:
        raise CheckpointError(
            f"{directory} cannot be read: {problem}", expected="a readable checkpoint", remedy=_REMEDY
        ) from None
    return _digest(files)


def _compare(directory: Path, files: dict[str, dict[str, int | str]]) -> None:
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()} - {NAME}
    for name in sorted(present ^ files.keys()):
        state = "is not in the manifest" if name in present else "is missing"
        raise CheckpointError(
            f"{directory}: {name} {state}", expected="exactly the files of the manifest", remedy=_REMEDY
        )
    for name, record in files.items():
        path = directory / name
        if path.stat().st_size != record["bytes"] or _hash(path) != record["sha256"]:
            raise CheckpointError(
                f"{directory}: {name} was changed after it was written (size {path.stat().st_size} bytes)",
                expected=f"{record['bytes']} bytes with SHA-256 {str(record['sha256'])[:12]}...",
                consequence="a damaged model would be used as if it were sound",
                remedy=_REMEDY,
            )


def manifest_digest(directory: Path) -> str:
    """The digest of a directory whose files were verified before; only the manifest is read.

    Raises:
        CheckpointError: the manifest is missing or damaged.
    """
    return _digest(read_manifest(directory))


def read_manifest(directory: Path) -> dict[str, dict[str, int | str]]:
    """The manifest's entries.

    Raises:
        CheckpointError: there is none, or it is not byte for byte what was written.
    """
    path = directory / NAME
    try:
        # Bytes, because reading as text turns "\r" into "\n" and would take a changed file for the written one.
        content = path.read_bytes()
        files: dict[str, dict[str, int | str]] = json.loads(content)["files"]
        sound = content == _canonical(files)
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: no {NAME}", expected="a complete checkpoint", remedy=_REMEDY) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(
            f"{path} is damaged", expected="the text that was written with the checkpoint", remedy=_REMEDY
        )
    return files


def _canonical(files: dict[str, dict[str, int | str]]) -> bytes:
    return (json.dumps({"digest": _digest(files), "files": files}, indent=1, sort_keys=True) + "\n").encode()


def _digest(files: dict[str, dict[str, int | str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_and_sync(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest
