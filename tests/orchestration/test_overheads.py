"""What orchestration costs: campaigns of which it cannot be said."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest

from raydistill.errors import ConfigError
from raydistill.orchestration.overheads import measured


@pytest.mark.parametrize("part", ["inline", "train", "workers"])
@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (2, 2), (3, 5)])
def test_single_report_is_refused_before_anything_runs(tmp_path: Path, part: str, epochs: int, every: int) -> None:
    """A benchmark that trains for minutes, and then has no two reports to take the time between."""
    config = fakes.campaign(grades=[{"layers": 3, "epochs": epochs}], training={"evaluate_every": every})
    with pytest.raises(ConfigError, match=f"the last grade has {epochs} epoch"):
        measured(part, config, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
