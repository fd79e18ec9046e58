from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.config.trial import TrialConfig
from raydistill.training.checkpoint import read_record
from raydistill.training.gather import SharedGradients, World
from raydistill.training.standing import BYTES

sys.path.insert(0, str(Path(__file__).parent))
from worker import RANK, SMALL_STEPS, rank_split, run_workers, take_steps

CACHED = {**SMALL_STEPS, "gradient_cache": "always"}
JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "pmd, separate view": ("pmd", {"view": "separate"}),
    "pmd, shared view": ("pmd", {"view": "shared"}),
    "pmd, reference": ("pmd-reference", {"view": "separate"}),
    "pkd": ("pkd", {"layers": 3}),
    "tinybert": ("tinybert", {}),
    "distilbert": ("distilbert", {}),
    "mgsr": ("mgsr", {}),
    "gradient cache, mgsr, drawn": ("mgsr, drawn", {"training": CACHED}),
    "dkd": ("dkd", {}),
    "education": ("education", {"layers": 3}),
    "education, shared towers": ("education", {"encoder": {"shared_towers": True}}),
    "education, a teacher for each part": ("education, a teacher for each part", {}),
    "self-feature": ("self-feature", {"contrastive": {"self_negatives": True}}),
    "boot": ("boot", {}),
    "gradient cache, boot, text-free": ("boot-random", {"training": CACHED}),
    "assistants": ("amd", {"layers": 3, "contrastive": {"self_negatives": True}}),
    "gradient cache, assistants": ("amd", {"layers": 3, "training": CACHED}),
    "gradient cache, assistants of two widths": ("amd, narrower", {"layers": 3, "training": CACHED}),
    "assistants, a worker without a text": (
        "amd",
        {
            "training": {**SMALL_STEPS, "batch_size": 2},
            "contrastive": {"train_temperature": False, "self_negatives": True},
        },
    ),
    "dq": ("dq", {}),
    "gradient cache, dq": ("dq-ternary", {"training": CACHED}),
    "reinforced": ("reinforced", {}),
    "reinforced, structural": ("reinforced, structural", {}),
    "gradient cache, reinforced": ("reinforced", {"training": CACHED}),
    "homodistil": ("homodistil", {"layers": 3}),
    "homodistil, compacted": ("homodistil at once", {}),
    "gradient cache, homodistil, compacted": ("homodistil at once", {"training": CACHED}),
    "reinforced, waiting": ("reinforced, warmed up", {}),
    "gradient cache, minilmv2": ("minilmv2", {"training": CACHED}),
    "gradient cache, mgsr": ("mgsr", {"training": CACHED}),
    "minilm, two examples": ("minilm", {"training": {**SMALL_STEPS, "batch_size": 2}}),
    "gradient cache, tinybert": ("tinybert", {"training": CACHED}),
    "gradient cache, tinybert, teacher run in every step": ("tinybert", {"training": {**CACHED, "remember_states": 0}}),
    "kl, roberta": ("kl", {"encoder": {"kind": "roberta"}}),
    "self-negatives and pre-batch": ("none", {"contrastive": {"self_negatives": True, "pre_batch": 2}}),
    "shared towers": ("pmd", {"encoder": {"shared_towers": True}, "view": "separate"}),
    "two examples": ("pmd", {"training": {**SMALL_STEPS, "batch_size": 2}, "view": "separate"}),
    "gradient cache, separate view": ("pmd", {"training": CACHED, "view": "separate"}),
    "gradient cache, shared view": ("pmd-reference", {"training": CACHED, "view": "shared"}),
    "three methods in one": ("pmd+tinybert", {"view": "separate"}),
    "gradient cache, pkd": ("pkd", {"training": CACHED, "layers": 3}),
    "gradient cache, self-negatives and pre-batch": (
        "none",
        {"training": CACHED, "contrastive": {"self_negatives": True, "pre_batch": 2}},
    ),
    "gradient cache, a worker without a text": (
        "none",
        {
            "training": {**CACHED, "batch_size": 2},
            "contrastive": {"train_temperature": False, "self_negatives": True},
        },
    ),
    "frozen temperature": (
        "none",
        {
            "training": {**SMALL_STEPS, "batch_size": 2},
            "contrastive": {"train_temperature": False, "self_negatives": True},
        },
    ),
}


