"""The run directory: whose it is, who may write it, and what its ledger says. Nothing here needs Ray, so `raydistill status` is quick.

RUN/config.yaml   environment.json   ledger/   metrics.parquet   grades/<grade>/trials/<identity>/checkpoints/
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from raydistill.config.load import config_of, dump_config
from raydistill.config.methods import as_first_written
from raydistill.config.other_teachers import relocated
from raydistill.config.schema import CampaignConfig
from raydistill.config.training import HARMLESS_TRAINING
from raydistill.errors import RunDirectoryError
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.ground import Ground
from raydistill.planning.state import CampaignState

CONFIG, ENVIRONMENT, METRICS, LEDGER = "config.yaml", "environment.json", "metrics.parquet", "ledger"
PLACES, NAMED = ("data.path", "encoder.name", "teacher.checkpoint"), ".teachers"
"""Settings that say where something lies, and how names of others end that do: it may be moved, as long as its content stays."""
HARMLESS: dict[str, bool | set[str]] = {"resources": True, "storage": True, "training": set(HARMLESS_TRAINING)}
"""Sections, and settings of others, that change where and how fast a campaign runs, not what it computes: they may differ when a run is resumed."""

OUTSIDE = "//"
"""Before the path of a given teacher, where it is relative to a file system and not to the run."""


def open_run(run_dir: str | Path | RunStore, filesystem: fs.FileSystem | None = None) -> CampaignState:
    """What happened in a run so far, read from its ledger.

    Args:
        run_dir: a path, or a URI that pyarrow knows.
        filesystem: where `run_dir` is a path; None = on this machine.

    Raises:
        RunDirectoryError: there is no run.
        LedgerError: the ledger is damaged.
    """
    store = RunStore.at(run_dir, filesystem)
    require_run(store)
    return read_state(store)


def require_run(store: RunStore) -> None:
    """Refuse a directory in which nothing was begun.

    Raises:
        RunDirectoryError: there is no run.
    """
    if store.read(CONFIG) is None:
        raise RunDirectoryError(
            f"{store.place}: no {CONFIG}",
            expected="a run directory",
            remedy="give the directory that `raydistill run` wrote",
        )


def read_config(store: RunStore) -> CampaignConfig:
    """The configuration a run was begun with.

    Raises:
        ConfigError: it is missing or was damaged.
    """
    return config_of((store.read(CONFIG) or b"").decode("utf-8", errors="replace"), store.located(CONFIG))


def read_state(place: str | Path | RunStore) -> CampaignState:
    """Replay the ledger of a run; checkpoints come out as absolute paths, or as the places where others find them."""
    store, state = RunStore.at(place), CampaignState()
    for event in store.ledger(LEDGER).read():
        state.apply(located(event, store))
    return state


def portable(event: Mapping[str, Any], store: RunStore) -> dict[str, Any]:
    """The event with its checkpoint relative to the run, so that a run may be moved."""
    path = event.get("checkpoint")
    if path is None:
        return dict(event)
    relative = store.relative(path)
    if relative is None and _is_bare(path):
        relative = f"{OUTSIDE}{path}"
    return {**event, "checkpoint": path if relative is None else relative}


def located(event: Mapping[str, Any], store: RunStore) -> dict[str, Any]:
    """The reverse of `portable`."""
    path = event.get("checkpoint")
    if path is None:
        return dict(event)
    if path.startswith(OUTSIDE):
        return {**event, "checkpoint": path.removeprefix(OUTSIDE)}
    return {**event, "checkpoint": store.located(path) if _is_bare(path) else path}


def _is_bare(path: str) -> bool:
    return "://" not in path and not path.startswith("/")


def campaign_fingerprint(config: CampaignConfig, ground: Ground) -> str:
    """SHA-256 of everything that decides a campaign's results: configuration, data and encoder by content, not by place."""
    content = relocated(config, lambda place: ground.others[place].digest).model_dump(mode="json", exclude=HARMLESS)
    content["data"].pop("path")
    content["encoder"].pop("name")
    content["teacher"].pop("checkpoint")
    content["method"] = as_first_written(content["method"])
    for grade in content["grades"]:
        grade["method"] = grade["method"] and as_first_written(grade["method"])
    if content["compare"] is not None:
        content["compare"]["methods"] = [as_first_written(one) for one in content["compare"]["methods"]]
    content["ground"] = [ground.dataset_fingerprint, ground.encoder_fingerprint]
    content["ground"] += [ground.given_teacher.digest] if ground.given_teacher is not None else []
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_owner(place: str | Path | RunStore, config: CampaignConfig, *, resume: bool, ledger: str = LEDGER) -> None:
    """Refuse a directory that is not this campaign's to write; `ledger` is the folder in which its events lie.

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
    known = _json(store.read(ENVIRONMENT))
    now = ground_facts(ground)
    changed = [f"{name} was {known.get(name)}, is {value}" for name, value in now.items() if known.get(name) != value]
    raise RunDirectoryError(
        f"{store.place} was begun with other content: {'; '.join(changed) or 'its configuration was edited'}",
        expected="the dataset and encoder this run was begun with",
        consequence="grades would be trained on different graphs or from different weights",
        remedy="restore them, or choose another --run-dir",
    )


def ground_facts(ground: Ground) -> dict[str, str | None]:
    """What a campaign stands on, as environment.json says it."""
    given = ground.given_teacher.digest if ground.given_teacher is not None else None
    names = {"dataset_fingerprint": ground.dataset_fingerprint, "encoder_fingerprint": ground.encoder_fingerprint}
    others = {"named_teachers": ", ".join(one.digest for one in ground.others.values())} if ground.others else {}
    return {**names, "given_teacher": given, **others}


def write_config(place: str | Path | RunStore, config: CampaignConfig) -> None:
    """Save the resolved configuration."""
    RunStore.at(place).write(CONFIG, dump_config(config).encode())


def _json(text: bytes | None) -> dict[str, Any]:
    try:
        content = json.loads(text or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


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
