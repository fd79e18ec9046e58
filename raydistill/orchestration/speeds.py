"""How many questions a coordinator answers in a second, and how long it takes to read the ledger of a long campaign."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from pyarrow import fs

from raydistill.errors import LedgerError
from raydistill.orchestration.asking import ask
from raydistill.orchestration.chronicle import Chronicle
from raydistill.orchestration.cluster import connected
from raydistill.orchestration.coordinator import start_coordinator
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.rundir import LEDGER
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.rules import Rules

REPORTS = 100
EVENTS = 10_000
CLIENTS = 8


def calls_per_second(root: Path, clients: int = CLIENTS, seconds: float = 5.0) -> float:
    """Questions a coordinator answers each second when so many processes ask one after another: what a trial's status is."""
    rules = Rules("sequential", 0.0, False, 1, 2, epochs=(1, 1), sizes=(2, 1))
    with connected():
        coordinator = start_coordinator(RunStore.at(root), rules)
        ask(coordinator.start.remote("0" * 64, ["main"], ["0-teacher", "1-layers1"]))
        ask(coordinator.begin.remote(("main", 0, 0), "a" * 16, {}))
        crowd: list[Any] = [ray.remote(_Client).options(num_cpus=0).remote(coordinator) for _ in range(clients)]
        ray.get([one.count.remote(0.2) for one in crowd])
        return float(sum(ray.get([one.count.remote(seconds) for one in crowd])) / seconds)


def replay_seconds(root: Path, events: int = EVENTS) -> float:
    """Seconds from a ledger of so many events, of trials with a hundred reports each, to the campaign's state."""
    # Not synced one by one, which would take longer than all the rest.
    ledger = Ledger(fs.SubTreeFileSystem("/", fs.LocalFileSystem()), str((root / LEDGER).absolute()))
    names = {"lineages": ["main"], "grades": ["0-teacher", "1-layers1"]}
    ledger.append({"kind": "campaign_started", "config_fingerprint": "0" * 64, **names, "time": 0.0})
    metrics = {f"metric/{number}": number / 7 for number in range(20)}
    files = {"checkpoint": None, "digest": None}
    for number in range(1, events):
        trial, epoch = divmod(number - 1, REPORTS + 1)
        head = {"lineage": "main", "grade": 0, "number": trial, "time": float(number)}
        if epoch == 0:
            begun = {"identity": f"{trial:016x}", "parameters": {"learning_rate": trial / 7}, "epochs": REPORTS}
            ledger.append({"kind": "trial_begun", **head, **begun})
        else:
            outcome = "finished" if epoch == REPORTS else "running"
            ledger.append(
                {"kind": "trial_reported", **head, **files, "epoch": epoch, "metrics": metrics, "outcome": outcome}
            )
    began = time.perf_counter()
    found = len(Chronicle(root).events)
    seconds = time.perf_counter() - began
    if found != events:
        raise LedgerError(f"{root}: {found} events were replayed", expected=f"{events}")
    return seconds


class _Client:
    """Asks one question after another."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator

    def count(self, seconds: float) -> int:
        """Answers within some seconds."""
        calls, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            ask(self.coordinator.record.remote(("main", 0, 0)))
            calls += 1
        return calls
