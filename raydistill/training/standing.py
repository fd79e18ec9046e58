"""What a validation finds: of a student, of the models inside it, and of its teacher, with whom they are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from raydistill.data.assembly import TextAssembler
from raydistill.evaluation import encode
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.relations import breakdown
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import shaped_encoder
from raydistill.students.reshaping import Standing
from raydistill.teachers.views import NoTeacher
from raydistill.training.checkpoint import read_record
from raydistill.training.evaluate import open_checkpoint
from raydistill.training.gather import World
from raydistill.training.memory import GradientCache, MemoryPlan

SELECTION = "valid/both/mrr"
DEPTH, BYTES = "student/layers", "student/bytes"
"""As `planning/records.py` has them, which knows no tensor library and is known to none that train."""
_BOTH = "valid/both/"


def rankings(
    student: BiEncoder,
    variants: Mapping[str, BiEncoder],
    assembler: TextAssembler,
    task: LinkPredictionTask,
    world: World,
    before_part: Callable[[int], None] | None,
    told_apart: IntArray | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of a student, under no name, and of its variants by their names; `told_apart` is the part of each relation, as for `of_parts`."""

    def ranked(model: BiEncoder) -> dict[str, float]:
        report = encode.evaluate(model, assembler, task, workers=world, before_part=before_part)
        return {**report.metrics, **({} if told_apart is None else of_parts(report, task.relations, told_apart))}

    own = ranked(student)
    return {"": own} | {name: own if one is student else ranked(one) for name, one in variants.items()}


def of_parts(report: LinkPredictionReport, relations: IntArray, told_apart: IntArray) -> dict[str, float]:
    """MRR of the queries of each part of the graph, in both directions; a part without a query is absent.

    Args:
        report: of a split.
        relations: `(queries,)` of its queries, inverse ones included.
        told_apart: `(2R,)` the part of each relation, and of each inverse, from 0; in names they count from 1.
    """
    parts = range(1, int(told_apart.max()) + 2)
    table = breakdown(report.ranks, parts, told_apart[relations], relations >= len(told_apart) // 2)
    return {f"{report.split}/part{part}/mrr": row["both/mrr"] for part, row in table.items()}


def as_variant(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics over both directions, named after a variant."""
    return {f"valid/{name}/{key.removeprefix(_BOTH)}": value for key, value in metrics.items() if key.startswith(_BOTH)}


def standing(path: str, data: str, data_fingerprint: str, world: World, gradient_cache: GradientCache) -> Standing:
    """How good a teacher is, as its checkpoint says, and how big. Where it was not validated on this dataset, that is done now.

    Args:
        path: its checkpoint.
        data: the dataset directory.
        data_fingerprint: its fingerprint.
        world: the workers of the trial; all must call.
        gradient_cache: what happens when memory runs out, as for the trial.

    Raises:
        CheckpointError: it is damaged.
    """
    record, sizes = read_record(path), checkpoint_size(path)
    mrr = record["metrics"].get(SELECTION) if record["data_fingerprint"] == data_fingerprint else None
    return Standing(_measured(path, data, world, gradient_cache) if mrr is None else mrr, *sizes)


def checkpoint_size(path: str | Path) -> tuple[int, int]:
    """Parameters of a checkpoint's model, the temperature among them, and how many of them are embeddings."""
    embeddings = 0
    for folder in sorted(Path(path).glob("*_encoder")):
        # Of its configuration alone, because weights may be stored packed.
        with torch.device("meta"):
            encoder = shaped_encoder(folder)
        embeddings += sum(one.numel() for name, one in encoder.named_parameters() if name.startswith("embeddings."))
    return int(read_record(path)["parameters"]), embeddings


def _measured(path: str, data: str, world: World, gradient_cache: GradientCache) -> float:
    dataset = Dataset.load(data)
    task = encode.link_prediction_task(dataset, "valid")
    model, assembler = open_checkpoint(path, dataset)

    def ranked() -> float:
        return encode.evaluate(model, assembler, task, workers=world).metrics[SELECTION]

    what = "the ranking of the teacher, which has no validation on record"
    return MemoryPlan(model, world, gradient_cache).encode(ranked, what, assembler.max_tokens, NoTeacher())
