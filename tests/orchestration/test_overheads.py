"""What orchestration costs: campaigns of which it cannot be said."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest

from raydistill.errors import ConfigError
from raydistill.orchestration.overheads import measured


@pytest.mark.parametrize("part", ["inline", "train", "workers"])
def test_single_epoch_is_refused_before_anything_runs(tmp_path: Path, part: str) -> None:
    """A benchmark that trains for minutes, and then has no two reports to take the time between."""
    config = fakes.campaign(grades=[{"layers": 3, "epochs": 1}])
    with pytest.raises(ConfigError, match="the last grade has 1 epoch"):
        measured(part, config, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
