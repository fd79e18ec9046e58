from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raydistill.config.load import parse_config
from raydistill.config.trial import TeacherReference
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_encoder
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground
from raydistill.planning.records import Promotion
from raydistill.planning.schedule import teacher_of
from raydistill.planning.state import CampaignState
from raydistill.students.build import build_model, take_layers
from raydistill.students.layers import resolve_layer_map

SETTINGS: dict[str, Any] = {
    "pooling": "mean",
    "temperature": 0.05,
    "train_temperature": True,
    "tokens_per_micro_batch": 1024,
    "precision": "fp32",
}
MAPS = [(0, 1, 2, 3), (1, 3), (0, 2, 3), (2,)]


@pytest.fixture(params=["bert", "roberta"])
def source(request: pytest.FixtureRequest, encoder_folder: Callable[..., Path]) -> nn.Module:
    """A tiny encoder of four layers."""
    return load_encoder(encoder_folder(request.param))


def layer_state(encoder: nn.Module, layer: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = encoder.encoder.layer[layer].state_dict()  # type: ignore[union-attr, index, operator]
    return state


@pytest.mark.parametrize("layer_map", MAPS)
def test_student_layer_is_bit_equal_to_the_source_layer_of_the_map(
    source: nn.Module, layer_map: tuple[int, ...]
) -> None:
    """T7. A student that starts from other layers than the map names, or from none."""
    student = take_layers(source, layer_map)
    assert student.config.num_hidden_layers == len(layer_map)  # type: ignore[union-attr]
    assert len(student.encoder.layer) == len(layer_map)  # type: ignore[union-attr, arg-type]
    for number, layer in enumerate(layer_map):
        mine, theirs = layer_state(student, number), layer_state(source, layer)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    for name, tensor in student.state_dict().items():
        if ".layer." not in name:
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_taking_layers_leaves_the_source_whole(source: nn.Module) -> None:
    """A teacher that loses its layers to its student, or is trained with it."""
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    student = take_layers(source, (1, 3))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    after = source.state_dict()
    assert source.config.num_hidden_layers == 4  # type: ignore[union-attr]
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_student_computes_what_the_named_layers_compute(source: nn.Module) -> None:
    """Layers that are there but run in another order, or twice."""
    tokens = torch.tensor([[5, 9, 20, 31, 6]])
    embedded = source.embeddings(tokens)  # type: ignore[operator]
    expected = embedded
    for layer in (1, 3):
        output = source.encoder.layer[layer](expected)  # type: ignore[union-attr, index, operator]
        expected = output if isinstance(output, torch.Tensor) else output[0]
    actual = take_layers(source, (1, 3))(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_towers_are_apart_unless_shared(source: nn.Module) -> None:
    """Two towers that are one object, or shared towers that are two."""
    apart = build_model(source, source, (0, 3), shared_towers=False, **SETTINGS)
    mine = {id(parameter) for parameter in apart.query_encoder.parameters()}
    assert not mine & {id(parameter) for parameter in apart.entity_encoder.parameters()}
    assert build_model(source, source, (0, 3), shared_towers=True, **SETTINGS).shared_towers


def test_each_tower_comes_from_its_own_source(source: nn.Module) -> None:
    """A student whose entity tower starts from the teacher's query tower."""
    other = take_layers(source, (0, 1, 2, 3))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.5
    model = build_model(source, other, (1, 2), shared_towers=False, **SETTINGS)
    for tower, origin in ((model.query_encoder, source), (model.entity_encoder, other)):
        assert all(torch.equal(t, layer_state(origin, 2)[n]) for n, t in layer_state(tower, 1).items())


def test_poolers_are_not_trained(source: nn.Module) -> None:
    """Weight decay that shrinks a pooler no loss ever reaches, so that it differs between runs of different length."""
    model = build_model(source, source, (0,), shared_towers=False, **SETTINGS)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if "pooler" in name]
    assert len(trained) == len(dict(model.named_parameters())) - 4


@pytest.mark.parametrize("rate", [None, 0.0, 0.3])
def test_dropout_is_the_encoders_own_unless_asked(encoder_folder: Callable[..., Path], rate: float | None) -> None:
    """A student trained with another regularisation than the configuration says."""
    origin = load_encoder(encoder_folder("bert", dropout=0.1))
    model = build_model(origin, origin, (0, 2), shared_towers=False, **SETTINGS, dropout=rate)
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.1 if rate is None else rate}
    assert {module.p for module in origin.modules() if isinstance(module, nn.Dropout)} == {0.1}


PUBLISHED = {12: 218_964_480, 9: 176_437_248, 6: 133_910_016, 3: 91_382_784}


def test_plan_of_the_paper_makes_models_of_the_published_sizes() -> None:
    """T6. Teachers and students of other depths than 12, 9, 6, 3, or parameters counted without poolers, vocabulary or a tower."""
    from transformers import BertConfig, BertModel

    campaign = parse_config(
        {
            "data": {"path": "nowhere"},
            "encoder": {"name": "nobody"},
            "grades": [
                {"layers": 12, "mask_ratio": 0.2},
                {"layers": 9, "mask_ratio": 0.1},
                {"layers": 6, "mask_ratio": 0.05},
                {"layers": 3, "mask_ratio": 0.0},
            ],
        }
    )
    ground = Ground(dataset_fingerprint="d", encoder_fingerprint="e", encoder_layers=12)
    plans = grade_plans(campaign, ground)
    assert [plan.layers for plan in plans] == [12, 12, 9, 6, 3]
    [lineage] = lineages_of(campaign)
    promoted = {
        (lineage.name, plan.index): Promotion(lineage.name, plan.index, "a", "/a", "a", 1, {}) for plan in plans
    }
    teachers = [
        teacher_of(CampaignState(promotions=promoted), lineage.name, plan.index, "sequential") for plan in plans
    ]
    assert [None if one is None else plans[one.grade].layers for one in teachers] == [None, 12, 12, 9, 6]
    with torch.device("meta"):
        base = BertModel(BertConfig())
    above = TeacherReference(path="above", digest="0")
    for plan in plans:
        trial = trial_config(campaign, lineage, plan, {}, ground, None if plan.index == 0 else above)
        assert trial.layer_map == resolve_layer_map("skip", 12, plan.layers)
        model = build_model(base, base, trial.layer_map, shared_towers=False, **SETTINGS)
        assert count(model) == PUBLISHED[plan.layers] + 1
    assert round(100 * (1 - PUBLISHED[3] / PUBLISHED[12]), 1) == 58.3


def count(model: BiEncoder) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
