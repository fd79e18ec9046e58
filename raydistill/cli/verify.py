"""`raydistill verify`: holds what lies on disk against its manifests, and names every file that does not fit."""

from __future__ import annotations

from pathlib import Path

import click

from raydistill.cli.findings import Findings, Kind, check_checkpoint, check_dataset
from raydistill.cli.places import Folder, checkpoint_here, copied_here
from raydistill.errors import CheckpointError, ConfigError, DataError, LedgerError, RunDirectoryError, StorageError

CHECKPOINTS = ("grades/*/trials/*/checkpoints/*", "grades/*/teachers/*")
"""Where a run keeps them: those of its trials, and those that were announced as teachers."""


@click.command(short_help="Hold what lies on disk against its manifests.")
@click.argument("path", type=Folder())
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(path: str, as_json: bool) -> None:
    """Check every byte of a checkpoint, of a structural model, of a dataset directory, or of a run directory with its ledger and checkpoints.

    A search over ladders is checked with every run below it.

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
        "run": ("ledger", "config.yaml", "grades", "search", "ladders"),
        "checkpoint": ("raydistill.json", "query_encoder", "tokenizer", "tables.safetensors"),
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
    """The ledger, every checkpoint below the run, and that each one that was promoted, or announced as a teacher, is the one it was.

    Of a search over ladders: its ledger, and all that of every run below it.
    """
    from raydistill.orchestration.rundir import open_run
    from raydistill.orchestration.searchdir import LADDERS, SEARCH
    from raydistill.planning.freeing import freed

    if (root / SEARCH).exists() or (root / LADDERS).exists():
        return _check_search(root)
    findings = Findings("run")
    sound: set[Path] = set()
    try:
        state = open_run(root)
    except (LedgerError, ConfigError, StorageError) as error:
        state = None
        findings.problems.append(error.received)
    # What a kill has left of checkpoints that the ledger calls freed: --resume removes it.
    left_over = freed(state) if state is not None else set()
    for path in sorted(path for pattern in CHECKPOINTS for path in root.glob(pattern)):
        place = path.parents[3].name, path.parents[1].name
        if path.is_dir() and not path.name.startswith(".") and place not in left_over:
            one = check_checkpoint(path)
            findings.checked.append(str(path))
            findings.problems += one.problems
            sound |= set() if one.problems else {path.resolve()}
    if state is None:
        return findings
    findings.good = sorted(str(path) for path in sound)
    findings.checked.append(str(root / "ledger"))
    for key, promotion in {**state.announcements, **state.promotions}.items():
        how = "promoted" if key in state.promotions else "announced"
        try:
            path = Path(checkpoint_here(promotion.checkpoint))
        except CheckpointError as error:
            findings.problems.append(error.received)
            continue
        if not path.is_dir():
            findings.problems.append(f"{path}: {how} by {key[0]} {state.grades[key[1]]}, but missing")
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            # A teacher that was trained elsewhere.
            one = check_checkpoint(path)
            findings.checked.append(str(path))
            findings.problems += one.problems
            sound |= set() if one.problems else {path.resolve()}
        if path.resolve() in sound and _digest(path) != promotion.digest:
            findings.problems.append(f"{path}: whole, but not the checkpoint that was {how}")
    return findings


def _check_search(root: Path) -> Findings:
    from raydistill.orchestration.rundir import open_run, require_run
    from raydistill.orchestration.runstore import RunStore
    from raydistill.orchestration.searchdir import LADDERS, SEARCH, ladder_name, read_search

    findings = Findings("run")
    for folder in sorted((root / LADDERS).glob("*")):
        # A kill at the very beginning of a run leaves a lock and nothing else.
        if folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir()):
            findings.add(check_run(folder))
    try:
        require_run(RunStore.at(root))
        results, _ = read_search(RunStore.at(root))
    except (LedgerError, ConfigError, StorageError) as error:
        findings.problems.append(error.received)
        return findings
    findings.checked.append(str(root / SEARCH))
    for name in (ladder_name(one.number) for one in results if one.values):
        try:
            whole = open_run(root / name).complete
        except (LedgerError, StorageError):
            continue  # told above
        except ConfigError:
            whole = False
        if not whole:
            findings.problems.append(f"{root / name}: the search has its result, but the run is missing, or part of it")
    return findings


def _digest(path: Path) -> str:
    from raydistill.training.manifest import verify_checkpoint

    return verify_checkpoint(path)
