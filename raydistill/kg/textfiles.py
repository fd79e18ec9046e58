"""Layouts with the texts of people: plain triples in keys, KG-BERT's text files and SimKGC's.

**KG-BERT.** `entity2text.txt` holds names in some datasets and "name, definition" in others, and `entity2textlong.txt`
holds descriptions that may or may not begin with the name. The rule that gives name and description for all of them:

1. With both files, the short text is the name. Of the long text a leading "name, " is cut off (FB15k-237), a long text
   equal to the name is an empty description, and any other long text is the description as it stands (UMLS).
2. With `entity2text.txt` alone, the file is one of definitions when at least nine in ten of its texts hold ", ", and
   each is then cut at its first ", " (WN18RR). In a file of names only a few hold a comma ("Sammy Davis, Jr."), and
   then none is cut.

**SimKGC.** The raw files its preprocessing reads: `wordnet-mlj12-definitions.txt`, or `FB15k_mid2name.txt` with
`FB15k_mid2description.txt`, of which one may be missing: without names an entity is called by its key, because a name
guessed from a description would be wrong unseen. These list entities of larger graphs than the triples beside them, so only entities that
stand in a triple are part of the graph, as in SimKGC's own `entities.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from raydistill.errors import DataError
from raydistill.kg.columns import read_bytes
from raydistill.kg.folders import find_file, need_file
from raydistill.kg.graph import Graph, Texts, assemble, words_of_key
from raydistill.kg.headers import set_text_header_aside
from raydistill.kg.lines import Intake, Rows
from raydistill.kg.splits import keys_of, read_splits
from raydistill.kg.text import clean_text
from raydistill.kg.triples import Split

SHORT_TEXTS, LONG_TEXTS, RELATION_TEXTS = "entity2text.txt", "entity2textlong.txt", "relation2text.txt"
WORDNET_TEXTS, FREEBASE_NAMES = "wordnet-mlj12-definitions.txt", "FB15k_mid2name.txt"
FREEBASE_DESCRIPTIONS, RELATIONS_JSON = "FB15k_mid2description.txt", "relations.json"
NO_TEXTS = "The source has no texts: names and phrases are made from keys, which tells a text model little."
_NO_ENTITY_TEXTS = "The source has no texts of entities: names are made from keys, which tells a text model little."
_DEFINITION_RATIO = 0.9
_WORDNET_NAME = re.compile(r"_*(?P<lemma>.+)_[A-Z]+_[0-9]+")
_QUOTED = re.compile(r'"(?P<text>.*)"(@[a-z-]+)?', re.DOTALL)


def read_tabs(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read triples without texts; every name is made from its key."""
    return read_plain("tsv", files, intake)


