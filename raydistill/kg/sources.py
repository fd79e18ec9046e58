"""Reading a public layout, named or recognised by its files.

| layout | recognised by |
| --- | --- |
| parquet | train.parquet |
| openke | train2id.txt, entity2id.txt |
| libkge | train.del, entity_ids.del |
| simkgc | wordnet-mlj12-definitions.txt, FB15k_mid2name.txt or FB15k_mid2description.txt |
| kg-bert | entity2text.txt, entity2textlong.txt or relation2text.txt |
| tsv | train.tsv or train.txt |
| pykeen:NAME | the name itself |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from raydistill.errors import ConfigError, DataError
from raydistill.kg.bundled import PREFIX, read_pykeen
from raydistill.kg.folders import find_file, listing
from raydistill.kg.graph import Graph
from raydistill.kg.idfiles import read_libkge, read_openke
from raydistill.kg.lines import Intake
from raydistill.kg.manifest import MANIFEST
from raydistill.kg.tables import read_parquet
from raydistill.kg.textfiles import (
    FREEBASE_DESCRIPTIONS,
    FREEBASE_NAMES,
    LONG_TEXTS,
    RELATION_TEXTS,
    SHORT_TEXTS,
    WORDNET_TEXTS,
    read_kg_bert,
    read_plain,
    read_simkgc,
)

READERS: Mapping[str, Callable[[Path, Intake], Graph]] = {
    "kg-bert": read_kg_bert,
    "simkgc": read_simkgc,
    "tsv": read_plain,
    "parquet": read_parquet,
    "openke": read_openke,
    "libkge": read_libkge,
}
LAYOUTS = ("auto", *READERS)

# Order matters: a folder of ids may hold KG-BERT's text files too, every folder with texts looks like plain triples, and
# a file that says less, descriptions or phrases alone, gives way to one with names.
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
    ("tsv", ("train.tsv", "train.txt")),
)


def read_source(source: str | Path, layout: str, intake: Intake) -> Graph:
    """Read a graph.

    Args:
        source: a folder, or `pykeen:NAME`.
        layout: one of `LAYOUTS`; "auto" recognises it.
        intake: remembers malformed lines; whether they are forgiven is the caller's decision.

    Raises:
        ConfigError: there is no such layout.
        DataError: the source cannot be read.
    """
    if layout not in LAYOUTS:
        raise ConfigError(
            f"layout {layout!r}", expected=f"one of {', '.join(LAYOUTS)}", remedy="leave it out to have it recognised"
        )
    if str(source).startswith(PREFIX):
        return read_pykeen(str(source).removeprefix(PREFIX))
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is {'a file' if folder.exists() else 'not there'}",
            expected=f"a folder with a graph, or {PREFIX}NAME",
            remedy="give the folder that holds the triple files",
        )
    return READERS[recognise(folder) if layout == "auto" else layout](folder, intake)


def recognise(folder: Path) -> str:
    """Return the layout of a folder.

    Raises:
        DataError: it is none of those known.
    """
    if (folder / MANIFEST).exists() and (folder / "triples").is_dir():
        raise DataError(
            f"{folder} is a dataset directory already",
            expected="a public layout",
            remedy="use the directory as it is, or prepare again from its source",
        )
    for layout, names in _SIGNS:
        if find_file(folder, *names) is not None:
            return layout
    looked_for = ", ".join(name for _, names in _SIGNS for name in names)
    raise DataError(
        f"{folder} holds {listing(folder)}",
        expected=f"one of {looked_for} (or the same with .gz)",
        consequence="it is not clear what the files are",
        remedy="rename the files as one of the layouts has them",
    )
