"""What the README names exists."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import raydistill
from raydistill.cli.main import commands
from raydistill.config.load import parse_config
from raydistill.config.methods import METHOD_SECTIONS

ROOT = Path(__file__).parents[1]
COMPARISON = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_make_targets_exist() -> None:
    """A quick start whose first command fails."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {name for text in blocks("sh") for name in re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE)}
    assert {"demo", "test", "lint"} <= named <= targets


def test_makefile_lists_its_targets() -> None:
    """The head of the file is where a target is looked for."""
    head, _, rest = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\n\n")
    listed = set(re.findall(r"^#   make ([a-z-]+) ", head, flags=re.MULTILINE))
    assert listed == set(re.findall(r"^\.PHONY: (.*)$", rest, flags=re.MULTILINE)[0].split())


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_demo_refuses_a_path_with_spaces(tmp_path: Path) -> None:
    """Make cuts such a path into words: two graphs would share a dataset, or an odd folder would be looked for."""
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "demo", "DATA=my graph"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "DATA is 'my graph', and make takes no path with spaces" in done.stderr


def test_every_command_is_listed_and_every_listed_one_exists() -> None:
    """A command in the README that was renamed, or one that nobody hears of."""
    named = set(re.findall(r"^\| `raydistill (\w+)", README, flags=re.MULTILINE))
    used = set(re.findall(r"(?:^|`)raydistill ([a-z]+)", README, flags=re.MULTILINE))
    assert named == set(commands.commands)
    assert used <= set(commands.commands)


def test_every_job_is_listed() -> None:
    """A script whose purpose is to be guessed from its name."""
    listed = set(re.findall(r"^\| `jobs/(\w+\.py) ", README, flags=re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "jobs").glob("*.py")}


def test_options_of_the_examples_exist() -> None:
    """An option that was renamed fails in the reader's terminal first."""
    for text in blocks("sh"):
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["raydistill"]:
                known = {option for parameter in commands.commands[words[1]].params for option in parameter.opts}
                assert {word for word in words if word.startswith("-")} <= known


def test_linked_and_named_files_exist() -> None:
    """A link into nothing."""
    links = re.findall(r"\]\(([^):]+)\)", README)
    configs = re.findall(r"`([a-z0-9-]+\.yaml)`", README)
    named = [
        *links,
        *(f"jobs/configs/{name}" for name in configs),
        *re.findall(r"jobs/configs/[a-z0-9-]+\.yaml", README),
    ]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {path.name for path in (ROOT / "jobs/configs").iterdir()} == {*configs}


PAGES = [ROOT / "README.md", ROOT / "cluster/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_and_proves_itself_with_exists(page: Path) -> None:
    """A text that was moved to another page: its links are relative to that one; or a test that was renamed, which nobody can run."""
    text = page.read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^):]+)\)", text)}
    assert [link for link in sorted(links) if not (page.parent / link).exists()] == []
    proofs = set(re.findall(r"(?<![\w/])tests(?:/\w+)*/\w+\.py", text))
    assert [proof for proof in sorted(proofs) if not (ROOT / proof).is_file()] == []


def test_methods_are_listed() -> None:
    """A method that nobody hears of is not used."""
    assert set(re.findall(r"^\| `([\w-]+)` \| .*contrastive", README, flags=re.MULTILINE)) == METHOD_SECTIONS.keys()


def test_every_method_has_a_page() -> None:
    """A method whose formula one has to read off the code."""
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs/methods").glob("*.md")}
    assert pages.keys() == METHOD_SECTIONS.keys()
    for name, text in pages.items():
        assert text.startswith(f"# `{name}`: ")
        for part in (
            "Idea",
            "Loss",
            "Faithful",
            "Analogue",
            "What the paper reports",
            "Our configuration",
            "Our numbers",
        ):
            assert re.search(rf"^\*\*{part}\b", text, flags=re.MULTILINE), f"{name} says nothing under {part}"
        assert f"`method: {{name: {name}" in text
        assert set(re.findall(r"`(\w+): search`", text)) == METHOD_SECTIONS[name].spaces.keys()


ROW = r"^\| (.+?) \| ([\d.]+(?: ± [\d.]+)?) \| ([\d.]+(?: ± [\d.]+)?) \| [^|]+ \| ([\d,]+) \|"
SAID = (
    r"(\S*?)`? ?(?:\([^()]*\) )?MRR ([\d.]+(?: ± [\d.]+)?), Hits@10 ([\d.]+(?: ± [\d.]+)?)(?:, ([\d.]+) MB)?"
    r"|(`none`|without a teacher|without): ([\d.]+(?: ± [\d.]+)?), ([\d.]+(?: ± [\d.]+)?)"
)
"""A student's figures, with the word before them; or those of one without a teacher."""
GRAPHS = ("UMLS, three seeds", "WN18RR, a cut of 1,000 entities")


