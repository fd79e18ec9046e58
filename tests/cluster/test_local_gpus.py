"""Which GPUs cluster/local.sh gives to whom, with `ray start` replaced by something that writes down what it was told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/local.sh"
PYTHON = f"""#!/usr/bin/env bash
[ "$1" != - ] || exit 0
case " $* " in
*" start --block "*)
    [[ " $* " =~ ' --num-gpus '([0-9]+) ]] && count=${{BASH_REMATCH[1]}} || count=uncounted
    echo "$count ${{CUDA_VISIBLE_DEVICES-unset}}" >>"$CALLS"
    echo 'Ray runtime started'
    exec sleep 60
    ;;
*" import aiohttp, ray "*) exit 0 ;;
esac
exec {sys.executable} "$@"
"""
THREE = "printf '0\\n1\\n2\\n'"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def call(tmp_path: Path, *arguments: str, smi: str = THREE, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script on a machine with three GPUs, unless told otherwise."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in (("python", PYTHON), ("nvidia-smi", f"#!/usr/bin/env bash\n{smi}\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": str(programs / "python")}
    environment = {**plain, **path, "CALLS": str(tmp_path / "calls"), **variables}
    command = [str(SCRIPT), *arguments, "--dir", str(tmp_path / "state")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.mark.parametrize(
    ("workers", "variables", "told"),
    [
        ("2", {}, ["0 unset", "2 0,2", "1 1"]),
        ("0", {}, ["3 0,1,2"]),
        ("4", {}, ["0 unset", "1 0", "1 1", "1 2", "0 unset"]),
        ("1", {"CUDA_VISIBLE_DEVICES": "2,GPU-7"}, ["0 2,GPU-7", "2 2,GPU-7"]),
        ("1", {"CUDA_VISIBLE_DEVICES": ""}, ["uncounted ", "uncounted "]),
        ("1", {"CUDA_VISIBLE_DEVICES": "-1"}, ["uncounted -1", "uncounted -1"]),
    ],
)
def test_each_gpu_is_offered_once(tmp_path: Path, workers: str, variables: dict[str, str], told: list[str]) -> None:
    """Two cards that Ray counts as six: six trials, each with a whole one, and no memory left."""
    try:
        done = call(tmp_path, "start", "--workers", workers, **variables)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "calls").read_text().splitlines() == told
        if not variables:
            assert call(tmp_path, "add").returncode == 0
            assert (tmp_path / "calls").read_text().splitlines()[len(told) :] == ["0 unset"]
    finally:
        call(tmp_path, "stop")


def test_driver_that_fails_counts_no_gpu(tmp_path: Path) -> None:
    """Lines of an error that pass for cards, which Ray gives away."""
    try:
        done = call(tmp_path, "start", "--workers", "1", smi="echo 'NVIDIA-SMI has failed because'; echo; exit 9")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "calls").read_text().splitlines() == ["uncounted unset", "uncounted unset"]
    finally:
        call(tmp_path, "stop")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_address_that_nobody_can_be_told_is_refused(tmp_path: Path, host: str) -> None:
    """Ray takes it for the machine's own, and others look for the head at 0.0.0.0."""
    done = call(tmp_path, "start", "--host", host)
    assert done.returncode == 2
    assert f"error: --host {host}" in done.stderr
    assert not (tmp_path / "calls").exists()
