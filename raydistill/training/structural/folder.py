"""A structural model on disk: its tables under a manifest, with a record of the graph whose rows they are.

FOLDER/  tables.safetensors     entities (entities, width), relations (2 * num_relations, width)
         raydistill.json        what kind, which interaction, of which dataset, how it was trained and ranks
         manifest.json          written last
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raydistill.errors import CapabilityError, CheckpointError, ShapeError
from raydistill.teachers.structural import INTERACTIONS, StructuralModel
from raydistill.training.checkpoint import KIND, STRUCTURAL, any_record
from raydistill.training.manifest import RECORD, verify_checkpoint
from raydistill.training.saving import save_folder, write_json

TABLES = "tables.safetensors"
FORMAT = 1


def save_structural(path: Path, model: StructuralModel, data_fingerprint: str, about: Mapping[str, Any]) -> str:
    """Write a structural model; returns its digest. An interrupted call leaves nothing under the final name.

    Args:
        path: the folder.
        model: what is written.
        data_fingerprint: of the dataset whose entities and relations its rows are.
        about: what else the record says, JSON; equal training has an equal one.

    Raises:
        StorageError: the disk is full or read-only.
    """
    record = {
        **about,
        "format": FORMAT,
        KIND: STRUCTURAL,
        "interaction": model.interaction,
        "inverse_temperature": model.inverse_temperature,
        "entities": len(model.entities),
        "relations": model.num_relations,
        "data_fingerprint": data_fingerprint,
    }

    def fill(folder: Path) -> None:
        tables = {"entities": model.entities, "relations": model.relations}
        save_file({name: table.cpu().contiguous() for name, table in tables.items()}, folder / TABLES)
        write_json(folder / RECORD, record)

    return save_folder(path, fill, in_trial=False)


def load_structural(path: str | Path, data_fingerprint: str, *, verify: bool = True) -> StructuralModel:
    """The structural model of a folder, on the CPU.

    Args:
        path: the folder.
        data_fingerprint: of the dataset whose texts it is to be asked about.
        verify: whether every byte is held against the manifest first.

    Raises:
        CheckpointError: it is damaged, or another release wrote it.
        CapabilityError: it was trained on another dataset.
    """
    if verify:
        verify_checkpoint(path)
    record = any_record(path)
    if record.get("format") != FORMAT or record.get("interaction") not in INTERACTIONS:
        raise _foreign(path, f"format {record.get('format')!r}, interaction {record.get('interaction')!r}")
    if record.get("data_fingerprint") != data_fingerprint:
        raise CapabilityError(
            f"structural teacher {path} was trained on dataset {str(record.get('data_fingerprint'))[:12]}",
            expected=f"dataset {data_fingerprint[:12]}, from which its students learn",
            consequence="its rows are of other entities and relations, and each text would get the scores of another one",
            remedy="train one on this dataset: python jobs/structural.py DATASET OUT",
        )
    try:
        tables = load_file(Path(path) / TABLES)
        model = StructuralModel(
            record["interaction"], tables["entities"], tables["relations"], float(record["inverse_temperature"])
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        received = problem.received if isinstance(problem, ShapeError) else str(problem)
        raise _foreign(path, received) from None
    if (len(model.entities), model.num_relations) != (record.get("entities"), record.get("relations")):
        raise _foreign(path, f"tables of {len(model.entities)} entities and {model.num_relations} relations")
    return model


def _foreign(path: str | Path, received: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {received}",
        expected=f"a structural model of format {FORMAT}, with the tables that its record tells of",
        consequence="a student would learn from rows of something else",
        remedy="train it anew: python jobs/structural.py DATASET OUT",
    )
