"""The ladder: which lineages a campaign runs, which grades each climbs down, and what one trial of a grade is once every value is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raydistill.config.baselines import NoneSection
from raydistill.config.methods import Method, label_of
from raydistill.config.other_teachers import learns_from_above, placeless
from raydistill.config.schema import CampaignConfig, GradeSection
from raydistill.config.space import Init
from raydistill.config.training import TrainingSection
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError
from raydistill.planning.assistants import promoted_layers, settled
from raydistill.planning.ground import Ground
from raydistill.planning.masking import applied_masking
from raydistill.planning.method_values import budgeted, refused, resolved_method
from raydistill.planning.others import others_of
from raydistill.planning.schedule import above
from raydistill.students.layers import resolve_layer_map

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Lineage:
    """One ladder from teacher to smallest student. A campaign without `compare` has a single one, named `main`."""

    name: str
    method: Method
    seed: int


@dataclass(frozen=True)
class GradePlan:
    """One grade, with its depth resolved. Grade 0 is the teacher and has no section."""

    index: int
    folder: str
    layers: int
    trials: int
    section: GradeSection | None


def lineages_of(config: CampaignConfig) -> tuple[Lineage, ...]:
    """Every ladder of a campaign: one per method and seed when methods are compared, else one."""
    if config.compare is None:
        return (Lineage("main", config.method, config.seed),)
    names = [label_of(method) for method in config.compare.methods]
    # Two sections of one method (say two weights of pmd) are told apart by their place among their kind.
    labels = [f"{n}{names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    return tuple(
        Lineage(f"{label}-seed{seed}", method, seed)
        for label, method in zip(labels, config.compare.methods, strict=True)
        for seed in config.compare.seeds
    )


def grade_plans(config: CampaignConfig, ground: Ground) -> tuple[GradePlan, ...]:
    """The grades of every lineage, teacher first."""
    teacher_layers = ground.given_teacher_layers or config.teacher.layers or ground.encoder_layers
    teacher = GradePlan(0, "0-teacher", teacher_layers, 1, None)
    students = (
        GradePlan(index, f"{index}-layers{grade.layers}", grade.layers, grade.trials or config.search.trials, grade)
        for index, grade in enumerate(config.grades, start=1)
    )
    return (teacher, *students)


def method_of(lineage: Lineage, plan: GradePlan) -> Method:
    """The method of a grade, its values possibly still to be searched."""
    if plan.section is None:
        return NoneSection()
    return plan.section.method or lineage.method


def teaching_grade(config: CampaignConfig, grade: int) -> int:
    """The grade whose promoted student teaches `grade` (1 or more)."""
    return above(grade, config.schedule.name)


def possible_layers(config: CampaignConfig, lineage: Lineage, plan: GradePlan, ground: Ground) -> tuple[int, ...]:
    """How deep the student may be that a grade of a lineage promotes, rising: its plan's layers, but where that is found while it trains."""
    if plan.section is None:
        return (plan.layers,)
    method = settled_method(config, lineage, plan)
    above = grade_plans(config, ground)[teaching_grade(config, plan.index)]
    return promoted_layers(method, plan.layers, possible_layers(config, lineage, above, ground))


def settled_method(config: CampaignConfig, lineage: Lineage, plan: GradePlan) -> Method:
    """The method of a grade, with what it leaves to the ladder filled in; its values possibly still to be searched."""
    return settled(method_of(lineage, plan), plan.layers, _below(config, plan))


def known_teacher(config: CampaignConfig, plan: GradePlan, ground: Ground) -> str | None:
    """Digest of the teacher of a grade where it was given; None = it is still to be trained."""
    given = ground.given_teacher
    return given.digest if given is not None and plan.index and teaching_grade(config, plan.index) == 0 else None


def learns_from_teacher(lineage: Lineage, plan: GradePlan, parameters: Parameters) -> bool:
    """Whether a trial's result depends on its teacher: it distils from it, or starts from its layers."""
    if plan.section is None:
        return False
    return learns_from_above(method_of(lineage, plan)) or _init(plan.section, parameters) == "teacher"


