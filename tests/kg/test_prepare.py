from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raydistill.errors import ConfigError, DataError, StorageError
from raydistill.kg.prepare import prepare
from raydistill.kg.store import Dataset


def _leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_running_again_changes_nothing(kg_bert_folder: Path, tmp_path: Path) -> None:
    """A script that is started twice must not fail, nor touch files that training may be reading."""
    first = prepare(kg_bert_folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    second = prepare(kg_bert_folder, tmp_path / "out")
    assert second.fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == before
    assert _leftovers(tmp_path) == []


def test_the_fingerprint_is_of_the_content_alone(kg_bert_folder: Path, tmp_path: Path) -> None:
    """A run on another machine must recognise the same graph, and never take another one for it."""
    moved = shutil.copytree(kg_bert_folder, tmp_path / "elsewhere" / "other-name")
    first = prepare(kg_bert_folder, tmp_path / "one")
    assert prepare(moved, tmp_path / "two").fingerprint == first.fingerprint
    (moved / "entity2text.txt").write_text((moved / "entity2text.txt").read_text().replace("Ann Lee", "Ann Lea"))
    assert prepare(moved, tmp_path / "three").fingerprint != first.fingerprint


def test_another_dataset_is_replaced_only_when_asked(kg_bert_folder: Path, tmp_path: Path) -> None:
    """Hours of work may hang on the dataset that lies there."""
    first = prepare(kg_bert_folder, tmp_path / "out")
    with (kg_bert_folder / "train.tsv").open("a") as stream:
        stream.write("dora\tknows\tann\n")
    with pytest.raises(DataError, match="something else"):
        prepare(kg_bert_folder, tmp_path / "out")
    assert Dataset.load(tmp_path / "out").fingerprint == first.fingerprint
    second = prepare(kg_bert_folder, tmp_path / "out", overwrite=True)
    assert len(second.train) == 6
    assert _leftovers(tmp_path) == []


def test_overwriting_never_deletes_what_prepare_did_not_write(kg_bert_folder: Path, tmp_path: Path) -> None:
    """`--out ~ --overwrite` must not empty a home directory."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match="no dataset directory"):
        prepare(kg_bert_folder, home, overwrite=True)
    assert (home / "thesis.tex").read_text() == "years"
    with pytest.raises(DataError, match="something else"):
        prepare(kg_bert_folder, home / "thesis.tex")


def test_a_damaged_dataset_is_not_taken_for_the_same(kg_bert_folder: Path, tmp_path: Path) -> None:
    """ "Nothing to do" over a broken table would be believed."""
    out = prepare(kg_bert_folder, tmp_path / "out").path
    (out / "entities.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="something else"):
        prepare(kg_bert_folder, out)
    prepare(kg_bert_folder, out, overwrite=True)
    assert Dataset.load(out).num_entities == 6


@pytest.mark.parametrize("place", ["", "out", "deep/out", ".."])
def test_the_source_is_never_written_into(kg_bert_folder: Path, place: str) -> None:
    """The source is the one thing that cannot be made again."""
    before = sorted(kg_bert_folder.rglob("*"))
    with pytest.raises(ConfigError, match="source"):
        prepare(kg_bert_folder, kg_bert_folder / place, overwrite=True)
    assert sorted(kg_bert_folder.rglob("*")) == before


def test_quarantine_sets_lines_aside_and_counts_them(kg_bert_folder: Path, tmp_path: Path) -> None:
    """Dropped silently, or refused altogether, are the two habits this replaces."""
    with (kg_bert_folder / "train.tsv").open("ab") as stream:
        stream.write(b"ann\tknows\n\nbo\xffb\tknows\tann\ndora\tknows\tann\n")
    with pytest.raises(DataError, match="2 malformed"):
        prepare(kg_bert_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    dataset = prepare(kg_bert_folder, tmp_path / "out", quarantine=True)
    assert len(dataset.train) == 6
    assert (dataset.path / "quarantine.tsv").read_text().splitlines() == [
        "file\tline\treason\traw",
        "train.tsv\t6\t2 column(s) instead of 3\tann\\tknows",
        "train.tsv\t8\tnot UTF-8 (byte 0xff)\tbo\\xffb\\tknows\\tann",
    ]
    audit = dataset.audit()
    assert audit["quarantined"] == 2
    assert audit["lines"]["train.tsv"] == {"lines": 9, "blank": 1, "malformed": 2}


def test_malformed_lines_are_told_before_the_emptiness_they_cause(kg_bert_folder: Path, tmp_path: Path) -> None:
    """ "The valid split is empty" would send the reader looking for a file that is there."""
    (kg_bert_folder / "dev.tsv").write_text("ann knows bob\n")
    with pytest.raises(DataError, match=r"dev\.tsv:1"):
        prepare(kg_bert_folder, tmp_path / "out")
    with pytest.raises(DataError, match="valid split"):
        prepare(kg_bert_folder, tmp_path / "out", quarantine=True)


def test_a_phrase_clash_is_a_warning(kg_bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two relations that read alike cap what any text model can reach; found after training it costs days."""
    (kg_bert_folder / "relation2text.txt").write_text("knows\tis with\nlives_in\tis  with\n")
    with caplog.at_level(logging.WARNING):
        prepare(kg_bert_folder, tmp_path / "out")
    assert "knows and lives_in" in caplog.text


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 300 bytes, as on a disk that is nearly full.

    Not a fixture: the test runner writes its own report before fixtures end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_a_storage_error(kg_bert_folder: Path, tmp_path: Path) -> None:
    """Half a dataset under its final name would be found by the next run."""
    with full_disk(), pytest.raises(StorageError, match="out"):
        prepare(kg_bert_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert _leftovers(tmp_path) == []


def test_a_place_below_a_file_is_a_wrong_argument(kg_bert_folder: Path, tmp_path: Path) -> None:
    """A mistyped --out is not a full disk: scripts would wait for room."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        prepare(kg_bert_folder, tmp_path / "file" / "out")


def test_a_failed_replacement_leaves_the_old_dataset(
    kg_bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overwriting may fail between its two renames; then the old dataset must be back in its place."""
    first = prepare(kg_bert_folder, tmp_path / "out")
    (kg_bert_folder / "relation2text.txt").unlink()
    rename = os.replace

    def fail_for_new(old: Path, new: Path) -> None:
        if ".partial-" in str(old):
            raise OSError(errno.EIO, "input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "replace", fail_for_new)
    (kg_bert_folder / "train.tsv").write_text("ann\tknows\tbob\n")
    with pytest.raises(StorageError, match="input/output"):
        prepare(kg_bert_folder, tmp_path / "out", overwrite=True)
    assert Dataset.load(tmp_path / "out").fingerprint == first.fingerprint


def test_source_and_sample_are_on_record(real_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A cut that does not say it is one would be reported as the whole graph."""
    dataset = prepare(real_folder("UMLS"), tmp_path / "out", sample=40, seed=7)
    audit = dataset.audit()
    assert audit["sample"]["seed"] == 7
    assert audit["sample"]["whole"]["train"] == 5216
    assert audit["sample"]["kept"]["entities"] == dataset.num_entities == 40
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["source"] == {"name": "UMLS", "layout": "kg-bert", "sample": 40, "seed": 7}
    assert prepare(real_folder("UMLS"), tmp_path / "again", sample=40, seed=7).fingerprint == dataset.fingerprint


def test_a_negative_seed_is_refused(kg_bert_folder: Path, tmp_path: Path) -> None:
    """numpy would answer with its own ValueError."""
    with pytest.raises(ConfigError, match="seed -1"):
        prepare(kg_bert_folder, tmp_path / "out", seed=-1)


def test_fingerprints_of_real_graphs_are_those_of_earlier_versions(
    real_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Runs, caches and checkpoints know their dataset by it: a reader that numbers anew makes all of them strangers."""
    source = real_folder("UMLS")
    assert prepare(source, tmp_path / "whole").fingerprint.startswith("93ad89c0c5ceb9a24f31180e10c8a88f")
    assert prepare(source, tmp_path / "cut", sample=100).fingerprint.startswith("79f79ceae2cfe6990b44d370a1374896")
    assert prepare(source, tmp_path / "part", part="2/3").fingerprint.startswith("23d7609d3631d147daafec226ccdb5d3")
