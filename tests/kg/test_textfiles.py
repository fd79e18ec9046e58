from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raydistill.errors import DataError
from raydistill.kg.graph import Graph
from raydistill.kg.lines import Intake
from raydistill.kg.sources import read_source

TRIPLES = {"train": "1\t_hypernym\t2\n3\t_has_part\t1\n", "valid": "2\t_hypernym\t3\n", "test": "3\t_hypernym\t2\n"}


def _write(folder: Path, files: dict[str, str], ending: str = "txt") -> Path:
    folder.mkdir(exist_ok=True)
    for split, text in TRIPLES.items():
        (folder / f"{split}.{ending}").write_text(text, encoding="utf-8")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _texts(graph: Graph) -> dict[str, tuple[str, str]]:
    return {
        key: (name, description)
        for key, name, description in zip(graph.entity_keys, graph.entity_names, graph.entity_descriptions, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("WN18RR", (40943, 11, 86835, 3034, 3134)),
        ("FB15k-237", (14541, 237, 272115, 17535, 20466)),
        ("UMLS", (135, 46, 5216, 652, 661)),
    ],
)
def test_real_graphs_have_exactly_their_published_counts(
    real_folder: Callable[[str], Path], name: str, counts: tuple[int, ...]
) -> None:
    """One lost or merged entity changes the number of candidates, and with it every published comparison."""
    intake = Intake()
    graph = read_source(real_folder(name), "auto", intake)
    sizes = tuple(len(graph.triples[split]) for split in ("train", "valid", "test"))
    assert (graph.num_entities, graph.num_relations, *sizes) == counts
    assert not intake.malformed
    assert not graph.unnamed.any()
    assert not graph.unphrased.any()


@pytest.mark.parametrize(
    ("name", "key", "text"),
    [
        ("WN18RR", "14854262", ("stool", "solid excretory product evacuated from the bowels")),
        ("WN18RR", "09200649", ("apalachicola river", "a river in northwestern Florida formed by the confluence")),
        ("FB15k-237", "/m/010016", ("Denton", "city in Texas, United States")),
        ("FB15k-237", "/m/0g51l1", ("Arthur Rankin, Jr.", "American director, producer and writer")),
        ("UMLS", "idea_or_concept", ("idea or concept", "In philosophy, ideas are usually taken as mental")),
    ],
)
def test_real_texts_are_cut_at_the_right_place(
    real_folder: Callable[[str], Path], name: str, key: str, text: tuple[str, str]
) -> None:
    """The three graphs use one file name for three different things."""
    found = _texts(read_source(real_folder(name), "kg-bert", Intake()))[key]
    assert found[0] == text[0]
    assert found[1].startswith(text[1])


def test_a_file_of_names_is_not_cut_at_commas(tmp_path: Path) -> None:
    """ "Sammy Davis, Jr." is a name, not a name and a definition."""
    names = "".join(f"{key}\tName {key}\n" for key in range(1, 10)) + "10\tSammy Davis, Jr.\n"
    folder = _write(tmp_path / "source", {"entity2text.txt": names})
    texts = _texts(read_source(folder, "auto", Intake()))
    assert texts["10"] == ("Sammy Davis, Jr.", "")
    assert len(texts) == 10


def test_a_file_of_definitions_is_cut_at_the_first_comma(tmp_path: Path) -> None:
    """Cut at the last comma, half of the definition would become the name."""
    folder = _write(tmp_path / "source", {"entity2text.txt": "1\tdog, a pet, tame\n2\tcat, a pet\n3\towl, a bird\n"})
    assert _texts(read_source(folder, "auto", Intake()))["1"] == ("dog", "a pet, tame")


def test_texts_and_triples_may_each_lack_an_entity(tmp_path: Path) -> None:
    """An entity of a triple that has no text must not stop the import, nor one with a text that has no triple be lost."""
    folder = _write(tmp_path / "source", {"entity2text.txt": "1\tDog\n2\t\nlone_wolf\tWolf\n"}, ending="tsv")
    graph = read_source(folder, "kg-bert", Intake())
    assert _texts(graph) == {"1": ("Dog", ""), "2": ("2", ""), "lone_wolf": ("Wolf", ""), "3": ("3", "")}
    assert graph.unnamed.tolist() == [False, True, False, True]
    assert graph.relation_phrases == ["hypernym", "has part"]
    assert graph.unphrased.all()


