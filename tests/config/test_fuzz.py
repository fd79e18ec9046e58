"""Whatever a file holds, it is a campaign or a `ConfigError`: never another exception, never a complaint nobody can read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from raydistill.config.load import load_config, parse_config, parse_yaml
from raydistill.errors import ConfigError

WHOLE: dict[str, Any] = {
    "data": {"path": "x", "max_tokens": 50},
    "encoder": {"name": "y"},
    "teacher": {"epochs": 2},
    "grades": [
        {"layers": 3, "mask_ratio": {"uniform": [0.0, 0.2]}, "layer_map": {"choice": ["skip", [0, 1, 2]]}},
        {"layers": 2, "learning_rate": {"log_uniform": [1e-5, 1e-4]}, "method": {"name": "logits"}, "view": "shared"},
    ],
    "method": {"name": "pmd", "alpha": {"choice": [0.1, 0.2]}, "beta": 0.1},
    "resources": {"concurrent_trials": "auto"},
    "rerank": {"hops": 2},
}

COMPARING: dict[str, Any] = {
    "data": {"path": "x"},
    "encoder": {"name": "y"},
    "grades": [{"layers": 3, "epochs": 4}],
    "compare": {"methods": [{"name": "pkd"}, {"name": "none"}], "seeds": [0, 1]},
    "search": {"early_stopping": "asha", "grace_epochs": 2},
}

WORDS = st.sampled_from(
    [
        "choice",
        "uniform",
        "log_uniform",
        "name",
        "pmd",
        "alpha",
        "layers",
        "method",
        "skip",
        "auto",
        "",
        "mask_ratio",
        "ñ",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(0, 2), inner, max_size=3)
)


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in entries for place in [(*prefix, key), *places(inner, (*prefix, key))]]


PLACES = places(WHOLE)
CHANGED = st.sampled_from((WHOLE, COMPARING)).flatmap(
    lambda whole: st.tuples(
        st.just(whole), st.lists(st.tuples(st.sampled_from(places(whole)), VALUES), min_size=1, max_size=3)
    )
)


def refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    """What a refusal says; None where nothing was refused. Any other exception fails the test."""
    try:
        function(*arguments)
    except ConfigError as error:
        return error.received
    return None


def accepted(content: Any) -> bool:
    """Whether `content` is a campaign; a refusal has to be one line per mistake in words of the file, not of Python."""
    said = refusal(parse_config, content)
    if said is None:
        return True
    first, *lines = said.split("\n  - ")
    assert lines
    assert f"{len(lines)} problem" in first
    for line in lines:
        assert ": " in line
        assert not any(word in line for word in ("FieldInfo", "Annotated", "pydantic", "function-after", "ctx"))
    return False


def test_the_whole_examples_are_campaigns() -> None:
    """Mutations of a file that is refused anyway would show nothing."""
    assert accepted(copy.deepcopy(WHOLE))
    assert accepted(copy.deepcopy(COMPARING))


@settings(deadline=None, max_examples=400)
@given(CHANGED)
def test_any_value_at_any_place_is_accepted_or_refused(
    changed: tuple[dict[str, Any], list[tuple[tuple[Any, ...], Any]]],
) -> None:
    """A complaint is built by following the file and the schema together; where they differ, it must not stumble."""
    whole, changes = changed
    content = copy.deepcopy(whole)
    for (*parents, last), value in changes:
        target = content
        try:
            for parent in parents:
                target = target[parent]
            target[last] = value
        except (KeyError, IndexError, TypeError):
            continue
    accepted(content)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["", "data:\n", "{", "- ", "a: &a [*a]\n", "? !!str x\n: ", "%YAML 9.9\n"]), st.text(max_size=30)
)
def test_any_text_is_yaml_or_refused(start: str, text: str) -> None:
    """A parser's own exceptions end in a traceback."""
    said = refusal(parse_yaml, start + text, "file")
    assert said is None or said.startswith("file")


@settings(deadline=None, max_examples=200)
@given(
    st.text(max_size=20)
    | st.tuples(st.sampled_from(PLACES), st.text(max_size=10)).map(
        lambda pair: ".".join(map(str, pair[0])) + "=" + pair[1]
    )
)
def test_any_override_is_applied_or_refused(tmp_path_factory: Any, override: str) -> None:
    """`--set` takes what people type."""
    path = tmp_path_factory.getbasetemp() / "whole.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump(WHOLE), encoding="utf-8")
    assert refusal(load_config, path, [override]) != ""


def test_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    """YAML's anchors can make a list its own entry, which nothing can print."""
    path = tmp_path / "loop.yaml"
    for text in ("grades: &a [*a]\n", "data: &a {path: *a}\n", "data: {path: x}\ngrades: [{layers: &a {b: *a}}]\n"):
        path.write_text(text, encoding="utf-8")
        assert refusal(load_config, path)
