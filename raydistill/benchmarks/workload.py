"""What a benchmark measures: one trial of every grade of a campaign, and the naive way's on the same graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raydistill.benchmarks.naive import NaiveDistillation, NaiveTexts, Triple
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.devices import best_device
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.kg.triples import with_inverses
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.records import MRR
from raydistill.students.build import take_layers
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


def drawn_triples(dataset: Dataset, batch: int, count: int) -> list[list[Triple]]:
    """So many whole batches of training triples, inverse ones included, in an order drawn at random; of a small graph they come again."""
    both = with_inverses(dataset.train, dataset.num_relations)
    chosen = np.resize(np.random.default_rng(0).permutation(len(both)), (count, batch))
    return [[tuple(row) for row in both[some].tolist()] for some in chosen]


def naive_trainer(dataset: Dataset, encoder: Path, trial: TrialConfig) -> NaiveDistillation:
    """The naive way to train a trial's student under its teacher.

    Args:
        dataset: the graph.
        encoder: folder of the pre-trained encoder, whose layers the student has unless it begins with its teacher's.
        trial: whose layers, teacher, mask ratio and texts it has; a student's, not a teacher's.
    """
    assert trial.teacher is not None, "nobody teaches it"
    teacher = load_encoder(Path(trial.teacher.path) / "query_encoder")
    initial = teacher if trial.init == "teacher" else load_encoder(encoder)
    student = take_layers(initial, trial.layer_map)
    rule = TextRule(trial.data.max_neighbors, trial.data.short_description_words)
    texts = NaiveTexts(dataset, load_tokenizer(encoder), rule, trial.data.max_tokens)
    both = student.to(best_device()), teacher.to(best_device())
    return NaiveDistillation(*both, texts, dataset.train, dataset.num_relations, mask_ratio=trial.mask_ratio)