def test_a_key_listed_twice_with_other_words_is_malformed(tmp_path: Path) -> None:
    """Which of two texts wins would depend on the order of the file; a plain repeat harms nobody."""
    folder = _write(tmp_path / "source", {"entity2text.txt": "1\tDog\n1\tDog\n2\tCat\n1\tHound\n"})
    intake = Intake()
    assert _texts(read_source(folder, "auto", intake))["1"] == ("Dog", "")
    assert [(bad.file, bad.line, bad.raw) for bad in intake.malformed] == [("entity2text.txt", 4, b"1\tHound")]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("entity2text.txt", "entity\ttext"),
        ("entity2text.txt", "Entity ID\tEntity Label"),
        ("entity2textlong.txt", "mid\tlong_description"),
        ("relation2text.txt", "relation\tphrase"),
    ],
)
def test_a_header_of_texts_is_malformed(tmp_path: Path, name: str, header: str) -> None:
    """As an entity without a triple it would stand among the candidates of every ranking."""
    texts = {"entity2text.txt": "1\tDog\n2\tCat\n3\tOwl\n", "relation2text.txt": "_hypernym\tis a\n"}
    content = texts.get(name, "1\ta pet\n")
    plain = read_source(_write(tmp_path / "plain", texts | {name: content}), "auto", Intake())
    source = _write(tmp_path / "source", texts | {name: f"{header}\n{content}"})
    intake = Intake()
    graph = read_source(source, "auto", intake)
    assert [(bad.file, bad.line, bad.raw) for bad in intake.malformed] == [(name, 1, header.encode())]
    assert "a header" in intake.malformed[0].reason
    assert (graph.entity_keys, graph.relation_phrases) == (plain.entity_keys, plain.relation_phrases)
    assert _texts(graph) == _texts(plain)


def test_an_entity_called_entity_is_no_header(tmp_path: Path) -> None:
    """UMLS has one; a first line about a key of the triples, or one that says something, stays."""
    folder = _write(tmp_path / "source", {"entity2text.txt": "entity\tname\n1\tDog\n"})
    with (folder / "train.txt").open("a") as stream:
        stream.write("entity\t_has_part\t1\n")
    intake = Intake()
    assert _texts(read_source(folder, "auto", intake))["entity"] == ("name", "")
    (folder / "entity2text.txt").write_text("concept\tan abstract name\n1\tDog\n1\tDog\n")
    assert _texts(read_source(folder, "auto", intake))["concept"] == ("an abstract name", "")
    assert not intake.malformed


def test_simkgc_wordnet(tmp_path: Path) -> None:
    """Part of speech and sense number would be read as words of the name."""
    definitions = "1\t__stool_NN_2\ta seat\n2\t__family_alcidae_NN_1\tauks\n3\t__don_'t_VB_10\tdo not\n9\t__unused_NN_1\tnothing\n"
    graph = read_source(_write(tmp_path / "source", {"wordnet-mlj12-definitions.txt": definitions}), "auto", Intake())
    assert graph.layout == "simkgc"
    assert _texts(graph) == {"1": ("stool", "a seat"), "2": ("family alcidae", "auks"), "3": ("don 't", "do not")}
    assert graph.relation_phrases == ["hypernym", "has part"]
    assert any("1 entities" in note for note in graph.notes)


