"""What each command passes on and prints, with fakes where the work is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raydistill.errors import PredictionError, RunDirectoryError
from raydistill.planning.state import CampaignState, replay

EVENTS: list[dict[str, Any]] = [
    {"kind": "campaign_started", "config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher", "1-layers3"]},
    {
        "kind": "grade_promoted",
        "lineage": "main",
        "grade": 0,
        "identity": "t",
        "checkpoint": "/there/checkpoint",
        "digest": "d",
        "epoch": 1,
        "metrics": {"valid/both/mrr": 0.5},
    },
    {
        "kind": "promotion_tested",
        "lineage": "main",
        "grade": 0,
        "metrics": {"test/both/mrr": 0.4375, "test/both/hits@10": 0.5, "parameters": 10.0},
    },
]


@dataclass
class FakeCampaign:
    """Remembers how it was made and run."""

    config: Any
    run_dir: str
    calls = []  # type: ignore[var-annotated]  # noqa: RUF012 - shared on purpose: the test reads it

    def run(self, *, resume: bool, observe: Callable[[CampaignState], None] | None) -> CampaignState:
        if resume:
            raise RunDirectoryError("no run", remedy="leave out --resume")
        self.calls.append(self)
        Path(self.run_dir).mkdir(parents=True)
        if observe is not None:
            observe(replay(EVENTS[:1]))
        return replay(EVENTS)


@pytest.fixture
def campaign_file(
    tmp_path: Path, smallest: str, monkeypatch: pytest.MonkeyPatch, fake_module: Callable[..., None]
) -> Path:
    monkeypatch.chdir(tmp_path)
    FakeCampaign.calls.clear()
    fake_module("raydistill.orchestration.campaign", Campaign=FakeCampaign)
    path = tmp_path / "ladder.yaml"
    path.write_text(smallest, encoding="utf-8")
    return path


def test_run_takes_its_directory_from_the_file_name(call: Callable[..., Result], campaign_file: Path) -> None:
    """Two configuration files writing into one default directory."""
    result = call("run", str(campaign_file), "--set", "training.epochs=3")
    assert result.exit_code == 0, result.output
    [campaign] = FakeCampaign.calls
    assert campaign.run_dir == "runs/ladder"
    assert campaign.config.training.epochs == 3
    lines = result.stdout.splitlines()
    assert lines[-1] == "run runs/ladder"
    assert "promoted main 0-teacher: /there/checkpoint" in lines
    assert "0.438" in result.stdout
    assert Path("runs/ladder/report.html").is_file()


def test_run_prints_json_alone_on_standard_output(call: Callable[..., Result], campaign_file: Path) -> None:
    """A progress line in front of JSON breaks whoever parses it."""
    result = call("run", str(campaign_file), "--run-dir", "here", "--json")
    content = json.loads(result.stdout)
    assert content["run"] == "here"
    assert content["results"]["plain"]["grades"][0]["metrics"]["mrr"] == 0.4375


def test_run_tells_why_it_cannot_resume(call: Callable[..., Result], campaign_file: Path) -> None:
    """`--resume` that is swallowed on the way would start afresh."""
    begun = Path("runs/ladder/config.yaml")
    begun.parent.mkdir(parents=True)
    begun.touch()
    result = call("run", str(campaign_file), "--resume")
    assert result.exit_code == 2
    assert result.stderr == "error: no run\n  what to do: leave out --resume\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--run-dir", "mistyped", "--resume"), "holds no run to resume"), (("--run-dir", "ladder.yaml/x"), "is a file")],
)
def test_run_refuses_a_directory_that_cannot_be_meant_before_it_looks_at_anything(
    call: Callable[..., Result], campaign_file: Path, arguments: tuple[str, ...], said: str
) -> None:
    """A mistyped directory would be made, and the data and encoder read for minutes, before it is refused."""
    result = call("run", str(campaign_file), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert FakeCampaign.calls == []
    assert [path.name for path in campaign_file.parent.iterdir()] == ["ladder.yaml"]


@pytest.mark.parametrize(("command", "promised"), [("run", True), ("evaluate", False)])
def test_interrupted_run_alone_can_be_resumed(
    call: Callable[..., Result],
    campaign_file: Path,
    fake_module: Callable[..., None],
    command: str,
    promised: bool,
) -> None:
    """Told to resume a command that cannot, the reader looks for an option that is not there."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    fake_module("raydistill.orchestration.campaign", Campaign=interrupted)
    fake_module("raydistill.training.evaluate", evaluate_checkpoint=interrupted)
    arguments = {"run": [str(campaign_file)], "evaluate": [".", "--data", "."]}[command]
    result = call(command, *arguments)
    assert result.exit_code == 130
    assert ("--resume" in result.stderr) == promised


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "storage.path=nope://bucket/runs"), "a URI that pyarrow knows"),
        (("--run-dir", "s3://key:word@bucket/x"), "credentials in the environment"),
    ],
)
def test_run_refuses_a_place_that_nobody_knows(
    call: Callable[..., Result], campaign_file: Path, arguments: tuple[str, ...], words: str
) -> None:
    """`nope://bucket` is a valid local path: results would land in a folder named `nope:`."""
    result = call("run", str(campaign_file), *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert FakeCampaign.calls == []


def test_run_refuses_a_bad_file_before_anything_starts(call: Callable[..., Result], campaign_file: Path) -> None:
    """A misspelt key that is found after the teacher was trained."""
    campaign_file.write_text("data: {path: x}\nencodr: {name: y}\n", encoding="utf-8")
    result = call("run", str(campaign_file))
    assert result.exit_code == 2
    assert "did you mean 'encoder'?" in result.stderr
    assert FakeCampaign.calls == []


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

    def tails(self, head: str, relation: str, k: int) -> list[Answer]:
        if head == "nobody":
            raise PredictionError("entity 'nobody'", remedy="give new text")
        return [Answer("e1", f"tail of {head} {relation} [bold]", self.score, True)][:k]

    def heads(self, tail: str, relation: str, k: int) -> list[Answer]:
        return [Answer(f"e{i}", f"head of {tail} {relation}", 0.25, False) for i in range(k)]


@pytest.fixture
def predict(call: Callable[..., Result], tmp_path: Path, fake_module: Callable[..., None]) -> Callable[..., Result]:
    fake_module("raydistill.shipping.predictor", Predictor=FakePredictor)
    return lambda *arguments: call("predict", str(tmp_path), "--data", str(tmp_path), *arguments)


def test_predict_asks_for_tails_of_a_head_and_heads_of_a_tail(predict: Callable[..., Result]) -> None:
    """The two directions swapped give plausible nonsense."""
    assert "tail of a causes [bold]" in predict("--head", "a", "--relation", "causes").stdout
    answers = json.loads(predict("--tail", "b", "--relation", "causes", "-k", "2", "--json").stdout)["answers"]
    assert answers == [{"key": f"e{i}", "name": "head of b causes", "score": 0.25, "known": False} for i in range(2)]


def test_predict_hands_on_the_bits_of_entity_vectors(predict: Callable[..., Result]) -> None:
    """An option that changes nothing would let a graph that fits in eight bits run out of memory."""
    asked = ("--head", "a", "--relation", "causes", "--json")
    scores = [json.loads(predict(*asked, *bits).stdout)["answers"][0]["score"] for bits in ((), ("--entity-bits", "8"))]
    assert scores == [0.5, 0.125]


@pytest.mark.parametrize("arguments", [(), ("--head", "a", "--tail", "b")])
def test_predict_needs_one_side(predict: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """A query with both sides, or none, asks nothing."""
    result = predict("--relation", "causes", *arguments)
    assert result.exit_code == 2
    assert "give either --head" in result.stderr


def test_predict_tells_what_it_cannot_answer(predict: Callable[..., Result]) -> None:
    """An unknown entity is a user's mistake."""
    result = predict("--head", "nobody", "--relation", "causes")
    assert result.exit_code == 2
    assert result.stderr == "error: entity 'nobody'\n  what to do: give new text\n"
