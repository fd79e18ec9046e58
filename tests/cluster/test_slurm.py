"""cluster/slurm.sh with everything it calls replaced: what it does on the machines of a job, and what it leaves there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/slurm.sh"
JOB = "1234567890"
# What Ray puts below the folder it is given, at its longest.
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not os.access("/tmp", os.W_OK), reason="bash and /tmp are needed"
)

COMMANDS = {
    # Runs a command once, here, however many machines it is meant for.
    "srun": 'echo "cpus=${SRUN_CPUS_PER_TASK-} $*" >>"$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": """if [ "$1" = requeue ]; then echo "requeued $2" >>"$CALLS"; else printf 'one\\ntwo\\n'; fi""",
    "squeue": "true",
    "hostname": "echo 127.0.0.1 10.1.2.3",
    "ray": """
if [ "$1" = status ]; then [ -e "$FOLDER" ] || exit 1; printf ' 1 node_a\\n 1 node_b\\n'; exit; fi
while [ $# -gt 0 ]; do
    if [ "$1" = --temp-dir ]; then
        echo "$2 $(stat -c %a "$(dirname "$2")")" >"$FOLDER"
        mkdir "$2" && echo >"$2/log"
    fi
    shift
done
exec sleep 60
""",
    "raydistill": 'echo "campaign $*" >>"$CALLS"; exit "$CODE"',
    "python": f'exec {sys.executable} "$@"',
}
CPUS = {"SLURM_CPUS_PER_TASK": "8"}


def run(
    tmp_path: Path, *, code: int = 0, variables: Mapping[str, str] = CPUS, **commands: str
) -> subprocess.CompletedProcess[str]:
    """A job of two machines whose campaign ends with a code; `variables` are Slurm's beside those every job has."""
    begun = start(tmp_path, code=code, variables=variables, **commands)
    try:
        out, err = begun.communicate(timeout=300)
    finally:
        begun.kill()
    return subprocess.CompletedProcess(begun.args, begun.returncode, out, err)


def start(
    tmp_path: Path, *, code: int = 0, variables: Mapping[str, str] = CPUS, **commands: str
) -> subprocess.Popen[str]:
    """Such a job, which is not waited for."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in {**COMMANDS, **commands}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    environment = {
        **{"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CODE": str(code)},
        **{"SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "one,two", "SLURM_SUBMIT_DIR": str(tmp_path)},
        **{"CALLS": str(tmp_path / "calls"), "FOLDER": str(tmp_path / "folder")},
        "RAYDISTILL_VENV": str(programs.parent),
        **variables,
    }
    command = ["bash", str(SCRIPT), "config.yaml", str(tmp_path / "run")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def calls(tmp_path: Path, word: str) -> list[str]:
    return [line for line in (tmp_path / "calls").read_text().splitlines() if word in line]


def test_folder_of_ray_lies_below_one_that_is_ours_alone_and_goes_with_the_job(tmp_path: Path) -> None:
    """Whoever makes a folder of a known name in /tmp first, or writes into one that is open to all, runs code in this user's jobs; and /tmp fills up."""
    done = run(tmp_path, code=5)
    assert done.returncode == 5, done.stderr
    place, mode = (tmp_path / "folder").read_text().split()
    assert re.fullmatch(rf"/tmp/rd-{JOB}-[0-9a-f]{{8}}/r", place)
    assert mode == "700"
    assert len(f"{place}/{SOCKET}") < 107
    assert not Path(place).parent.exists()
    for word in ("mkdir", "reaper"):
        [call] = calls(tmp_path, word)
        assert "--nodes=2 --ntasks=2" in call
    assert list(tmp_path.glob(".raydistill-*")) == []


def test_folder_that_cannot_be_ours_ends_the_job(tmp_path: Path) -> None:
    """A head that starts in a stranger's folder."""
    taken = 'while [[ $1 == --* ]]; do shift; done; [ "$1" != mkdir ] || mkdir "${@: -1}"; exec "$@"'
    done = run(tmp_path, srun=taken)
    assert done.returncode == 1
    assert "cannot be made on every machine" in done.stderr
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(("variables", "cpus"), [(CPUS, "8"), ({}, "1")])
def test_every_step_of_the_job_has_the_cpus_that_ray_is_told_of(
    tmp_path: Path, variables: dict[str, str], cpus: str
) -> None:
    """Since Slurm 22.05 `srun` takes one CPU where nobody tells it: eight threads of a trial, or eight trials, would share it."""
    assert run(tmp_path, variables=variables).returncode == 0
    assert {call.split()[0] for call in calls(tmp_path, "--overlap")} == {f"cpus={cpus}"}


WORKER = """
if [ "$1" = status ]; then echo >>"$LOOKS"; if [ -e "$DEAF" ]; then exit 1; fi; printf ' 1 node_a\\n 1 node_b\\n'; exit; fi
case " $* " in *" --head "*) exec sleep 60 ;; esac
echo >>"$STARTS"
if [ "$(wc -l <"$STARTS")" -le "$LOSSES" ]; then
    if [ -n "$LAST" ]; then touch "$DEAF"; fi
    exit 1
fi
exec sleep 60
"""
"""A Ray that ends so often on the second machine; and whose head answers no more then, if it was the `LAST` time."""
QUICK = 'case $1 in 2 | 5) exit 0 ;; esac; exec /bin/sleep "$@"'
WAITING = 'for _ in $(seq 300); do if [ -s "$STARTS" ] && eval "$UNTIL"; then exit; fi; /bin/sleep 0.1; done; exit 9'


def lose(tmp_path: Path, losses: int, until: str, last: str = "") -> subprocess.CompletedProcess[str]:
    """A job on whose second machine Ray ends, and whose campaign waits until something holds."""
    files = {name.upper(): str(tmp_path / name) for name in ("looks", "starts", "deaf")}
    variables = {**CPUS, **files, "LOSSES": str(losses), "UNTIL": until, "LAST": last}
    return run(tmp_path, variables=variables, ray=WORKER, sleep=QUICK, raydistill=WAITING)


def test_ray_that_ends_on_a_machine_is_started_again(tmp_path: Path) -> None:
    """A head takes no machine back that it has given up: it would be paid for until the job ends, and do nothing."""
    done = lose(tmp_path, 2, '[ "$(wc -l <"$STARTS")" -ge 3 ]')
    assert done.returncode == 0, done.stderr
    # The one that runs is told to end with the job, and is not started a fourth time.
    assert len((tmp_path / "starts").read_text().splitlines()) == 3


def test_ray_is_not_started_again_for_ever_without_a_head(tmp_path: Path) -> None:
    """A machine would go on without a cluster, and Slurm not end its step."""
    done = lose(tmp_path, 99, '[ "$(wc -l <"$LOOKS")" -ge 62 ]', last="yes")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


SAVING = 'echo "campaign $*" >>"$CALLS"; trap "exit 143" TERM; touch "$BEGUN"; while :; do /bin/sleep 0.05; done'
"""A campaign that goes on until it is told to end, and then saves."""


@pytest.mark.parametrize(
    ("left", "again"),
    [("2:59", True), ("1:57", True), ("0:00", True), ("3:31", False), ("23:10:00", False), ("1-02:00:00", False)],
)
def test_job_that_reaches_its_time_is_run_again_and_one_that_is_ended_is_not(
    tmp_path: Path, left: str, again: bool
) -> None:
    """A campaign of days that stops after its first one without a word: Slurm may send its signal a minute early. Or `scancel`, after which it comes back."""
    begun = tmp_path / "begun"
    job = start(tmp_path, variables={**CPUS, "BEGUN": str(begun)}, raydistill=SAVING, squeue=f"echo {left}")
    try:
        deadline = time.monotonic() + 120
        while not begun.exists():
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.terminate()
        _, said = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 143, said
    assert calls(tmp_path, "requeued") == [f"requeued {JOB}"] * again
    assert list(tmp_path.glob(".raydistill-*")) == []


def test_second_turn_goes_on_with_the_first(tmp_path: Path) -> None:
    """A job that was run again is refused: its run directory holds a campaign."""
    assert run(tmp_path).returncode == 0
    [first] = calls(tmp_path, "campaign")
    assert "--resume" not in first
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    shutil.rmtree(tmp_path / "venv")
    assert run(tmp_path).returncode == 0
    _, second = calls(tmp_path, "campaign")
    assert second.endswith(f"run config.yaml --run-dir {tmp_path}/run --resume")


def test_machine_with_the_loopback_address_alone_is_told(tmp_path: Path) -> None:
    """As Debian sets one up: the job ended with 1 and not a word, and left its token in the home directory."""
    done = run(tmp_path, hostname="echo 127.0.1.1")
    assert done.returncode == 1
    assert "one has no address but the loopback one" in done.stderr
    shutil.rmtree(tmp_path / "venv")
    done = run(tmp_path, hostname="exit 1")
    assert done.returncode == 1
    assert "one does not say its address" in done.stderr
    assert list(tmp_path.glob(".raydistill-*")) == []
