"""A trial's folder on this machine, and its truth elsewhere: checkpoints are sent before they are reported, and fetched where a trial goes on."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from raydistill.errors import StorageError
from raydistill.flocks import alone
from raydistill.orchestration.remote import MANIFEST, RemoteFolder

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
NOTES = ("trial.json", "trial.log")
ASIDE = ".fetched-"
FORGOTTEN = ".forgotten-"


class TrialMirror:
    """Keeps a trial's checkpoints alike here and there.

    Args:
        local: the trial's folder on this machine.
        remote: the trial's folder where the run lies.
    """

    def __init__(self, local: Path, remote: RemoteFolder) -> None:
        self.local, self.remote = local, remote
        self.sent: dict[str, bytes] = {}

    def send_late(self) -> None:
        """Send what a process that died on this machine had saved but not sent: checkpoints newer than any that was."""
        there = max(self._there(), default="")
        for name in sorted(self._here()):
            if name > there:
                self._send(name)

    def fetch(self) -> None:
        """Make the checkpoints here those that are there. Any number of processes of a machine may call it at once."""
        folder = self.local / CHECKPOINTS
        with alone(folder):
            for leftover in folder.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
            there = self._there()
            for name in self._here().keys() - there:
                # Removed by a later process of the trial on another machine, or set aside because it is damaged.
                shutil.rmtree(folder / name)
            for name in sorted(there):
                self._fetch(name)
        for name in NOTES:
            content = None if (self.local / name).exists() else self.remote.read(name)
            if content is not None:
                (self.local / name).write_bytes(content)
        self.sent = self._here()

    def send(self) -> None:
        """Send what is new here, then remove there what was removed here."""
        here = self._here()
        # By content: an interrupted validation leaves a checkpoint of the name that the validated one will have.
        for name in sorted(name for name, manifest in here.items() if self.sent.get(name) != manifest):
            self._send(name)
        # Only what this process has had: a process that was given up must not remove what its successor sends. And no trial removes its last one: where
        # none is left, this machine has forgotten it.
        for name in sorted(self.sent.keys() - here.keys()) if here else ():
            self.remote.below(f"{CHECKPOINTS}/{name}").remove()
        self.sent = here
        for name in NOTES:
            if (self.local / name).exists():
                self.remote.write(name, (self.local / name).read_bytes())

    def forget(self) -> None:
        """Give the disk back when the trial has ended: whoever needs its checkpoints fetches them. What was not sent stays."""
        folder = self.local / CHECKPOINTS
        if not self.sent or self._here() != self.sent:
            return
        aside = folder.with_name(f"{FORGOTTEN}{CHECKPOINTS}")
        try:
            with alone(folder):
                shutil.rmtree(aside, ignore_errors=True)
                # All in one step: a process of this trial that was given up, and removes elsewhere what was removed here, would else see some of them gone.
                os.replace(folder, aside)
                shutil.rmtree(aside, ignore_errors=True)
        except (OSError, StorageError) as problem:
            logger.warning("%s: checkpoints that were sent stay here, too: %s", folder, problem)
        self.sent = self._here()

    def _send(self, name: str) -> None:
        logger.info("sending checkpoint %s to %s", name, self.remote.name)
        self.remote.below(f"{CHECKPOINTS}/{name}").send(self.local / CHECKPOINTS / name)

    def _fetch(self, name: str) -> None:
        remote, final = self.remote.below(f"{CHECKPOINTS}/{name}"), self.local / CHECKPOINTS / name
        if (final / MANIFEST).exists() and (final / MANIFEST).read_bytes() == remote.read(MANIFEST):
            return
        logger.info("fetching checkpoint %s from %s", name, self.remote.name)
        aside = final.with_name(f"{ASIDE}{name}")
        # Not verified here: whoever goes on from it passes over a damaged one, and says so.
        remote.fetch(aside)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)

    def _here(self) -> dict[str, bytes]:
        """Manifests of the checkpoints here; a manifest holds the SHA-256 of every file."""
        found = (self.local / CHECKPOINTS).glob(f"[0-9]*/{MANIFEST}")
        return {path.parent.name: path.read_bytes() for path in found}

    def _there(self) -> set[str]:
        folder = self.remote.below(CHECKPOINTS)
        return {name for name in folder.folders() if name.isdigit() and folder.below(name).read(MANIFEST) is not None}
