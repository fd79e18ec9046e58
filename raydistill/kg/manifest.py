"""The manifest of a dataset directory: what was written, byte for byte, itself included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydistill.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "raydistill-dataset"
VERSION = 1
_KEYS = {"checksum", "counts", "files", "fingerprint", "format", "source", "version"}
_REMEDY = "run `raydistill prepare` on the source again"


def file_record(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return {"bytes": stream.tell(), "sha256": digest}
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}",
            expected="a readable file, as the manifest lists it",
            consequence="part of the dataset would be missing",
            remedy=_REMEDY,
        ) from error


def fingerprint(files: Mapping[str, Any], content: Sequence[str]) -> str:
    """Return SHA-256 over the hashes of the content files.

    The audit is left out: how a graph is described may change between versions without the graph being another one.
    """
    lines = "".join(f"{name} {files[name]['sha256']}\n" for name in sorted(content))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_manifest(
    root: Path,
    *,
    source: Mapping[str, Any],
    counts: Mapping[str, int],
    files: Mapping[str, Any],
    content: Sequence[str],
) -> str:
    """Write the manifest and return the dataset's fingerprint."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "source": dict(source),
        "counts": dict(counts),
        "files": dict(files),
        "fingerprint": fingerprint(files, content),
    }
    checksum = hashlib.sha256(_canonical(body)).hexdigest()
    (root / MANIFEST).write_bytes(_canonical({**body, "checksum": checksum}))
    return str(body["fingerprint"])


def read_manifest(root: Path) -> dict[str, Any]:
    """Read a manifest, refusing one that was altered by a single byte.

    Raises:
        DataError: there is none, it is damaged, or another version wrote it.
    """
    path = root / MANIFEST
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root}: no readable {MANIFEST} ({error})",
            expected="a dataset directory",
            consequence="there would be no graph",
            remedy="give the directory that `raydistill prepare SOURCE --out DIR` wrote",
        ) from error
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _damaged(path)
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path}: format version {manifest.get('version')!r}",
            expected=f"version {VERSION}",
            consequence="the tables might be read as something they are not",
            remedy=f"{_REMEDY}, or use the release that wrote it",
        )
    _check_whole(path, manifest, raw)
    return manifest


def _check_whole(path: Path, manifest: dict[str, Any], raw: bytes) -> None:
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    if set(manifest) != _KEYS or hashlib.sha256(_canonical(body)).hexdigest() != manifest["checksum"]:
        raise _damaged(path)
    if _canonical(manifest) != raw:
        raise _damaged(path)


def _canonical(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path}: damaged",
        expected="the manifest exactly as it was written",
        consequence="files could not be held against their hashes",
        remedy=_REMEDY,
    )
