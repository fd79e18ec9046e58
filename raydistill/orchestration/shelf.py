"""The shelf of announced teachers: a trial removes checkpoints that are neither its best nor its newest, but students may still learn from them.

    RUN/grades/<grade>/teachers/<digest>/

What is put there shares its bytes with the checkpoint (hard links), or is a copy where the file system has no links. It stays
while somebody learns from it, or would if he went on.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raydistill.errors import RayDistillError, StorageError
from raydistill.orchestration.decisions import Decision
from raydistill.orchestration.durable import link_or_copy, put
from raydistill.orchestration.remote import MANIFEST
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.records import Event, TrialRecord
from raydistill.planning.rules import Rules
from raydistill.planning.schedule import worth_announcing
from raydistill.planning.state import CampaignState
from raydistill.teachers.shards import KEPT

logger = logging.getLogger(__name__)
FOLDER = "teachers"
REMOVED = ".removed-"


def announcement(
    store: RunStore, rules: Rules, state: CampaignState, record: TrialRecord, report: Event
) -> Decision[dict[str, Any] | None]:
    """The event by which a reported checkpoint becomes the teacher of the grades below, kept on the shelf; None where it does not."""
    place = record.key[:2]
    if rules.schedule != "pipelined" or record.grade == len(rules.sizes) - 1:
        return None
    if not worth_announcing(state, place, report, rules.min_delta):
        return None
    shelf = shelf_of(state.grades[record.grade])
    kept = yield partial(_keep, store, report["checkpoint"], shelf, report["digest"])
    head = {"kind": "teacher_announced", "lineage": place[0], "grade": place[1], "identity": record.identity}
    return {**head, **{name: report[name] for name in ("digest", "epoch", "metrics", "time")}, "checkpoint": kept}


def shelf_of(grade: str) -> str:
    """Where the teachers of a grade lie, from the run."""
    return f"grades/{grade}/{FOLDER}"


def is_on_shelf(place: str) -> bool:
    """Whether a checkpoint was announced, and so is about to be removed."""
    return place.partition("?")[0].rpartition("/")[0].endswith(f"/{FOLDER}")


def _keep(store: RunStore, checkpoint: str, shelf: str, digest: str) -> str:
    if store.remote is None:
        return str(shelve(Path(checkpoint), store.root / shelf, digest))
    final = f"{shelf}/{digest[:16]}"
    if store.read(f"{final}/{MANIFEST}") is None:
        store.inside(checkpoint).copy(store.remote.below(final))
    return store.located(final)


def shelve(checkpoint: Path, shelf: Path, digest: str) -> Path:
    """Keep a checkpoint for the grades below; returns where. Doing it twice changes nothing.

    Raises:
        StorageError: there is no room, or the checkpoint is gone.
    """
    final = shelf / digest[:16]
    aside = shelf / f".{digest[:16]}.aside"
    if final.exists():
        return final
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(checkpoint, aside, copy_function=link_or_copy)
        put(aside, final)
    except (OSError, shutil.Error) as problem:
        raise StorageError(
            f"{checkpoint} cannot be kept below {shelf}: {problem}",
            expected="room in the run directory",
            consequence="the grades below would learn from files that are about to be removed",
            remedy="make room, then run again with --resume",
        ) from problem
    return final


def prune(store: RunStore, shelf: str, teaching: Collection[str]) -> None:
    """Take from a shelf what nobody learns from any more: where a trial has removed its own, it would take the room of a checkpoint for nothing.

    Args:
        store: the run.
        shelf: the folder of the shelf, from the run.
        teaching: the places of all checkpoints that have to stay.
    """
    inside = (store.relative(place) or "" for place in teaching)
    names = {place.rpartition("/")[2] for place in inside if place.startswith(f"{shelf}/")}
    try:
        if store.remote is None:
            _prune_here(store.root / shelf, names)
            return
        for name in store.remote.below(shelf).folders():
            if name not in names:
                store.remote.below(f"{shelf}/{name}").remove()
    except (OSError, RayDistillError) as problem:
        logger.warning("%s: what nobody learns from any more stays for now: %s", shelf, problem)


def _prune_here(shelf: Path, names: Collection[str]) -> None:
    for path in [path for path in shelf.glob("*") if path.name not in names]:
        # Half a checkpoint under its name would pass for one when it is announced again.
        aside = path if path.name.startswith(".") else path.with_name(f"{REMOVED}{path.name}")
        if aside != path:
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def clear_shelves(store: RunStore, grades: Sequence[str]) -> None:
    """Remove what a campaign that is complete needs no more: its shelves (what was promoted lies elsewhere), and what was kept of teachers' outputs."""
    # A run elsewhere that nobody works on has no folder here.
    if store.remote is None or store.identity:
        for kept in store.root.glob(f"grades/*/{KEPT}"):
            shutil.rmtree(kept, ignore_errors=True)
    if store.remote is not None:
        for grade in grades:
            store.remote.below(f"grades/{grade}/{FOLDER}").remove()
        return
    for shelf in store.root.glob(f"grades/*/{FOLDER}"):
        shutil.rmtree(shelf, ignore_errors=True)
