"""Small graphs on disk, and the way to the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

TRIPLES = {
    "train": [
        "ann\tknows\tbob",
        "bob\tknows\tcarl",
        "carl\tlives_in\trome",
        "ann\tlives_in\trome",
        "bob\tlives_in\toslo",
    ],
    "dev": ["carl\tknows\tann", "dora\tlives_in\toslo"],
    "test": ["bob\tknows\tann", "dora\tknows\tbob"],
}
NAMES = ["ann\tAnn Lee", "bob\tBob, Jr.", "carl\tCarl", "dora\tDora", "rome\tRome", "oslo\tOslo"]
DESCRIPTIONS = ["ann\tAnn Lee, a painter", "bob\tHe fishes.", "carl\tCarl", "dora\ta baker", "rome\ta city", "oslo\t"]
PHRASES = ["knows\tknows", "lives_in\tlives in"]

Folder = Callable[..., Path]


@pytest.fixture
def kg_bert_folder(tmp_path: Path) -> Path:
    """Six entities, two relations, nine triples in KG-BERT's layout."""
    folder = tmp_path / "source"
    folder.mkdir()
    for split, lines in TRIPLES.items():
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = {"entity2text.txt": NAMES, "entity2textlong.txt": DESCRIPTIONS, "relation2text.txt": PHRASES}
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def real_folder() -> Folder:
    """Return the folder of a real graph, or skip where the data is absent."""

    def find(name: str) -> Path:
        folder = REAL_DATA / name
        if not folder.is_dir():
            pytest.skip(f"{name} is not beside the repository")
        return folder

    return find
