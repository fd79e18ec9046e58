"""What processes nobody watches have to say."""

from __future__ import annotations

import logging
from pathlib import Path

from raydistill.orchestration.logs import logged


def test_log_lies_where_it_belongs_and_ends_with_its_trial(tmp_path: Path) -> None:
    """A process that runs one trial after another would write all of them into the first one's log."""
    logger = logging.getLogger("raydistill.some.room")
    for name in ("first", "second"):
        with logged(tmp_path / name / "trial.log"):
            logger.info("about %s", name)
    logger.warning("afterwards")
    assert "INFO raydistill.some.room: about first" in (tmp_path / "first" / "trial.log").read_text()
    assert "first" not in (tmp_path / "second" / "trial.log").read_text()
    assert "afterwards" not in (tmp_path / "second" / "trial.log").read_text()
