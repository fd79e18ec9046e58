"""docs/configuration.md says what the schema does."""

from __future__ import annotations

import re
from pathlib import Path

from raydistill.config.methods import METHOD_SECTIONS
from raydistill.config.reference import configuration_reference
from raydistill.config.schema import CampaignConfig

ROOT = Path(__file__).parents[2]
SCHEMA = CampaignConfig.model_json_schema()


def test_page_is_up_to_date() -> None:
    """A page that lags behind the schema teaches keys that are refused; `make docs` writes it anew."""
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == configuration_reference(SCHEMA)


def test_every_key_of_every_section_has_a_row() -> None:
    """A section reached only through a union or a list would be left out silently."""
    page = configuration_reference(SCHEMA)
    for name, field in CampaignConfig.model_fields.items():
        assert f"| `{name}` |" in page, (name, field)
    for name, section in METHOD_SECTIONS.items():
        table = page.split(f"## method: {name}\n")[1].split("\n## ")[0]
        for key in section.model_fields:
            assert f"| `{key}` |" in table
    for key in ("mask_ratio", "layer_map", "learning_rate"):
        assert f"| `{key}` |" in page.split("## grades\n")[1].split("\n## ")[0]


def test_every_key_says_what_it_means() -> None:
    """A key without a meaning is set by guessing: nobody can tell what `layer_map: skip` skips."""
    rows = [line for line in configuration_reference(SCHEMA).splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    silent = [row for row in rows if not re.split(r"(?<!\\)\|", row)[4].strip()]
    assert not silent
