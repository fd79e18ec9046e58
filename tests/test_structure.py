"""The shape of the code: sizes, rooms, words, and what the package offers."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydistill

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raydistill"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 250, 60

FORBIDDEN_WORDS = {
    *("triplet", "triplets", "node", "nodes", "vertex", "vertices", "edge", "edges", "predicate", "lhs", "rhs"),
    *("ckpt", "ckpts", "ckt", "snapshot", "snapshots", "criterion", "cfg"),
}
"""Words of other vocabularies for what has a name here; docs say triple, entity, relation, checkpoint, objective."""
FORBIDDEN_FILES = {"utils", "util", "helpers", "common", "misc", "base"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield part


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Every name that a file gives: functions, classes, arguments, variables, attributes it sets."""
    for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield part.lineno, part.name
        elif isinstance(part, ast.arg):
            yield part.lineno, part.arg
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.lineno, part.id
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.lineno, part.attr


DISTRIBUTIONS = {"yaml": "pyyaml"}
"""Names of packages that are imported by another one."""


def test_every_import_is_a_declared_dependency() -> None:
    """What comes along with another package goes when that one changes its mind, and the import fails at a user's."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = declared["optional-dependencies"]
    wanted = [*declared["dependencies"], *extras["demo"], *extras["bench"], *extras["gpu"]]
    names = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in wanted}
    imported = set()
    for path in SOURCES:
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in part.names}
            elif isinstance(part, ast.ImportFrom) and part.module:
                imported.add(part.module.split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"raydistill"}
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= names


EXPLAINED = {"ConfigError", "DataError", "EncoderError", "CheckpointError"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_errors_that_readers_meet_say_what_was_expected_and_what_to_do(path: Path) -> None:
    """`no tokenizer in FOLDER`, and then? An error without a remedy sends the reader into the source."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in EXPLAINED:
            given = {keyword.arg for keyword in call.keywords}
            assert {"expected", "remedy"} <= given, f"{name_of(path)}:{call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_is_read_in_one_sitting(path: Path) -> None:
    """Quality is lost in the tail: the largest file and the longest function."""
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MOST_LINES
    lengths = {function.name: length_without_docstring(function) for function in functions(path)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_signature_has_no_kwargs(path: Path) -> None:
    """`**kwargs` swallows misspelt options."""
    public = [function for function in functions(path) if not function.name.startswith("_")]
    assert [function.name for function in public if function.args.kwarg is not None] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_one_word_per_concept(path: Path) -> None:
    """Two words for one thing, and readers look for the difference."""
    words = ((line, word) for line, name in identifiers(path) for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name))
    assert [(line, word) for line, word in words if word.lower() in FORBIDDEN_WORDS] == []
    assert path.stem not in FORBIDDEN_FILES


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name == "__init__.py" and path.parent != PACKAGE], ids=name_of
)
def test_room_opens_with_a_docstring_only(path: Path) -> None:
    """An import in a room's `__init__` costs everybody who wants one file of it, and makes cycles."""
    [docstring] = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)


def test_methods_are_assembled_and_configured_alike() -> None:
    """A method that can be configured but not assembled fails when the teacher is already trained."""
    from raydistill.config.methods import METHOD_SECTIONS
    from raydistill.training.methods.registry import METHODS

    assert METHODS.keys() == METHOD_SECTIONS.keys()
    assert {name: section.model_fields["name"].default for name, section in METHOD_SECTIONS.items()} == {
        name: name for name in METHOD_SECTIONS
    }


def test_every_name_of_the_api_is_where_it_is_looked_for() -> None:
    """A name in `__all__` whose home has moved is found out by the first user."""
    assert set(raydistill.__all__) == raydistill._HOMES.keys()
    for module, attribute in raydistill._HOMES.values():
        path = ROOT / f"{module.replace('.', '/')}.py"
        names = {part.name for part in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(part, "name")}
        assert attribute in names, f"{module} has no {attribute}"


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    """`hasattr` and `from raydistill import x` rely on it."""
    with pytest.raises(AttributeError, match="has no attribute 'Unknown'"):
        _ = raydistill.Unknown


def test_importing_the_package_imports_nothing_else() -> None:
    """`import raydistill` is done by tools that only ask for its version."""
    code = "import sys, raydistill; print([m for m in sys.modules if m.startswith('raydistill.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_everything_but_orchestration_imports_without_ray() -> None:
    """Learning must work where Ray is not installed."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.name not in ("__init__.py", "__main__.py")
        and "orchestration" not in path.parts
        # Kernels for GPUs, which nothing imports elsewhere.
        and (path.name != "short_attention.py" or importlib.util.find_spec("triton") is not None)
    ]
    code = f"import importlib, sys; sys.modules['ray'] = None\nfor name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("process", ["campaign", "coordinator", "studies", "elastic"])
def test_processes_that_do_not_train_start_without_torch(process: str) -> None:
    """A coordinator that was killed would be back seconds later, and every search and every trial of several workers begin so, for a library that it never calls."""
    code = f"import sys, raydistill.orchestration.{process}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("process", ["campaign", "coordinator"])
def test_processes_that_search_nothing_start_without_ray_tune(process: str) -> None:
    """Every campaign, also one that is gone on with after a crash, would begin more than a second later."""
    code = f"import sys, raydistill.orchestration.{process}; sys.exit('ray.tune' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_what_is_promoted_is_verified_without_torch(tmp_path: Path) -> None:
    """The first promotion of a campaign would wait seconds for a library that a search never calls."""
    (tmp_path / "raydistill.json").touch()
    code = """if True:
        import sys
        from raydistill.errors import CheckpointError
        from raydistill.orchestration.workshop import standard_workshop
        try:
            standard_workshop().verify_checkpoint(sys.argv[1])
        except CheckpointError:
            print("refused", "torch" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "refused False", done.stderr


def test_imports_only_go_down() -> None:
    """An import that goes up makes a floor that cannot be tested, replaced or read alone."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
