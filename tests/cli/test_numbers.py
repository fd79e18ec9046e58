"""Numbers that scripts take."""

from __future__ import annotations

import argparse

import pytest

from raydistill.cli.numbers import at_least_one


def test_number_is_taken() -> None:
    assert at_least_one("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", ""])
def test_what_is_no_number_of_things_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No worker, or minus one hop: a traceback of whatever is given them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=at_least_one)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--workers={text}"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err
