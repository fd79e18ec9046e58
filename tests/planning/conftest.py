"""Small campaigns for the tests of decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raydistill.config.load import parse_config
from raydistill.config.schema import CampaignConfig
from raydistill.planning.ground import Ground

Maker = Callable[..., CampaignConfig]


@pytest.fixture(name="campaign")
def _campaign() -> Maker:
    def make(*grades: dict[str, Any], **sections: Any) -> CampaignConfig:
        content = {"data": {"path": "d"}, "encoder": {"name": "e"}, "grades": list(grades) or [{"layers": 3}]}
        return parse_config({**content, **sections})

    return make


@pytest.fixture(name="ground")
def _ground() -> Ground:
    return Ground("d" * 64, "e" * 64, 12)
