"""The trials that a benchmark measures: one of every grade of a campaign."""

from __future__ import annotations

from pathlib import Path

from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.planning.grades import Ground, grade_plans, lineages_of, trial_config
from raydistill.planning.records import MRR
from raydistill.training.gather import World
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.parts import build_parts


def one_trial_of_each_grade(config: CampaignConfig, ground: Ground, out: Path) -> list[TrialConfig]:
    """Trials under an untrained checkpoint of the grade above: what a step costs does not depend on what was learned.

    Args:
        config: a campaign in which nothing is searched.
        ground: dataset and encoder.
        out: where the checkpoints are written.

    Raises:
        ConfigError: a grade has a value that would be searched.
    """
    trials: list[TrialConfig] = []
    teacher: TeacherReference | None = None
    lineage = lineages_of(config)[0]
    for plan in grade_plans(config, ground):
        trial = trial_config(config, lineage, plan, {}, ground, teacher)
        parts = build_parts(trial, World.alone())
        saved = CheckpointKeeper(out / plan.folder, keep=1, writes=True).save_epoch(parts, {MRR: 0.0})
        assert saved is not None
        teacher = TeacherReference(path=str(saved.path), digest=saved.digest)
        trials.append(trial)
    return trials
