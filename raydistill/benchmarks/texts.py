"""What texts cost: preparing a graph, tokenising its pieces, and encoding its entities."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
from torch import Tensor
from torch.nn.functional import cosine_similarity

from raydistill.benchmarks.machine import operations_per_token, seconds_of
from raydistill.config.trial import TrialConfig
from raydistill.data.tokens import PieceTexts, tokenize_pieces
from raydistill.errors import DataError
from raydistill.evaluation.distinct import distinct_texts
from raydistill.evaluation.encode import encode_entities, evaluate, link_prediction_task
from raydistill.kg.store import Dataset
from raydistill.models.biencoder import Precision
from raydistill.models.loading import load_tokenizer
from raydistill.models.pretrained import locate_encoder
from raydistill.training.gather import World
from raydistill.training.parts import build_parts

LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Rate:
    """Things done in a second.

    Attributes:
        what: was done.
        count: how many.
        seconds: for all of them, the median.
        floor: seconds that the arithmetic alone takes; None = there is little.
        peak_bytes: resident memory of the process that did it, at its peak; None = it was not looked at.
    """

    what: str
    count: int
    seconds: float
    floor: float | None = None
    peak_bytes: int | None = None

    @property
    def row(self) -> dict[str, float]:
        """The figures of a table's row."""
        found = {"count": float(self.count), "seconds": self.seconds, "per second": self.count / self.seconds}
        if self.floor is not None:
            found["floor %"] = 100 * self.floor / self.seconds
        return found if self.peak_bytes is None else {**found, "peak MB": self.peak_bytes / 1e6}


def preparing(source: str, out: Path) -> Rate:
    """Triples and entities of a public layout that `raydistill prepare` reads, audits and writes in a second, its start included.

    Args:
        source: what it is given.
        out: where the dataset lies meanwhile.

    Raises:
        DataError: it could not be prepared; the command has said why.
    """
    with tempfile.TemporaryDirectory(dir=out) as folder:
        target = Path(folder) / "dataset"
        began = time.perf_counter()
        # In a process of its own, so that its memory is no other work's.
        command = [sys.executable, "-m", "raydistill", "prepare", source, "--out", str(target)]
        with psutil.Popen(command, stdout=subprocess.DEVNULL) as child:
            peak = _peak_bytes(child)
        seconds = time.perf_counter() - began
        if child.returncode:
            raise DataError(
                f"{source} could not be prepared", expected="a public layout", remedy="see what was said above"
            )
        tables = [target / "entities.parquet", *(target / "triples").iterdir()]
        return Rate("prepare", sum(pq.read_metadata(one).num_rows for one in tables), seconds, peak_bytes=peak)


def _peak_bytes(child: psutil.Popen) -> int:
    """Resident memory of a process at its peak, when it is over."""
    peak = 0
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, child.memory_info().rss)
        time.sleep(LOOK_SECONDS)
    return peak


def tokenising(dataset: Dataset, encoder: str) -> Rate:
    """Names, descriptions and phrases that are tokenised in a second."""
    tokenizer, texts = load_tokenizer(locate_encoder(encoder).folder), PieceTexts(dataset)
    began = time.perf_counter()
    tokenize_pieces(texts, tokenizer, dataset.num_entities, dataset.num_relations)
    return Rate("tokenise", len(texts), time.perf_counter() - began)


def encoding(trial: TrialConfig, precision: Precision, turns: int, entities: int, rate: float) -> Rate:
    """Entity texts that a trial's student encodes in a second, texts put together from pieces included; equal ones are encoded once.

    Args:
        trial: whose student.
        precision: to encode in.
        turns: how often.
        entities: how many texts at most.
        rate: operations per second.
    """
    parts = build_parts(trial, World.alone())
    model = parts.student.eval()
    model.precision = precision
    device = model.log_inverse_temperature.device
    count = min(entities, parts.task.num_entities)
    taken = seconds_of(lambda: encode_entities(model, parts.assembler, count), turns, device)
    distinct, _ = distinct_texts(count, parts.assembler.entity_texts)
    tokens = len(parts.assembler.entity_texts(distinct).tokens)
    floor = tokens * operations_per_token(model) / rate
    return Rate(f"encode {precision}", count, statistics.median(taken), floor)


def agreement(trial: TrialConfig, precision: Precision, vectors: Tensor) -> float:
    """The lowest cosine between what a trial's student makes of the first entities' texts and `vectors` `(entities, hidden)` that another makes of them."""
    parts = build_parts(trial, World.alone())
    model = parts.student.eval()
    model.precision = precision
    own = encode_entities(model, parts.assembler, len(vectors))
    return float(cosine_similarity(own.float().cpu(), vectors.float().cpu(), dim=1).min())


def beside_float32(trial: TrialConfig, entities: int) -> dict[str, float]:
    """What is lost where a trial's student encodes in bfloat16: the lowest cosine to float32's vectors of the first texts, and MRR on the test split in both."""
    parts = build_parts(trial, World.alone())
    dataset = Dataset.load(trial.data.path, verify=False)
    model, task, found = parts.student.eval(), link_prediction_task(dataset, "test"), dict[str, float]()
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        model.precision = precision
        found[f"MRR {precision}"] = evaluate(model, parts.assembler, task).metrics["test/both/mrr"]
    model.precision = "fp32"
    vectors = encode_entities(model, parts.assembler, min(entities, task.num_entities))
    return {"lowest cosine": agreement(trial, "bf16", vectors), **found}


def assembling(trial: TrialConfig, steps: int) -> Rate:
    """Batches that are put together in a second."""
    parts = build_parts(trial, World.alone())
    # A small graph has fewer in an epoch.
    epochs = itertools.chain.from_iterable(map(parts.trainer.source.batches, itertools.count()))
    taken = []
    for some in itertools.islice(epochs, steps):
        began = time.perf_counter()
        parts.trainer.builder.build(some)
        taken.append(time.perf_counter() - began)
    return Rate("assemble batches", 1, statistics.median(taken))


def synthetic_graph(folder: Path, entities: int, triples: int, seed: int = 0) -> Path:
    """Write a graph of made-up words in plain TSV: what `preparing` reads where no public graph is large enough.

    Returns:
        the folder, with train.tsv, valid.tsv, test.tsv, entity2text.txt and relation2text.txt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance, relations, part = np.random.default_rng(seed), 200, 1_000_000
    for name, share in (("train", 0.98), ("valid", 0.01), ("test", 0.01)):
        with (folder / f"{name}.tsv").open("w") as file:
            left = int(triples * share)
            while left:
                some = min(left, part)
                rows = np.stack([chance.integers(0, top, some) for top in (entities, relations, entities)], axis=1)
                file.writelines(f"e{head}\tr{relation}\te{tail}\n" for head, relation, tail in rows.tolist())
                left -= some
    with (folder / "entity2text.txt").open("w") as file:
        file.writelines(f"e{number}\tentity {number} of a made up graph\n" for number in range(entities))
    with (folder / "relation2text.txt").open("w") as file:
        file.writelines(f"r{number}\trelation number {number}\n" for number in range(relations))
    return folder
