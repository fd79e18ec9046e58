from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.errors import ConfigError, DataError
from raydistill.kg.layouts import LAYOUTS
from raydistill.kg.lines import Intake
from raydistill.kg.sources import READERS, read_source, recognise

TEXT_FILES = ("entity2text.txt", "entity2textlong.txt", "relation2text.txt", "relations.json", "test.tsv.gz")
SIMKGC_FILES = ("train.txt", "valid.txt", "test.txt", "wordnet-mlj12-definitions.txt", "FB15k_mid2name.txt")
OPENKE = {
    "entity2id.txt": b"3\na\t0\nb\t1\nc\t2\n",
    "relation2id.txt": b"1\nr\t0\n",
    "train2id.txt": b"2\n0 1 0\n1 2 0\n",
    "valid2id.txt": b"1\n2 1 0\n",
    "test2id.txt": b"1\n0 2 0\n",
}
LIBKGE = {
    "entity_ids.del": b"0\ta\n1\tb\n2\tc\n",
    "relation_ids.del": b"0\tr\n",
    "train.del": b"0\t0\t1\n1\t0\t2\n",
    "valid.del": b"2\t0\t1\n",
    "test.del": b"0\t0\t2\n",
    "entity_strings.del": b"a\tAnn\nb\tBob\n",
}
KG_BERT = {
    "train.tsv": b"a\tr\tb\nb\tr\tc\n",
    "dev.tsv": b"c\tr\tb\n",
    "test.tsv": b"a\tr\tc\n",
    "entity2text.txt": b"a\tAnn, a painter\nb\tBob, who fishes\n",
    "relation2text.txt": b"r\tknows\n",
}
JSON_FILES = ("train.txt.json", "valid.txt.json", "test.txt.json", "entities.json")
OTHER_FILES = (
    "train.csv",
    "valid.csv",
    "test.csv",
    "graph.tsv",
    "wikidata5m_entity.txt",
    "wikidata5m_inductive_train.txt",
)
NAMES = st.sampled_from(
    (*OPENKE, *LIBKGE, *KG_BERT, *TEXT_FILES, *SIMKGC_FILES, *JSON_FILES, *OTHER_FILES, "train.parquet", "test.parquet")
)
LINES = st.sampled_from(
    [
        b"a\tr\tb",
        b"1\t0\t2",
        b"0 1 0",
        b"2",
        b"a\tname, words",
        b"0\ta",
        b"a\t0",
        b"",
        b"\xff",
        b"a\t",
        b"a,r,b",
        b"[]",
        b"h\tr\tt",
    ]
)
_OTHER_NAMES = {"train": "train", "valid": "dev", "test": "test"}
CONTENT = st.one_of(st.binary(max_size=120), st.lists(LINES, max_size=6).map(b"\n".join))


@settings(max_examples=200, deadline=None)
@given(
    files=st.dictionaries(NAMES, CONTENT, min_size=1, max_size=8),
    layout=st.sampled_from(LAYOUTS),
    may_lack=st.booleans(),
)
def test_any_folder_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], layout: str, may_lack: bool
) -> None:
    """Whatever people have in a folder, the answer is a graph or a DataError, never another exception."""
    folder = tmp_path_factory.mktemp("folder")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    intake = Intake()
    try:
        graph = read_source(folder, layout, intake, may_lack=may_lack)
    except DataError:
        return
    assert min(len(graph.triples[split]) for split in (("train",) if may_lack else graph.triples)) > 0
    assert len(graph.entity_names) == len(graph.entity_descriptions) == graph.num_entities
    assert all(graph.entity_names)
    assert all(graph.relation_phrases)


@settings(max_examples=250, deadline=None)
@given(data=st.data(), base=st.sampled_from((KG_BERT, OPENKE, LIBKGE)))
def test_a_damaged_graph_loads_without_losing_a_line_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, base: dict[str, bytes]
) -> None:
    """Every line of a triple file must end up as a triple, as a blank, or in the list of malformed lines."""
    folder = tmp_path_factory.mktemp("damaged")
    damaged = data.draw(st.sampled_from(sorted(base)))
    for name, content in base.items():
        if name == damaged:
            start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
            filling = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"\t", b"\n", b"\r", b"7", b"\n\n"])))
            content = content[:start] + filling + content[stop:]
        (folder / name).write_bytes(content)
    intake = Intake()
    try:
        graph = read_source(folder, "auto", intake)
    except DataError:
        return
    for split, triples in graph.triples.items():
        tally = next(counts for name, counts in intake.tally.items() if name.startswith((split, _OTHER_NAMES[split])))
        assert len(triples) + tally["blank"] + tally["malformed"] == tally["lines"]
    assert sum(counts["malformed"] for counts in intake.tally.values()) == len(intake.malformed)


