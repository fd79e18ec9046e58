"""A campaign, or a script, as a job: what is sent to the cluster, under which name, and with which command.

Sent are this package, and the configuration as it was resolved here or the script, nothing else: datasets, encoders and runs lie where all machines of the
cluster see them, and a relative path means the same place there as here.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

import raydistill
from raydistill.config.load import dump_config
from raydistill.config.other_teachers import relocated
from raydistill.config.schema import CampaignConfig
from raydistill.errors import ConfigError
from raydistill.orchestration.cluster import ENVIRONMENT
from raydistill.orchestration.jobs import Jobs

STOP_SECONDS = "30"
"""How long a campaign that is stopped may take to save; Ray would kill it after three seconds."""
UNSENT = shutil.ignore_patterns("__pycache__", ".*", "*.pyc")


def submit(
    jobs: Jobs, config: CampaignConfig, name: str, run_dir: str, *, resume: bool, environment: Mapping[str, str]
) -> str:
    """Run a campaign on a cluster as a job of its own; returns the job's name, without waiting for it.

    Args:
        jobs: the cluster's.
        config: what to run; relative paths are taken from the working directory.
        name: of the configuration file, without its suffix.
        run_dir: where to write, as all machines of the cluster see it.
        resume: go on with what the run directory holds.
        environment: variables that every process of the job is to have.

    Raises:
        ConfigError: a variable is raydistill's own, or the token is refused.
        JobError: the cluster did not take the job.
    """
    content, file = dump_config(placed(config)), f"{name}.yaml"
    about = {"campaign": name, "run": run_dir}
    return _sent(jobs, name, {file: content}, command(file, run_dir, resume=resume), environment, about)


def submit_script(jobs: Jobs, script: Path, arguments: Sequence[str], *, environment: Mapping[str, str]) -> str:
    """Run a Python script that uses this package, such as those of `jobs/`, on the head of a cluster as a job of its own; returns the job's name.

    Args:
        jobs: the cluster's.
        script: it is sent, and nothing that lies beside it.
        arguments: as it is to get them; relative paths are taken from the working directory, where the head has it, too.
        environment: as above.

    Raises:
        ConfigError: a variable is raydistill's own, or the script cannot be read.
        JobError: the cluster did not take the job.
    """
    try:
        content = script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"{script}: {problem}",
            expected="a configuration file, or a Python script",
            consequence="nothing was submitted",
            remedy="check the path",
        ) from None
    line = script_command(script.name, arguments, os.getcwd())
    about = {"run": shlex.join([script.name, *arguments])}
    return _sent(jobs, script.stem, {script.name: content}, line, environment, about)


def _sent(
    jobs: Jobs,
    name: str,
    files: Mapping[str, str],
    line: str,
    environment: Mapping[str, str],
    about: Mapping[str, str],
) -> str:
    """Send the package and some files, and have a command run beside them."""
    own = sorted(ENVIRONMENT.keys() & environment.keys())
    if own:
        raise ConfigError(
            f"--env {', '.join(own)}",
            expected="variables that raydistill does not set itself",
            consequence="Ray refuses a job and a driver that both set a variable, after the job has started",
            remedy="leave them out",
        )
    identity = job_name(name)
    with tempfile.TemporaryDirectory(prefix="raydistill-") as folder:
        lay_out(Path(folder), files)
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": STOP_SECONDS, **environment}
        jobs.submit(line, identity, Path(folder), variables, {**about, "raydistill": raydistill.__version__})
    return identity


def job_name(campaign: str) -> str:
    """A name that nobody else's job has, and that says which campaign it is."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", campaign).strip("-.") or "campaign"
    return f"{words}-{secrets.token_hex(4)}"


def command(file: str, run_dir: str, *, resume: bool) -> str:
    """The command of the job, for the shell on the head of the cluster.

    `exec` puts the campaign in the shell's place: signals reach it, and its exit code is the job's.
    """
    words = ["python", "-m", "raydistill", "--verbose", "run", file, "--run-dir", run_dir]
    return "exec " + shlex.join([*words, *(["--resume"] if resume else [])])


def script_command(script: str, arguments: Sequence[str], here: str) -> str:
    """The command of a script's job: in the directory it was submitted from, where the head of the cluster has it; the script finds the package beside itself."""
    lost = f"{here} is not on the head of the cluster: what is written to relative paths goes with the job"
    move = f"cd {shlex.quote(here)} 2>/dev/null || echo {shlex.quote(lost)} >&2"
    return f'sent="$PWD"; {move}; exec python "$sent"/{shlex.quote(script)} {shlex.join(arguments)}'.rstrip()


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    """Put into a folder what the job needs: the package, and some files by their names."""
    package = Path(raydistill.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=UNSENT)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def placed(config: CampaignConfig) -> CampaignConfig:
    """The same campaign with its relative local paths made absolute: the job runs in another working directory."""
    changes: dict[str, BaseModel] = {"data": config.data.model_copy(update={"path": absolute(config.data.path)})}
    if Path(config.encoder.name).is_dir():
        changes["encoder"] = config.encoder.model_copy(update={"name": absolute(config.encoder.name)})
    if config.teacher.checkpoint is not None:
        checkpoint = absolute(config.teacher.checkpoint)
        changes["teacher"] = config.teacher.model_copy(update={"checkpoint": checkpoint})
    return relocated(config.model_copy(update=changes), absolute)


def absolute(path: str) -> str:
    """A path from the root of the file system; a place with a scheme (s3://...) stays as it is."""
    return path if "://" in path else os.path.abspath(path)