def rows_of(graph: str) -> list[tuple[str, str, str, str]]:
    """Name, MRR, Hits@10 and megabytes of each student in the comparison's table of one graph."""
    [section] = re.findall(rf"^## {graph}\n(.*?)(?=^## |\Z)", COMPARISON, flags=re.DOTALL | re.MULTILINE)
    rows = re.findall(ROW, section, flags=re.MULTILINE)
    return [(name, mrr, hits, f"{int(size.replace(',', '')) / 1e6:.1f}") for name, mrr, hits, size in rows]


@pytest.mark.parametrize("name", sorted(METHOD_SECTIONS))
@pytest.mark.parametrize("graph", GRAPHS)
def test_numbers_of_a_page_are_those_of_the_comparison(name: str, graph: str) -> None:
    """Two tables of one measurement, of which one was brought up to date; or a number of another row, or of the other graph."""
    page = (ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8")
    [ours] = re.findall(r"^\*\*Our numbers\*\*.*?All methods beside each other", page, flags=re.MULTILINE)
    said = dict(zip(GRAPHS, ours.split("On a WN18RR cut"), strict=True))[graph]
    rows = rows_of(graph)
    [none] = [row for row in rows if row[0] == "`none`"]
    size = ""
    assert "MRR" in said
    for word, mrr, hits, own_size, whose, other_mrr, other_hits in re.findall(SAID, said):
        if mrr:
            size = own_size or size
            own = [row for row in rows if row[0].startswith(f"`{name}`") or (name == "combined" and word in row[0])]
            own = [row for row in own if ("minilmv2" in word) == ("variant minilmv2" in row[0])]
            assert (mrr, hits, size) in [row[1:] for row in own], (word, mrr, hits)
        elif whose == "`none`":
            assert (other_mrr, other_hits) == none[1:3]
        else:
            like = [row[1:3] for row in rows if row[0].startswith("no teacher") and row[3] == size]
            assert (other_mrr, other_hits) in like, whose
    assert name == "none" or f"`none`: {none[1]}, {none[2]}" in said


WARNINGS = {
    "mgsr": ("**Analogue.** This is no port",),
    "boot": ("This is the least literal of our methods", "weights over time", "withdrawn from one conference"),
    "self-feature": ("withdrawn", "many-to-one channels are `groups`: channels averaged in groups"),
    "amd": ("normalisation of NPSD are from memory",),
    "reinforced": ("The third reward, with development accuracy, is not there (we know it from memory only",),
    "education": ("The published code does not run as it is", "revision of 2025"),
    "pmd": ("Published numbers of text models like these are after re-ranking by graph neighbours",),
}
"""What the reader of a method's page has to be told before he believes it."""


@pytest.mark.parametrize("name", WARNINGS)
def test_pages_warn_of_what_they_are_not(name: str) -> None:
    """A page polished until an analogue reads like the paper, or a withdrawn paper like any other."""
    text = " ".join((ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8").split())
    assert [words for words in WARNINGS[name] if words not in text] == []


def test_withdrawn_paper_is_called_so_first() -> None:
    """A warning at the end of a page comes too late."""
    text = (ROOT / "docs/methods/self-feature.md").read_text(encoding="utf-8")
    assert "withdrawn" in text.partition("**Idea.**")[0]


def test_configuration_example_is_valid() -> None:
    """The first file a reader copies."""
    [example] = blocks("yaml")
    assert parse_config(yaml.safe_load(example)).grades[0].layers == 9


@pytest.mark.parametrize("block", blocks("python"))
def test_python_example_names_what_exists(block: str) -> None:
    """The first lines a reader types."""
    for part in ast.walk(ast.parse(block)):
        if isinstance(part, ast.ImportFrom) and part.module == "raydistill":
            assert {alias.name for alias in part.names} <= set(raydistill.__all__)
        elif isinstance(part, ast.ImportFrom):
            path = ROOT / f"{str(part.module).replace('.', '/')}.py"
            defined = {one.name for one in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(one, "name")}
            assert {alias.name for alias in part.names} <= defined


def test_rooms_are_those_of_the_package() -> None:
    """A map of the house with a room that was never built."""
    rooms = {path.parent.name for path in (ROOT / "raydistill").glob("*/__init__.py")}
    assert set(re.findall(r"`([a-z]+)/`", README.split("## Working on it")[1])) - {"jobs"} == rooms
