"""A checkpoint to deploy or to give away: the towers, each as `transformers` and `sentence-transformers` load it, and a card; nothing to train on from.

OUT/  query_encoder/  entity_encoder/   encoder, tokenizer and modules.json of each (shared towers: the first only)
      tokenizer/  raydistill.json       with manifest.json: OUT is a checkpoint, for every command that takes one
      relations.json                    keys and phrases, where a dataset was given
      README.md                         the card
      manifest.json                     written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import CapabilityError, CheckpointError, ConfigError, DataError
from raydistill.kg.store import Dataset
from raydistill.models.pretrained import TOKENIZER_FILES
from raydistill.shipping.base_model import checked_base_model, encoder_name
from raydistill.shipping.card import CardFacts, card
from raydistill.shipping.sentences import sentence_files
from raydistill.students.packing import FILE, write_float
from raydistill.training.checkpoint import read_record, refuse_unfinished
from raydistill.training.evaluate import evaluate_checkpoint
from raydistill.training.manifest import RECORD, read_manifest, verify_checkpoint
from raydistill.training.saving import require_new_folder, save_folder, stored_bytes, write_json

CARD, RELATIONS, EXPORTED = "README.md", "relations.json", "exported"
TOWERS = ("query_encoder", "entity_encoder")


def export_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    base_model: str | None = None,
    ranked: bool = False,
    unpack: bool = False,
) -> str:
    """Write a checkpoint without its training state, with what others need to use it; every weight is the checkpoint's, byte for byte.

    Args:
        path: the checkpoint.
        out: a new folder, an empty one, or an untouched export of the same checkpoint, which is replaced.
        data: the dataset it learned from, for the card's numbers, examples and relations.
        base_model: hub name of the encoder it was made of; None = that of the run it lies in, where it is one of the hub.
        ranked: rank the test split of `data` now, for the card.
        unpack: write a checkpoint of few bits in float32; its activations are not rounded there.

    Returns:
        The digest of what was written.

    Raises:
        CheckpointError: damaged, structural, not of a shape that was finished, or replaced while it was exported.
        ConfigError: `out` holds something else, or `ranked` without data.
        DataError: damaged dataset, or not the one it learned from.
        CapabilityError: a checkpoint of few bits without `unpack`, or ranked while it is unpacked.
        StorageError: the disk is full or read-only.
    """
    path, out = Path(path), Path(os.path.abspath(out))
    digest = verify_checkpoint(path)
    record, packed = read_record(path), (path / TOWERS[0] / FILE).exists()
    refuse_unfinished(path, record)
    _check_bits(path, packed, ranked, unpack)
    _check_place(out, path, digest)
    checked_base_model(base_model)
    dataset = None if data is None else _dataset_of(record, data)
    if ranked:
        if data is None:
            raise ConfigError(
                "a ranking without a dataset",
                expected="the dataset the checkpoint learned from",
                consequence="there would be nothing to rank",
                remedy="name it with --dataset, or leave out --evaluate",
            )
        record["metrics"] = {**record["metrics"], **evaluate_checkpoint(path, data, "test").metrics}
    record[EXPORTED] = {"source": digest, "unpacked": packed}
    if packed:
        # What the rounded model scored is no score of this one.
        record = {key: value for key, value in record.items() if key != "quantized"} | {"metrics": {}}
    encoder = base_model or encoder_name(path)

    def fill(aside: Path) -> None:
        _write_towers(path, aside, record, packed)
        content = {**record, "bytes": stored_bytes(aside)}
        write_json(aside / RECORD, content)
        if dataset is not None:
            write_json(aside / RELATIONS, dict(zip(dataset.relation_keys, dataset.relation_phrases, strict=True)))
        width = json.loads((aside / TOWERS[0] / "config.json").read_text(encoding="utf-8"))["hidden_size"]
        (aside / CARD).write_text(card(CardFacts(content, width, encoder), dataset), encoding="utf-8")
        # Last, because a ranking takes minutes: what was read since the digest was taken is of this checkpoint, and OUT may still be replaced.
        _check_unchanged(path, digest)
        _check_place(out, path, digest)

    return save_folder(out, fill, in_trial=False)


def _check_unchanged(path: Path, digest: str) -> None:
    """Refuse weights, record and metrics that may be of two checkpoints.

    Raises:
        CheckpointError: it was damaged, removed or replaced since it was verified.
    """
    if verify_checkpoint(path) != digest:
        raise CheckpointError(
            f"{path} was replaced by another checkpoint while it was exported",
            expected=f"the one that was verified, digest {digest[:12]}",
            consequence="the card would tell the record and the metrics of other weights",
            remedy="wait until nobody writes it, and export again",
        )


def _check_bits(path: Path, packed: bool, ranked: bool, unpack: bool) -> None:
    if packed and not unpack:
        raise CapabilityError(
            f"{path} is packed in few bits",
            expected="a checkpoint in float32, which transformers and sentence-transformers can load",
            consequence="nobody without raydistill could read it",
            remedy="add --unpack to write its weights in float32, several times the bytes, with activations that are not rounded; or give away the checkpoint as it is",
        )
    if packed and ranked:
        raise CapabilityError(
            f"a ranking of {path} while it is unpacked",
            expected="either of them",
            consequence="the card would tell the scores of the rounded model",
            remedy="export it with --unpack alone, then run raydistill evaluate on the result",
        )


def _check_place(out: Path, path: Path, digest: str) -> None:
    """Leave alone whatever is not ours to replace.

    Raises:
        ConfigError: `out` is a file or a link, holds something else, or lies inside the checkpoint.
    """
    # First, because a ring of links has no path to be looked at.
    if os.path.islink(out):
        raise ConfigError(
            f"{out} is a symbolic link",
            expected="a new folder",
            consequence="what it points to would be out of reach",
            remedy="name the folder itself, or remove the link",
        )
    if out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(
            f"{out} lies in the checkpoint {path}",
            expected="a folder elsewhere",
            consequence="the checkpoint would no longer hold exactly the files of its manifest",
            remedy="choose another one",
        )
    if out.is_dir() and (not any(out.iterdir()) or _is_export_of(out, digest)):
        return
    require_new_folder(out, "what is in it would be lost")


def _is_export_of(out: Path, digest: str) -> bool:
    """Whether a folder is, untouched, what an export of this checkpoint wrote: a card that was edited is somebody's work."""
    try:
        verify_checkpoint(out)
        return bool(read_record(out).get(EXPORTED, {}).get("source") == digest)
    except (CheckpointError, AttributeError):
        return False


