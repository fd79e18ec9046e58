from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.config.trial import TrialConfig
from raydistill.errors import CheckpointError, NonFiniteLossError, RunDirectoryError
from raydistill.training.checkpoint import newest_good
from raydistill.training.gather import World
from raydistill.training.manifest import verify_checkpoint
from raydistill.training.methods.registry import assemble
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.terms.features import MaskedFeatureTerm
from raydistill.training.trial import EpochReport, run_trial

Config = Callable[..., TrialConfig]
Train = Callable[..., list[EpochReport]]
Interrupt = Callable[..., None]
DROPOUT = {"dropout": 0.1}
THREE = {"epochs": 3, "checkpoint_steps": 2, "batch_size": 5}
"""Four steps per epoch; checkpoints after the second step of each and at its end."""
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("none", {}),
    "dropout": ("pmd", {"encoder": DROPOUT, "view": "separate"}),
    "shared view": ("pmd", {"encoder": DROPOUT, "view": "shared"}),
    "pre-batch": ("none", {"encoder": DROPOUT, "contrastive": {"pre_batch": 3, "self_negatives": True}}),
    "shared towers": ("pkd", {"encoder": {**DROPOUT, "shared_towers": True}}),
    "whole vocabulary": ("pmd", {"encoder": DROPOUT, "training": {**THREE, "trim_vocabulary": False}}),
    "from the teacher": ("kl", {"encoder": DROPOUT, "init": "teacher"}),
    "roberta": ("pmd-reference", {"encoder": {**DROPOUT, "kind": "roberta"}}),
    "projection": ("tinybert", {"encoder": DROPOUT}),
    "directions": ("distilbert", {"encoder": DROPOUT}),
    "eight bits": ("dq", {"encoder": DROPOUT}),
    "ternary": ("dq-ternary", {"encoder": {**DROPOUT, "shared_towers": True}, "init": "teacher"}),
    "warming up": ("dkd", {"encoder": DROPOUT}),
    "relations": ("minilm", {"encoder": DROPOUT}),
    "relations of a teacher that is run in every step": (
        "minilm",
        {"encoder": DROPOUT, "training": {**THREE, "remember_states": 0}},
    ),
    "relations of as many heads as one likes": ("minilmv2", {"encoder": DROPOUT}),
    "learned bounds": ("mgsr", {"encoder": DROPOUT}),
    "lists by chance": ("mgsr, drawn", {"encoder": DROPOUT}),
    "memory and ramps": ("self-feature", {"encoder": DROPOUT}),
    "times and random texts": ("boot-random", {"encoder": DROPOUT}),
    "growing": ("education", {"encoder": DROPOUT}),
    "growing from the teacher": ("education", {"encoder": DROPOUT, "init": "teacher"}),
    "assistants": ("amd", {"encoder": DROPOUT, "layers": 3}),
    "assistants of two widths": ("amd, narrower", {"encoder": DROPOUT, "layers": 3}),
    "policy": ("reinforced", {"encoder": DROPOUT}),
    "policy over another kind of teacher": ("reinforced, structural", {"encoder": DROPOUT}),
    "pruned": ("homodistil", {"encoder": DROPOUT, "contrastive": {"pre_batch": 2}}),
    "pruned beside projections": ("homodistil+tinybert", {"encoder": {**DROPOUT, "shared_towers": True}}),
    "bfloat16, eight bits": ("dq", {"encoder": DROPOUT, "training": {**THREE, "precision": "bf16"}}),
    "bfloat16, pruned": ("homodistil", {"encoder": DROPOUT, "training": {**THREE, "precision": "bf16"}}),
    "bfloat16, times": ("boot-random", {"encoder": DROPOUT, "training": {**THREE, "precision": "bf16"}}),
    "bfloat16": ("mse", {"encoder": DROPOUT, "training": {**THREE, "precision": "bf16"}}),
}


def test_every_method_is_interrupted(methods: dict[str, dict[str, Any]]) -> None:
    """A new method whose state is left out of its checkpoints, because nobody has put it into a table."""
    assert {methods[method]["name"] for method, _ in TRIALS.values()} == METHOD_SECTIONS.keys()


def test_interruption_comes_while_a_weight_rises(config_of: Config) -> None:
    """A ramp that is over before the trial is interrupted: one that began anew would not show."""
    config = config_of("dkd", training=THREE)
    [term] = [term for term in assemble(config, Shapes(Shape(2, 16, 2), Shape(4, 16, 2))) if term.name == "dkd"]
    assert [term.weight_at(epoch) for epoch in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])


