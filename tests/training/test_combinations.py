"""Every two methods together, and every method with all that is usually searched: refused with a reason before training, or able to take a step."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from raydistill.config.load import parse_config
from raydistill.config.method_section import SEARCH
from raydistill.config.methods import METHOD_SECTIONS, CombinedSection
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import TrialConfig
from raydistill.errors import CapabilityError, ConfigError
from raydistill.kg.store import Dataset
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.preflight import STAND_IN, _ends, _some_point, preflight
from raydistill.planning.search import grade_space
from raydistill.teachers.views import LiveTeacher
from raydistill.training.building import reshapers_of
from raydistill.training.checkpoint import load_model
from raydistill.training.gather import World
from raydistill.training.methods.registry import assemble, reshaping
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.parts import TrialParts
from raydistill.training.trainer import Trainer

NEEDED: dict[str, dict[str, Any]] = {
    "homodistil": {"width": 12},
    "combined": {"parts": [{"name": "logits"}, {"name": "pkd"}]},
}
"""What a section has no default for."""
ENDS = {"homodistil": {"end": 0.4}}
"""Where a section would otherwise change the student in its last steps only."""
PAIRS = list(itertools.product(METHOD_SECTIONS, repeat=2))
SEARCHED = [name for name in METHOD_SECTIONS if name not in ("none", "combined")]
GROUND = Ground("d", "e", 6, encoder_width=384, encoder_intermediate=1536, encoder_heads=12, num_relations=4)


def written(name: str) -> dict[str, Any]:
    return {"name": name, **NEEDED.get(name, {})}


@pytest.fixture(scope="module", name="base")
def _base(parts_of: Callable[..., TrialParts]) -> TrialParts:
    """Models and texts for all pairs: 20 % masked, a student that begins as its teacher, which is run anew for whatever is asked."""
    return parts_of("pmd", init="teacher", training={"remember_teacher": False})


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_methods_go_together_or_say_why_not(base: TrialParts, dataset: Dataset, first: str, second: str) -> None:
    """A pair that fails at its first step, one of which a part is lost, or a refusal that does not tell what to do."""
    try:
        method = CombinedSection.model_validate({"parts": [written(first), written(second)]})
    except ValidationError as problem:
        [error] = problem.errors()
        assert error["type"] == "value_error"
        assert {first, second} & set(error["msg"].replace(",", "").split())
        assert "expected" in error["msg"]
        return
    config = base.config.model_copy(update={"method": method})
    student = copy.deepcopy(base.student)
    assert isinstance(base.trainer.teacher, LiveTeacher)
    terms = assemble(config, Shapes(Shape.of(student), Shape.of(base.trainer.teacher.model), dataset))
    trainer = Trainer(
        student,
        base.trainer.teacher,
        terms,
        base.trainer.source,
        base.trainer.builder,
        base.optimizer,
        base.trainer.corruption,
        max_gradient_norm=1.0,
        seed=0,
        world=World.alone(),
        reshapers=reshapers_of(config, student, 100),
    )
    batch = trainer.builder.build(next(iter(trainer.source.batches(0))))
    values = trainer.losses(batch, 0)
    assert all(bool(torch.isfinite(value)) for value in values.values())
    assert {name.partition(".")[0] for name in values} == {"ce", first, second}


def refused(method: dict[str, Any]) -> str:
    """Why a method is none of a student that begins as its teacher; empty = it is one."""
    content: dict[str, Any] = {"data": {"path": "d"}, "encoder": {"name": "e"}, "method": method}
    try:
        preflight(parse_config({**content, "grades": [{"layers": 4, "init": "teacher", "mask_ratio": 0.2}]}), GROUND)
    except (ConfigError, CapabilityError) as problem:
        return str(problem)
    return ""


NEVER_PARTS_OF_THEM = {"amd", "boot", "education", "combined", "none", "homodistil", "dq"}
REFUSED = {
    "homodistil": NEVER_PARTS_OF_THEM | {"pmd", "pkd", "distilbert", "self-feature"},
    "dq": NEVER_PARTS_OF_THEM,
}
"""Of a student that becomes narrow those too that compare it with its teacher, or with itself, unit by unit."""
RESHAPED = [(reshaper, name) for reshaper in ("homodistil", "dq") for name in METHOD_SECTIONS]


@pytest.mark.parametrize(("reshaper", "name"), RESHAPED)
def test_students_that_change_their_shape_are_trained_beyond_it(
    trial_config: Callable[..., TrialConfig],
    teacher_checkpoint: Callable[..., Path],
    train: Any,
    tmp_path: Path,
    reshaper: str,
    name: str,
) -> None:
    """A pair that fails where the student has become narrow: after all grades above it, and most of its own steps."""
    parts = [{**written(reshaper), **ENDS.get(reshaper, {})}, written(name)]
    # It softens the first part's labels.
    method = {"name": "combined", "parts": sorted(parts, key=lambda one: str(one["name"]) != "self-feature")}
    refusal = refused(method)
    assert bool(refusal) == (name in REFUSED[reshaper])
    if refusal:
        assert {reshaper, name} & set(re.findall(r"[\w-]+", refusal))
        return
    config = trial_config(method=method, mask_ratio=0.2, init="teacher", teacher=teacher_checkpoint("bert"))
    reports = train(config, tmp_path)
    assert reports[-1].finished
    assert all(math.isfinite(report.metrics["loss"]) for report in reports)
    assert load_model(str(reports[-1].checkpoint)).hidden_size == (12 if reshaper == "homodistil" else 16)


def searched(name: str, layers: tuple[int, int]) -> CampaignConfig:
    method = {**written(name), **dict.fromkeys(METHOD_SECTIONS[name].spaces, SEARCH)}
    # The first layers are the same of every depth that an assistant may have.
    shape = {"init": "teacher", "layer_map": "first", "mask_ratio": 0.1}
    grades = [{"layers": one, **shape} for one in layers]
    return parse_config({"data": {"path": "d"}, "encoder": {"name": "e"}, "grades": grades, "method": method})


@pytest.mark.parametrize("name", SEARCHED)
def test_usual_spaces_can_be_assembled_at_each_of_their_ends(name: str, dataset: Dataset) -> None:
    """A word that stands for values of which a trial fails, when the grades above it are trained."""
    # Three stages have no place in two layers.
    config = searched(name, (4, 3) if name == "education" else (4, 2))
    plans, [lineage] = preflight(config, GROUND), lineages_of(config)
    for teacher, plan in itertools.pairwise(plans):
        space = grade_space(lineage, plan)
        ends = _ends(space)
        assert {key for end in ends for key in end} <= {f"method.{key}" for key in METHOD_SECTIONS[name].spaces}
        shapes = Shapes(Shape(plan.layers, 384, 12), Shape(teacher.layers, 384, 12), dataset)
        for end in ends:
            trial = trial_config(config, lineage, plan, {**_some_point(space), **end}, GROUND, STAND_IN)
            assert assemble(trial, shapes)
            # That of amd reads its teacher's size from the checkpoint.
            if name != "amd":
                reshaping(trial, shapes.student, 100)


def test_three_stages_are_refused_for_two_layers() -> None:
    """The one usual space that is not for every student."""
    with pytest.raises(CapabilityError, match=r"grade 2-layers2: .*stages is 3, and the student has 2 layers"):
        preflight(searched("education", (4, 2)), GROUND)
    assert [plan.layers for plan in grade_plans(searched("education", (4, 2)), GROUND)] == [6, 4, 2]
