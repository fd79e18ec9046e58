"""A campaign as a job: what is sent, and, on a real cluster behind a token, how it ends, is stopped, is left alone and is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from raydistill.cli.main import commands
from raydistill.config.load import load_config, parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.errors import ConfigError
from raydistill.orchestration import submission
from raydistill.orchestration.variables import variables
from raydistill.training.evaluate import evaluate_checkpoint

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "cluster/local.sh"


class FakeJobs:
    """Takes a job and looks into the folder that is sent, as long as it is there."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}
        self.files: set[str] = set()
        self.config: CampaignConfig | None = None

    def submit(
        self, command: str, identity: str, files: Path, environment: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        self.sent = {"command": command, "identity": identity, "environment": environment, "metadata": metadata}
        self.files = {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()}
        for config in files.glob("*.yaml"):
            self.config = load_config(config)


def smallest(**sections: Any) -> CampaignConfig:
    return parse_config(
        {"data": {"path": "graph"}, "encoder": {"name": "bert-base-uncased"}, "grades": [{"layers": 1}], **sections}
    )


def send(jobs: FakeJobs, config: CampaignConfig, **changes: Any) -> str:
    settings: dict[str, Any] = {"resume": False, "environment": {}, **changes}
    return submission.submit(jobs, config, "my ladder", "/runs/first", **settings)  # type: ignore[arg-type]


def test_package_and_configuration_are_sent_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory would take graphs, runs, a virtual environment and the history along: gigabytes, or secrets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("s")
    jobs = FakeJobs()
    send(jobs, smallest())
    assert {name for name in jobs.files if not name.startswith("raydistill/")} == {"my ladder.yaml"}
    assert "raydistill/cli/main.py" in jobs.files
    assert {Path(name).suffix for name in jobs.files} == {".py", ".typed", ".yaml"}


def test_relative_places_are_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs in an unpacked folder on another machine, where `datasets/x` is nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    jobs = FakeJobs()
    send(jobs, smallest(encoder={"name": "encoder"}, teacher={"checkpoint": "teachers/best"}))
    assert jobs.config is not None
    assert jobs.config.data.path == str(tmp_path / "graph")
    assert jobs.config.encoder.name == str(tmp_path / "encoder")
    assert jobs.config.teacher.checkpoint == str(tmp_path / "teachers/best")


def test_names_and_schemes_are_no_relative_places() -> None:
    """A hub's name or a bucket, made into a folder of the working directory."""
    jobs = FakeJobs()
    send(jobs, smallest(data={"path": "s3://bucket/graph"}))
    assert jobs.config is not None
    assert jobs.config.data.path == "s3://bucket/graph"
    assert jobs.config.encoder.name == "bert-base-uncased"


def test_command_is_quoted_and_takes_the_shells_place() -> None:
    """A shell between Ray and the campaign keeps signals to itself; a space would make two arguments of one path."""
    jobs = FakeJobs()
    send(jobs, smallest(), resume=True)
    words = "exec python -m raydistill --verbose run 'my ladder.yaml' --run-dir /runs/first --resume"
    assert jobs.sent["command"] == words


def test_script_is_sent_alone_and_runs_where_it_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything beside a script would go along; or its relative paths mean a place in Ray's folders, gone with the job."""
    here = tmp_path / "my graphs"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "look.py").write_text("import raydistill, os, sys\nprint(os.getcwd(), sys.argv[1:], raydistill.__file__)\n")
    (here / "secret.py").write_text("s")
    jobs = FakeJobs()
    name = submission.submit_script(jobs, Path("look.py"), ["a b", "--x"], environment={"A": "1"})  # type: ignore[arg-type]
    assert name.startswith("look-")
    assert {file for file in jobs.files if not file.startswith("raydistill/")} == {"look.py"}
    assert jobs.sent["environment"] == {"A": "1", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    sent = tmp_path / "sent"
    submission.lay_out(sent, {"look.py": (here / "look.py").read_text()})
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for gone in (False, True):
        if gone:
            shutil.rmtree(here)
        done = subprocess.run(
            jobs.sent["command"], shell=True, cwd=sent, capture_output=True, text=True, check=True, env={"PATH": path}
        )
        assert done.stdout == f"{sent if gone else here} ['a b', '--x'] {sent}/raydistill/__init__.py\n"
        assert ("goes with the job" in done.stderr) is gone
    assert jobs.sent["metadata"]["run"] == "look.py 'a b' --x"


def test_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    jobs = FakeJobs()
    with pytest.raises(ConfigError, match=r"nothing\.py"):
        submission.submit_script(jobs, tmp_path / "nothing.py", [], environment={})  # type: ignore[arg-type]
    assert jobs.sent == {}


def test_job_has_time_to_save_when_it_is_stopped() -> None:
    """Ray kills a job three seconds after it told it to end."""
    jobs = FakeJobs()
    send(jobs, smallest(), environment={"HF_HOME": "/hub"})
    assert jobs.sent["environment"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30", "HF_HOME": "/hub"}


def test_names_of_jobs_are_told_apart_and_fit_into_an_address() -> None:
    """Ray refuses a second job of one name; a slash or a space in it cannot be asked for."""
    names = {submission.job_name("my ladder/é") for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"my-ladder-[0-9a-f]{8}", name) for name in names)


def test_variables_are_taken_from_here_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret on the command line is read by everybody on the machine, so its name alone has to do."""
    monkeypatch.setenv("SECRET", "a=b")
    assert variables(["SECRET", "MODE=off=1", "EMPTY="]) == {"SECRET": "a=b", "MODE": "off=1", "EMPTY": ""}


@pytest.mark.parametrize("given", ["ABSENT_VARIABLE", "=x", "A B=x", "1A=x"])
def test_variable_that_is_not_set_or_no_name_is_refused(given: str) -> None:
    """The job would run without the credentials it was given."""
    with pytest.raises(ConfigError, match="--env"):
        variables([given])


def test_variable_that_the_driver_sets_itself_is_refused() -> None:
    """Ray refuses job and driver that set the same one: after minutes, with a message about runtime environments."""
    with pytest.raises(ConfigError, match="RAY_CHDIR_TO_TRIAL_DIR"):
        send(FakeJobs(), smallest(), environment={"RAY_CHDIR_TO_TRIAL_DIR": "1"})


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that was pointed at a real head and a worker of one CPU each, started by cluster/local.sh."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    plain |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    # What is run has to be what was sent, not what lies here.
    plain.pop("PYTHONPATH", None)
    command = [str(LOCAL), "start", "--workers", "1", "--cpus", "1", "--dir", str(folder)]
    try:
        started = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
        named = re.findall(r"^export (\w+)='?(.*?)'?$", started.stdout, flags=re.MULTILINE)
        yield {**plain, **dict(named), "PYTHONPATH": str(ROOT)}
    finally:
        subprocess.run([str(LOCAL), "stop", "--dir", str(folder)], check=True, env=plain, capture_output=True)


@pytest.fixture
def campaign(tmp_path: Path, dataset_folder: Path, bert_folder: Path, teacher_checkpoint: Any) -> Path:
    """The smallest campaign there is, on the nine-triple graph: one student of a teacher that is trained already."""
    config = {
        "data": {"path": str(dataset_folder), "max_tokens": 32},
        "encoder": {"name": str(bert_folder)},
        "teacher": {"checkpoint": str(teacher_checkpoint())},
        "grades": [{"layers": 1, "epochs": 1}],
        "method": {"name": "none"},
        "search": {"trials": 1, "early_stopping": "none"},
        "training": {"batch_size": 7, "epochs": 1, "precision": "fp32"},
        "storage": {"path": str(tmp_path / "runs")},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def client(environment: Mapping[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raydistill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment), timeout=500)


def state_of(environment: Mapping[str, str], job: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(client(environment, "jobs", job, "--json").stdout)
    return state


@pytest.mark.ray
def test_campaign_runs_to_its_end_and_its_log_arrives(reached: dict[str, str], campaign: Path) -> None:
    """The whole way: packed, sent, run on the cluster, followed, and ended with its own code."""
    done = client(reached, "submit", campaign, "--env", "OMP_NUM_THREADS=1")
    assert done.returncode == 0, done.stdout + done.stderr
    run = campaign.parent / "runs/small"
    assert f"run {run}" in done.stdout
    assert (run / "report.html").is_file()
    recorded = json.loads((run / "environment.json").read_text())
    assert recorded["commit"] is None
    [job] = re.findall(r"^job (small-[0-9a-f]{8}) on", done.stderr, flags=re.MULTILINE)
    state = state_of(reached, job)
    assert (state["status"], state["exit_code"], state["run"]) == ("SUCCEEDED", 0, str(run))
    listed = client(reached, "jobs")
    assert job in listed.stdout


@pytest.mark.ray
def test_script_runs_on_the_cluster_with_a_process_on_each_of_its_machines(
    reached: dict[str, str], tmp_path: Path, dataset_folder: Path, teacher_checkpoint: Any
) -> None:
    """The scripts of `jobs/` could be run beside a cluster only; or their workers not find the package that was sent."""
    given = [str(ROOT / "jobs/evaluate.py"), "--", str(teacher_checkpoint()), str(dataset_folder)]
    command = [sys.executable, "-m", "raydistill", "submit", *given, "found.json", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=reached, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "found.json"
    found = json.loads((tmp_path / "found.json").read_text())
    alone = evaluate_checkpoint(teacher_checkpoint(), dataset_folder).to_dict()
    assert {**found, "per_relation": None} == {**alone, "per_relation": None}


@pytest.mark.ray
def test_exit_code_of_a_refused_campaign_arrives(reached: dict[str, str], campaign: Path) -> None:
    """Ray's own client ends with 1 whatever happened, and a scheduler tries again what cannot succeed."""
    done = client(reached, "submit", campaign, "--run-dir", campaign.parent / "absent", "--resume")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds no run to resume" in done.stdout
    assert "FAILED, exit code 2" in done.stderr


@pytest.mark.ray
def test_interrupted_client_leaves_the_job_and_stop_ends_it(reached: dict[str, str], campaign: Path) -> None:
    """Ctrl-C, or a laptop that is closed, must not cost the campaign; a campaign that is stopped must save and say so."""
    config = yaml.safe_load(campaign.read_text())
    config["grades"][0]["epochs"] = 1_000_000
    campaign.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "raydistill", "submit", str(campaign)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=reached)
    ledger = campaign.parent / "runs/small/ledger"
    deadline = time.monotonic() + 240
    while not any("trial" in path.read_text() for path in ledger.glob("*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130
    [job] = re.findall(r"^job (\S+) goes on without this client", said, flags=re.MULTILINE)
    assert f"raydistill jobs {job} --follow --address {reached['RAY_API_SERVER_ADDRESS']}" in said
    assert state_of(reached, job)["status"] == "RUNNING"

    stopped = client(reached, "stop", job)
    assert (stopped.returncode, stopped.stdout) == (0, f"job {job}: STOPPED\n")
    followed = client(reached, "jobs", job, "--follow")
    assert followed.returncode == 143
    assert "terminated; what was finished is kept" in followed.stdout
    assert "was over already: STOPPED" in client(reached, "stop", job).stdout


@pytest.mark.ray
def test_client_that_does_not_wait_prints_the_name_alone(reached: dict[str, str], campaign: Path) -> None:
    """Scripts keep the name to ask for the job later; the one of jobs/ has to send what the command sends."""
    absent = campaign.parent / "absent"
    script = [sys.executable, str(ROOT / "jobs/submit.py"), str(campaign), str(absent), "--resume", "--no-wait"]
    sent = [
        client(reached, "submit", campaign, "--run-dir", absent, "--resume", "--no-wait"),
        subprocess.run(script, capture_output=True, text=True, check=False, env=reached, timeout=240),
    ]
    for done in sent:
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"small-[0-9a-f]{8}\n", done.stdout)
        assert client(reached, "jobs", done.stdout.strip(), "--follow").returncode == 2


@pytest.mark.ray
@pytest.mark.parametrize(
    ("token", "said"), [(None, "refuses requests without a token"), ("wrong" * 12, "refuses this token")]
)
@pytest.mark.parametrize("command", ["submit", "jobs", "stop"])
def test_request_without_the_right_token_is_refused(
    reached: dict[str, str], campaign: Path, command: str, token: str | None, said: str
) -> None:
    """Whoever reaches a cluster runs code on it."""
    without = {name: value for name, value in reached.items() if not name.startswith("RAY_AUTH")}
    environment = without if token is None else {**without, "RAY_AUTH_TOKEN": token}
    arguments = {"submit": [campaign], "jobs": [], "stop": ["a-job"]}[command]
    # In this process: it is refused before Ray's own client, which would remember the token, is asked.
    nothing = dict.fromkeys(name for name in os.environ if name.startswith("RAY_"))
    done = CliRunner().invoke(commands, [command, *map(str, arguments)], env={**nothing, **environment})
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("arguments", [("jobs", "absent"), ("jobs", "absent", "--follow"), ("stop", "absent")])
def test_unknown_job_is_refused_by_name(reached: dict[str, str], arguments: tuple[str, ...]) -> None:
    """A mistyped name ends as a status nobody understands."""
    done = client(reached, *arguments)
    assert done.returncode == 2
    assert "no job 'absent'" in done.stderr


@pytest.mark.ray
def test_address_that_is_given_wins(reached: dict[str, str]) -> None:
    """A cluster that was not meant, because a variable names it."""
    done = client({**reached, "RAY_ADDRESS": "http://127.0.0.1:1"}, "jobs", "--address", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no answer from http://127.0.0.1:9" in done.stderr
    address = reached["RAY_API_SERVER_ADDRESS"]
    elsewhere = {**reached, "RAY_ADDRESS": "http://127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
    assert client(elsewhere, "jobs", "--address", address).returncode == 0
