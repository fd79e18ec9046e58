from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydistill.errors import CheckpointError
from raydistill.training.manifest import read_manifest, verify_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, one of them below, under a manifest."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.json").write_text("{}\n")
    (tmp_path / "b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "deep" / "er" / "c.txt").write_text("ä")
    write_manifest(tmp_path)
    return tmp_path


def test_digest_names_content_and_not_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Equal models that cannot be told to be equal, or different ones that cannot be told apart."""
    other = tmp_path_factory.mktemp("other") / "elsewhere"
    other.mkdir()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.name != "manifest.json":
            target = other / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    digest = write_manifest(other)
    assert digest == verify_manifest(folder) == verify_manifest(other)
    (other / "a.json").write_text("{} \n")
    assert write_manifest(other) != digest


def test_manifest_lists_every_file_with_size_and_hash(folder: Path) -> None:
    """A file that nobody checks."""
    files = read_manifest(folder)
    assert sorted(files) == ["a.json", "b.bin", "deep/er/c.txt"]
    assert files["b.bin"]["bytes"] == 256
    assert files["a.json"]["sha256"] == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"


def test_every_single_byte_of_the_manifest_counts(folder: Path) -> None:
    """A changed manifest that is taken for the written one: by white space, by line endings, by the case of a digit."""
    path = folder / "manifest.json"
    content = path.read_bytes()
    for place in range(len(content)):
        for change in (1, 32, 128, content[place] ^ 13):
            if change:
                path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                with pytest.raises(CheckpointError):
                    verify_manifest(folder)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            verify_manifest(folder)
    path.write_bytes(content + b"\n")
    with pytest.raises(CheckpointError):
        verify_manifest(folder)


MANIFESTS = {
    "no JSON": "{",
    "a list": "[]",
    "a number": "3",
    "no files": "{}",
    "files of another type": '{"digest": "x", "files": [1]}',
    "files without records": json.dumps({"digest": "x", "files": {"a.json": None}}),
    "lone surrogates": '{"files": {"\\ud800": {}}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_of_another_shape_is_an_error_of_ours(folder: Path, name: str) -> None:
    """A traceback where a damaged checkpoint should have been passed over."""
    (folder / "manifest.json").write_text(MANIFESTS[name])
    with pytest.raises(CheckpointError, match="is damaged"):
        verify_manifest(folder)


def test_file_that_is_missing_or_added_is_named(folder: Path) -> None:
    """A checkpoint with half its files, or with one too many, which a library would load as well."""
    (folder / "deep" / "more.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"deep/more.json is not in the manifest"):
        verify_manifest(folder)
    (folder / "deep" / "more.json").unlink()
    (folder / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=r"b.bin is missing"):
        verify_manifest(folder)


def test_directory_without_manifest_or_in_place_of_a_file_is_refused(folder: Path) -> None:
    """What was never finished, taken for finished; or a directory where a file was."""
    (folder / "a.json").unlink()
    (folder / "a.json").mkdir()
    with pytest.raises(CheckpointError, match=r"a.json is missing"):
        verify_manifest(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest.json"):
        verify_manifest(folder)
    (folder / "manifest.json").mkdir()
    with pytest.raises(CheckpointError, match="damaged"):
        verify_manifest(folder)


def test_file_that_cannot_be_read_is_an_error_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback from a broken disk, where an older checkpoint would have done."""

    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("raydistill.training.manifest._hash", broken)
    with pytest.raises(CheckpointError, match="Input/output error"):
        verify_manifest(folder)