def test_every_text_file_may_be_packed(kg_bert_folder: Path) -> None:
    """Datasets are passed around as .gz, and unpacking them by hand is how files get lost."""
    plain = read_source(kg_bert_folder, "auto", Intake())
    for path in list(kg_bert_folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = read_source(kg_bert_folder, "auto", Intake())
    assert (packed.layout, packed.entity_names) == (plain.layout, plain.entity_names)
    assert packed.entity_descriptions == plain.entity_descriptions
    assert all((packed.triples[split] == plain.triples[split]).all() for split in plain.triples)


def test_a_missing_split_lists_what_was_looked_for(kg_bert_folder: Path) -> None:
    """The reader must learn which names would have been right."""
    (kg_bert_folder / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"valid\.tsv or .*dev\.tsv") as refused:
        read_source(kg_bert_folder, "auto", Intake())
    assert "train.tsv" in refused.value.received


def test_an_empty_split_is_refused(kg_bert_folder: Path) -> None:
    """An empty validation split would promote at random."""
    (kg_bert_folder / "dev.tsv").write_text("\n\n")
    with pytest.raises(DataError, match="valid split"):
        read_source(kg_bert_folder, "auto", Intake())


@pytest.mark.parametrize("name", ["valid", "dev", "val", "validation"])
def test_the_second_split_has_four_names(kg_bert_folder: Path, name: str) -> None:
    """A published split under a name that is not looked for would be cut anew."""
    (kg_bert_folder / "dev.tsv").rename(kg_bert_folder / f"{name}.tsv")
    assert len(read_source(kg_bert_folder, "auto", Intake(), may_lack=True).triples["valid"]) == 2


def test_two_files_for_one_split_are_refused(kg_bert_folder: Path) -> None:
    """With valid.tsv and dev.tsv side by side, half of the users would expect the other one."""
    (kg_bert_folder / "valid.tsv").write_text("ann\tknows\tdora\n")
    with pytest.raises(DataError, match=r"valid\.tsv, dev\.tsv"):
        read_source(kg_bert_folder, "auto", Intake())


def test_a_forced_layout_is_obeyed(kg_bert_folder: Path) -> None:
    """Whoever names the layout knows better than the file names."""
    graph = read_source(kg_bert_folder, "tsv", Intake())
    assert (graph.layout, graph.entity_names[0]) == ("tsv", "ann")


def test_other_layouts_files_and_folders_are_refused(tmp_path: Path, kg_bert_folder: Path) -> None:
    """Each of these is a user's slip, and none may end in a traceback."""
    with pytest.raises(ConfigError, match="kgbert"):
        read_source(kg_bert_folder, "kgbert", Intake())
    with pytest.raises(DataError, match="not there"):
        read_source(tmp_path / "nowhere", "auto", Intake())
    with pytest.raises(DataError, match="a file"):
        read_source(kg_bert_folder / "train.tsv", "auto", Intake())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files"):
        recognise(tmp_path / "empty")


def test_a_dataset_directory_is_not_a_source(tmp_path: Path) -> None:
    """Preparing twice over would otherwise be answered with a list of strange file names."""
    (tmp_path / "triples").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="already"):
        read_source(tmp_path, "auto", Intake())


def test_every_layout_is_listed_and_in_the_page_on_data() -> None:
    """The command line lists the names before it imports what reads them; the page is where errors send people."""
    assert LAYOUTS == ("auto", *READERS)
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    for name, layout in READERS.items():
        assert f"`{name}`" in page
        assert [text for text in layout.texts if f"`{text}`" not in page] == []


def test_texts_under_other_names_are_told(kg_bert_folder: Path) -> None:
    """A graph whose names lie unread beside it trains as if it had none, and nobody knows why it is so bad."""
    for name in ("README.txt", "LICENSE.txt", ".hidden.tsv", "plot.png"):
        (kg_bert_folder / name).touch()
    plain = read_source(kg_bert_folder, "auto", Intake())
    assert not [note for note in plain.notes if "Not read" in note]
    (kg_bert_folder / "entities.tsv").touch()
    assert read_source(kg_bert_folder, "auto", Intake()).notes[-1].startswith("Not read: entities.tsv; ")
    for name in ("entity2text.txt", "entity2textlong.txt", "relation2text.txt"):
        (kg_bert_folder / name).unlink()
    warning = read_source(kg_bert_folder, "auto", Intake()).notes[-1]
    assert warning.startswith("Warning: no texts were found. Not read: entities.tsv; ")
    assert "entity2text.txt, entity2textlong.txt, relation2text.txt" in warning


def test_a_folder_that_nobody_knows_is_sent_to_the_page(tmp_path: Path) -> None:
    """A list of sixteen names tells nobody which of them his own graph should have."""
    for name in ("one.tsv", "two.tsv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"one\.tsv, two\.tsv") as refused:
        read_source(tmp_path, "auto", Intake(), may_lack=True)
    assert "docs/data.md" in refused.value.remedy
    assert "--hold-out" in refused.value.remedy


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """An ending decides how a file is read."""
    (tmp_path / "graph.nt").write_text("<a> <b> <c> .\n")
    with pytest.raises(DataError, match=r"graph\.nt is a file"):
        read_source(tmp_path / "graph.nt", "auto", Intake(), may_lack=True)
    (tmp_path / "graph.tsv").write_text("a\tr\tb\n")
    with pytest.raises(DataError, match="layout is kg-bert"):
        read_source(tmp_path / "graph.tsv", "kg-bert", Intake(), may_lack=True)
