"""What an exception becomes on the command line."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import click
import pytest
import torch

from raydistill import errors
from raydistill.cli.failures import explained

LEAVES = sorted(
    (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.RayDistillError)),
    key=lambda kind: kind.__name__,
)


def outcome(
    error: BaseException, capsys: pytest.CaptureFixture[str], *, debug: bool = False, resumable: bool = False
) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught, explained(debug=debug, resumable=lambda: resumable):
        raise error
    shown = capsys.readouterr()
    assert shown.out == ""
    return caught.value.code, shown.err


@pytest.mark.parametrize("kind", LEAVES)
def test_own_errors_are_told_in_four_parts(
    kind: type[errors.RayDistillError], capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a user's mistake; or a remedy that is written and never shown."""
    code, text = outcome(kind("got a", expected="b", consequence="c", remedy="do d"), capsys)
    assert code == kind.exit_code
    assert text == "error: got a\n  expected: b\n  otherwise: c\n  what to do: do d\n"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.CapabilityError, 2),
        (errors.RoomError, 2),
        (errors.DataError, 3),
        (errors.CheckpointError, 4),
        (errors.LedgerError, 4),
        (errors.TrialError, 5),
        (errors.StorageError, 5),
        (errors.ShapeError, 5),
    ],
)
def test_exit_codes_are_the_documented_ones(kind: type[errors.RayDistillError], code: int) -> None:
    """Scripts branch on these numbers."""
    assert kind.exit_code == code


def test_error_that_crossed_a_process_border_is_unwrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray wraps an error of a worker in one that carries the remote traceback as its text."""

    class RayTaskError(Exception):
        def __init__(self, cause: Exception) -> None:
            super().__init__("a long remote traceback")
            self.cause = cause

    code, text = outcome(RayTaskError(errors.DataError("train.tsv, line 3")), capsys)
    assert code == 3
    assert text == "error: train.tsv, line 3\n"


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_ran_out_is_the_users_to_mend(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    """`predict` beside a campaign that fills the GPU: "a fault of raydistill"."""
    code, text = outcome(kind("CUDA out of memory.\nA long story"), capsys)
    assert code == 5
    assert text.startswith("error: no memory left: CUDA out of memory.\n  expected: ")
    assert "CUDA_VISIBLE_DEVICES=" in text


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 5), (errno.EROFS, 5), (errno.EDQUOT, 5), (errno.EACCES, 2), (errno.ENOTDIR, 2)]
)
def test_refusals_of_the_system_are_explained(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk is the user's to mend, not a fault to be reported."""
    found, text = outcome(OSError(number, "as the system says it", "/some/file"), capsys)
    assert found == code
    assert text.startswith("error: /some/file: as the system says it\n")
    assert "what to do: " in text


def test_unexpected_error_keeps_its_traceback_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback on the screen hides the message; a traceback thrown away hides the fault."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, text = outcome(KeyError("lost"), capsys)
    [file] = tmp_path.iterdir()
    assert code == 70
    assert "Traceback" not in text
    assert str(file) in text
    assert "KeyError: 'lost'" in file.read_text(encoding="utf-8")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever mends the fault wants to see it at once."""
    code, text = outcome(KeyError("lost"), capsys, debug=True)
    assert code == 70
    assert "Traceback (most recent call last)" in text


def test_traceback_is_shown_where_no_file_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the error about the error would replace the error."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    code, text = outcome(KeyError("lost"), capsys)
    assert code == 70
    assert "Traceback" in text


def test_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """After Ctrl-C the question is always whether the work is lost."""
    code, text = outcome(KeyboardInterrupt(), capsys, resumable=True)
    assert code == 130
    assert "--resume" in text


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(143)])
def test_nothing_is_promised_that_cannot_be_resumed(raised: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    """`prepare` and `evaluate` have no --resume, and keep nothing of what was begun."""
    assert outcome(raised, capsys)[1] in ("interrupted\n", "terminated\n")


@pytest.mark.parametrize("raised", [int(signal.SIGTERM), 143])
def test_termination_says_how_to_go_on(raised: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray's own handler exits with a bare 15, which no shell reads as terminated; and nobody likes a silent end."""
    code, text = outcome(SystemExit(raised), capsys, resumable=True)
    assert code == 143
    assert text.startswith("terminated; ")
    assert "--resume" in text


@pytest.mark.parametrize("code", [4, 0, None])
def test_exits_keep_their_code(code: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` ends with the code of what it found."""
    assert outcome(SystemExit(code), capsys) == (code, "")


def test_usage_errors_are_left_to_click() -> None:
    """Click prints the usage line with them."""
    with pytest.raises(click.UsageError), explained():
        raise click.UsageError("wrong")