def metrics_of(report: EpochReport) -> dict[str, float]:
    return {key: value for key, value in report.metrics.items() if key not in ("seconds", "examples_per_second")}


@pytest.fixture(scope="module")
def straight(config_of: Config, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The configuration and the reports of a trial of TRIALS that nothing interrupted."""
    done: dict[str, tuple[TrialConfig, list[EpochReport]]] = {}

    def run(name: str) -> tuple[TrialConfig, list[EpochReport]]:
        if name not in done:
            method, changes = TRIALS[name]
            config = config_of(method, **{"training": THREE, **changes})
            done[name] = config, train(config, tmp_path_factory.mktemp("straight"))
        return done[name]

    return run


@pytest.mark.parametrize("step", [5, 7])
@pytest.mark.parametrize("name", TRIALS)
def test_interrupted_trial_ends_with_the_same_bits(
    straight: Callable[[str], Any], train: Train, interrupt: Interrupt, tmp_path: Path, name: str, step: int
) -> None:
    """A resumed trial that repeats or skips a batch, drops other units, or forgets a moment: nobody would ever notice.

    Interrupted at the sixth step it goes on from the end of the first epoch, at the eighth from the middle of the second.
    """
    config, expected = straight(name)
    interrupt(config, tmp_path, step)
    kept = newest_good(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.name == ("00000004" if step == 5 else "00000006")
    reports = train(config, tmp_path)
    assert [report.epoch for report in reports] == ([1, 2, 3] if step == 5 else [2, 3])
    assert reports[-1].digest == expected[-1].digest
    for report in reports:
        [twin] = [other for other in expected if other.epoch == report.epoch]
        assert metrics_of(report) == metrics_of(twin)
        assert (report.digest, report.step, report.finished) == (twin.digest, twin.step, twin.finished)


def test_trial_interrupted_again_and_again_ends_with_the_same_bits(
    straight: Callable[[str], Any], train: Train, interrupt: Interrupt, tmp_path: Path
) -> None:
    """An error of one resumption that the next one hides or doubles."""
    config, expected = straight("dropout")
    for step in (1, 3, 3, 4, 6, 9, 11):
        interrupt(config, tmp_path, step)
    assert train(config, tmp_path)[-1].digest == expected[-1].digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step"),
    [("dropout", 7), ("policy", 7), ("pruned", 3), ("growing", 3)],
)
def test_killed_process_is_resumed_by_another_with_the_same_bits(
    straight: Callable[[str], Any], tmp_path: Path, name: str, step: int
) -> None:
    """State that lives in a process: generators, caches, objects that were built once, what a method learns for itself or makes of its student.

    What is pruned or grows is killed at its fourth step, while there are masks and blocks.
    """
    config, expected = straight(name)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    code = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from raydistill.config.trial import TrialConfig
from raydistill.training.gather import World
from raydistill.training.optimizer import Optimizer
from raydistill.training.trial import run_trial
folder, die = Path(sys.argv[1]), int(sys.argv[2])
step = Optimizer.step
def dying(self, number, unless=None):
    if number == die:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, number, unless)
Optimizer.step = dying
config = TrialConfig.model_validate_json((folder / "config.json").read_text())
print(*(report.digest for report in run_trial(config, folder / "trial", World.alone())))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(die: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(tmp_path), str(die)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run(step).returncode == -signal.SIGKILL
    done = run(-1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == expected[-1].digest


def test_finished_trial_yields_its_last_report_without_training(
    straight: Callable[[str], Any], train: Train, interrupt: Interrupt, tmp_path: Path
) -> None:
    """A finished trial trained again, or one that a driver waits for in vain."""
    config, _ = straight("plain")
    first = train(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    again = list(run_trial(config, tmp_path, World.alone()))
    assert [report.finished for report in first] == [False, False, True]
    [last] = again
    assert (last.epoch, last.epochs, last.step, last.finished) == (3, 3, 12, True)
    assert (last.digest, last.checkpoint) == (first[-1].digest, first[-1].checkpoint)
    assert metrics_of(last) == metrics_of(first[-1])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before


def test_checkpoint_is_whole_when_its_report_is_given(config_of: Config, tmp_path: Path) -> None:
    """A driver that promotes what is still being written."""
    for report in run_trial(config_of("none"), tmp_path, World.alone()):
        assert report.checkpoint is not None
        assert verify_checkpoint(report.checkpoint) == report.digest
        assert Path(report.checkpoint).is_absolute()


def test_report_has_every_number_that_is_promised(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A reader of reports who finds a number in one trial and misses it in the next."""
    for report in train(config_of("pmd"), tmp_path):
        promised = {"valid/both/mrr", "loss", "learning_rate", "seconds", "examples_per_second"}
        terms = {f"{kind}/{term}" for kind in ("loss", "gradient_norm") for term in ("ce", "score", "mgfd")}
        assert promised | terms <= report.metrics.keys()
        assert all(isinstance(value, float) for value in report.metrics.values())


def test_epochs_between_validations_are_not_reported(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A validation per epoch that nobody asked for, or a last epoch that is never validated."""
    config = config_of("none", training={"epochs": 5, "evaluate_every": 2})
    reports = train(config, tmp_path)
    assert [report.epoch for report in reports] == [2, 4, 5]
    assert [report.step for report in reports] == [6, 12, 15]


def test_damaged_newest_checkpoint_costs_one_epoch_and_no_bit(
    straight: Callable[[str], Any], train: Train, interrupt: Interrupt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that ends at the first damaged file, or goes on from it."""
    config, expected = straight("dropout")
    interrupt(config, tmp_path, 9)
    newest = newest_good(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "00000008"
    path = newest / "training" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert train(config, tmp_path)[-1].digest == expected[-1].digest
    assert "00000008: training/optimizer.safetensors was changed" in caplog.text
    assert verify_checkpoint(tmp_path / "checkpoints" / "00000012")


def test_trial_whose_checkpoints_are_all_damaged_stops(
    config_of: Config, train: Train, interrupt: Interrupt, tmp_path: Path
) -> None:
    """A training that begins afresh while its user believes it goes on."""
    config = config_of("none")
    train(config, tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        (path / "raydistill.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        train(config, tmp_path)


def test_non_finite_loss_leaves_earlier_checkpoints_whole(
    config_of: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of NaN saved over the last sound one."""
    trial = run_trial(config_of("pmd"), tmp_path, World.alone())
    first = next(trial)
    monkeypatch.setattr(MaskedFeatureTerm, "value", lambda self, step: step.inverse_temperature * float("nan"))
    with pytest.raises(NonFiniteLossError, match="mgfd became nan at epoch 2, step 3"):
        next(trial)
    assert newest_good(tmp_path / "checkpoints") == Path(str(first.checkpoint))


def test_directory_of_another_trial_is_refused(config_of: Config, train: Train, tmp_path: Path) -> None:
    """One trial's checkpoints continued with another's settings."""
    train(config_of("none", training={"epochs": 1}), tmp_path)
    with pytest.raises(RunDirectoryError, match="holds trial"):
        train(config_of("none", training={"epochs": 1}, seed=1), tmp_path)
    (tmp_path / "trial.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="unreadable"):
        train(config_of("none", training={"epochs": 1}), tmp_path)


def test_moved_trial_goes_on(
    straight: Callable[[str], Any], train: Train, interrupt: Interrupt, tmp_path: Path
) -> None:
    """A run directory that can only be resumed where it began."""
    config, expected = straight("plain")
    interrupt(config, tmp_path / "here", 7)
    shutil.move(tmp_path / "here", tmp_path / "there")
    last = train(config, tmp_path / "there")[-1]
    assert last.digest == expected[-1].digest
    assert last.checkpoint is not None
    assert last.checkpoint.startswith(str(tmp_path / "there"))


def test_seed_decides_the_result(config_of: Config, train: Train, tmp_path: Path) -> None:
    """Repetitions that all give one number, or one seed that gives several."""
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        config = config_of("none", training={"epochs": 1}, encoder=DROPOUT, seed=seed)
        digests.append(train(config, tmp_path / str(number))[-1].digest)
    assert digests[0] == digests[1] != digests[2]


def test_trial_says_what_it_is(config_of: Config, train: Train, tmp_path: Path) -> None:
    """A directory of checkpoints whose settings nobody knows any more."""
    config = config_of("none", training={"epochs": 1})
    train(config, tmp_path)
    content = json.loads((tmp_path / "trial.json").read_text())
    assert content.pop("identity") == config.identity
    assert TrialConfig.model_validate(content) == config