def read_commas(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read comma-separated triples without texts; every name is made from its key."""
    return read_plain("csv", files, intake)


def read_plain(layout: str, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read triple files alone, of whatever kind, for a graph that will be said to have this layout."""
    return assemble(layout, read_splits(files, intake), Texts({}, {}, {}, notes=(NO_TEXTS,)))


def read_kg_bert(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read triples with KG-BERT's text files (see the rule above)."""
    splits = read_splits(files, intake)
    return assemble("kg-bert", splits, kg_bert_texts(folder, intake, keys_of(splits, 0, 2), keys_of(splits, 1)))


def kg_bert_texts(
    folder: Path, intake: Intake, entity_keys: Sequence[pa.Array], relation_keys: Sequence[pa.Array]
) -> Texts:
    """Read what KG-BERT's text files say, as far as they are there.

    Args:
        folder: the source.
        intake: remembers malformed lines, and headers.
        entity_keys: the entities that are known without these files, in any number of arrays; a first line about one
            of them is no header.
        relation_keys: the same of relations.
    """
    short_file, long_file = find_file(folder, SHORT_TEXTS), find_file(folder, LONG_TEXTS)
    relation_file = find_file(folder, RELATION_TEXTS)
    short = read_texts(intake, short_file, entity_keys) if short_file else {}
    long = read_texts(intake, long_file, entity_keys) if long_file else {}
    phrases = read_texts(intake, relation_file, relation_keys) if relation_file else {}
    listed = list(dict.fromkeys((*short, *long)))
    if long_file:
        descriptions = {key: _without_name(short.get(key, ""), text) for key, text in long.items()}
        note = f"Names are from {SHORT_TEXTS}, descriptions from {LONG_TEXTS} without a leading name."
        if not short_file:
            note = f"Descriptions are from {LONG_TEXTS}; {SHORT_TEXTS} is not there, so names are made from keys."
        return Texts(short, descriptions, phrases, listed, (note,))
    if not short_file:
        return Texts({}, {}, phrases, notes=(_NO_ENTITY_TEXTS,))
    texts = [text for text in short.values() if text]
    if sum(", " in text for text in texts) < max(1.0, _DEFINITION_RATIO * len(texts)):
        note = f"{SHORT_TEXTS} holds names; there are no descriptions."
        return Texts(short, {}, phrases, listed, (note,))
    parts = {key: text.partition(", ") for key, text in short.items()}
    names = {key: name for key, (name, _, _) in parts.items()}
    descriptions = {key: definition for key, (_, _, definition) in parts.items()}
    note = f'{SHORT_TEXTS} holds "name, definition"; each text was cut at its first comma.'
    return Texts(names, descriptions, phrases, listed, (note,))


def read_simkgc(folder: Path, files: Mapping[Split, Path], intake: Intake) -> Graph:
    """Read SimKGC's raw files for WN18RR or FB15k-237."""
    splits = read_splits(files, intake)
    keys = keys_of(splits, 0, 2)
    phrases = read_phrases(intake, folder)
    wordnet = find_file(folder, WORDNET_TEXTS)
    if wordnet:
        senses = texts_of(intake, intake.read(wordnet, columns=3, keys=1), keys)
        names = {key: name_of_sense(word) for key, (word, _) in senses.items()}
        descriptions = {key: definition for key, (_, definition) in senses.items()}
        return assemble("simkgc", splits, Texts(names, descriptions, phrases))
    description_file = find_file(folder, FREEBASE_DESCRIPTIONS)
    name_file = find_file(folder, FREEBASE_NAMES) if description_file else need_file(folder, FREEBASE_NAMES)
    raw_names = read_texts(intake, name_file, keys) if name_file else {}
    names = {key: words_of_key(name) if name else "" for key, name in raw_names.items()}
    raw = read_texts(intake, description_file, keys) if description_file else {}
    descriptions = {key: _without_repeated_name(names.get(key, ""), without_quotes(text)) for key, text in raw.items()}
    missing = (
        f"{FREEBASE_NAMES} is not there: entities are called by their keys, and only descriptions tell what they are."
    )
    return assemble("simkgc", splits, Texts(names, descriptions, phrases, notes=() if name_file else (missing,)))


def read_texts(intake: Intake, path: Path, known: Sequence[pa.Array]) -> dict[str, str]:
    """Read a file of keys and texts; see `texts_of`."""
    return {key: text for key, (text,) in texts_of(intake, intake.read(path, columns=2, keys=1), known).items()}


def texts_of(intake: Intake, rows: Rows, known: Sequence[pa.Array]) -> dict[str, tuple[str, ...]]:
    """Return the texts of each key; a header is malformed, and so is a line that says something else about a key already listed.

    Args:
        intake: remembers malformed lines.
        rows: keys in the first column, texts in the others.
        known: keys of the graph, in any number of arrays; a first row about one of them is no header.
    """
    rows = set_text_header_aside(intake, rows, known)
    columns = [[clean_text(text) for text in rows.strings(column)] for column in range(1, len(rows.columns))]
    texts: dict[str, tuple[str, ...]] = {}
    keys = rows.strings(0)
    agrees = [texts.setdefault(key, said) == said for key, said in zip(keys, zip(*columns, strict=True), strict=True)]
    good = np.array(agrees, dtype=np.bool_)
    intake.keep(rows, good, ["key was listed before with another text"] * int(np.count_nonzero(~good)))
    return texts


def _without_name(name: str, text: str) -> str:
    return "" if text == name else text.removeprefix(f"{name}, ")


def _without_repeated_name(name: str, text: str) -> str:
    """Cut a name off the start of its description, as SimKGC does, but not out of a longer word ("Rats are")."""
    rest = text.removeprefix(name) if name else text
    return text if rest[:1].isalnum() else rest.strip()


def name_of_sense(word: str) -> str:
    """Return the lemma of a sense: "__family_alcidae_NN_1" is "family alcidae"."""
    match = _WORDNET_NAME.fullmatch(word)
    return words_of_key(match["lemma"] if match else word) if word else ""


def without_quotes(text: str) -> str:
    """Undo the quoting of an RDF literal such as "A town.\\n"@en."""
    match = _QUOTED.fullmatch(text)
    if match is None:
        return text
    return clean_text(re.sub(r"\\(.)", lambda escape: " " if escape[1] in "nrt" else escape[1], match["text"]))


def read_phrases(intake: Intake, folder: Path) -> dict[str, str]:
    """Read SimKGC's `relations.json`, where it is there; it has null where Wikidata5M names no phrase.

    Raises:
        DataError: it holds something else than phrases.
    """
    path = find_file(folder, RELATIONS_JSON)
    if path is None:
        return {}
    try:
        phrases = json.loads(read_bytes(path))
        for key, phrase in phrases.items():
            if not isinstance(phrase, str | None):
                raise ValueError(f"the phrase of {key} is {json.dumps(phrase)[:60]}")
        found = {key: clean_text(phrase) for key, phrase in phrases.items() if phrase is not None}
        "".join(found.values()).encode("utf-8")  # An escaped half of a character is no text.
        intake.tally[path.name] = {"lines": len(phrases), "blank": 0, "malformed": 0}
        return found
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: {error}",
            expected="one JSON object from relation key to phrase",
            consequence="phrases would be made from keys in place of those in the file",
            remedy="mend the file, or remove it to have phrases made from keys",
        ) from error
