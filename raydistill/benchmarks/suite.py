"""The parts of the benchmark, by name. Each gives the rows of a table; what is compared is measured in the same run."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from raydistill.benchmarks.epochs import epoch_cost
from raydistill.benchmarks.machine import matrix_rate, seconds_of
from raydistill.benchmarks.naive import NaiveDistillation, NaiveTexts, Triple
from raydistill.benchmarks.peers import (
    PYKEEN,
    SENTENCE_TRANSFORMERS,
    SentenceTransformers,
    is_installed,
    pykeen_seconds,
)
from raydistill.benchmarks.profiles import shares
from raydistill.benchmarks.ranking import random_vectors, ranking_cost
from raydistill.benchmarks.savings import assembly_saving, savings
from raydistill.benchmarks.texts import agreement, assembling, encoding, preparing, tokenising
from raydistill.benchmarks.training import endless_steps, step_cost
from raydistill.benchmarks.workload import drawn_triples, naive_trainer, one_trial_of_each_grade
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TrialConfig
from raydistill.devices import best_device
from raydistill.evaluation.encode import link_prediction_task
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.models.biencoder import Precision
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.models.precision import has_bfloat16
from raydistill.models.pretrained import locate_encoder
from raydistill.planning.ground import Ground
from raydistill.training.gather import World
from raydistill.training.parts import build_parts

Row = dict[str, Any]
ENTITIES = (40_943, 600_000, 4_600_000)
ENCODED = 4096
FEWEST = 256
"""Queries that are ranked at least: fewer would not fill a product."""


@dataclass(frozen=True)
class Suite:
    """What is measured, and how often.

    Attributes:
        config: a campaign in which nothing is searched.
        ground: its dataset and encoder.
        out: where to write.
        turns: of each measurement; the median is given.
        source: a public layout to prepare; None = that part is left out.
    """

    config: CampaignConfig
    ground: Ground
    out: Path
    turns: int = 5
    source: str | None = None

    def rows(self, part: str) -> Iterator[Row]:
        """The rows of one part."""
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "steps": self.steps,
            "kept": self.kept,
            "epochs": self.epochs,
            "profile": self.profile,
            "savings": self.savings,
            "contrastive": self.contrastive,
            "ranking": self.ranking,
            "texts": self.texts,
            "growth": self.growth,
        }
        return parts[part]()

    def steps(self) -> Iterator[Row]:
        """Steps of every grade under a teacher that reads along, and the naive way."""
        for precision in self._precisions:
            rate = self._rate(precision)
            for trial in self._trials(precision):
                cost = step_cost(trial, rate, self.turns)
                yield {"step": f"{trial.layers} layers, {precision}", "GFLOP/s": rate / 1e9, **cost.row}
        yield from self._left_out("step")
        for trial in self._trials("fp32")[1:]:
            examples, seconds = self._naive(trial)
            yield {"step": f"{trial.layers} layers, naive", "examples/s": examples / seconds}

    def kept(self) -> Iterator[Row]:
        """Steps of the last grade under a teacher that reads along, and under what is kept of one: the same steps on the same texts, whose loss is the same; first all training texts are encoded."""
        for precision in self._precisions:
            rate, [*_, last] = self._rate(precision), self._trials(precision)
            for folder, how in ((None, "reads along"), (self.out / "kept", "is kept")):
                changes = {"corruptions": 1, "remember_teacher": folder is not None}
                trial = last.model_copy(update={"training": last.training.model_copy(update=changes)})
                cost = step_cost(trial, rate, self.turns, folder)
                yield {"teacher": f"{how}, {trial.layers} layers, {precision}", "GFLOP/s": rate / 1e9, **cost.row}
        yield from self._left_out("teacher")

    def epochs(self) -> Iterator[Row]:
        """What an epoch of every grade takes beside its steps, in the precision that the machine is fast in."""
        for trial in self._trials(self._precisions[-1]):
            yield {
                "epoch": f"{trial.layers} layers",
                **epoch_cost(trial, self.turns, self.turns, self.out / "epochs").row,
            }

    def profile(self) -> Iterator[Row]:
        """Seconds of a step by kind of operation: ours and the naive way's."""
        [*_, trial] = self._trials("fp32")
        parts = build_parts(trial, World.alone())
        parts.trainer.measure_gradients = False
        ours, (naive, batches) = endless_steps(parts), self._naive_way(trial)
        for name, step in (("ours", lambda: next(ours)), ("naive", lambda: naive.step(next(batches)))):
            found = shares(step, self.turns, best_device())
            yield {"profile": f"{trial.layers} layers, {name}", "seconds": sum(found.values()), **found}

    def savings(self) -> Iterator[Row]:
        """Steps of the last grade with and without each way to save work."""
        [*_, trial] = self._trials("fp32")
        yield from savings(trial, self.turns)
        yield assembly_saving(trial, *self._naive_way(trial))

    def contrastive(self) -> Iterator[Row]:
        """Steps without a teacher, beside those of sentence-transformers on the same texts."""
        dataset, rule, batch = self._dataset, self._rule, self.config.training.batch_size
        texts = NaiveTexts(dataset, load_tokenizer(self._encoder), rule, self.config.data.max_tokens)
        triples = drawn_triples(dataset, batch, self.turns + 2)
        for precision in self._precisions:
            cost = step_cost(self._trials(precision)[0], self._rate(precision), self.turns)
            yield {"contrastive step": f"raydistill, {precision}", "pairs/s": cost.examples / cost.seconds}
            if not is_installed(SENTENCE_TRANSFORMERS):
                yield {"contrastive step": f"sentence-transformers, {precision}: not installed"}
                continue
            peer = SentenceTransformers(self._encoder, self.config.data.max_tokens)
            pairs = iter(
                [(f"{texts.entity(h, t)} {texts.phrases[r]}", texts.entity(t, h)) for h, r, t in some]
                for some in triples
            )
            taken = seconds_of(lambda peer=peer, pairs=pairs, kind=precision: peer.step(next(pairs), kind), self.turns)  # type: ignore[misc]
            yield {
                "contrastive step": f"sentence-transformers, {precision}",
                "pairs/s": batch / statistics.median(taken),
            }

        yield from self._left_out("contrastive step")

    def ranking(self) -> Iterator[Row]:
        """Test queries from ready vectors, among as many entities as the graph has and among many more."""
        task = link_prediction_task(self._dataset, "test")
        count = len(task.gold)
        for entities in sorted({task.num_entities, *(some for some in ENTITIES if some > task.num_entities)}):
            few = count if entities <= ENTITIES[0] else max(min(count, FEWEST), count * ENTITIES[0] // entities)
            cost = ranking_cost(task, entities, few, self.turns, naive=entities <= ENTITIES[0])
            yield {"ranking": "raydistill", **cost.row}
        if is_installed(PYKEEN):
            yield self._pykeen(task)

    def texts(self) -> Iterator[Row]:
        """Preparing, tokenising, batches, and encoding entities beside sentence-transformers."""
        if self.source is not None:
            yield self._named(preparing(self.source))
        yield self._named(tokenising(self._dataset, self.config.encoder.name))
        trial = self._trials("fp32")[0]
        yield self._named(assembling(trial, self.turns * 4))
        for precision in self._precisions:
            yield self._named(encoding(trial, precision, self.turns, ENCODED, self._rate(precision)))
        yield from self._left_out("texts")
        if is_installed(SENTENCE_TRANSFORMERS):
            count = min(ENCODED, self._dataset.num_entities)
            texts = NaiveTexts(self._dataset, load_tokenizer(self._encoder), self._rule, self.config.data.max_tokens)
            strings = [texts.entity(entity, -1) for entity in range(count)]
            peer = SentenceTransformers(self._encoder, self.config.data.max_tokens)
            seconds = statistics.median(seconds_of(lambda: peer.encode(strings), self.turns))
            cosine = agreement(trial, "fp32", peer.encode(strings))
            row = {"count": count, "seconds": seconds, "per second": count / seconds, "lowest cosine": cosine}
            yield {"texts": "encode sentence-transformers", **row}

    def growth(self) -> Iterator[Row]:
        """How a step grows with the batch and with the length of the texts."""
        precision = self._precisions[-1]
        [*_, trial] = self._trials(precision)
        rate = self._rate(precision)
        for batch, length in itertools.chain(((b, 50) for b in (64, 256, 1024)), ((256, n) for n in (16, 32, 128))):
            training = trial.training.model_copy(update={"batch_size": batch})
            data = trial.data.model_copy(update={"max_tokens": length})
            cost = step_cost(trial.model_copy(update={"training": training, "data": data}), rate, self.turns)
            yield {"growth": f"batch {batch}, {length} tokens", "seconds": cost.seconds, **cost.row}

    @cached_property
    def _precisions(self) -> tuple[Precision, ...]:
        """Those that this machine is fast in."""
        return ("fp32", "bf16") if has_bfloat16(best_device()) else ("fp32",)

    def _left_out(self, column: str) -> Iterator[Row]:
        if "bf16" not in self._precisions:
            yield {column: "bf16: this machine has no instructions for it"}

    @cached_property
    def _dataset(self) -> Dataset:
        return Dataset.load(self.config.data.path, verify=False)

    @cached_property
    def _encoder(self) -> Path:
        return locate_encoder(self.config.encoder.name).folder

    @property
    def _rule(self) -> TextRule:
        return TextRule(self.config.data.max_neighbors, self.config.data.short_description_words)

    def _trials(self, precision: Precision) -> list[TrialConfig]:
        training = self.config.training.model_copy(update={"precision": precision})
        config = self.config.model_copy(update={"training": training})
        return one_trial_of_each_grade(config, self.ground, self.out / precision)

    def _rate(self, precision: Precision) -> float:
        encoder: Any = load_encoder(self._encoder).config
        return matrix_rate(encoder.hidden_size, encoder.intermediate_size, precision, best_device())

    def _naive(self, trial: TrialConfig) -> tuple[int, float]:
        naive, batches = self._naive_way(trial)
        return trial.training.batch_size, statistics.median(seconds_of(lambda: naive.step(next(batches)), self.turns))

    def _naive_way(self, trial: TrialConfig) -> tuple[NaiveDistillation, Iterator[list[Triple]]]:
        """The naive way's trainer, and as many batches as are measured and one to warm up."""
        batches = drawn_triples(self._dataset, trial.training.batch_size, self.turns + 1)
        return naive_trainer(self._dataset, self._encoder, trial), iter(batches)

    def _pykeen(self, task: LinkPredictionTask) -> Row:
        dataset = self._dataset
        train, test = torch.from_numpy(dataset.train), torch.from_numpy(dataset.test)
        known = torch.cat([train, torch.from_numpy(dataset.valid), test])
        vectors = random_vectors(len(task.distinct_heads), 1), random_vectors(task.num_entities, 0)
        seconds = pykeen_seconds(task, train, test, known, vectors, turns=self.turns)
        return {"ranking": "PyKEEN", "entities": task.num_entities, "queries/s": len(task.gold) / seconds}

    @staticmethod
    def _named(rate: Any) -> Row:
        return {"texts": rate.what, **rate.row}
