from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raydistill.config.trial import TrialConfig
from raydistill.data.batches import TripleBatch
from raydistill.errors import CapabilityError, CheckpointError
from raydistill.kg.store import Dataset
from raydistill.training.checkpoint import load_model, newest_first, read_record
from raydistill.training.evaluate import evaluate_checkpoint, open_checkpoint
from raydistill.training.gather import World
from raydistill.training.keeping import CheckpointKeeper
from raydistill.training.methods.registry import assemble, reshaping
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.parts import TrialParts, build_parts
from raydistill.training.resumption import agreed_newest
from raydistill.training.trial import EpochReport

Config = Callable[..., TrialConfig]
Make = Callable[..., TrialParts]
Train = Callable[..., list[EpochReport]]
WHOLE = {"layers": 4, "layer_map": (0, 1, 2, 3)}
"""As deep as its teacher. Three steps per epoch; of METHODS, homodistil goes from 16 units and 32 to 12 and 24, in half of all steps."""
FOUR = {"epochs": 4}


def first_batch(parts: TrialParts) -> TripleBatch:
    return parts.trainer.builder.build(next(parts.trainer.source.batches(0)))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("name", ["homodistil", "homodistil+tinybert"])
def test_distillation_terms_are_exactly_zero_at_first(parts_of: Make, name: str, kind: str) -> None:
    """A student that does not start as its teacher, or is compared with other layers than its own: the property that the method is about."""
    parts = parts_of(name, **WHOLE, encoder={"kind": kind})
    values = {key: value.item() for key, value in parts.trainer.losses(first_batch(parts), 0).items()}
    own = {key: value for key, value in values.items() if "tinybert" not in key}
    ce = own.pop("ce")
    assert ce > 0
    assert {key.removeprefix("homodistil."): value for key, value in own.items()} == {
        "kl": 0.0,
        "hidden": 0.0,
        "attention": 0.0,
    }


def test_student_layers_are_held_to_those_they_began_as(config_of: Config) -> None:
    """Layers that are held to others by a rule of another method."""
    config = config_of("homodistil", layers=2, layer_map=(0, 3))
    found = {term.name: term for term in assemble(config, Shapes(Shape(2, 16, 2), Shape(4, 16, 2)))}
    assert found.keys() == {"ce", "kl", "hidden", "attention"}
    assert (found["hidden"].student_layers, found["hidden"].teacher_layers) == ((0, 1), (0, 3))  # type: ignore[attr-defined]
    assert (found["attention"].student_layers, found["attention"].teacher_layers) == ((0, 1), (0, 3))  # type: ignore[attr-defined]
    assert len(found["hidden"].projections) == 2  # type: ignore[attr-defined]


def test_student_of_other_beginnings_or_kinds_is_refused(config_of: Config, trial_config: Config) -> None:
    """A gap from the first step on; or an encoder whose parts nobody knows, found out inside of pruning."""
    pretrained = trial_config(method={"name": "homodistil", "width": 8})
    with pytest.raises(CapabilityError, match="starts from the pre-trained encoder") as caught:
        assemble(pretrained, Shapes(Shape(2, 16, 2), Shape(4, 16, 2)))
    assert "init: teacher" in caught.value.remedy
    config = config_of("homodistil")
    with pytest.raises(CapabilityError, match="cannot be had"):
        reshaping(config, Shape(2, 16, 2, opens=False), 10)
    with pytest.raises(CapabilityError, match="2 heads, its teacher 4"):
        assemble(config, Shapes(Shape(2, 16, 2), Shape(4, 16, 4)))


