"""One part of a graph's relations: which it is, what is left, and that all parts together are the graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raydistill.data.groups import relation_groups
from raydistill.errors import CapabilityError, ConfigError, DataError
from raydistill.kg.audit import describe
from raydistill.kg.parts import parsed_part, parts_of_relations
from raydistill.kg.prepare import prepare
from raydistill.kg.triples import SPLITS

ENTITIES, COUNTS = 40, (300, 30, 210, 180, 90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain graph of five relations, the first with 300 training triples; ten of each in valid and in test."""
    source, generator = tmp_path / "source", np.random.default_rng(0)
    source.mkdir()
    for split in SPLITS:
        rows = [
            f"e{head}\tr{relation}\te{tail}\n"
            for relation, count in enumerate(COUNTS)
            for head, tail in generator.integers(ENTITIES, size=(count if split == "train" else 10, 2)).tolist()
        ]
        (source / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
    return source


def test_relations_are_dealt_out_largest_first() -> None:
    """Parts of very unequal size, or another division than the one that is taught by."""
    train = np.array([(0, relation, 1) for relation, count in enumerate((10, 1, 7, 6, 3)) for _ in range(count)])
    # 10 | 7 | 6 to 7's, 3 to 10's (13 and 13 is a tie: 1 to the first).
    assert parts_of_relations(train, 5, 2).tolist() == [0, 0, 1, 1, 0]
    assert parts_of_relations(train, 5, 1).tolist() == [0] * 5


@pytest.mark.parametrize("sample", [None, 30])
def test_parts_are_disjoint_and_together_the_graph_that_education_divides(
    folder: Path, tmp_path: Path, sample: int | None
) -> None:
    """A teacher that was trained on other triples than those it teaches; a triple that no teacher knows; ids that mean something else in a part."""
    whole = prepare(folder, tmp_path / "whole", sample=sample, seed=3)
    groups = relation_groups(whole.train, whole.num_entities, whole.num_relations, 3)
    parts = [prepare(folder, tmp_path / f"{n}", sample=sample, seed=3, part=f"{n}/3") for n in (1, 2, 3)]
    for split in SPLITS:
        of_part = groups.of_relation[whole.split(split)[:, 1]]
        for number, part in enumerate(parts):
            assert np.array_equal(part.split(split), whole.split(split)[of_part == number])
            assert len(part.split(split))
    for part in parts:
        assert part.entity_keys == whole.entity_keys
        assert part.entity_names == whole.entity_names
        assert part.relation_phrases == whole.relation_phrases
    assert len({dataset.fingerprint for dataset in (whole, *parts)}) == 4


def test_part_is_on_record(folder: Path, tmp_path: Path) -> None:
    """Numbers of a part that would be reported as those of the graph; a dataset without a part that is written otherwise than it was."""
    part = prepare(folder, tmp_path / "part", part="2/2")
    manifest = json.loads((part.path / "manifest.json").read_text())
    assert manifest["source"]["part"] == "2/2"
    # 300 | 210 | 180 to 210's | 90 to 300's (390 and 390 is a tie: 30 to the first).
    record = part.audit()["part"]
    assert record["number"] == record["count"] == 2
    assert record["relations"] == ["r2", "r3"]
    assert record["kept"] == {"relations": 2, "train": 390, "valid": 20, "test": 20}
    assert record["whole"] == {"relations": 5, "train": 810, "valid": 50, "test": 50}
    assert any(
        "Part 2 of 2: 2 of 5 relations have triples, 390 of 810 in train" in one for one in describe(part.audit())
    )
    whole = prepare(folder, tmp_path / "whole").audit()
    assert not any("Part" in one for one in describe(whole))
    assert describe({name: value for name, value in whole.items() if name != "part"}) == describe(whole)
    assert "part" not in json.loads((tmp_path / "whole" / "manifest.json").read_text())["source"]


@pytest.mark.parametrize(
    "text", ["4/3", "0/3", "x", "", "2", "/3", "1/", "1/0", "-1/3", "1/3\n", "²/3", "1" * 5000 + "/3"]
)
def test_what_is_no_part_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    """A part of nothing, or the last one for a number beyond it."""
    with pytest.raises(ConfigError, match="part") as caught:
        parsed_part(text)
    assert caught.value.remedy
    with pytest.raises(ConfigError):
        prepare(folder, tmp_path / "out", part=text)
    assert not (tmp_path / "out").exists()


def test_parts_without_triples_are_refused(folder: Path, tmp_path: Path) -> None:
    """A dataset on which nothing can be trained, or nothing selected."""
    with pytest.raises(CapabilityError, match="6 parts of the relations of a graph that has 5"):
        prepare(folder, tmp_path / "out", part="1/6")
    rows = (folder / "valid.tsv").read_text().splitlines(keepends=True)
    (folder / "valid.tsv").write_text("".join(row for row in rows if "\tr4\t" not in row))
    with pytest.raises(DataError, match="part 4/5 of the relations has no triple for valid"):
        prepare(folder, tmp_path / "out", part="4/5")
    assert not (tmp_path / "out").exists()
