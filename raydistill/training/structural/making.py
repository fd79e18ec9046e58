"""A structural model from a dataset directory to a folder of its own: checked first, trained, ranked, written."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from raydistill.errors import ConfigError
from raydistill.evaluation.encode import link_prediction_task
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.kg.store import Dataset
from raydistill.teachers.structural import INTERACTIONS, StructuralModel
from raydistill.training.saving import require_new_folder, writing
from raydistill.training.structural.folder import save_structural
from raydistill.training.structural.learning import StructuralSettings, train_structural

MRR = "both/mrr"


def make_structural(data: str | Path, out: str | Path, settings: StructuralSettings) -> dict[str, float]:
    """Train a structural model on a dataset's training triples, rank with it, write its folder.

    Args:
        data: the dataset directory.
        out: the folder, which must not be there yet.
        settings: how.

    Returns:
        valid/both/mrr and test/both/mrr, filtered, realistic ranks.

    Raises:
        ConfigError: settings out of range, or `out` is there already.
        DataError: the dataset is damaged, or one of these splits is empty.
        NonFiniteLossError: training went astray.
        StorageError: `out` cannot be written.
    """
    _check(settings, out)
    with writing(Path(out)):
        # A folder that cannot be there is found out now, not after the training.
        aside = tempfile.mkdtemp(dir=Path(out).parent)
        Path(aside).rmdir()
    dataset = Dataset.load(data)
    # Before the training: what cannot be ranked is found out in a moment.
    tasks = [link_prediction_task(dataset, split) for split in ("valid", "test")]
    model = train_structural(dataset, settings)
    metrics = {f"{task.split}/{MRR}": _mrr(model, task) for task in tasks}
    save_structural(Path(out), model, dataset.fingerprint, {"settings": asdict(settings), "metrics": metrics})
    return metrics


def _mrr(model: StructuralModel, task: LinkPredictionTask) -> float:
    asked = (torch.from_numpy(one.astype(np.int64)) for one in (task.distinct_heads, task.distinct_relations))
    report = task.evaluate(model.query_vectors(*asked), model.entities)
    return float(report.metrics[f"{task.split}/{MRR}"])


def _check(settings: StructuralSettings, out: str | Path) -> None:
    if settings.interaction not in INTERACTIONS:
        raise ConfigError(
            f"interaction {settings.interaction!r}",
            expected=f"one of {', '.join(INTERACTIONS)}",
            consequence="there would be no score",
            remedy="choose one of these",
        )
    if settings.dimension < 1 or settings.epochs < 1 or settings.seed < 0:
        raise ConfigError(
            f"dimension {settings.dimension}, {settings.epochs} epochs, seed {settings.seed}",
            expected="at least 1, at least 1, and at least 0",
            consequence="nothing would be learnt",
            remedy="give larger numbers",
        )
    if "://" in str(out):
        raise ConfigError(
            f"{out} is no local folder",
            expected="a path on this machine",
            consequence="the tables would lie below a folder of that name here",
            remedy="write them here and copy the folder there: campaigns take URIs in method.teachers",
        )
    require_new_folder(out, "a campaign that names it would find another teacher than it began with")
