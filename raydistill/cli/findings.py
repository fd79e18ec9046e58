"""What `raydistill verify` finds: every file of a checkpoint or a dataset directory held against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydistill.errors import CheckpointError, DataError

Kind = Literal["checkpoint", "run", "dataset"]
MANIFEST = "manifest.json"


@dataclass
class Findings:
    """What was looked at, and what is wrong with it."""

    kind: Kind
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take what was found in a part."""
        self.checked += other.checked
        self.problems += other.problems
        self.good += other.good

    def named(self, looked_at: str, place: str) -> Findings:
        """The same with the place that was given instead of the folder it was looked at in."""
        if "://" not in place:
            return self
        shown = place.partition("?")[0].rstrip("/")
        lists = ([one.replace(looked_at, shown) for one in part] for part in (self.checked, self.problems, self.good))
        return Findings(self.kind, *lists)


def check_checkpoint(root: Path) -> Findings:
    """Every file of a checkpoint against its manifest."""
    from raydistill.training.manifest import read_manifest

    findings = Findings("checkpoint")
    try:
        recorded: dict[str, Any] = dict(read_manifest(root))
    except CheckpointError as error:
        findings.problems.append(error.received)
        return findings
    _check_files(root, recorded, findings)
    return findings


def check_dataset(root: Path) -> Findings:
    """Every file of a dataset against its manifest, then the tables against each other.

    What training keeps beside them, the texts as tokens, is held against the digest beside each file.
    """
    from raydistill.data.arrow import DIGEST
    from raydistill.data.tokens import FOLDER, is_sound
    from raydistill.kg.manifest import read_manifest
    from raydistill.kg.store import Dataset

    findings = Findings("dataset")
    try:
        kept = sorted((root / FOLDER).glob("*.arrow"))
        # What a write leaves that was cut off, or is going on just now, is nobody's to read.
        others = [path for ending in (".aside", DIGEST) for path in (root / FOLDER).glob(f"*{ending}")]
        _check_files(root, read_manifest(root)["files"], findings, besides=(*kept, *others))
        findings.checked += map(str, kept)
        findings.problems += [
            f"{path}: changed after it was written; the next training makes it anew"
            for path in kept
            if not is_sound(path)
        ]
        if not findings.problems:
            Dataset.load(root, verify=False)
    except DataError as error:
        findings.problems.append(error.received)
    return findings


def _check_files(root: Path, recorded: dict[str, Any], findings: Findings, *, besides: Collection[Path] = ()) -> None:
    for name, record in recorded.items():
        path = root / name
        findings.checked.append(str(path))
        if not path.is_file():
            findings.problems.append(f"{path}: missing")
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != record["sha256"] or path.stat().st_size != record["bytes"]:
            findings.problems.append(f"{path}: changed after it was written")
    findings.problems += [f"{path}: not in the manifest" for path in _foreign(root, recorded) if path not in besides]


def _foreign(root: Path, recorded: dict[str, Any]) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in recorded and name != MANIFEST:
            yield path
