from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fakes
import pytest

from raydistill.config.training import HARMLESS_TRAINING, TrainingSection
from raydistill.config.trial import TeacherReference
from raydistill.errors import ConfigError, LedgerError, RunDirectoryError, StorageError
from raydistill.orchestration import ownership, rundir
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.locking import locked
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.grades import grade_plans, lineages_of, trial_config
from raydistill.planning.ground import Ground

GROUND = Ground("d" * 64, "e" * 64, 12)
TEACHER = TeacherReference(path="nowhere", digest="f" * 64)


def begun(root: Path, ground: Ground = GROUND) -> None:
    config = fakes.campaign()
    root.mkdir()
    rundir.write_config(root, config)
    RunStore.at(root).write_json(rundir.ENVIRONMENT, {"dataset_fingerprint": ground.dataset_fingerprint})
    fingerprint = rundir.campaign_fingerprint(config, ground)
    event = {"kind": "campaign_started", "config_fingerprint": fingerprint, "lineages": ["main"], "grades": ["0"]}
    Ledger.at(root / rundir.LEDGER).append(event)


def test_open_run_needs_no_ray(tmp_path: Path) -> None:
    """`raydistill status` would wait seconds for imports it does not use, and not work at all where Ray is not installed."""
    begun(tmp_path / "run")
    code = (
        "import sys; sys.modules['ray'] = None; sys.modules['torch'] = None\n"
        f"from raydistill.orchestration.rundir import open_run; print(open_run({str(tmp_path / 'run')!r}).lineages)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "('main',)\n", done.stderr


def test_open_run_refuses_what_is_no_run(tmp_path: Path) -> None:
    """A typo would be reported as a campaign in which nothing has happened."""
    with pytest.raises(RunDirectoryError, match="a run directory"):
        rundir.open_run(tmp_path)
    begun(tmp_path / "run")
    (tmp_path / "run" / "ledger" / "00000001.json").write_text("")
    with pytest.raises(LedgerError):
        rundir.open_run(tmp_path / "run")


def test_lock_is_held_by_one_and_dies_with_it(tmp_path: Path) -> None:
    """Two drivers would write one ledger; or a crash would leave a lock that somebody has to remove by hand."""
    code = f"import os; from pathlib import Path; from raydistill.orchestration.locking import locked\nwith locked(Path({str(tmp_path)!r})): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with locked(tmp_path), pytest.raises(RunDirectoryError, match="in use by process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    """A run directory below a file would give a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), locked(tmp_path / "file" / "run"):
        pass


def test_owner_is_checked(tmp_path: Path) -> None:
    """Results of two campaigns would be mixed, overwritten, or begun afresh without a word."""
    root, config = tmp_path / "run", fakes.campaign()
    begun(root)
    ownership.check_owner(root, config, resume=True)
    with pytest.raises(RunDirectoryError, match="--resume"):
        ownership.check_owner(root, config, resume=False)
    with pytest.raises(RunDirectoryError, match=r"seed: the run has 0, now 4") as caught:
        ownership.check_owner(root, fakes.campaign(seed=4, grades=[{"layers": 6}]), resume=True)
    assert "grades.length: the run has 2, now 1" in str(caught.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex, which no campaign wrote"):
        ownership.check_owner(tmp_path / "mine", config, resume=False)
    (tmp_path / "new").mkdir()
    ownership.check_owner(tmp_path / "new", config, resume=False)
    with pytest.raises(RunDirectoryError, match="no run to resume"):
        ownership.check_owner(tmp_path / "new", config, resume=True)


def test_where_a_campaign_runs_does_not_matter(tmp_path: Path) -> None:
    """A run begun on one machine could not be resumed on a bigger one, or with its data in another place."""
    begun(tmp_path / "run")
    moved = fakes.campaign(
        data={"path": "elsewhere"}, resources={"concurrent_trials": 8}, storage={"path": "there", "keep_trials": 2}
    )
    ownership.check_owner(tmp_path / "run", moved, resume=True)
    assert rundir.campaign_fingerprint(moved, GROUND) == rundir.campaign_fingerprint(fakes.campaign(), GROUND)


CHANGED = {
    "batch_size": 8,
    "epochs": 4,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.2,
    "weight_decay": 0.1,
    "max_gradient_norm": 1.0,
    "precision": "fp32",
    "tokens_per_micro_batch": 128,
    "gradient_cache": "never",
    "trim_vocabulary": False,
    "evaluate_every": 2,
    "checkpoint_steps": 3,
    "remember_teacher": False,
    "remember_states": 0,
    "corruptions": 2,
    "keep_checkpoints": 5,
    "measure_gradients": False,
}
"""Another value of every setting of the loop."""


@pytest.mark.parametrize("name", TrainingSection.model_fields)
def test_runs_and_trials_agree_on_what_changes_a_result(tmp_path: Path, name: str) -> None:
    """The way out that an error names is refused by --resume; or trials are trained again, or go on with settings that change them."""
    begun(tmp_path / "run")
    one = fakes.campaign()
    training = {**one.training.model_dump(), name: CHANGED[name]}
    other = fakes.campaign(training=training)
    identities = set()
    for config in (one, other):
        lineage, plan = lineages_of(config)[0], grade_plans(config, GROUND)[1]
        identities.add(trial_config(config, lineage, plan, {"mask_ratio": 0.1}, GROUND, TEACHER).identity)
    harmless = name in HARMLESS_TRAINING
    assert (len(identities) == 1) == harmless
    assert (ownership.differences(one, other) == []) == harmless
    assert (rundir.campaign_fingerprint(one, GROUND) == rundir.campaign_fingerprint(other, GROUND)) == harmless
    if harmless:
        ownership.check_owner(tmp_path / "run", other, resume=True)
    else:
        with pytest.raises(RunDirectoryError, match=rf"training\.{name}: the run has"):
            ownership.check_owner(tmp_path / "run", other, resume=True)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    """The grades above would have learnt another graph than the grades below."""
    begun(tmp_path / "run")
    state = rundir.read_state(tmp_path / "run")
    other = Ground("x" * 64, "e" * 64, 12)
    ownership.check_campaign(tmp_path / "run", state, rundir.campaign_fingerprint(fakes.campaign(), GROUND), GROUND)
    with pytest.raises(RunDirectoryError, match=r"dataset_fingerprint was ddd.* is xxx"):
        ownership.check_campaign(tmp_path / "run", state, rundir.campaign_fingerprint(fakes.campaign(), other), other)


def test_run_of_another_graph_is_not_offered_to_be_gone_on_with(tmp_path: Path) -> None:
    """The same file with another graph: "add --resume", which is then refused."""
    begun(tmp_path / "run")
    run, config = tmp_path / "run", fakes.campaign()
    RunStore.at(run).write_json(rundir.ENVIRONMENT, rundir.ground_facts(GROUND))
    with pytest.raises(RunDirectoryError) as offered:
        ownership.check_owner(run, config, resume=False, ground=GROUND)
    assert "add --resume" in offered.value.remedy
    with pytest.raises(RunDirectoryError, match=r"dataset_fingerprint was ddd.* is xxx") as refused:
        ownership.check_owner(run, config, resume=False, ground=Ground("x" * 64, "e" * 64, 12))
    assert "add --resume" not in refused.value.remedy
    assert "choose another --run-dir" in refused.value.remedy


@pytest.mark.parametrize(
    ("began", "words"),
    [
        ({"packages": {"raydistill": "0.0.9"}, "commit": "ab" * 20}, "version 0.0.9, commit abababababab"),
        ({"packages": {"raydistill": "0.0.9"}, "commit": None}, "version 0.0.9)"),
        ({"packages": "none"}, "version unknown"),
    ],
)
def test_run_of_another_version_says_which(tmp_path: Path, began: dict[str, object], words: str) -> None:
    """Somebody who is told that they have edited what they have not, and has no way to go on."""
    run = tmp_path / "run"
    begun(run)
    store, state = RunStore.at(run), rundir.read_state(run)
    store.write_json(rundir.ENVIRONMENT, {**began, **rundir.ground_facts(GROUND)})
    with pytest.raises(RunDirectoryError, match="another raydistill fills in") as refused:
        ownership.check_campaign(run, state, "what this version would write", GROUND)
    assert words in str(refused.value)
    (run / rundir.CONFIG).write_text((run / rundir.CONFIG).read_text() + "of_old: 3\n")
    with pytest.raises(ConfigError, match="of_old") as unread:
        rundir.read_config(store)
    assert words in str(unread.value)
