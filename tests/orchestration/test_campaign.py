"""Whole campaigns on a real Ray cluster of two CPUs, with a workshop that trains nothing."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import fakes
import psutil
import pyarrow.parquet as pq
import pytest
import ray

from raydistill.config.schema import CampaignConfig
from raydistill.errors import LedgerError, PromotionError, RoomError, RunDirectoryError, ScoringError
from raydistill.orchestration import campaign as campaign_module
from raydistill.orchestration.campaign import Campaign
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.processes import titled
from raydistill.orchestration.rundir import LEDGER, open_run
from raydistill.planning.grades import grade_plans
from raydistill.planning.state import CampaignState

pytestmark = pytest.mark.ray

INLINE: dict[str, Any] = {"resources": {"backend": "inline", "concurrent_trials": 1}}
TRAIN: dict[str, Any] = {
    "resources": {"backend": "train", "workers_per_trial": 2},
    "grades": [{"layers": 6, "mask_ratio": 0.1}],
}


def run(config: CampaignConfig, root: Path, resume: bool = False) -> CampaignState:
    return Campaign(config, root, fakes.workshop()).run(resume=resume)


def events(root: Path) -> list[dict[str, Any]]:
    return Ledger.at(root / LEDGER).read()


def forget_from(root: Path, kind: str, **place: Any) -> None:
    """Cut a ledger before an event, as if the driver had been killed there."""
    history = events(root)
    first = next(
        number
        for number, event in enumerate(history, start=1)
        if event["kind"] == kind and place.items() <= event.items()
    )
    for number in range(first, len(history) + 1):
        (root / LEDGER / f"{number:08d}.json").unlink()


def promoted(state: CampaignState) -> dict[tuple[str, int], str]:
    return {place: promotion.digest for place, promotion in state.promotions.items()}


@pytest.mark.parametrize("settings", [INLINE, TRAIN], ids=["inline", "train"])
def test_campaign_gives_what_trials_run_by_hand_give(cluster: None, tmp_path: Path, settings: dict[str, Any]) -> None:
    """A back end that trains an epoch too often, under the wrong teacher, or promotes the wrong epoch would go unseen."""
    config = fakes.campaign(**settings)
    state = run(config, tmp_path / "run")
    assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    assert state.complete
    assert all(one["test/both/mrr"] == 0.25 and one["parameters"] == 10 for one in state.tests.values())
    epochs = [epoch for *_, epoch in fakes.trained(tmp_path / "run")]
    assert len(epochs) == sum(len(record.reports) for record in state.trials.values())
    assert promoted(open_run(tmp_path / "run")) == promoted(state)
    table = pq.read_table(tmp_path / "run" / "metrics.parquet")
    assert table.num_rows == len(epochs)
    assert not (tmp_path / "run" / ".tune").exists()
    # Detached ones would stay on a cluster of somebody else, and only they have names.
    assert ray.util.list_named_actors(all_namespaces=True) == []


def test_workers_of_the_train_back_end_stay_for_the_next_trial(cluster: None, tmp_path: Path) -> None:
    """Every trial of a search would wait seconds for processes; or a trial that was stopped early would keep them from the next."""
    grades = [{"layers": 6, "mask_ratio": {"choice": [0.1, 0.2, 0.3]}, "trials": 3}]
    config = fakes.campaign(**{**TRAIN, "grades": grades}, search={"algorithm": "grid"})
    # Workers leave after a while; a busy machine may need longer to begin the next trial.
    fakes.control(tmp_path / "run", lingers={"1-layers6": 3})
    state = run(config, tmp_path / "run")
    folders = list((tmp_path / "run" / "grades" / state.grades[1] / "trials").iterdir())
    assert len(folders) == 3
    for rank in (0, 1):
        assert len({(folder / f"pid-{rank}").read_text() for folder in folders}) == 1
    assert all(one.status in ("finished", "promoted") for one in state.of("main", 1))


@pytest.mark.parametrize("backend", ["inline", "train"])
def test_process_of_a_trial_stays_for_the_next_grade(cluster: None, tmp_path: Path, backend: str) -> None:
    """Every grade would wait for processes that import what those of the grade above have imported; or a trial would be trained as one of the grade before."""
    grades = [{"layers": 6, "mask_ratio": 0.1}, {"layers": 3, "mask_ratio": 0.05}]
    config = fakes.campaign(grades=grades, resources={"backend": backend, "concurrent_trials": 1, "cpus_per_worker": 1})
    state = run(config, tmp_path / "run")
    assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    pids = {path.read_text() for path in (tmp_path / "run").glob("grades/*/trials/*/pid-0")}
    assert len(state.trials) == 3
    assert len(pids) == 1


def test_process_that_dies_while_it_waits_for_the_next_grade_fails_nobody(cluster: None, tmp_path: Path) -> None:
    """A machine that is lost between two grades: the first trial below would be given a dead process, and be given up before it began."""
    resources = {"backend": "inline", "concurrent_trials": 1, "cpus_per_worker": 1, "max_failures": 0}
    config = fakes.campaign(grades=[{"layers": 6, "mask_ratio": 0.1}], resources=resources)
    fakes.control(tmp_path / "run", kills_who_stays="0-teacher")
    state = run(config, tmp_path / "run")
    assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    assert list((tmp_path / "run").glob(f"grades/0-teacher/trials/*/{fakes.KILLED}"))
    assert [one.status for one in state.trials.values()] == ["finished"] * 2


def test_process_of_a_shared_teacher_stays_for_the_first_ladder_below_it(cluster: None, tmp_path: Path) -> None:
    """The other ladder's teacher, which is done when it begins, would get the process and do nothing with it."""
    compare = {"methods": [{"name": "pmd"}, {"name": "none"}]}
    state = run(fakes.campaign(compare=compare, grades=[{"layers": 6}], **INLINE), tmp_path / "run")
    assert state.complete
    trials = [next(iter(state.of("pmd-seed0", grade))).identity for grade in (0, 1)]
    pids = [next((tmp_path / "run").glob(f"grades/*/trials/{identity}/pid-0")).read_text() for identity in trials]
    assert pids[0] == pids[1]


