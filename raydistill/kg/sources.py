"""Reading a public layout, named or recognised by its files.

| layout | recognised by |
| --- | --- |
| parquet | train.parquet |
| openke | train2id.txt, entity2id.txt |
| libkge | train.del, entity_ids.del |
| wikidata5m-transductive, wikidata5m-inductive | wikidata5m_transductive_train.txt, wikidata5m_inductive_train.txt |
| simkgc | wordnet-mlj12-definitions.txt, FB15k_mid2name.txt or FB15k_mid2description.txt |
| kg-bert | entity2text.txt, entity2textlong.txt or relation2text.txt |
| wikidata5m | wikidata5m_entity.txt or wikidata5m_text.txt, beside train.txt, as SimKGC links them |
| simkgc-json | train.txt.json |
| tsv, csv | train.tsv or train.txt, train.csv; or one file of triples, whatever its name |
| pykeen:NAME | the name itself |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from raydistill.errors import ConfigError, DataError
from raydistill.kg.bundled import PREFIX, read_pykeen
from raydistill.kg.columns import plain_name
from raydistill.kg.folders import CUT_REMEDY, find_file, listing, lone_file, split_files
from raydistill.kg.graph import Graph, no_triple
from raydistill.kg.idfiles import read_libkge, read_openke
from raydistill.kg.jsonfiles import ENTITIES_JSON, read_simkgc_json
from raydistill.kg.layouts import LAYOUTS
from raydistill.kg.lines import Intake
from raydistill.kg.manifest import MANIFEST
from raydistill.kg.tables import ENTITY_TABLE, RELATION_TABLE, read_parquet
from raydistill.kg.textfiles import (
    FREEBASE_DESCRIPTIONS,
    FREEBASE_NAMES,
    LONG_TEXTS,
    RELATION_TEXTS,
    RELATIONS_JSON,
    SHORT_TEXTS,
    WORDNET_TEXTS,
    read_commas,
    read_kg_bert,
    read_plain,
    read_simkgc,
    read_tabs,
)
from raydistill.kg.triples import SPLITS, Split
from raydistill.kg.unread import refuse_unread_splits, unread_notes, unread_splits
from raydistill.kg.wikidata import DESCRIPTIONS, NAMES, PHRASES, read_wikidata5m

_LINES = (("*.tsv", "*.txt"), ("*.csv",))
_KG_BERT_TEXTS = (SHORT_TEXTS, LONG_TEXTS, RELATION_TEXTS)
_WIKIDATA_TEXTS = (NAMES, DESCRIPTIONS, PHRASES)


@dataclass(frozen=True)
class Layout:
    """How a layout is read.

    Attributes:
        read: takes the folder, the triple file of each split that has one, and the intake.
        patterns: names of triple files, as `folders.split_files` takes them.
        texts: names of the files of texts.
    """

    read: Callable[[Path, Mapping[Split, Path], Intake], Graph]
    patterns: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...]


READERS: Mapping[str, Layout] = {
    "kg-bert": Layout(read_kg_bert, _LINES, _KG_BERT_TEXTS),
    "simkgc": Layout(read_simkgc, _LINES, (WORDNET_TEXTS, FREEBASE_NAMES, FREEBASE_DESCRIPTIONS, RELATIONS_JSON)),
    "simkgc-json": Layout(read_simkgc_json, (("*.txt.json",),), (ENTITIES_JSON, RELATIONS_JSON)),
    "wikidata5m": Layout(read_wikidata5m, (("*.txt",),), _WIKIDATA_TEXTS),
    "wikidata5m-transductive": Layout(read_wikidata5m, (("wikidata5m_transductive_*.txt",),), _WIKIDATA_TEXTS),
    "wikidata5m-inductive": Layout(read_wikidata5m, (("wikidata5m_inductive_*.txt",),), _WIKIDATA_TEXTS),
    "tsv": Layout(read_tabs, (("*.tsv", "*.txt"),), _KG_BERT_TEXTS),
    "csv": Layout(read_commas, (("*.csv",),), _KG_BERT_TEXTS),
    "parquet": Layout(read_parquet, (("*.parquet",),), (ENTITY_TABLE, RELATION_TABLE)),
    "openke": Layout(read_openke, (("*2id.txt",),), _KG_BERT_TEXTS),
    "libkge": Layout(read_libkge, (("*.del",),), ("entity_strings.del", "relation_strings.del")),
}

# Order matters: a folder of ids may hold KG-BERT's text files too, every folder with texts looks like plain triples, a
# file that says less, descriptions or phrases alone, gives way to one with names, and what was derived from other files
# of the folder gives way to those.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("parquet", ("train.parquet",)),
    ("openke", ("train2id.txt",)),
    ("libkge", ("train.del",)),
    ("simkgc", (WORDNET_TEXTS,)),
    ("simkgc", (FREEBASE_NAMES,)),
    ("kg-bert", (SHORT_TEXTS,)),
    ("kg-bert", (LONG_TEXTS,)),
    ("simkgc", (FREEBASE_DESCRIPTIONS,)),
    ("kg-bert", (RELATION_TEXTS,)),
    ("wikidata5m-transductive", ("wikidata5m_transductive_train.txt",)),
    ("wikidata5m-inductive", ("wikidata5m_inductive_train.txt",)),
    ("wikidata5m", (NAMES,)),
    ("wikidata5m", (DESCRIPTIONS,)),
    ("simkgc-json", ("train.txt.json",)),
    ("tsv", ("train.tsv", "train.txt")),
    ("csv", ("train.csv",)),
)
_BY_ENDING = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".parquet": "parquet"}


def read_source(source: str | Path, layout: str, intake: Intake, *, may_lack: bool = False) -> Graph:
    """Read a graph.

    Args:
        source: a folder, one file of triples, or `pykeen:NAME`.
        layout: one of `LAYOUTS`; "auto" recognises it.
        intake: remembers malformed lines; whether they are forgiven is the caller's decision.
        may_lack: valid and test may have no triple, as where they are to be cut out of train.

    Raises:
        ConfigError: there is no such layout.
        DataError: the source cannot be read.
    """
    if layout not in LAYOUTS:
        raise ConfigError(
            f"layout {layout!r}", expected=f"one of {', '.join(LAYOUTS)}", remedy="leave it out to have it recognised"
        )
    path = Path(source)
    if str(source).startswith(PREFIX):
        graph = read_pykeen(str(source).removeprefix(PREFIX))
    elif path.is_dir():
        graph = _read_folder(path, recognise(path) if layout == "auto" else layout, intake, may_lack)
    elif path.is_file():
        graph = _read_alone(path, layout, intake, may_lack)
    else:
        raise DataError(
            f"{path} is not there",
            expected=f"a folder with a graph, one file of triples, or {PREFIX}NAME",
            remedy="give the folder that holds the triple files",
        )
    for split in ("valid", "test"):
        if not may_lack and not len(graph.triples[split]):
            raise no_triple(split, f"check the file, or {CUT_REMEDY}")
    return graph


def recognise(folder: Path) -> str:
    """Return the layout of a folder.

    Raises:
        DataError: it is none of those known, or two at once.
    """
    if (folder / MANIFEST).exists() and (folder / "triples").is_dir():
        raise DataError(
            f"{folder} is a dataset directory already",
            expected="a public layout",
            remedy="use the directory as it is, or prepare again from its source",
        )
    found = [layout for layout, names in _SIGNS if find_file(folder, *names) is not None]
    if found[:2] == ["wikidata5m-transductive", "wikidata5m-inductive"]:
        raise DataError(
            f"{folder} holds both settings of Wikidata5M",
            expected="one of them",
            consequence="the one that was not meant might be read",
            remedy=f"say which with --layout {found[0]} or --layout {found[1]}",
        )
    if found:
        return found[0]
    alone = lone_file(folder, tuple(_BY_ENDING))
    if alone is not None:
        return _by_ending(alone)
    looked_for = ", ".join(name for _, names in _SIGNS for name in names)
    raise DataError(
        f"{folder} holds {listing(folder)}",
        expected=f"one of {looked_for} (or the same with .gz), or one file of triples",
        consequence="it is not clear what the files are",
        remedy="rename the files as one of the layouts has them (docs/data.md shows each, and an example); "
        "of a graph in one file give that file, with --hold-out 0.1",
    )


def _read_folder(folder: Path, layout: str, intake: Intake, may_lack: bool) -> Graph:
    found = READERS[layout]
    files = split_files(folder, found.patterns, may_lack=may_lack)
    graph = found.read(folder, files, intake)
    missing = [split for split in SPLITS if not len(graph.triples[split])]
    if missing and may_lack:
        refuse_unread_splits(folder, intake.tally.keys(), missing)
    has_texts = not (graph.unnamed.all() and graph.unphrased.all())
    notes = unread_notes(folder, intake.tally.keys(), found.texts, has_texts=has_texts)
    return replace(graph, notes=(*graph.notes, *notes))


def _read_alone(path: Path, layout: str, intake: Intake, may_lack: bool) -> Graph:
    kind = _by_ending(path)
    if not kind or layout not in ("auto", kind):
        raise DataError(
            f"{path} is a file, and layout is {layout}",
            expected=f"a folder, or a file of triples that ends in {', '.join(_BY_ENDING)} (or the same with .gz)",
            consequence="it is not clear how to read it",
            remedy="give the folder, or rename the file (docs/data.md shows what each kind holds)",
        )
    if not may_lack:
        raise DataError(
            f"{path} is a file, and nothing says which of its triples are for training",
            expected="a folder with train, valid and test, or a share to hold out",
            consequence="nothing would be left to select by and to report",
            remedy=f"give the folder, or {CUT_REMEDY}",
        )
    beside = [name for name in READERS[kind].texts if find_file(path.parent, name) is not None]
    beside += unread_splits(path.parent, [path.name], SPLITS)
    graph = read_plain(kind, {"train": path}, intake)
    if not beside:
        return graph
    note = f"Warning: not read, as {path.name} alone was given: {', '.join(beside)}; give the folder to have them read."
    return replace(graph, notes=(*graph.notes, note))


def _by_ending(path: Path) -> str:
    return next((kind for ending, kind in _BY_ENDING.items() if plain_name(path).endswith(ending)), "")
