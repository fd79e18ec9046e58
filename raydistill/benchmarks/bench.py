"""What all parts of the benchmark are measured on: a campaign in which nothing is searched, and this machine."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raydistill.benchmarks.machine import matrix_rate, seconds_of
from raydistill.benchmarks.naive import NaiveDistillation, NaiveTexts, Triple
from raydistill.benchmarks.workload import drawn_triples, naive_trainer, one_trial_of_each_grade
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TrialConfig
from raydistill.devices import best_device
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.models.biencoder import Precision
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.models.precision import has_bfloat16
from raydistill.models.pretrained import locate_encoder
from raydistill.planning.ground import Ground

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What is measured, and how often.

    Attributes:
        config: a campaign in which nothing is searched.
        ground: its dataset and encoder.
        out: where to write.
        turns: of each measurement; the median is given.
        source: a public layout to prepare; None = that is left out.
    """

    config: CampaignConfig
    ground: Ground
    out: Path
    turns: int = 5
    source: str | None = None

    @cached_property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that this machine is fast in, the fastest last."""
        return ("fp32", "bf16") if has_bfloat16(best_device()) else ("fp32",)

    def left_out(self, column: str) -> Iterator[Row]:
        """A row that says what this machine cannot show."""
        if "bf16" not in self.precisions:
            yield {column: "bf16: this machine has no instructions for it"}

    @cached_property
    def dataset(self) -> Dataset:
        """The graph."""
        return Dataset.load(self.config.data.path, verify=False)

    @cached_property
    def encoder(self) -> Path:
        """Folder of the pre-trained encoder."""
        return locate_encoder(self.config.encoder.name).folder

    @cached_property
    def texts(self) -> NaiveTexts:
        """The graph's texts as strings, put together one by one, as peers take them."""
        rule = TextRule(self.config.data.max_neighbors, self.config.data.short_description_words)
        return NaiveTexts(self.dataset, load_tokenizer(self.encoder), rule, self.config.data.max_tokens)

    def trials(self, precision: Precision) -> list[TrialConfig]:
        """One of every grade, the teacher's first."""
        training = self.config.training.model_copy(update={"precision": precision})
        config = self.config.model_copy(update={"training": training})
        return one_trial_of_each_grade(config, self.ground, self.out / precision)

    def rate(self, precision: Precision) -> float:
        """Operations per second in products of the encoder's own shapes, measured now."""
        encoder: Any = load_encoder(self.encoder).config
        return matrix_rate(encoder.hidden_size, encoder.intermediate_size, precision, best_device())

    def naive(self, trial: TrialConfig) -> tuple[int, float]:
        """Examples of a step of the naive way, and its seconds."""
        naive, batches = self.naive_way(trial)
        return trial.training.batch_size, statistics.median(seconds_of(lambda: naive.step(next(batches)), self.turns))

    def naive_way(self, trial: TrialConfig) -> tuple[NaiveDistillation, Iterator[list[Triple]]]:
        """The naive way's trainer, and as many batches as are measured and one to warm up."""
        batches = drawn_triples(self.dataset, trial.training.batch_size, self.turns + 1)
        return naive_trainer(self.dataset, self.encoder, trial), iter(batches)