def room_is_whole(seconds: float) -> bool:
    """Whether all CPUs of the cluster are free before so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_equal_teachers_of_compared_methods_are_trained_once(cluster: None, tmp_path: Path) -> None:
    """Comparing two methods would train one and the same teacher twice, or mix the ladders of the two."""
    compare = {"methods": [{"name": "pmd"}, {"name": "none"}], "seeds": [0, 1]}
    config = fakes.campaign(
        compare=compare,
        schedule={"name": "independent"},
        grades=[{"layers": 6}, {"layers": 3}],
        training={"epochs": 2, "batch_size": 4},
    )
    state = run(config, tmp_path / "run")
    assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    assert len(state.promotions) == len(state.tests) == 4 * 3
    epochs = fakes.trained(tmp_path / "run")
    assert len(epochs) == len(set(epochs))
    assert len([one for one in epochs if one[0] == "0-teacher"]) == 2 * 2
    assert len((tmp_path / "run" / ".tested.log").read_text().split()) == len(set(promoted(state).values()))


def test_poor_trials_stop_early_and_may_still_be_promoted(cluster: None, tmp_path: Path) -> None:
    """Halving that never stops anything saves nothing; one that stops the best trial loses it."""
    grades = [{"layers": 6, "mask_ratio": {"choice": [0.0, 0.05, 0.1, 0.15]}, "trials": 4}]
    search = {"algorithm": "grid", "early_stopping": "asha", "grace_epochs": 1}
    state = run(
        fakes.campaign(grades=grades, search=search, training={"epochs": 4, "batch_size": 4}, **INLINE),
        tmp_path / "run",
    )
    trials = state.of("main", 1)
    stopped = [one for one in trials if one.status == "stopped"]
    assert stopped
    assert all(len(one.reports) in (1, 2) for one in stopped)
    best = max(one.best_mrr or 0 for one in trials)
    assert state.promotions["main", 1].metrics["valid/both/mrr"] == best


def test_failing_trial_is_recorded_and_the_others_go_on(cluster: None, tmp_path: Path) -> None:
    """One diverging trial, or one whose process keeps dying, would end a search of sixteen; or its reason would be lost."""
    grades = [{"layers": 6, "mask_ratio": {"choice": [0.0, fakes.NAN_RATIO, fakes.CRASH_RATIO]}}]
    resources = {"resources": {"backend": "inline", "concurrent_trials": 2, "max_failures": 1}}
    state = run(fakes.campaign(grades=grades, search={"algorithm": "grid"}, **resources), tmp_path / "run")
    by_ratio = {one.parameters["mask_ratio"]: one for one in state.of("main", 1)}
    assert by_ratio[fakes.NAN_RATIO].status == by_ratio[fakes.CRASH_RATIO].status == "failed"
    assert by_ratio[fakes.NAN_RATIO].reason == "the loss is nan at step 7"
    assert "max_failures" in by_ratio[fakes.CRASH_RATIO].reason
    assert state.promotions["main", 1].identity == by_ratio[0.0].identity


def test_grade_without_a_survivor_ends_the_campaign_with_the_first_reason(cluster: None, tmp_path: Path) -> None:
    """A reader would be told that nothing can be promoted, and not why; and a resumed run would start the teacher again."""
    config = fakes.campaign(grades=[{"layers": 6, "mask_ratio": fakes.NAN_RATIO}], **INLINE)
    for resume in (False, True):
        with pytest.raises(PromotionError, match="the loss is nan at step 7"):
            run(config, tmp_path / "run", resume)
        # Sooner than a process that stays for the next grade would leave by itself.
        assert room_is_whole(5), "the campaign's process is gone, and the cluster goes on"
    assert len([one for one in fakes.trained(tmp_path / "run") if one[0] == "0-teacher"]) == 3


def coordinators() -> set[int]:
    """The processes of coordinators below this one."""
    return {one.pid for one in titled(psutil.Process().children(recursive=True), "ray::Coordinator")}


def test_coordinator_ends_with_its_campaign_on_a_cluster_that_goes_on(cluster: None, tmp_path: Path) -> None:
    """Whoever looks at an error, as a notebook does, would keep a process for each campaign that failed."""
    before = coordinators()
    config = fakes.campaign(grades=[{"layers": 6, "mask_ratio": fakes.NAN_RATIO}], **INLINE)
    with pytest.raises(PromotionError) as held:
        run(config, tmp_path / "run")
    deadline = time.monotonic() + 60
    while coordinators() - before:
        assert time.monotonic() < deadline, f"{held.value} is held, and the coordinator with it"
        time.sleep(0.1)


def test_nothing_stays_of_a_campaign_that_never_began(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator, and the process of a search, that are left on a cluster because the ledger could not be written at the very beginning."""
    titles = ("ray::Coordinator", "ray::StudyRunner")

    def there() -> set[int]:
        return {one.pid for title in titles for one in titled(psutil.Process().children(recursive=True), title)}

    def refuse(answer: Any) -> None:
        ray.get(answer)
        deadline = time.monotonic() + 30
        while len(there() - before) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.append(len(there() - before))
        raise LedgerError("no room for the first event")

    before, seen = there(), list[int]()
    monkeypatch.setattr(campaign_module, "ask", refuse)
    with pytest.raises(LedgerError, match="no room") as held:
        run(fakes.campaign(**INLINE), tmp_path / "run")
    assert seen == [2]
    deadline = time.monotonic() + 15
    while there() - before:
        assert time.monotonic() < deadline, f"{held.value} is held, and they with it"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def small() -> CampaignConfig:
    """A teacher and one grade of one trial."""
    return fakes.campaign(**INLINE, grades=[{"layers": 6}])