def test_every_method_is_here(methods: dict[str, dict[str, Any]]) -> None:
    """A new method that was never trained by more than one worker."""
    assert {methods[method]["name"] for method, _ in JOBS.values()} == METHOD_SECTIONS.keys()


@pytest.fixture(scope="module")
def configs(config_of: Callable[..., TrialConfig]) -> dict[str, TrialConfig]:
    """The trials that one and two workers train alike."""
    return {name: config_of(method, **{"training": SMALL_STEPS, **changes}) for name, (method, changes) in JOBS.items()}


@pytest.fixture(scope="module")
def outcomes(configs: dict[str, TrialConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Per trial what rank 0 and rank 1 of two workers found; one pair of processes for all trials."""
    found = run_workers(tmp_path_factory.mktemp("workers"), [(config, 2, {}) for config in configs.values()], 2)
    return {name: [rank[number] for rank in found] for number, name in enumerate(configs)}


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_workers_equal_one_worker_with_the_whole_batch(
    configs: dict[str, TrialConfig], outcomes: dict[str, list[Any]], name: str
) -> None:
    """Gradients halved, doubled or of half the negatives; means of means where masks differ; workers that drift apart."""
    config = configs[name]
    plain = config.model_copy(update={"training": config.training.model_copy(update={"gradient_cache": "never"})})
    alone = take_steps(plain, 2, World.alone())
    for rank in outcomes[name]:
        for one, two in zip(alone["gradients"], rank["gradients"], strict=True):
            assert one.keys() == two.keys()
            assert max(gradient.abs().max() for gradient in one.values()) > 1e-2
            for parameter, gradient in one.items():
                torch.testing.assert_close(two[parameter], gradient, atol=1e-5, rtol=1e-4)
        for key, value in alone["averages"].items():
            if key not in ("seconds", "examples_per_second"):
                assert rank["averages"][key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    first, second = (rank["weights"] for rank in outcomes[name])
    assert all(torch.equal(tensor, second[parameter]) for parameter, tensor in first.items())


@pytest.mark.slow
def test_workers_of_a_trial_report_together_and_resume_together(
    config_of: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    """Workers that wait for each other for ever, two that write one checkpoint, or one that resumes alone."""
    config = config_of("pmd", training={"epochs": 2, "checkpoint_steps": 1}, view="separate")
    [first], [second] = run_workers(tmp_path, [(config, 0, {})], 2)
    assert [report["epoch"] for report in first] == [report["epoch"] for report in second] == [1, 2]
    assert [report["finished"] for report in second] == [False, True]
    assert all(report["checkpoint"] is None and report["digest"] is None for report in second)
    assert all(Path(report["checkpoint"]).is_dir() for report in first)
    (tmp_path / "meeting").unlink(missing_ok=True)
    [again], [too] = run_workers(tmp_path, [(config, 0, {})], 2)
    assert [report["epoch"] for report in again] == [report["epoch"] for report in too] == [2]
    assert again[0]["digest"] == first[-1]["digest"]


@pytest.mark.slow
def test_workers_choose_one_assistant_together(config_of: Callable[..., TrialConfig], tmp_path: Path) -> None:
    """Workers that end with different layers, or that wait for each other for ever when one of them asks for the teacher."""
    config = config_of("amd", layers=3, training={"epochs": 1})
    [[report]], [[other]] = run_workers(tmp_path, [(config, 0, {})], 2)
    # The first worker alone writes checkpoints.
    assert report["metrics"][BYTES] == read_record(report["checkpoint"])["bytes"]
    own = ("seconds", "examples_per_second", BYTES)
    first, second = ({key: one["metrics"][key] for key in one["metrics"] if key not in own} for one in (report, other))
    assert first == second
    record = read_record(report["checkpoint"])
    assert record["metrics"]["valid/both/mrr"] == first[f"valid/layers{record['layers']}/mrr"]


@pytest.mark.slow
def test_workers_rank_together_as_one_alone(config_of: Callable[..., TrialConfig], tmp_path: Path) -> None:
    """A checkpoint that is chosen by other metrics on three machines than on one; a worker without a text that hangs the rest."""
    configs = [config_of("none", training={"tokens_per_micro_batch": tokens}) for tokens in (64, 16384)]
    found = run_workers(tmp_path, [(config, RANK, {}) for config in configs], 3)
    for config, *ranked in zip(configs, *found, strict=True):
        alone = rank_split(config, World.alone())
        for one in ranked:
            assert torch.equal(one["ranks"], alone["ranks"])
            assert one["metrics"] == alone["metrics"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_shares_divide_all_texts_evenly_by_tokens(size: int) -> None:
    """A text encoded by nobody or twice, or a worker that gets all the long ones while the others wait."""
    lengths = torch.randint(3, 51, (203,), generator=torch.Generator().manual_seed(size))
    shares = [World(rank, size).share(lengths) for rank in range(size)]
    assert sorted(torch.cat([share.mine for share in shares]).tolist()) == list(range(203))
    tokens = [int(lengths[share.mine].sum()) for share in shares]
    assert max(tokens) - min(tokens) <= 60
    for share in shares:
        assert all(torch.equal(mine, other) for mine, other in zip(share.positions, shares[0].positions, strict=True))


def test_world_without_process_group_is_one_worker() -> None:
    """A trial on one machine that waits for workers which do not exist."""
    assert World.from_process_group() == World.alone() == World(0, 1)
    tensors = [torch.ones(2), torch.zeros(3)]
    assert World.alone().mean(tensors) == tensors
    assert World.alone().total(tensors[0]) is tensors[0]
    World(careful=True).agree_to_go_on(well=False)
    World.alone().barrier()


def test_shared_gradients_equal_the_mean_of_gradients_that_lie_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient in another one's place, what is left of an earlier step or of a failed attempt, or an exchange after one that failed."""
    model = nn.ModuleList([nn.Linear(5, 3), nn.LayerNorm(17), nn.Linear(3, 16, bias=False), nn.Linear(2, 2)])
    parameters, world, exchanges = list(model.parameters()), World(0, 2), list[int]()

    def all_reduce(tensor: torch.Tensor) -> None:
        """As if the other worker's gradients were three times this one's."""
        exchanges.append(tensor.numel())
        tensor.mul_(4)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo")
    shared, places = SharedGradients(world, parameters), list[list[int]]()

    def fails(loss: Callable[[], torch.Tensor]) -> None:
        with shared.averaged():
            loss().backward()
            raise MemoryError

    for step in range(3):
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))

        def loss(inputs: torch.Tensor = inputs) -> torch.Tensor:
            hidden = model[0](inputs)
            # The last layer has no part in it.
            return (model[1](torch.cat([model[2](hidden), hidden[:, :1]], dim=1)) ** 3).sum()

        plain = torch.autograd.grad(loss(), parameters[:-2])
        expected = [*world.mean(plain), *map(torch.zeros_like, parameters[-2:])]
        exchanges.clear()
        with pytest.raises(MemoryError):
            fails(loss)
        assert not exchanges
        with shared.averaged():
            loss().backward()
        assert len(exchanges) == 1
        gradients = [parameter.grad for parameter in parameters]
        for gradient, mean in zip(gradients, expected, strict=True):
            assert gradient is not None
            assert torch.equal(gradient, mean)
        places.append([gradient.data_ptr() for gradient in gradients if gradient is not None])
        model.zero_grad(set_to_none=True)
    assert places[0] == places[1] == places[2]
    assert all(place % 64 == places[0][0] % 64 for place in places[0])


def test_gradients_of_one_worker_lie_where_autograd_puts_them() -> None:
    """A trial of one worker that pays for what several need."""
    layer = nn.Linear(2, 2)
    with SharedGradients(World.alone(), layer.parameters()).averaged():
        assert layer.weight.grad is None
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, torch.ones(2, 2))
