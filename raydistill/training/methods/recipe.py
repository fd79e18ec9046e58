"""What a method is made of: its choice at each seam, made from the configuration of a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raydistill.config.trial import TrialConfig
from raydistill.data.assembly import TextAssembler
from raydistill.data.batches import BatchBuilder, Source, TripleSource
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex
from raydistill.students.reshaping import Reshaper
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.progress import Corruption
from raydistill.training.terms.term import Term


def every_triple(config: TrialConfig, dataset: Dataset) -> Source:
    """All training triples in both directions."""
    return TripleSource(dataset.train, dataset.num_relations, config.training.batch_size, config.seed)


def known_batches(config: TrialConfig, dataset: Dataset, assembler: TextAssembler) -> BatchBuilder:
    """Batches of the texts that evaluation has, in which no candidate is wrong that is known to be true."""
    truth = TruthIndex.from_triples(dataset.train, dataset.num_entities, dataset.num_relations)
    return BatchBuilder(assembler, truth, dataset.num_relations, config.contrastive.self_negatives)


def masked_texts(config: TrialConfig, mask_id: int) -> Corruption:
    """A share of each text's tokens masked."""
    return Corruption(
        config.mask_ratio,
        mask_id,
        shared=config.view == "shared" and config.mask_ratio > 0,
        seed=config.seed,
        number=config.training.corruptions,
    )


@dataclass(frozen=True)
class Recipe:
    """A method's parts; most are terms alone.

    Args:
        terms: from a trial and the shapes of its models.
        reshaper: what changes the student's shape or number format, from a trial, the student's shape and the steps of the whole training; None =
            nothing does.
        source: where the examples come from, from a trial and its graph.
        builder: what makes batches of them, from a trial, its graph and the texts of evaluation.
        corruption: how texts are corrupted, from a trial and the mask token.
        told_apart: the part of each relation, and of each inverse, from 0, where validations are to tell parts of the graph apart, from a trial and its
            graph; None = they are not.
    """

    terms: Callable[[TrialConfig, Shapes], list[Term]]
    reshaper: Callable[[TrialConfig, Shape, int], Reshaper] | None = None
    source: Callable[[TrialConfig, Dataset], Source] = every_triple
    builder: Callable[[TrialConfig, Dataset, TextAssembler], BatchBuilder] = known_batches
    corruption: Callable[[TrialConfig, int], Corruption] = masked_texts
    told_apart: Callable[[TrialConfig, Dataset], IntArray] | None = None
