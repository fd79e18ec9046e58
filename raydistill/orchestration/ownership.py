"""Whose a run directory is: a campaign goes on in it only where it is the one that was begun there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydistill.config.schema import CampaignConfig
from raydistill.errors import RunDirectoryError
from raydistill.orchestration.rundir import (
    CONFIG,
    HARMLESS,
    LEDGER,
    begun_with,
    environment_of,
    ground_facts,
    read_config,
)
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.ground import Ground
from raydistill.planning.state import CampaignState

PLACES, NAMED = ("data.path", "encoder.name", "teacher.checkpoint"), ".teachers"
"""Settings that say where something lies, and how names of others end that do: it may be moved, as long as its content stays."""


def check_owner(
    place: str | Path | RunStore,
    config: CampaignConfig,
    *,
    resume: bool,
    ledger: str = LEDGER,
    ground: Ground | None = None,
) -> None:
    """Refuse a directory that is not this campaign's to write.

    Args:
        place: the directory.
        config: the campaign.
        resume: whether it is to go on.
        ledger: the folder in which its events lie.
        ground: what it stands on now, where that is known: to go on with a run of another graph is no advice.

    Raises:
        RunDirectoryError: it holds another campaign, holds this one but `resume` is off, or holds none although `resume` is on.
    """
    store = RunStore.at(place)
    root = store.place
    configured = store.read(CONFIG) is not None
    begun = configured and (resume or bool(store.ledger(ledger).read()))
    foreign = [name for name in store.names() if name[0] != "." and name not in (CONFIG, ledger)]
    if not begun:
        if resume:
            raise RunDirectoryError(
                f"{root} holds no run to resume",
                expected="a directory in which a campaign was begun",
                consequence="the campaign would silently start afresh",
                remedy="check --run-dir, or leave out --resume",
            )
        if foreign and not configured:
            raise RunDirectoryError(
                f"{root} holds {', '.join(sorted(foreign)[:3])}, which no campaign wrote",
                expected="an empty or new directory",
                remedy="choose another --run-dir",
            )
        return
    differing = differences(read_config(store), config)
    if differing:
        raise RunDirectoryError(
            f"{root} belongs to another configuration\n  - " + "\n  - ".join(differing[:20]),
            expected="the configuration this run was begun with",
            consequence="results of two campaigns would be mixed in one ledger",
            remedy="choose another --run-dir, or undo the changes named above",
        )
    if not resume:
        if ground is not None and (changed := _changed(store, ground)):
            raise _other_content(store, changed)
        raise RunDirectoryError(
            f"{root} already holds this campaign",
            expected="a new directory, or --resume",
            remedy="add --resume to go on with it (finished trials are not run again), or choose another --run-dir",
        )


def differences(ours: CampaignConfig, theirs: CampaignConfig) -> list[str]:
    """One line per setting that differs and matters: `path: run has X, now Y`."""
    left, right = (_flat(one.model_dump(mode="json", exclude=HARMLESS)) for one in (ours, theirs))
    names = [name for name in sorted(left.keys() | right.keys()) if name not in PLACES and not name.endswith(NAMED)]
    return [
        f"{name}: the run has {left.get(name)!r}, now {right.get(name)!r}"
        for name in names
        if left.get(name) != right.get(name)
    ]


def check_campaign(place: str | Path | RunStore, state: CampaignState, fingerprint: str, ground: Ground) -> None:
    """Refuse to go on with a run whose data or encoder has changed under it.

    Raises:
        RunDirectoryError: naming what changed.
    """
    if state.config_fingerprint in ("", fingerprint):
        return
    store = RunStore.at(place)
    changed = _changed(store, ground)
    if not changed:
        raise RunDirectoryError(
            f"{store.place} was begun with other settings: its configuration was edited, or another raydistill fills in what it does not name",
            expected="the settings this run was begun with",
            consequence="grades would be trained in different ways",
            remedy=f"go on with the raydistill that began it ({begun_with(store)}), undo what was edited, or choose another --run-dir",
        )
    raise _other_content(store, changed)


def _changed(store: RunStore, ground: Ground) -> list[str]:
    """What a run was begun with and is another one now; nothing where it has not been written down."""
    known = environment_of(store)
    now = ground_facts(ground)
    return [f"{name} was {known[name]}, is {value}" for name, value in now.items() if known.get(name, value) != value]


def _other_content(store: RunStore, changed: list[str]) -> RunDirectoryError:
    return RunDirectoryError(
        f"{store.place} was begun with other content: {'; '.join(changed)}",
        expected="the dataset and encoder this run was begun with",
        consequence="grades would be trained on different graphs or from different weights",
        remedy="restore them, or choose another --run-dir",
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            name: one
            for key, part in value.items()
            for name, one in _flat(part, f"{prefix}.{key}" if prefix else key).items()
        }
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return {name: one for i, part in enumerate(value) for name, one in _flat(part, f"{prefix}.{i}").items()} | {
            f"{prefix}.length": len(value)
        }
    return {prefix: value}
