"""Sources without valid or test, and what is cut out of train for them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from raydistill.errors import ConfigError, DataError
from raydistill.kg.audit import describe
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset

TRIPLES = sorted(f"e{row}\tr{(row + step) % 3}\te{(row + step) % 20}" for row in range(20) for step in (1, 2, 3, 5, 7))


def _one_file(folder: Path, name: str = "graph.tsv") -> Path:
    folder.mkdir()
    content = "".join(f"{line}\n" for line in TRIPLES).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def _lines_of(dataset: Dataset, split: str) -> list[str]:
    keys, relations = dataset.entity_keys, dataset.relation_keys
    return [f"{keys[h]}\t{relations[r]}\t{keys[t]}" for h, r, t in dataset.split(split).tolist()]


@pytest.mark.parametrize("name", ["graph.tsv", "graph.tsv.gz", "triples.txt", "train.tsv"])
def test_one_file_is_cut_without_losing_a_triple(tmp_path: Path, name: str) -> None:
    """A share that means another thing than it says, or a triple in two splits, makes another task."""
    dataset = prepare(_one_file(tmp_path / "source", name), tmp_path / "out", hold_out=0.1)
    parts = [_lines_of(dataset, split) for split in ("train", "valid", "test")]
    assert sorted(parts[0] + parts[1] + parts[2]) == TRIPLES
    wanted = round(0.1 * len(TRIPLES))
    assert wanted <= len(parts[1]) <= wanted + 1
    assert wanted <= len(parts[2]) <= wanted + 1
    assert set(dataset.train[:, [0, 2]].ravel().tolist()) == set(range(dataset.num_entities))
    pairs = [
        {frozenset((head, tail)) for head, _, tail in dataset.split(split).tolist()} for split in ("train", "valid")
    ]
    assert not pairs[0] & pairs[1]


def test_a_file_may_be_the_source(tmp_path: Path) -> None:
    """The file is what people have; its folder may hold anything."""
    folder = _one_file(tmp_path / "source")
    (folder / "entity2text.txt").write_text("e0\tZero\nelsewhere\tOther\n")
    dataset = prepare(folder / "graph.tsv", tmp_path / "out", hold_out=0.1)
    assert dataset.num_entities == 20
    assert dataset.entity_names[0] == "e0"
    [warning] = [note for note in dataset.audit()["notes"] if note.startswith("Warning")]
    assert "entity2text.txt" in warning
    assert prepare(folder, tmp_path / "with-texts", hold_out=0.1).entity_names[0] == "Zero"


def test_the_same_seed_and_share_give_the_same_dataset_and_others_are_noticed(tmp_path: Path) -> None:
    """A dataset that changes under the same command cannot be compared with itself."""
    source = _one_file(tmp_path / "source")
    first = prepare(source, tmp_path / "out", hold_out=0.1, seed=3)
    assert prepare(source, tmp_path / "out", hold_out=0.1, seed=3).fingerprint == first.fingerprint
    for share, seed in ((0.2, 3), (0.1, 4)):
        with pytest.raises(DataError, match="something else"):
            prepare(source, tmp_path / "out", hold_out=share, seed=seed)
    manifest = json.loads((first.path / "manifest.json").read_text())
    assert manifest["source"] == {"name": "source", "layout": "tsv", "sample": None, "seed": 3, "hold_out": 0.1}
    audit = first.audit()
    assert audit["hold_out"]["cut"] == {"valid": len(first.valid), "test": len(first.test)}
    assert f"The source has no valid and no test: of {len(TRIPLES)} triples, " in "\n".join(describe(audit))


def test_only_the_missing_split_is_cut(kg_bert_folder: Path, tmp_path: Path) -> None:
    """A given test split that was cut anew could not be compared with anybody's."""
    with (kg_bert_folder / "train.tsv").open("a") as stream:
        stream.write("".join(f"{line}\n" for line in TRIPLES))
    test = (kg_bert_folder / "test.tsv").read_text().splitlines()
    (kg_bert_folder / "dev.tsv").write_text("\n")
    dataset = prepare(kg_bert_folder, tmp_path / "empty", hold_out=0.1)
    assert _lines_of(dataset, "test") == test
    assert len(dataset.valid) in (round(0.1 * (5 + 2 + len(TRIPLES))), 1 + round(0.1 * (5 + 2 + len(TRIPLES))))
    assert "The source has no valid: of" in "\n".join(describe(dataset.audit()))
    (kg_bert_folder / "dev.tsv").unlink()
    assert prepare(kg_bert_folder, tmp_path / "missing", hold_out=0.1).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("name", ["validset.tsv", "Dev_2.tsv.gz", "eval.csv", "val-1.nt", "valid.tsv.zip"])