def trial_config(
    config: CampaignConfig,
    lineage: Lineage,
    plan: GradePlan,
    parameters: Parameters,
    ground: Ground,
    teacher: TeacherReference | None,
    earlier: Sequence[TeacherReference] = (),
) -> TrialConfig:
    """Resolve one trial: nothing is left to defaults or to search.

    Args:
        config: the campaign.
        lineage: the ladder the trial belongs to.
        plan: the grade.
        parameters: the chosen values, by the names that `search.grade_space` gives them.
        ground: dataset and encoder.
        teacher: the promoted checkpoint of the grade above; None for grade 0.
        earlier: those of the grades further up, the nearest first, for methods that take several.

    Raises:
        CapabilityError: the values do not fit the encoder or the teacher.
    """
    method = budgeted(resolved_method(method_of(lineage, plan), parameters), ground.epoch_examples)
    method = settled(method, plan.layers, _below(config, plan))
    shape = _teacher_shape(plan, ground)
    if plan.section is not None:
        shape = _student_shape(config, lineage, plan, method, parameters, ground)
    learns = learns_from_teacher(lineage, plan, parameters)
    if learns and teacher is None:
        raise CapabilityError(
            f"a trial of {plan.folder} without a teacher", expected="the promotion of the grade above it"
        )
    return TrialConfig(
        data=config.data,
        data_fingerprint=ground.dataset_fingerprint,
        encoder=config.encoder,
        encoder_fingerprint=ground.encoder_fingerprint,
        contrastive=config.contrastive,
        training=_training(config, plan, parameters),
        method=placeless(method),
        layers=plan.layers,
        teacher=teacher if learns else None,
        others=others_of(
            method, ground.others, teacher if learns else None, earlier, known_teacher(config, plan, ground)
        ),
        settle_epochs=config.schedule.settle_epochs if learns and config.schedule.name == "pipelined" else None,
        seed=lineage.seed,
        **shape,
    )


def _teacher_shape(plan: GradePlan, ground: Ground) -> dict[str, Any]:
    """Grade 0 learns by the contrastive term alone: without masking, whatever the students' settings are."""
    return {"layer_map": resolve_layer_map("skip", ground.encoder_layers, plan.layers)}


def _student_shape(
    config: CampaignConfig, lineage: Lineage, plan: GradePlan, method: Method, parameters: Parameters, ground: Ground
) -> dict[str, Any]:
    section = plan.section
    assert section is not None
    init = _init(section, parameters)
    sources: tuple[int, ...] = (ground.encoder_layers,)
    if init == "teacher":
        above = grade_plans(config, ground)[teaching_grade(config, plan.index)]
        sources = possible_layers(config, lineage, above, ground)
    rule = parameters.get("layer_map", section.layer_map)
    asked = parameters.get("mask_ratio", section.mask_ratio), parameters.get("view", section.view or config.view)
    mask_ratio, view = applied_masking(method, *asked)
    return {
        "layer_map": _layer_map(rule, sources, plan.layers),
        "init": init,
        "mask_ratio": mask_ratio,
        "view": view,
    }


def _layer_map(rule: Any, sources: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """The layers a student takes of a model that may have several depths; they have to be the same of all."""
    maps = {resolve_layer_map(rule if isinstance(rule, str) else tuple(rule), source, layers) for source in sources}
    if len(maps) > 1:
        raise CapabilityError(
            f"layer map {rule} of a teacher whose depth is found while it trains ({', '.join(map(str, sources))} layers)",
            expected="init pretrained, layer map first, or layers that each of these teachers has",
            consequence="which layers the student begins with would not be known before",
            remedy="set init to pretrained or layer_map to first in this grade",
        )
    return maps.pop()


def _below(config: CampaignConfig, plan: GradePlan) -> int | None:
    """Layers of the next grade down the ladder."""
    return config.grades[plan.index].layers if plan.index < len(config.grades) else None


def _init(section: GradeSection, parameters: Parameters) -> Init:
    chosen: Init = parameters.get("init", section.init)
    return chosen


def _training(config: CampaignConfig, plan: GradePlan, parameters: Parameters) -> TrainingSection:
    section = plan.section if plan.section is not None else config.teacher
    rate = parameters.get("learning_rate", section.learning_rate)
    chosen = {
        "epochs": section.epochs or config.training.epochs,
        "learning_rate": config.training.learning_rate if rate is None else rate,
    }
    try:
        return TrainingSection.model_validate({**config.training.model_dump(), **chosen})
    except ValidationError as problem:
        raise refused(f"training with {chosen}", problem) from None