def test_simkgc_freebase(tmp_path: Path) -> None:
    """Names with underscores, quoted literals and repeated names all reach the tokenizer unless undone."""
    folder = tmp_path / "source"
    folder.mkdir()
    relation = "/people/person/spouse_s./people/marriage/spouse"
    for split, text in {"train": f"/m/1\t{relation}\t/m/2\n/m/3\t/a/b\t/m/1\n", "valid": "/m/2\t/a/b\t/m/3\n"}.items():
        (folder / f"{split}.txt").write_text(text)
    (folder / "test.txt").write_text("/m/3\t/a/b\t/m/2\n")
    (folder / "FB15k_mid2name.txt").write_text("/m/1\tRat_Pack\n/m/2\tRat\n/m/3\tRome\n/m/4\tElsewhere\n")
    descriptions = '/m/1\t"Rat Pack were \\"singers\\".\\nMany."@en\n/m/2\tRats are rodents.\n'
    (folder / "FB15k_mid2description.txt").write_text(descriptions)
    graph = read_source(folder, "auto", Intake())
    assert _texts(graph) == {
        "/m/1": ("Rat Pack", 'were "singers". Many.'),
        "/m/2": ("Rat", "Rats are rodents."),
        "/m/3": ("Rome", ""),
    }
    assert graph.relation_phrases == ["spouse marriage spouse s person people", "b a"]
    (folder / "relations.json").write_text('{"/a/b": "is beside"}')
    assert read_source(folder, "auto", Intake()).relation_phrases[1] == "is beside"
    (folder / "relations.json").write_text('["not an object"]')
    with pytest.raises(DataError, match=r"relations\.json"):
        read_source(folder, "auto", Intake())
    (folder / "relations.json").write_text('{"/a/b": ["is beside"]}')
    with pytest.raises(DataError, match=r"relations\.json: the phrase of /a/b is \["):
        read_source(folder, "auto", Intake())


def test_simkgc_descriptions_without_names(tmp_path: Path) -> None:
    """Taken for plain triples, the folder would lose every description; and where names come from must be said."""
    folder = _write(tmp_path / "source", {"FB15k_mid2description.txt": '1\t"A town."@en\n2\tA river.\n'})
    graph = read_source(folder, "auto", Intake())
    assert graph.layout == "simkgc"
    assert _texts(graph) == {"1": ("1", "A town."), "2": ("2", "A river."), "3": ("3", "")}
    assert graph.unnamed.all()
    assert graph.notes[0].startswith("FB15k_mid2name.txt is not there: entities are called by their keys")


def test_simkgc_without_its_text_files_is_refused(tmp_path: Path) -> None:
    """Whoever names the layout expects its texts."""
    with pytest.raises(DataError, match="holds") as refused:
        read_source(_write(tmp_path / "source", {}), "simkgc", Intake())
    assert "FB15k_mid2name.txt" in refused.value.expected


def test_phrases_alone_are_read(tmp_path: Path) -> None:
    """Taken for plain triples, the folder would lose its phrases without a word; nor may it claim texts of entities."""
    phrases = "_hypernym\tis a kind of\n_unused\tis nothing\n"
    graph = read_source(_write(tmp_path / "source", {"relation2text.txt": phrases}), "auto", Intake())
    assert (graph.layout, graph.relation_phrases) == ("kg-bert", ["is a kind of", "has part"])
    assert graph.notes == (
        "The source has no texts of entities: names are made from keys, which tells a text model little.",
        "1 relations that have a phrase but stand in no triple were left out.",
    )


def test_descriptions_alone_are_not_called_names(tmp_path: Path) -> None:
    """A note about a file that is not there misleads whoever looks for the names."""
    graph = read_source(_write(tmp_path / "source", {"entity2textlong.txt": "1\ta dog\n"}), "auto", Intake())
    assert _texts(graph)["1"] == ("1", "a dog")
    assert "entity2text.txt is not there" in graph.notes[0]


def test_plain_triples_make_names_from_keys(tmp_path: Path) -> None:
    """A graph without texts still loads, and says that it has none."""
    folder = tmp_path / "source"
    folder.mkdir()
    for split in ("train", "val", "test"):
        (folder / f"{split}.tsv").write_text("New_York\tis_part_of\tUnited_States\n___\tis_part_of\tNew_York\n")
    graph = read_source(folder, "auto", Intake())
    assert graph.layout == "tsv"
    assert graph.entity_names == ["New York", "___", "United States"]
    assert graph.relation_phrases == ["is part of"]
    assert graph.unnamed.all()
    assert "no texts" in graph.notes[0]
