"""A study: the search within one grade of one lineage. It is data, sent to the process that runs it and to the trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.config.methods import as_first_written
from raydistill.config.other_teachers import placeless
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.orchestration.premises import Premises, Release
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.grades import GradePlan, Lineage, known_teacher, method_of, settled_method, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.others import others_of
from raydistill.planning.records import TrialKey
from raydistill.planning.search import Space, grade_space, trial_limit


@dataclass(frozen=True)
class Study:
    """One grade of one lineage, with its teacher.

    Attributes:
        config: the campaign.
        ground: dataset and encoder.
        lineage: whose ladder.
        plan: which grade.
        teacher: the promoted checkpoint of the grade above; None for grade 0.
        store: where the run lies.
        concurrency: trials at once.
        cpus: CPUs of each worker.
        workers: of each trial, where there is room for all.
        earlier: the promoted checkpoints of the grades further up, the nearest first.
        release: the driver's code; None = any will do.
    """

    config: CampaignConfig
    ground: Ground
    lineage: Lineage
    plan: GradePlan
    teacher: TeacherReference | None
    store: RunStore
    concurrency: int = 1
    cpus: float = 1.0
    workers: int = 1
    earlier: tuple[TeacherReference, ...] = ()
    release: Release | None = None

    @property
    def title(self) -> str:
        """What it is called where people read of it."""
        return f"{self.lineage.name}, grade {self.plan.folder}"

    @property
    def root(self) -> Path:
        """The run directory, or this machine's working folder of a run elsewhere."""
        return self.store.root

    @property
    def premises(self) -> Premises:
        """What a process has to have in common with the driver before it works on this."""
        return Premises(self.store, self.release)

    @property
    def threads(self) -> int:
        """CPU threads of each worker. Not of the moment's load: another number of threads may give other last bits."""
        return max(1, int(self.cpus))

    @property
    def place(self) -> tuple[str, int]:
        """Lineage and grade."""
        return self.lineage.name, self.plan.index

    @property
    def space(self) -> Space:
        """What may vary."""
        return grade_space(self.lineage, self.plan)

    @property
    def limit(self) -> int:
        """Most trials it runs."""
        return trial_limit(self.space, self.plan, self.config.search.algorithm)

    @property
    def fingerprint(self) -> str:
        """Equal for studies that would do the same work, such as those of equal teachers in several lineages."""
        section = (
            self.plan.section.model_dump(mode="json", exclude={"method"}) if self.plan.section is not None else None
        )
        settled = placeless(settled_method(self.config, self.lineage, self.plan))
        method = as_first_written(settled.model_dump(mode="json"))
        teacher = self.teacher.digest if self.teacher is not None else None
        known = known_teacher(self.config, self.plan, self.ground)
        others = others_of(method_of(self.lineage, self.plan), self.ground.others, self.teacher, self.earlier, known)
        content = [self.plan.layers, section, method, self.lineage.seed, teacher, [one.digest for one in others]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def key(self, number: int) -> TrialKey:
        """The key of a trial."""
        return self.lineage.name, self.plan.index, number

    def resolve(self, parameters: Mapping[str, Any]) -> TrialConfig:
        """One trial, every value chosen."""
        return trial_config(self.config, self.lineage, self.plan, parameters, self.ground, self.teacher, self.earlier)

    def directory(self, identity: str) -> Path:
        """Where a trial writes."""
        return trial_directory(self.root, self.plan.folder, identity)


def trial_directory(root: Path, grade: str, identity: str) -> Path:
    """Where a trial writes, on this machine."""
    return root / trial_folder(grade, identity)


def trial_folder(grade: str, identity: str) -> str:
    """The same by its name in the run, wherever that lies. Equal work has an equal place."""
    return f"grades/{grade}/trials/{identity}"
