"""The lists that SimKGC's preprocessing writes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import DataError
from raydistill.kg.jsonlists import items_of
from raydistill.kg.lines import Intake
from raydistill.kg.prepare import prepare
from raydistill.kg.sources import read_source

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def _triple(head: str, relation: str | None, tail: str) -> dict[str, Any]:
    return {"head_id": head, "head": None, "relation": relation, "tail_id": tail, "tail": "x"}


def _write(folder: Path) -> Path:
    folder.mkdir()
    lists: dict[str, Any] = {
        "train.txt.json": [_triple("1", "hypernym", "2"), _triple("2", "has part", "/m/3")],
        "valid.txt.json": [_triple("1", "has part", "/m/3")],
        "test.txt.json": [_triple("/m/3", "is new", "2")],
        "entities.json": [
            {"entity_id": "1", "entity": "stool_NN_2", "entity_desc": " a  seat"},
            {"entity_id": "2", "entity": "family_alcidae_NN_1", "entity_desc": '"Auk" is its name'},
            {"entity_id": "/m/3", "entity": None, "entity_desc": '"A \\"town\\" that was cut off after fifty'},
            {"entity_id": "4", "entity": "Alone"},
        ],
        "relations.json": {"_hypernym": "hypernym", "_has_part": "has part", "P2439": None},
    }
    for name, content in lists.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=4), encoding="utf-8")
    return folder


def test_what_simkgc_wrote_is_the_graph_it_read(tmp_path: Path) -> None:
    """Keys of relations are in another file than the triples, and names of WordNet keep their part of speech."""
    folder = _write(tmp_path / "source")
    for split in ("train", "valid", "test"):  # They lie beside the lists, and would be read without texts.
        (folder / f"{split}.txt").write_text("1\t_hypernym\t2\n")
    graph = read_source(folder, "auto", intake := Intake())
    assert not intake.malformed
    assert graph.layout == "simkgc-json"
    assert graph.entity_keys == ["1", "2", "/m/3", "4"]
    assert graph.entity_names == ["stool", "family alcidae", "/m/3", "Alone"]
    assert graph.entity_descriptions == ["a seat", '"Auk" is its name', 'A "town" that was cut off after fifty', ""]
    assert graph.relation_keys == ["_hypernym", "_has_part", "is new"]
    assert graph.relation_phrases == ["hypernym", "has part", "is new"]
    assert not graph.unphrased.any()
    assert {split: rows.tolist() for split, rows in graph.triples.items()} == {
        "train": [[0, 0, 1], [1, 1, 2]],
        "valid": [[0, 1, 2]],
        "test": [[2, 2, 1]],
    }


def test_a_phrase_of_two_relations_is_its_own_key(tmp_path: Path) -> None:
    """Which of the two is meant cannot be told any more."""
    folder = _write(tmp_path / "source")
    (folder / "relations.json").write_text('{"_a": "hypernym", "_b": "hypernym", "_has_part": "has part"}')
    assert read_source(folder, "auto", Intake()).relation_keys == ["hypernym", "_has_part", "is new"]


def test_items_that_are_no_triples_are_named_by_line(tmp_path: Path) -> None:
    """SimKGC leaves null for relations of Wikidata5M's test split that have no phrase."""
    folder = _write(tmp_path / "source")
    items = [
        _triple("1", None, "2"),
        _triple("", "r", "2"),
        7,
        {"head_id": "1", "relation": ["r"]},
        _triple("1", "r", "\ud800"),
    ]
    content = [*items, _triple("1", "has part", "2"), _triple("1", "r", "a\u0001")]
    (folder / "test.txt.json").write_text(",\n".join(json.dumps(item) for item in content).join("[]"))
    with pytest.raises(DataError, match=r"test\.txt\.json:1: no relation"):
        prepare(folder, tmp_path / "out")
    dataset = prepare(folder, tmp_path / "out", quarantine=True)
    assert len(dataset.test) == 1
    told = [line.split("\t")[1:3] for line in (dataset.path / "quarantine.tsv").read_text().splitlines()[1:]]
    assert told == [
        ["1", "no relation"],
        ["2", "head_id is empty"],
        ["3", "no JSON object"],
        ["4", "relation is no text"],
        ["5", "tail_id holds half of a character"],
        ["7", "control character in tail_id"],
    ]


@settings(max_examples=200, deadline=None)
@given(values=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 0, 4]), size=st.integers(3, 40))
def test_a_list_in_pieces_is_the_list(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, size: int
) -> None:
    """A number that is cut in two at the end of a piece is two numbers."""
    path = tmp_path_factory.mktemp("list") / "list.json"
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    found = list(items_of(path, size))
    assert [item for _, item in found] == values
    if indent is not None:
        lines = text.split("\n")
        assert all(json.dumps(item, ensure_ascii=False)[0] == lines[line - 1].strip()[0] for line, item in found)


@settings(max_examples=300, deadline=None)
@given(
    data=st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(list('[]{},:"1a\\ \n')), max_size=20).map("".join)),
    size=st.integers(3, 9),
)
def test_any_bytes_are_a_list_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes | str, size: int
) -> None:
    """The answer is what the json module says of the whole file, and never another exception."""
    path = tmp_path_factory.mktemp("bytes") / "list.json"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    try:
        expected = json.loads(path.read_bytes().decode("utf-8-sig"))
    except ValueError:
        expected = None
    try:
        found = [item for _, item in items_of(path, size)]
    except DataError:
        assert not isinstance(expected, list)
        return
    assert found == expected


@pytest.mark.parametrize("content", ["[" * 100_000, '[{"a": "never closed', "{}", "", "[1 2]", "[1,]", "[1] x"])
def test_what_is_no_list_is_refused_by_file_and_line(tmp_path: Path, content: str) -> None:
    """A list that was cut off in the middle of the download would pass for the whole graph."""
    folder = _write(tmp_path / "source")
    (folder / "entities.json").unlink()
    (folder / "entities.json.gz").write_bytes(gzip.compress(f"\n{content}".encode()))
    with pytest.raises(DataError, match=r"entities\.json\.gz:[12]: "):
        read_source(folder, "auto", Intake())
