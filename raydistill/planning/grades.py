"""The ladder: which lineages a campaign runs, which grades each climbs down, and what one trial of a grade is once every value is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raydistill.config.baselines import NoneSection
from raydistill.config.methods import Method, has_teacher, label_of, sees_masks
from raydistill.config.schema import CampaignConfig, GradeSection
from raydistill.config.space import Init, View
from raydistill.config.training import TrainingSection
from raydistill.config.trial import TeacherReference, TrialConfig
from raydistill.errors import CapabilityError
from raydistill.planning.method_values import refused, resolved_method
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
class Ground:
    """What a campaign stands on, found out before anything is trained.

    Attributes:
        dataset_fingerprint: SHA-256 of the dataset's content.
        encoder_fingerprint: SHA-256 of the pre-trained weights and tokenizer files.
        encoder_layers: depth of the pre-trained encoder.
        given_teacher: the checkpoint named by `teacher.checkpoint`, or None when the teacher is trained.
        given_teacher_layers: its depth.
        encoder_width: hidden units of the pre-trained encoder; None where that is not known, as in what follows.
        encoder_intermediate: units of its feed-forward layers.
        encoder_heads: of its attention, and of that of every model made of it.
        given_teacher_width: hidden units of the given teacher.
        given_teacher_intermediate: units of its feed-forward layers.
    """

    dataset_fingerprint: str
    encoder_fingerprint: str
    encoder_layers: int
    given_teacher: TeacherReference | None = None
    given_teacher_layers: int | None = None
    encoder_width: int | None = None
    encoder_intermediate: int | None = None
    encoder_heads: int | None = None
    given_teacher_width: int | None = None
    given_teacher_intermediate: int | None = None


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


def learns_from_teacher(lineage: Lineage, plan: GradePlan, parameters: Parameters) -> bool:
    """Whether a trial's result depends on its teacher: it distils from it, or starts from its layers."""
    if plan.section is None:
        return False
    return has_teacher(method_of(lineage, plan)) or _init(plan.section, parameters) == "teacher"


def trial_config(
    config: CampaignConfig,
    lineage: Lineage,
    plan: GradePlan,
    parameters: Parameters,
    ground: Ground,
    teacher: TeacherReference | None,
) -> TrialConfig:
    """Resolve one trial: nothing is left to defaults or to search.

    Args:
        config: the campaign.
        lineage: the ladder the trial belongs to.
        plan: the grade.
        parameters: the chosen values, by the names that `search.grade_space` gives them.
        ground: dataset and encoder.
        teacher: the promoted checkpoint of the grade above; None for grade 0.

    Raises:
        CapabilityError: the values do not fit the encoder or the teacher.
    """
    method = resolved_method(method_of(lineage, plan), parameters)
    shape = _teacher_shape(plan, ground)
    if plan.section is not None:
        shape = _student_shape(config, plan, method, parameters, ground)
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
        method=method,
        layers=plan.layers,
        teacher=teacher if learns else None,
        settle_epochs=config.schedule.settle_epochs if learns and config.schedule.name == "pipelined" else None,
        seed=lineage.seed,
        **shape,
    )


def _teacher_shape(plan: GradePlan, ground: Ground) -> dict[str, Any]:
    """Grade 0 learns by the contrastive term alone: without masking, whatever the students' settings are."""
    return {"layer_map": resolve_layer_map("skip", ground.encoder_layers, plan.layers)}


def applied_masking(method: Method, mask_ratio: float, view: View) -> tuple[float, View]:
    """The mask ratio and view that change anything: where no term looks at masked texts nothing is masked, and then the views are one.

    So two points of a search that ask for the same work are the same trial, and reports name no ratio that was never applied.
    """
    if mask_ratio == 0 or (view == "separate" and not sees_masks(method)):
        return 0.0, "separate"
    return mask_ratio, view


def _student_shape(
    config: CampaignConfig, plan: GradePlan, method: Method, parameters: Parameters, ground: Ground
) -> dict[str, Any]:
    section = plan.section
    assert section is not None
    init = _init(section, parameters)
    if init == "pretrained":
        source = ground.encoder_layers
    else:
        source = grade_plans(config, ground)[teaching_grade(config, plan.index)].layers
    rule = parameters.get("layer_map", section.layer_map)
    asked = parameters.get("mask_ratio", section.mask_ratio), parameters.get("view", section.view or config.view)
    mask_ratio, view = applied_masking(method, *asked)
    return {
        "layer_map": resolve_layer_map(rule if isinstance(rule, str) else tuple(rule), source, plan.layers),
        "init": init,
        "mask_ratio": mask_ratio,
        "view": view,
    }


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
