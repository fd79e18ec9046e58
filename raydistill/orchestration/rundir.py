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
from raydistill.errors import ConfigError, RunDirectoryError
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.ground import Ground
from raydistill.planning.state import CampaignState

CONFIG, ENVIRONMENT, METRICS, LEDGER = "config.yaml", "environment.json", "metrics.parquet", "ledger"
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
    try:
        return config_of((store.read(CONFIG) or b"").decode("utf-8", errors="replace"), store.located(CONFIG))
    except ConfigError as problem:
        raise ConfigError(
            problem.received,
            expected=problem.expected,
            consequence="the run cannot be read; nothing of it is lost",
            remedy=f"if nobody has edited it, use the raydistill that began the run ({begun_with(store)}); else mend the keys",
        ) from None


def begun_with(store: RunStore) -> str:
    """The version of raydistill that last took up a run, as far as that is known."""
    known = environment_of(store)
    packages = known.get("packages")
    version = packages.get("raydistill", "unknown") if isinstance(packages, dict) else "unknown"
    commit = known.get("commit")
    return f"version {version}{f', commit {commit[:12]}' if isinstance(commit, str) else ''}"


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


def ground_facts(ground: Ground) -> dict[str, str | None]:
    """What a campaign stands on, as environment.json says it."""
    given = ground.given_teacher.digest if ground.given_teacher is not None else None
    names = {"dataset_fingerprint": ground.dataset_fingerprint, "encoder_fingerprint": ground.encoder_fingerprint}
    others = {"named_teachers": ", ".join(one.digest for one in ground.others.values())} if ground.others else {}
    return {**names, "given_teacher": given, **others}


def write_config(place: str | Path | RunStore, config: CampaignConfig) -> None:
    """Save the resolved configuration."""
    RunStore.at(place).write(CONFIG, dump_config(config).encode())


def environment_of(store: RunStore) -> dict[str, Any]:
    """Where a run was last taken up; empty where that is not known."""
    try:
        content = json.loads(store.read(ENVIRONMENT) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
