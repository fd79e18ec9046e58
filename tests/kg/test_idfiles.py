from __future__ import annotations

from pathlib import Path

import pytest

from raydistill.errors import DataError
from raydistill.kg.graph import Graph
from raydistill.kg.lines import Intake
from raydistill.kg.sources import read_source

OPENKE = {
    "entity2id.txt": "4\nann\t0\nbob\t1\nnew york\t3\ncarl\t2\n",
    "relation2id.txt": "2\nlives_in\t1\nknows\t0\n",
    "train2id.txt": "2\n0 1 0\n1 3 1\n",
    "valid2id.txt": "1\n2\t3\t1\n",
    "test2id.txt": "1\r\n2 0 0\r\n",
}
LIBKGE = {
    "entity_ids.del": "0\tann\n1\tbob\n2\tcarl\n3\tnew york\n",
    "relation_ids.del": "0\tknows\n1\tlives_in\n",
    "train.del": "0\t0\t1\n1\t1\t3\n",
    "valid.del": "2\t1\t3\n",
    "test.del": "2\t0\t0\n",
}
FACTS = {
    "train": [("ann", "knows", "bob"), ("bob", "lives_in", "new york")],
    "valid": [("carl", "lives_in", "new york")],
    "test": [("carl", "knows", "ann")],
}


def _write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def _facts(graph: Graph) -> dict[str, list[tuple[str, str, str]]]:
    keys, relations = graph.entity_keys, graph.relation_keys
    return {
        split: [(keys[head], relations[relation], keys[tail]) for head, relation, tail in triples.tolist()]
        for split, triples in graph.triples.items()
    }


@pytest.mark.parametrize(("layout", "files"), [("openke", OPENKE), ("libkge", LIBKGE)])
def test_numbers_become_the_keys_they_stand_for(tmp_path: Path, layout: str, files: dict[str, str]) -> None:
    """OpenKE writes head, tail, relation: read in the usual order, relations would become entities."""
    graph = read_source(_write(tmp_path / "source", files), "auto", Intake())
    assert graph.layout == layout
    assert _facts(graph) == FACTS
    assert graph.entity_keys == ["ann", "bob", "carl", "new york"]


def test_openke_reads_the_texts_beside_it(tmp_path: Path) -> None:
    """Texts that lie there must not be replaced by keys."""
    graph = read_source(_write(tmp_path / "source", OPENKE | {"entity2text.txt": "ann\tAnn Lee\n"}), "auto", Intake())
    assert graph.entity_names == ["Ann Lee", "bob", "carl", "new york"]


@pytest.mark.parametrize("strings", ["ann\tAnn Lee\ncarl\tCarl\n", "0\tAnn Lee\n2\tCarl\n"])
def test_libkge_strings_by_key_or_by_number(tmp_path: Path, strings: str) -> None:
    """LibKGE's datasets use both; guessed wrong, all names would be lost."""
    graph = read_source(_write(tmp_path / "source", LIBKGE | {"entity_strings.del": strings}), "auto", Intake())
    assert graph.entity_names == ["Ann Lee", "bob", "Carl", "new york"]


@pytest.mark.parametrize("strings", ["ann\tAnn Lee\ndora\tDora\n", "0\tAnn Lee\n9\tDora\n"])
def test_libkge_strings_of_unknown_keys_are_counted(tmp_path: Path, strings: str) -> None:
    """Names under mistyped keys would vanish, and the entities meant would be called by their keys."""
    files = LIBKGE | {"entity_strings.del": strings, "relation_strings.del": "knows\tknows\nlieves_in\tlives in\n"}
    notes = read_source(_write(tmp_path / "source", files), "auto", Intake()).notes
    assert notes == (
        "1 texts of entity_strings.del for keys that are not listed were left out.",
        "1 texts of relation_strings.del for keys that are not listed were left out.",
    )


@pytest.mark.parametrize("count", ["3", "1", "", "two", "-2", "9" * 5000])
def test_openke_counts_are_checked(tmp_path: Path, count: str) -> None:
    """A file cut short at a line end looks whole but for its first line."""
    folder = _write(tmp_path / "source", OPENKE | {"train2id.txt": f"{count}\n0 1 0\n1 3 1\n"})
    with pytest.raises(DataError, match=r"train2id\.txt"):
        read_source(folder, "auto", Intake())


@pytest.mark.parametrize(
    ("name", "text", "bad"),
    [
        ("train.del", "0\t0\t1\n0\t0\t4\n", ("train.del", 2, "unknown id")),
        ("train.del", "0\t2\t1\n0\t0\t1\n", ("train.del", 1, "unknown id")),
        ("train.del", "0\t0\t1\n-1\t0\t1\n", ("train.del", 2, "unknown id")),
        ("train.del", "0\t0\t1\nx\t0\t1\n", ("train.del", 2, "unknown id")),
        ("entity_ids.del", LIBKGE["entity_ids.del"] + "2\tdora\n", ("entity_ids.del", 5, "listed before")),
        ("entity_ids.del", LIBKGE["entity_ids.del"] + "4\tann\n", ("entity_ids.del", 5, "listed before")),
        ("entity_ids.del", LIBKGE["entity_ids.del"] + "x\tdora\n", ("entity_ids.del", 5, "no number")),
    ],
)
def test_unknown_ids_are_named_by_line(tmp_path: Path, name: str, text: str, bad: tuple[str, int, str]) -> None:
    """A number without a key would otherwise pick the last entity, or end in an IndexError."""
    intake = Intake()
    read_source(_write(tmp_path / "source", LIBKGE | {name: text}), "auto", intake)
    found = intake.malformed[0]
    assert (found.file, found.line) == bad[:2]
    assert bad[2] in found.reason
