"""Wikidata5M as it is published: triples in keys, and files of texts too large to lie in memory as lines.

    wikidata5m_transductive_{train,valid,test}.txt, wikidata5m_inductive_{train,valid,test}.txt    head, relation, tail
    wikidata5m_text.txt        entity, description
    wikidata5m_entity.txt      entity, name, and any number of further names
    wikidata5m_relation.txt    relation, phrase, and any number of further phrases

Where a file gives several names or phrases the first one is taken, as SimKGC does. Unlike SimKGC, which keeps 30 words
of a description, texts stay whole. The files list more entities than the triples have, so only those of triples are
part of the graph.

Source:
    Wang et al. 2021, KEPLER, arXiv 1911.06136; SimKGC's `scripts/download_wikidata5m.sh` and `preprocess.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raydistill.kg.columns import blocks_of, checked_fields, why_unreadable
from raydistill.kg.folders import find_file
from raydistill.kg.graph import Graph, Texts, assemble
from raydistill.kg.lines import Intake
from raydistill.kg.splits import read_splits
from raydistill.kg.text import clean_text
from raydistill.kg.textfiles import NO_TEXTS
from raydistill.kg.triples import Split

NAMES, DESCRIPTIONS, PHRASES = "wikidata5m_entity.txt", "wikidata5m_text.txt", "wikidata5m_relation.txt"
_INDUCTIVE = (
    "Entities of valid and test are not in train, and here are ranked among those of all splits; "
    "published ranks of the inductive setting are among the entities of one split, and so better."
)


def read_wikidata5m(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read Wikidata5M's triples and as many of its text files as are there."""
    splits = read_splits(files, intake)
    phrases = _read_first(intake, folder, PHRASES)
    names = _read_first(intake, folder, NAMES)
    descriptions = _read_whole(intake, folder, DESCRIPTIONS)
    missing = [name for name in (NAMES, DESCRIPTIONS, PHRASES) if find_file(folder, name) is None]
    notes = [] if len(missing) < 3 else [NO_TEXTS]
    if 0 < len(missing) < 3:
        notes.append(f"Not there, so these texts are missing or made from keys: {', '.join(missing)}.")
    if any(path.name.startswith("wikidata5m_inductive") for path in files.values()):
        notes.append(_INDUCTIVE)
    layout = "wikidata5m"
    return assemble(layout, splits, Texts(names, descriptions, phrases, notes=tuple(notes)))


def _read_first(intake: Intake, folder: Path, name: str) -> dict[str, str]:
    path = find_file(folder, name)
    return {} if path is None else read_wide(intake, path, is_joined=False)


def _read_whole(intake: Intake, folder: Path, name: str) -> dict[str, str]:
    path = find_file(folder, name)
    return {} if path is None else read_wide(intake, path, is_joined=True)


def read_wide(intake: Intake, path: Path, *, is_joined: bool) -> dict[str, str]:
    """Read keys and texts from lines with any number of columns, a block of lines at a time.

    Args:
        intake: remembers malformed lines.
        path: the file.
        is_joined: the columns after the first are one text, rather than the second alone.
    """
    tally = intake.tally[path.name] = {"lines": 0, "blank": 0, "malformed": 0}
    texts: dict[str, str] = {}
    for block in blocks_of(path):
        for line in block.removesuffix(b"\n").split(b"\n"):
            tally["lines"] += 1
            line = line.removesuffix(b"\r")
            if not line.strip(b" "):
                tally["blank"] += 1
                continue
            fields = _key_and_text(line, is_joined)
            if isinstance(fields, str):
                intake.reject(path, tally["lines"], fields, line)
                continue
            key, text = fields
            if texts.setdefault(key, text) != text:
                intake.reject(path, tally["lines"], "key was listed before with another text", line)
    return texts


def _key_and_text(line: bytes, is_joined: bool) -> list[str] | str:
    unreadable = why_unreadable(line)
    if unreadable:
        return unreadable
    key, tab, rest = line.decode("utf-8").partition("\t")
    if not tab:
        return "1 column(s) instead of 2 or more"
    text = rest if is_joined else rest.partition("\t")[0]
    return checked_fields([key, clean_text(text)], columns=2, keys=1)
