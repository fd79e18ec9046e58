"""The command as a whole: what it imports, what it offers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

HEAVY = ("torch", "transformers", "ray", "pyarrow", "pydantic", "rich", "numpy", "yaml")
ROOT = Path(__file__).parents[2]


def test_importing_the_command_imports_nothing_heavy() -> None:
    """One import at the head of a file, and `raydistill --help` takes seconds."""
    code = f"import json, sys, raydistill.cli.main; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == []


def test_status_needs_neither_torch_nor_ray(tmp_path: Path, smallest: str) -> None:
    """`status` is asked every few seconds; with torch and Ray it would take five."""
    (tmp_path / "config.yaml").write_text(smallest, encoding="utf-8")
    code = (
        "import sys; from raydistill.cli.main import commands\n"
        f"try: commands(['status', {str(tmp_path)!r}])\n"
        "except SystemExit as ending: print(ending.code, [m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    "command", ["", "prepare", "run", "status", "submit", "jobs", "stop", "evaluate", "predict", "verify"]
)
def test_every_command_has_help(call: Callable[..., Result], command: str) -> None:
    """A command that needs its arguments before it explains them."""
    result = call(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_command_list_is_not_cut(call: Callable[..., Result]) -> None:
    """A list of commands that ends in dots explains nothing."""
    assert "..." not in call("--help").output.split("Commands:")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("unknown",),
        ("prepare",),
        ("run",),
        ("prepare", "x", "--out", "y", "--seed", "many"),
        ("status", "/nowhere/at/all"),
    ],
)
def test_usage_errors_are_exit_code_two(call: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """Scripts tell a wrong call from a failed run by the exit code."""
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_version_is_the_packages(call: Callable[..., Result]) -> None:
    """A version written twice is soon two versions."""
    import raydistill

    assert raydistill.__version__ in call("--version").output


def test_sigterm_ends_a_command_with_143(tmp_path: Path) -> None:
    """A batch system sends SIGTERM; the default would kill before anything is closed."""
    marker = tmp_path / "closed"
    code = (
        "import time, click, pathlib\n"
        "from raydistill.cli import main\n"
        "@main.commands.command()\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    try: time.sleep(60)\n"
        f"    finally: pathlib.Path({str(marker)!r}).touch()\n"
        "main.main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, "wait"], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=200) == 143
    assert marker.exists()


def test_closed_pipe_is_quiet() -> None:
    """`raydistill ... | head` must not end in a traceback."""
    code = (
        "import click\n"
        "from raydistill.cli import main\n"
        "@main.commands.command()\n"
        "def talk():\n"
        "    for number in range(200000): click.echo(f'line {number}')\n"
        "main.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "talk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=200) == 141