def test_moments_follow_the_index_map(parts_of: Make) -> None:
    """Moments of other units under the weights that are left, or none: training that begins anew unnoticed."""
    parts = parts_of("homodistil+tinybert", layers=2, training=FOUR)
    optimizer, structure = parts.optimizer, parts.trainer.structure
    taken: dict[str, torch.Tensor] = {}
    kept: dict[str, Any] = {}
    follow = optimizer.follow

    def look(change: Any) -> None:
        taken.update(optimizer.tensors())
        kept.update(change.kept)
        follow(change)
        after = optimizer.tensors()
        assert after.keys() == taken.keys()
        for key, before in taken.items():
            moment, _, name = key.partition(".")
            expected = before
            if moment != "step":
                for dimension, places in enumerate(kept.get(name, ())):
                    expected = expected if places is None else expected.index_select(dimension, places)
            assert torch.equal(after[key], expected), key
            assert moment == "step" or after[key].shape == dict(optimizer.named)[name].shape

    optimizer.follow = look  # type: ignore[method-assign]
    assert not structure.complete
    for _ in range(3):
        list(parts.trainer.run_epoch())
    assert structure.complete
    trained = {name for name, _ in optimizer.named}
    assert {"own.homodistil.hidden.0.weight", "own.homodistil.hidden.1.weight", "own.tinybert.hidden.weight"} < trained
    assert kept["own.homodistil.hidden.0.weight"][0] is None
    places = kept["own.homodistil.hidden.0.weight"][1]
    assert torch.equal(places, kept["query_encoder.embeddings.LayerNorm.weight"][0])
    assert kept.keys() >= trained - {"log_inverse_temperature"}


