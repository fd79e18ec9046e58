"""`raydistill verify`: holds what lies on disk against its manifests, and names every file that does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from raydistill.cli.places import Folder, checkpoint_here, copied_here
from raydistill.errors import CheckpointError, ConfigError, DataError, LedgerError, RunDirectoryError

Kind = Literal["checkpoint", "run", "dataset"]
MANIFEST = "manifest.json"


@dataclass
class Findings:
    """What was looked at, and what is wrong with it."""

    kind: Kind
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    def named(self, looked_at: str, place: str) -> Findings:
        """The same with the place that was given instead of the folder it was looked at in."""
        if "://" not in place:
            return self
        shown = place.partition("?")[0].rstrip("/")
        lists = ([one.replace(looked_at, shown) for one in part] for part in (self.checked, self.problems, self.good))
        return Findings(self.kind, *lists)


@click.command(short_help="Hold what lies on disk against its manifests.")
@click.argument("path", type=Folder())
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(path: str, as_json: bool) -> None:
    """Check every byte of a checkpoint, of a dataset directory, or of a run directory with its ledger and checkpoints.

    Ends with exit code 4, for a dataset 3, where a file is damaged, missing or foreign.
    """
    from raydistill.cli.output import echo_json, waiting

    refuse_busy(path)
    with waiting(f"checking every byte of {path}"), copied_here(path) as root:
        kind = kind_of(root, path)
        findings = {"run": check_run, "checkpoint": check_checkpoint, "dataset": check_dataset}[kind](root)
        findings = findings.named(str(root), path)
    if as_json:
        echo_json({"path": path, "kind": kind, "sound": not findings.problems, **vars(findings)})
    else:
        for problem in findings.problems:
            click.echo(f"damaged: {problem}")
        for path_ in findings.good if findings.problems else ():
            click.echo(f"sound: {path_}")
        verdict = f"{len(findings.problems)} problems" if findings.problems else "sound"
        click.echo(f"{kind} {path}: {verdict}, {len(findings.checked)} checked")
    if findings.problems:
        raise SystemExit(DataError.exit_code if kind == "dataset" else CheckpointError.exit_code)


def kind_of(root: Path, place: str) -> Kind:
    """What a directory is, which was given as `place`, told from any of the names it should hold, because one of them may be what is missing.

    Raises:
        ConfigError: nothing of ours lies there.
    """
    marks: dict[Kind, tuple[str, ...]] = {
        "run": ("ledger", "config.yaml", "grades"),
        "checkpoint": ("raydistill.json", "query_encoder", "tokenizer"),
        "dataset": ("entities.parquet", "relations.parquet", "triples", "audit.json"),
    }
    for kind, names in marks.items():
        if any((root / name).exists() for name in names):
            return kind
    raise ConfigError(
        f"{place} is nothing that raydistill wrote",
        expected="a checkpoint, a run directory or a dataset directory",
        remedy="give one of these, such as RUN, or RUN/grades/<grade>/trials/<id>/checkpoints/<step>",
    )


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


def refuse_busy(run: str) -> None:
    """Look only at runs at rest.

    Raises:
        RunDirectoryError: a driver is writing it.
    """
    from raydistill.orchestration.locking import is_held

    if is_held(run):
        raise RunDirectoryError(
            f"{run} is being written",
            expected="a run at rest",
            consequence="checkpoints that are removed while they are read would be called damaged",
            remedy="wait for its driver, or stop it and go on later with --resume",
        )


def check_run(root: Path) -> Findings:
    """The ledger, every checkpoint below the run, and that each promoted checkpoint is the one that was promoted."""
    from raydistill.orchestration.rundir import open_run

    findings = Findings("run")
    sound: set[Path] = set()
    for path in sorted(root.glob("grades/*/trials/*/checkpoints/*")):
        if path.is_dir() and not path.name.startswith("."):
            one = check_checkpoint(path)
            findings.checked.append(str(path))
            findings.problems += one.problems
            sound |= set() if one.problems else {path.resolve()}
    try:
        state = open_run(root)
    except (LedgerError, ConfigError) as error:
        findings.problems.append(error.received)
        return findings
    findings.good = sorted(str(path) for path in sound)
    findings.checked.append(str(root / "ledger"))
    for key, promotion in state.promotions.items():
        try:
            path = Path(checkpoint_here(promotion.checkpoint))
        except CheckpointError as error:
            findings.problems.append(error.received)
            continue
        if not path.is_dir():
            findings.problems.append(f"{path}: promoted by {key[0]} {state.grades[key[1]]}, but missing")
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            # A teacher that was trained elsewhere.
            one = check_checkpoint(path)
            findings.checked.append(str(path))
            findings.problems += one.problems
            sound |= set() if one.problems else {path.resolve()}
        if path.resolve() in sound and _digest(path) != promotion.digest:
            findings.problems.append(f"{path}: whole, but not the checkpoint that was promoted")
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


def _digest(path: Path) -> str:
    from raydistill.training.checkpoint import verify_checkpoint

    return verify_checkpoint(path)
