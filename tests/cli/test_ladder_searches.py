"""A search over ladders on the command line: who runs it, what `status` shows of it, and what `verify` looks at."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pyarrow import fs

from raydistill.cli import status as status_module
from raydistill.config.load import config_of, dump_config
from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.ledger import Ledger
from raydistill.orchestration.locking import locked
from raydistill.orchestration.rundir import read_config
from raydistill.orchestration.runstore import RunStore
from raydistill.planning.ladders import ladder_config, ladder_of
from raydistill.training.manifest import write_manifest

Call = Callable[..., Result]
ROOT = Path(__file__).parents[2]
PLACE = {"lineage": "main", "grade": 0, "time": 0.0}
POINT: dict[str, Any] = {
    "grades": 1,
    "alpha": 0.1,
    "beta": 0.0,
    "layers.0": 2,
    "mask_ratio.0": 0.0,
    "layer_map.0": "skip",
}
CHECKPOINT = "grades/0-teacher/trials/abc/checkpoints/00000010"


def text_of(smallest: str) -> str:
    return f"{smallest}ladders: {{ladders: 3, depths: [1, 2], grades: [1, 1]}}\n"


def begin(root: Path, config: CampaignConfig, *events: dict[str, Any]) -> None:
    """A run directory with these events of a campaign of one grade, the teacher."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    started = {"config_fingerprint": "f", "lineages": ["main"], "grades": ["0-teacher"]}
    for event in ({"kind": "campaign_started", **started}, *events):
        Ledger.at(root / "ledger").append(event)


def record(root: Path, number: int, values: dict[str, float], reason: str = "") -> None:
    """What came of one ladder of a search."""
    kind = "ladder_finished" if values else "ladder_failed"
    event = {"number": number, "point": {**POINT, "layers.0": number + 1}, "values": values, "reason": reason}
    Ledger.at(root / "search").append({"kind": kind, **event, "time": 0.0})


@pytest.fixture
def search(tmp_path: Path, smallest: str) -> Path:
    """A search over three ladders: the first has ended, the second failed, the third has one of two epochs behind it."""
    root = tmp_path / "search"
    config = config_of(text_of(smallest), "here")
    assert config.ladders is not None
    below = ladder_config(config, ladder_of(config.ladders, POINT))
    checkpoint = root / "ladders/0000" / CHECKPOINT
    (checkpoint / "query_encoder").mkdir(parents=True)
    (checkpoint / "query_encoder/model.safetensors").write_bytes(b"weights")
    files = {"identity": "abc", "checkpoint": CHECKPOINT, "digest": write_manifest(checkpoint), "epoch": 1}
    promoted = {"kind": "grade_promoted", **PLACE, **files, "metrics": {"valid/both/mrr": 0.25}}
    begin(root / "ladders/0000", below, promoted, {"kind": "promotion_tested", **PLACE, "metrics": {"bytes": 2.0}})
    begin(root / "ladders/0001", below)
    trial = {"kind": "trial_begun", **PLACE, "number": 0, "identity": "i", "parameters": {}, "epochs": 2}
    report = {"epoch": 1, "checkpoint": None, "digest": None, "outcome": "running"}
    metrics = {"valid/both/mrr": 0.125, "loss": 2.0, "seconds": 90.0}
    reported = {"kind": "trial_reported", **PLACE, "number": 0, **report, "metrics": metrics}
    begin(root / "ladders/0002", below, trial, reported)
    (root / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    record(root, 0, {"mrr": 0.25, "bytes": 2.0 * 2**20})
    record(root, 1, {}, "the loss is nan")
    return root


def test_status_shows_the_ladders_so_far(call: Call, search: Path) -> None:
    """A search of a night looks as if nothing had happened in it."""
    text = call("status", str(search)).stdout
    assert "2 of 3 ladders ended; 1 finished, 1 failed, 1 running" in text
    assert "ladder 0001 failed: the loss is nan" in text
    assert "ladder 0002\n" in text
    assert "epoch 1/2" in text
    [best] = [line for line in text.splitlines() if "2.0 MiB" in line]
    assert ("0.2500" in best, "finished" in best, "yes" in best) == (True, True, True)


def test_status_as_json_holds_every_ladder(call: Call, search: Path) -> None:
    """Programs would have to know how a search keeps its files."""
    told = json.loads(call("status", str(search), "--json").stdout)
    assert (told["run"], told["complete"], told["wanted"]) == (str(search), False, 3)
    assert [(one["number"], one["status"], one["pareto"]) for one in told["ladders"]] == [
        (0, "finished", True), (1, "failed", False), (2, "running", False),
    ]  # fmt: skip
    assert told["ladders"][1]["reason"] == "the loss is nan"
    assert told["ladders"][2]["grades"] == [{"layers": 2, "mask_ratio": 0.0, "layer_map": "skip"}]


def test_search_on_another_file_system_is_read_alike(search: Path) -> None:
    """Ladders would be looked for on this machine, and the one that runs not be found."""
    there = RunStore.at(search.name, fs.SubTreeFileSystem(str(search.parent), fs.LocalFileSystem()))
    config = read_config(there)
    assert status_module.content(there, config) == status_module.content(RunStore.at(search), config)


def test_failed_ladder_that_is_tried_again_is_told(call: Call, search: Path) -> None:
    """While it trains again for hours, it would be shown as one that has failed."""
    with locked(search), locked(search / "ladders/0001"):
        told = json.loads(call("status", str(search), "--json").stdout)["ladders"]
    assert [one["status"] for one in told] == ["finished", "running", "running"]


def test_search_that_nobody_runs_is_told(call: Call, search: Path) -> None:
    """One that was killed yesterday would be waited for; one that is over would be started again."""
    said = call("status", str(search)).stderr
    assert "running this search" in said
    assert f"raydistill run {search}/config.yaml --run-dir {search} --resume" in said
    with locked(search):
        assert call("status", str(search)).stderr == ""
    record(search, 2, {"mrr": 0.5, "bytes": 1.0})
    assert call("status", str(search)).stderr == ""


def test_watch_ends_with_the_search(call: Call, search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch over a search that is over, or that nobody runs any more, would never end."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        record(search, 2, {"mrr": 0.5, "bytes": 1.0})

    monkeypatch.setattr(status_module.time, "sleep", sleep)
    result = call("status", str(search), "--watch")
    assert (result.exit_code, len(slept)) == (0, 1), result.output
    assert "3 of 3 ladders ended" in result.stdout


@pytest.mark.parametrize("between", [False, True], ids=["in a ladder", "between two ladders"])
def test_status_of_a_search_needs_neither_torch_nor_ray(search: Path, between: bool) -> None:
    """`status` is asked every few seconds; with torch and Ray it would take five."""
    if between:
        (search / "ladders/0002/config.yaml").unlink()
    code = (
        "import sys; from raydistill.cli.main import commands\n"
        f"try: commands(['status', {str(search)!r}])\n"
        "except SystemExit as ending: print(ending.code, [m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_verify_goes_through_every_ladder(call: Call, search: Path) -> None:
    """`sound` for a search of which nothing was looked at."""
    (search / "ladders/0003").mkdir()
    (search / "ladders/0003/.lock").touch()
    result = call("verify", str(search), "--json")
    assert result.exit_code == 0, result.output
    checked = json.loads(result.stdout)["checked"]
    assert {
        str(search / "ladders/0000" / CHECKPOINT),
        str(search / "ladders/0002/ledger"),
        str(search / "search"),
    } <= set(checked)


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2] + b"x\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: flip(root / "ladders/0000" / CHECKPOINT / "query_encoder/model.safetensors"), "changed after"),
        (lambda root: flip(root / "ladders/0002/ledger/00000002.json"), "ladders/0002/ledger/00000002.json"),
        (lambda root: flip(root / "search/00000001.json"), "search/00000001.json"),
        (lambda root: (root / "ladders/0000").rename(root.parent / "gone"), "ladders/0000: the search has its result"),
        (lambda root: (root / "ladders/0000/ledger/00000003.json").unlink(), "ladders/0000: the search has its result"),
        (lambda root: (root / "config.yaml").unlink(), "no config.yaml"),
    ],
    ids=["checkpoint", "a ladder's ledger", "the search's ledger", "a ladder", "end of a ledger", "configuration"],
)
def test_damage_anywhere_in_a_search_is_found(
    call: Call, search: Path, damage: Callable[[Path], object], told: str
) -> None:
    """The ladder that was chosen turns out damaged when it is to be used."""
    damage(search)
    result = call("verify", str(search))
    assert result.exit_code == 4, result.output
    assert told in result.stdout