def test_losses_do_not_jump_when_the_student_is_made_small(parts_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A term that follows with the wrong units, or scores of another scale."""
    parts = parts_of("homodistil+tinybert", layers=3, training=FOUR, encoder={"dropout": 0.0})
    trainer, seen = parts.trainer, list[dict[str, float]]()
    structure = trainer.structure
    [pruning] = structure.reshapers
    small, follow = pruning._compact, type(structure)._follow  # type: ignore[attr-defined]
    batch = first_batch(parts)

    def values() -> dict[str, float]:
        with torch.no_grad():
            return {name: value.item() for name, value in trainer.losses(batch, 99).items()}

    def before(student: Any) -> Any:
        seen.append(values())
        return small(student)

    def after(self: Any, change: Any) -> None:
        follow(self, change)
        seen.append(values())

    monkeypatch.setattr(pruning, "_compact", before)
    monkeypatch.setattr(type(structure), "_follow", after)
    for _ in range(3):
        list(trainer.run_epoch())
    masked, compacted = seen
    assert compacted == pytest.approx(masked, rel=1e-4, abs=1e-5)
    assert all(value > 0 for value in masked.values())


def test_unfinished_student_is_no_model_and_is_not_promoted(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A student that is promoted half pruned: under ordinary LayerNorms it is another model than the one that was measured."""
    config = config_of("homodistil", training={**FOUR, "keep_checkpoints": 9})
    reports = train(config, tmp_path)
    assert [f"{prefix}valid/both/mrr" in report.metrics for report in reports for prefix in ("", "unfinished/")] == [
        False, True, True, False, True, False, True, False,
    ]  # fmt: skip
    complete = {
        path.name: read_record(path)["reshaping"][0]["complete"] for path in newest_first(tmp_path / "checkpoints")
    }
    # The first epoch's is neither the best nor among the newest: it has no MRR.
    keeper = CheckpointKeeper(tmp_path / "checkpoints", keep=9, writes=False)
    keeper.resume(build_parts(config, World.alone()), agreed_newest(keeper.directory, World.alone()))
    best = keeper.best()
    assert best is not None
    assert complete[best]


def test_unfinished_checkpoint_is_refused(config_of: Config, interrupt: Callable[..., None], tmp_path: Path) -> None:
    """Weights of which some are zero, read as a model."""
    interrupt(config_of("homodistil", training={"epochs": 8}), tmp_path, 4)
    [path] = newest_first(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="shape was changing"):
        load_model(path)
    record = read_record(path)["reshaping"][0]
    assert (record["name"], record["complete"], record["compacted"]) == ("pruning", False, False)
    assert 12 < record["units"]["width"] < 16


@pytest.fixture(scope="module")
def narrow(
    config_of: Config, train: Train, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list[EpochReport]]]:
    """A checkpoint of a student of 12 units, and what was reported of it."""
    made: dict[str, tuple[Path, list[EpochReport]]] = {}

    def make(kind: str = "bert") -> tuple[Path, list[EpochReport]]:
        if kind not in made:
            config = config_of("homodistil", layers=3, encoder={"kind": kind}, training={"epochs": 3})
            reports = train(config, tmp_path_factory.mktemp("narrow"))
            made[kind] = Path(str(reports[-1].checkpoint)), reports
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_checkpoint_loads_with_transformers_and_gives_the_same_states(
    narrow: Callable[[str], tuple[Path, list[EpochReport]]], kind: str
) -> None:
    """A config that says other sizes than its weights have, or weights that only our own classes read."""
    from transformers import AutoModel

    path, _ = narrow(kind)
    model = load_model(path)
    for name in ("query_encoder", "entity_encoder"):
        loaded, info = AutoModel.from_pretrained(path / name, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]
        config = loaded.config
        assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (12, 24, 2)
        tokens = torch.tensor([[5, 9, 12, 7]])
        with torch.no_grad():
            theirs = loaded.eval()(input_ids=tokens).last_hidden_state
            ours = getattr(model, name)(input_ids=tokens).last_hidden_state
        torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_entity_vectors_have_the_smaller_width(
    narrow: Callable[[str], tuple[Path, list[EpochReport]]], dataset_folder: Path
) -> None:
    """An index that is as large as before; a checkpoint that is evaluated as another model than the one that was trained."""
    path, reports = narrow("bert")
    model, assembler = open_checkpoint(path, Dataset.load(dataset_folder))
    assert model.encode(assembler.entity_texts(np.arange(8)), "entity").vectors.shape == (8, 12)
    assert read_record(path)["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    metrics = evaluate_checkpoint(path, dataset_folder, split="valid").metrics
    assert metrics["valid/both/mrr"] == pytest.approx(reports[-1].metrics["valid/both/mrr"], abs=1e-6)


BELOW: dict[str, tuple[str, dict[str, Any]]] = {
    "from the narrow one, homodistil": ("homodistil-8", {"init": "teacher"}),
    "from the narrow one, pmd": ("pmd", {"init": "teacher"}),
    "from the narrow one, pkd": ("pkd", {"init": "teacher"}),
    "wider, kl": ("kl", {}),
    "wider, dkd": ("dkd", {}),
    "wider, tinybert": ("tinybert", {}),
    "wider, minilm": ("minilm", {}),
    "wider, mgsr": ("mgsr", {}),
}


@pytest.mark.parametrize("name", BELOW)
def test_narrow_student_teaches(
    config_of: Config, narrow: Callable[[str], tuple[Path, list[EpochReport]]], train: Train, tmp_path: Path, name: str
) -> None:
    """A ladder that ends below its first pruned grade."""
    path, _ = narrow("bert")
    method, changes = BELOW[name]
    config = config_of(method.removesuffix("-8"), teacher=path, layers=2, training={"epochs": 2}, **changes)
    if method.endswith("-8"):
        config = config.model_copy(update={"method": config.method.model_copy(update={"width": 8, "end": 0.3})})
    *_, last = train(config, tmp_path)
    width = {"homodistil-8": 8}.get(method, 12 if changes else 16)
    assert load_model(str(last.checkpoint)).hidden_size == width
    assert 0 < last.metrics["valid/both/mrr"] <= 1


def test_vectors_of_earlier_batches_become_narrow(parts_of: Make) -> None:
    """A product of queries of 12 units with kept negatives of 16."""
    parts = parts_of("homodistil", contrastive={"pre_batch": 2, "self_negatives": True}, training=FOUR)
    for _ in range(4):
        list(parts.trainer.run_epoch())
    assert parts.student.hidden_size == 12
    assert [vectors.shape[1] for vectors in parts.trainer.pre_batch.vectors] == [12, 12]
