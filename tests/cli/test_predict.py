"""`raydistill predict`: which questions reach the predictor, and in what form answers come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from raydistill.errors import PredictionError
from raydistill.shipping.queries import Query


@dataclass
class Answer:
    """What a predictor gives back."""

    key: str
    name: str
    score: float
    known: bool


@dataclass
class FakePredictor:
    """Answers with its arguments, and with a score of half a unit for the bits of a float32."""

    score: float

    @classmethod
    def load(cls, checkpoint: str, data: str, *, entity_bits: int) -> FakePredictor:
        return cls(entity_bits / 64)

    def answers_in_turn(self, queries: Sequence[Query], k: int, *, new: bool) -> Iterator[list[Answer]]:
        if any(query.given == "nobody" for query in queries):
            raise PredictionError("entity 'nobody'", remedy="give new text")
        return (self.some(query, k, new) for query in queries)

    def some(self, query: Query, k: int, new: bool) -> list[Answer]:
        if query.given == "unanswered":
            return []
        if query.given == "never":
            raise PredictionError("the machine broke", remedy="ask again")
        if query.tail is None:
            return [Answer("e1", f"tail of {query.head} {query.relation} [bold]", self.score, not new)][:k]
        return [Answer(f"e{i}", f"head of {query.tail} {query.relation}", 0.25, False) for i in range(k)]


@pytest.fixture
def predict(call: Callable[..., Result], tmp_path: Path, fake_module: Callable[..., None]) -> Callable[..., Result]:
    fake_module("raydistill.shipping.predictor", Predictor=FakePredictor)
    return lambda *arguments: call("predict", str(tmp_path), "--data", str(tmp_path), *arguments)


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.tsv"
    path.write_text("a\tcauses\t?\n\n?\tcauses\tb\nunanswered\tcauses\t?\n", encoding="utf-8")
    return str(path)


def test_asks_for_tails_of_a_head_and_heads_of_a_tail(predict: Callable[..., Result]) -> None:
    """The two directions swapped give plausible nonsense."""
    asked = predict("--head", "a", "--relation", "causes").stdout
    assert "tail of a causes [bold]" in asked
    assert "(a, causes, ?)" in asked
    content = json.loads(predict("--tail", "b", "--relation", "causes", "-k", "2", "--json").stdout)
    assert content["query"] == {"head": None, "relation": "causes", "tail": "b"}
    assert content["answers"] == [
        {"key": f"e{i}", "name": "head of b causes", "score": 0.25, "known": False} for i in range(2)
    ]


def test_hands_on_the_bits_of_entity_vectors(predict: Callable[..., Result]) -> None:
    """An option that changes nothing would let a graph that fits in eight bits run out of memory."""
    asked = ("--head", "a", "--relation", "causes", "--json")
    scores = [json.loads(predict(*asked, *bits).stdout)["answers"][0]["score"] for bits in ((), ("--entity-bits", "8"))]
    assert scores == [0.5, 0.125]


def test_hands_on_that_known_answers_are_left_out(predict: Callable[..., Result]) -> None:
    """A flag that is swallowed shows what everybody knows as news."""
    asked = ("--head", "a", "--relation", "causes", "--json")
    known = [json.loads(predict(*asked, *new).stdout)["answers"][0]["known"] for new in ((), ("--new",))]
    assert known == [True, False]


def test_many_queries_are_lines_of_json_in_the_order_of_the_file(
    predict: Callable[..., Result], questions: str
) -> None:
    """Answers beside other questions, or a list that has to be complete before a line of it can be read."""
    result = predict("--queries", questions, "-k", "2", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query"] for line in lines] == [
        {"head": "a", "relation": "causes", "tail": None},
        {"head": None, "relation": "causes", "tail": "b"},
        {"head": "unanswered", "relation": "causes", "tail": None},
    ]
    assert [len(line["answers"]) for line in lines] == [1, 2, 0]


def test_lines_of_json_are_printed_as_they_come(predict: Callable[..., Result], tmp_path: Path) -> None:
    """Hours of answers that are lost with the last question."""
    path = tmp_path / "questions.tsv"
    path.write_text("a\tcauses\t?\nnever\tcauses\t?\n", encoding="utf-8")
    result = predict("--queries", str(path), "--json")
    assert result.exit_code == 2
    assert [json.loads(line)["query"]["head"] for line in result.stdout.splitlines()] == ["a"]
    assert predict("--queries", str(path)).stdout == ""


def test_many_queries_are_one_table(predict: Callable[..., Result], questions: str) -> None:
    """A query without an answer that vanishes from the table is taken for one that was not asked."""
    result = predict("--queries", questions, "-k", "2")
    assert result.exit_code == 0
    assert "3 queries" in result.stdout
    places = [result.stdout.index(word) for word in ("tail of a causes", "head of b causes", "(unanswered, causes, ?)")]
    assert places == sorted(places)
    assert result.stdout.count("(?, causes, b)") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--relation", "causes"), "give either --head"),
        (("--relation", "causes", "--head", "a", "--tail", "b"), "give either --head"),
        (("--head", "a"), "give --relation"),
    ],
)
def test_needs_one_side_and_a_relation(predict: Callable[..., Result], arguments: tuple[str, ...], said: str) -> None:
    """A query with both sides, none, or no relation asks nothing."""
    result = predict(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_file_and_single_query_exclude_each_other(predict: Callable[..., Result], questions: str) -> None:
    """One of them would go unanswered without a word."""
    result = predict("--queries", questions, "--relation", "causes")
    assert result.exit_code == 2
    assert "give either --queries" in result.stderr


def test_malformed_file_is_refused_with_its_line(predict: Callable[..., Result], tmp_path: Path) -> None:
    """In a file of thousands the reader has to be told where to look."""
    path = tmp_path / "bad.tsv"
    path.write_text("a\tcauses\t?\na causes ?\n", encoding="utf-8")
    result = predict("--queries", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}:2 has 1 column\n")


def test_tells_what_it_cannot_answer(predict: Callable[..., Result]) -> None:
    """An unknown entity is a user's mistake."""
    result = predict("--head", "nobody", "--relation", "causes")
    assert result.exit_code == 2
    assert result.stderr == "error: entity 'nobody'\n  what to do: give new text\n"