class FakeSearch:
    """Finds one ladder, and remembers in its run directory whether it was resumed."""

    def __init__(self, config: CampaignConfig, run_dir: str, variables: object = None) -> None:
        assert config.ladders is not None
        self.place = Path(run_dir)

    def run(self, *, resume: bool, observe: object) -> None:
        ladder = {"grades": [{"layers": 2, "mask_ratio": 0.0, "layer_map": "skip"}], "alpha": 0.1, "beta": 0.0}
        told = {"number": 0, "status": "finished", "values": {"mrr": 0.25}, "reason": "", "pareto": True}
        self.place.mkdir()
        (self.place / "pareto.json").write_text(json.dumps([{**ladder, **told, "resumed": resume}]), encoding="utf-8")


def refused(*_: object, **__: object) -> None:
    raise AssertionError("a campaign was run instead of the search")


@pytest.fixture
def file(tmp_path: Path, smallest: str, fake_module: Callable[..., None]) -> Path:
    """A file that asks for a search, where only a search can be run."""
    fake_module("raydistill.orchestration.campaign", Campaign=refused)
    fake_module("raydistill.orchestration.ladder_search", LadderSearch=FakeSearch)
    path = tmp_path / "ladders.yaml"
    path.write_text(text_of(smallest), encoding="utf-8")
    return path


def test_run_runs_the_search(call: Call, file: Path, tmp_path: Path) -> None:
    """A table that is printed from somewhere else than the file that is kept."""
    place = tmp_path / "run"
    result = call("run", str(file), "--run-dir", str(place))
    assert result.exit_code == 0, result.output
    assert "0.2500" in result.stdout
    assert result.stdout.splitlines()[-2:] == [f"pareto set {place}/pareto.json", f"run {place}"]


def test_job_runs_the_search_too(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a cluster one ladder would be run, the given one, and `ladders` be ignored without a word."""
    place = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["distill.py", str(file), str(place)])
    runpy.run_path(str(ROOT / "jobs/distill.py"), run_name="__main__")
    assert capsys.readouterr().out == f"{place}/pareto.json\n"
    assert json.loads((place / "pareto.json").read_text())[0]["resumed"] is False