@pytest.fixture(scope="module")
def finished(cluster: None, small: CampaignConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it; whoever changes something takes a copy."""
    root = tmp_path_factory.mktemp("finished") / "run"
    fakes.control(root, warning="a word of warning")
    run(small, root)
    return root


@pytest.mark.parametrize("damaged", ["best", "all"])
def test_damaged_checkpoint_is_replaced_before_it_teaches(
    finished: Path, small: CampaignConfig, tmp_path: Path, damaged: str
) -> None:
    """Bytes that changed after a trial had ended would teach every grade below, or keep the campaign from ever going on."""
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    record = open_run(root).trials["main", 1, 0]
    assert record.notes == ["a word of warning"]
    assert "a word of warning" in (Path(record.reports[0]["checkpoint"]).parents[1] / "trial.log").read_text()
    forget_from(root, "grade_promoted", grade=1)
    ranked = sorted(record.reports, key=lambda one: -one["metrics"]["valid/both/mrr"])
    for report in ranked[: 1 if damaged == "best" else None]:
        (Path(report["checkpoint"]) / "weights").write_bytes(b"x")
    state = run(small, root, resume=True)
    expected = ranked[1] if damaged == "best" else ranked[0]
    assert state.promotions["main", 1].digest == expected["digest"]
    assert fakes.verify(state.promotions["main", 1].checkpoint) == expected["digest"]
    rejected = [event for event in events(root) if event["kind"] == "checkpoint_rejected"]
    assert len(rejected) == (1 if damaged == "best" else 3)
    assert all("weights are damaged" in event["reason"] for event in rejected)
    assert len(list(Path(record.reports[0]["checkpoint"]).parent.glob(".damaged-*"))) == len(rejected)
    retrained = [epoch for grade, _, epoch in fakes.trained(root) if grade == "1-layers6"]
    assert retrained == ([1, 2, 3] if damaged == "best" else [1, 2, 3, 1, 2, 3])


@pytest.mark.parametrize("back_end", [INLINE, {"resources": TRAIN["resources"]}], ids=["by one process", "by two"])
def test_checkpoint_that_cannot_be_scored_keeps_nothing_from_being_trained(
    cluster: None, tmp_path: Path, back_end: dict[str, Any]
) -> None:
    """A campaign that ends in the middle of its training, on every --resume, because its first model is too large to be ranked with."""
    config, root = fakes.campaign(**back_end), tmp_path / "run"
    grades = [plan.folder for plan in grade_plans(config, fakes.ground(config))]
    fakes.control(root, unscored={grades[0]: "the ranking did not fit", grades[1]: "dies"})
    with pytest.raises(
        ScoringError, match=f"main, grade {grades[0]}: no score on the test split: the ranking did not fit"
    ):
        run(config, root)
    state = open_run(root)
    assert promoted(state) == fakes.expected(config, tmp_path / "twin")
    assert set(state.tests) == {("main", 2)}
    epochs = fakes.trained(root)
    fakes.control(root)
    assert run(config, root, resume=True).complete
    assert fakes.trained(root) == epochs


def test_lineage_that_fails_does_not_keep_the_others_from_their_end(cluster: None, tmp_path: Path) -> None:
    """One method that diverges would cost the results of eleven others, on every resume."""
    compare = {"methods": [{"name": "pmd"}, {"name": "logits"}]}
    config = fakes.campaign(**INLINE, compare=compare, grades=[{"layers": 6, "mask_ratio": fakes.NAN_RATIO}])
    with pytest.raises(PromotionError, match="the loss is nan"):
        run(config, tmp_path / "run")
    state = open_run(tmp_path / "run")
    assert {"pmd-seed0", "logits-seed0"} >= {lineage for lineage, _ in state.promotions}
    assert ("logits-seed0", 1) in state.tests
    assert ("pmd-seed0", 1) not in state.promotions
    assert pq.read_table(tmp_path / "run" / "metrics.parquet").num_rows > 0


def test_cluster_of_ours_lies_behind_a_closed_door(cluster: None) -> None:
    """Whoever reads the token, or puts another in its place, runs code as this user."""
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700


def test_given_teacher_is_not_trained(finished: Path, tmp_path: Path) -> None:
    """A teacher named by `teacher.checkpoint` would be trained again, or not be the one that teaches."""
    given = open_run(finished).promotions["main", 0]
    config = fakes.campaign(teacher={"checkpoint": given.checkpoint}, grades=[{"layers": 3}], **INLINE)
    state = run(config, tmp_path / "second")
    assert state.promotions["main", 0].digest == given.digest
    assert {grade for grade, *_ in fakes.trained(tmp_path / "second")} == {"1-layers3"}


def test_finished_run_is_returned_and_guarded(finished: Path, small: CampaignConfig, tmp_path: Path) -> None:
    """A second start would overwrite results; another configuration would mix with them; a typo in --run-dir would start afresh."""
    before = promoted(open_run(finished))
    assert promoted(run(small, finished, resume=True)) == before
    with pytest.raises(RunDirectoryError, match="add --resume"):
        run(small, finished)
    longer = fakes.campaign(grades=[{"layers": 6}], training={"epochs": 5, "batch_size": 4})
    with pytest.raises(RunDirectoryError, match=r"training.epochs: the run has 3, now 5"):
        run(longer, finished, resume=True)
    with pytest.raises(RunDirectoryError, match="no run to resume"):
        run(small, tmp_path / "rum", resume=True)


def test_trial_that_fits_nowhere_is_refused(cluster: None, tmp_path: Path) -> None:
    """A trial that asks for more than the cluster has would wait for ever without a word."""
    with pytest.raises(RoomError, match="the cluster has 2 and 0"):
        run(fakes.campaign(resources={"backend": "train", "workers_per_trial": 4}), tmp_path / "run")
