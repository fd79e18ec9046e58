"""A pytest plugin under which Ray is not installed: `make test-core` shows that learning needs none of it.

Tests of the orchestration floor, and those marked `ray` or `needs_ray`, are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest


class NoRay(MetaPathFinder):
    """Finds no `ray`, and keeps the finders after it from finding one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse Ray, leave everything else to the other finders."""
        if fullname == "ray" or fullname.startswith("ray."):
            raise ModuleNotFoundError(f"No module named {fullname!r} (blocked by tests/without_ray.py)", name=fullname)
        return None


def pytest_configure(config: pytest.Config) -> None:
    """Block Ray before the first test file is imported."""
    assert "ray" not in sys.modules, "Ray was imported before it could be blocked"
    sys.meta_path.insert(0, NoRay())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of the floor that is made of Ray."""
    return True if "orchestration" in collection_path.parts else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked."""
    chosen = [item for item in items if not any(item.get_closest_marker(name) for name in ("ray", "needs_ray"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