def test_a_split_that_was_not_read_is_not_replaced(kg_bert_folder: Path, tmp_path: Path, name: str) -> None:
    """Nobody reads the note on unread files of a command that went well, and the published split would be lost."""
    (kg_bert_folder / "dev.tsv").rename(kg_bert_folder / name)
    with pytest.raises(DataError, match=r"share to hold out") as refused:
        prepare(kg_bert_folder, tmp_path / "out", hold_out=0.1)
    assert f"rename {name} " in refused.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["test_more.tsv", "valid.py", "values.tsv"])
def test_files_that_are_no_missing_split_are_no_hindrance(kg_bert_folder: Path, tmp_path: Path, name: str) -> None:
    """A second test file beside the first one, a script, or a word that begins like a split."""
    with (kg_bert_folder / "train.tsv").open("a") as stream:
        stream.write("".join(f"{line}\n" for line in TRIPLES))
    (kg_bert_folder / "dev.tsv").rename(kg_bert_folder / name)
    assert len(prepare(kg_bert_folder, tmp_path / "out", hold_out=0.1).test) == 2


def test_a_split_is_never_the_one_file_of_triples(tmp_path: Path) -> None:
    """A test split that is cut into three, under the name of the graph."""
    folder = _one_file(tmp_path / "source", "test_set.tsv")
    with pytest.raises(DataError, match=r"holds test_set\.tsv"):
        prepare(folder, tmp_path / "out", hold_out=0.1)
    (folder / "graph.tsv").write_text("".join(f"{line}\n" for line in TRIPLES))
    with pytest.raises(DataError, match=r"share to hold out, and test_set\.tsv"):
        prepare(folder, tmp_path / "out", hold_out=0.1)
    [warning] = [
        note
        for note in prepare(folder / "graph.tsv", tmp_path / "out", hold_out=0.1).audit()["notes"]
        if note.startswith("Warning")
    ]
    assert "test_set.tsv" in warning


def test_given_splits_are_never_cut_again(kg_bert_folder: Path, tmp_path: Path) -> None:
    """Published splits, replaced by an option that was left in a script."""
    with pytest.raises(ConfigError, match="5 / 2 / 2 triples") as refused:
        prepare(kg_bert_folder, tmp_path / "out", hold_out=0.1)
    assert "--hold-out" in refused.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["graph.tsv", "train.tsv", "train.csv", "train.parquet"])
def test_without_a_share_the_error_names_the_option(tmp_path: Path, name: str) -> None:
    """Told to add a file, a user without one would cut the splits by hand, and leak."""
    source = _one_file(tmp_path / "source", name)
    for place in (source, source / name):
        with pytest.raises(DataError) as refused:
            prepare(place, tmp_path / "out")
        assert "--hold-out 0.1" in refused.value.remedy


@pytest.mark.parametrize("share", [0.0, -0.1, 0.5, 1.0, float("nan"), float("inf")])
def test_shares_that_are_none_are_refused(tmp_path: Path, share: float) -> None:
    """Half for valid and half for test leaves nothing to learn."""
    with pytest.raises(ConfigError, match="share"):
        prepare(_one_file(tmp_path / "source"), tmp_path / "out", hold_out=share)


def test_a_tree_has_nothing_to_give(tmp_path: Path) -> None:
    """Held out, a branch of a tree would leave an entity that training never saw."""
    (tmp_path / "tree.tsv").write_text("a\tr\tb\nb\tr\tc\nc\tr\td\n")
    with pytest.raises(DataError, match="no triple of 3 can be held out for valid"):
        prepare(tmp_path / "tree.tsv", tmp_path / "out", hold_out=0.1)


def test_less_than_was_asked_for_is_a_warning(tmp_path: Path) -> None:
    """A validation split of ten triples that was meant to have a thousand."""
    ring = "".join(f"e{row}\tr\te{(row + step) % 10}\n" for row in range(10) for step in (1, 2))
    (tmp_path / "ring.tsv").write_text(ring)
    dataset = prepare(tmp_path / "ring.tsv", tmp_path / "out", hold_out=0.45)
    assert len(dataset.train) >= 9
    [warning] = [one for one in describe(dataset.audit()) if "asked for" in one]
    assert warning.startswith("Warning: 9 triples for each")


def test_a_cut_comes_before_a_sample(tmp_path: Path) -> None:
    """Both options change the splits, and in another order they would give another graph."""
    dataset = prepare(_one_file(tmp_path / "source"), tmp_path / "out", hold_out=0.2, sample=15)
    assert dataset.audit()["hold_out"]["whole"] == len(TRIPLES)
    assert dataset.audit()["sample"]["whole"]["valid"] == dataset.audit()["hold_out"]["cut"]["valid"]
