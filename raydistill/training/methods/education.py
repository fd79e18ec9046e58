"""Education distillation from its section: terms, growth and the opening of the graph, all by one timetable."""

from __future__ import annotations

from raydistill.config.education import EducationSection
from raydistill.config.trial import TrialConfig
from raydistill.data.batches import Source
from raydistill.data.groups import GroupSource, RelationGroups, relation_groups
from raydistill.kg.store import Dataset
from raydistill.kg.triples import IntArray
from raydistill.students.growth import Grower
from raydistill.students.stages import Stages, timetable
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.methods.values import contrastive_term, number, whole_number
from raydistill.training.terms.sliced import SlicedDivergenceTerm
from raydistill.training.terms.term import Term


def education_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """alpha CE + (1 - alpha) KL among the candidates of the example's part (ED)."""
    method, dataset = _section(config), shapes.dataset
    assert dataset is not None, "parts of a graph that is not known"
    alpha = number(method.alpha)
    groups = _groups(method, dataset)
    return [
        contrastive_term(config, alpha),
        SlicedDivergenceTerm(1 - alpha, number(method.temperature), groups),
    ]


def grower(config: TrialConfig, shape: Shape, steps: int) -> Grower:
    """What lets a student of this shape grow in so many steps.

    Raises:
        CapabilityError: a stage would add no layer, or have no epoch.
    """
    stages, per_epoch = _stages(config, shape.layers), steps // config.training.epochs
    return Grower(stages.layers, [epoch * per_epoch for epoch in stages.opens])


def education_source(config: TrialConfig, dataset: Dataset) -> Source:
    """The parts of the graph that are open.

    Raises:
        CapabilityError: more stages than the graph has relations, or than the student has layers or epochs.
    """
    method, training = _section(config), config.training
    return GroupSource(
        dataset.train,
        _groups(method, dataset),
        _stages(config, config.layers).opens,
        rehearses=method.rehearsal,
        batch_size=training.batch_size,
        seed=config.seed,
    )


def education_parts(config: TrialConfig, dataset: Dataset) -> IntArray:
    """The part of each relation, so that what is forgotten of the first ones can be told."""
    return _groups(_section(config), dataset).of_relation


def _section(config: TrialConfig) -> EducationSection:
    method = config.method
    assert isinstance(method, EducationSection)
    return method


def _groups(method: EducationSection, dataset: Dataset) -> RelationGroups:
    return relation_groups(dataset.train, dataset.num_entities, dataset.num_relations, whole_number(method.stages))


def _stages(config: TrialConfig, layers: int) -> Stages:
    method = _section(config)
    return timetable(whole_number(method.stages), layers, config.training.epochs, number(method.end))
