"""From a public layout to a dataset directory: read, split and cut if asked, audit, write aside, rename."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError, StorageError
from raydistill.kg.audit import audit_graph, describe
from raydistill.kg.bundled import PREFIX
from raydistill.kg.graph import Graph
from raydistill.kg.holdout import checked_share, cut_splits
from raydistill.kg.lines import Intake
from raydistill.kg.parts import graph_of_part, parsed_part
from raydistill.kg.sampling import cut_graph
from raydistill.kg.sources import read_source
from raydistill.kg.store import Dataset
from raydistill.kg.writing import write_dataset

logger = logging.getLogger(__name__)
_BAD_PATH = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    sample: int | None = None,
    seed: int = 0,
    part: str | None = None,
    hold_out: float | None = None,
    quarantine: bool = False,
    overwrite: bool = False,
) -> Dataset:
    """Read a graph from a public layout and write it as a dataset directory.

    Running it again is harmless: where the same content lies already, that is returned.

    Args:
        source: a folder, one file of triples, or `pykeen:NAME`.
        out: the directory to write.
        layout: one of `layouts.LAYOUTS`; "auto" recognises it.
        sample: number of entities of a connected cut; None keeps the whole graph.
        seed: decides what `hold_out` and `sample` take.
        part: keep the triples of one part of the relations alone, as in "2/3": the division that method `education` teaches by; of the cut, where there is one.
        hold_out: the share of the source's triples that valid and test get each, cut out of train, as far as the source has none: 0.1 leaves about eight in ten. Comes before `sample` and `part`.
        quarantine: set malformed lines aside in `quarantine.tsv`; otherwise one of them refuses the source.
        overwrite: replace another dataset directory.

    Raises:
        ConfigError: an option is out of range, there is nothing to hold out for, there are more parts than relations, `out` overlaps the source, or nobody can write there.
        DataError: the source is malformed, the part has no triple in some split, or `out` holds something else.
        StorageError: there is no room, or the disk failed.
    """
    target = Path(out)
    if seed < 0:
        raise ConfigError(f"seed {seed}", expected="0 or more", remedy="give another seed")
    asked = None if part is None else parsed_part(part)
    if hold_out is not None:
        checked_share(hold_out)
    _check_apart(source, target)
    intake = Intake()
    graph = _read(source, layout, intake, quarantine, hold_out is not None)
    held: dict[str, Any] | None = None
    cut: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    if hold_out is not None:
        graph, held = cut_splits(graph, hold_out, seed)
    if sample is not None:
        graph, cut = cut_graph(graph, sample, seed)
    if asked is not None:
        graph, kept = graph_of_part(graph, *asked)
    audit = audit_graph(graph, intake, cut, kept, held)
    for finding in describe(audit):
        logger.log(logging.WARNING if finding.startswith("Warning: ") else logging.INFO, "%s", finding)
    origin: dict[str, Any] = {"name": _source_name(source), "layout": graph.layout, "sample": sample}
    origin["seed"] = None if sample is hold_out is None else seed
    if hold_out is not None:
        origin["hold_out"] = hold_out
    if part is not None:
        origin["part"] = part
    try:
        write_dataset(target, graph, audit=audit, intake=intake, origin=origin, overwrite=overwrite)
        return Dataset.load(target)
    except OSError as error:
        if error.errno in _BAD_PATH:
            raise ConfigError(
                f"{target}: {error.strerror}",
                expected="a directory this user may write, or one that can be made",
                consequence="the dataset could not be saved; nothing was left there",
                remedy="give another directory, or change the permissions",
            ) from error
        raise StorageError(
            f"{target}: {error.strerror or error}",
            expected="a place with room for the dataset",
            consequence="a dataset cut short would have been left; what was begun has been removed",
            remedy="free some space there, or give another directory",
        ) from error


def _read(source: str | Path, layout: str, intake: Intake, quarantine: bool, may_lack: bool) -> Graph:
    try:
        return read_source(source, layout, intake, may_lack=may_lack)
    finally:
        # Even where the reader gave up: malformed lines are then the likely cause, and the better message.
        if not quarantine:
            intake.refuse_malformed(str(source))


def _check_apart(source: str | Path, target: Path) -> None:
    if str(source).startswith(PREFIX):
        return
    try:
        origin, place = Path(source).resolve(), target.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{str(source)!r} and {str(target)!r}: {error}", expected="two paths", remedy="check the paths"
        ) from error
    if place == origin or origin in place.parents or place in origin.parents:
        raise ConfigError(
            f"{target} lies within the source {source}, or around it",
            expected="a directory apart from the source",
            consequence="the source would be changed",
            remedy="give another directory",
        )


def _source_name(source: str | Path) -> str:
    return str(source) if str(source).startswith(PREFIX) else Path(source).resolve().name