def _dataset_of(record: Mapping[str, Any], data: str | Path) -> Dataset:
    dataset = Dataset.load(data)
    if dataset.fingerprint != record["data_fingerprint"]:
        raise DataError(
            f"{data} has fingerprint {dataset.fingerprint[:12]}",
            expected=f"{record['data_fingerprint'][:12]}, the dataset the checkpoint learned from",
            consequence="the card would tell relations and numbers of another graph",
            remedy="name that dataset, or none",
        )
    return dataset


def _write_towers(path: Path, aside: Path, record: Mapping[str, Any], packed: bool) -> None:
    """The encoders, each with its tokenizer, and the tokenizer once more where a checkpoint has it."""
    recorded = read_manifest(path)
    for name in TOWERS:
        if not (path / name).is_dir():
            continue
        if packed:
            write_float(path / name, aside / name)
        else:
            _copy(path, aside, [one for one in recorded if one.startswith(f"{name}/")], recorded)
        for file in TOKENIZER_FILES:
            if (path / "tokenizer" / file).exists():
                shutil.copyfile(path / "tokenizer" / file, aside / name / file)
        width = json.loads((aside / name / "config.json").read_text(encoding="utf-8"))["hidden_size"]
        for file, content in sentence_files(record["pooling"], width, record["text"]["max_tokens"]).items():
            (aside / name / file).parent.mkdir(exist_ok=True)
            text = json.dumps(content, indent=2) + "\n"
            (aside / name / file).write_text(text, encoding="utf-8")
    _copy(path, aside, [one for one in recorded if one.startswith("tokenizer/")], recorded)


def _copy(path: Path, aside: Path, names: list[str], recorded: Mapping[str, Mapping[str, int | str]]) -> None:
    """Copy files, links as what they point to, and see that each arrived as it was recorded.

    Raises:
        CheckpointError: one changed since the checkpoint was verified.
    """
    for name in names:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path / name, aside / name)
        with open(aside / name, "rb") as file:
            arrived = hashlib.file_digest(file, "sha256").hexdigest()
        if arrived != recorded[name]["sha256"]:
            raise CheckpointError(
                f"{path}: {name} changed while it was copied",
                expected="a checkpoint at rest",
                consequence="the export would be another model than the one that was verified",
                remedy="wait until nobody writes it, and export again",
            )
