"""What a watcher is told, and what it is not told twice."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from raydistill.planning.state import CampaignState, replay
from raydistill.reporting.progress import Progress, headline, running_view, seconds_left, watching


def watched(events: list[dict[str, Any]], lengths: list[int]) -> str:
    stream = io.StringIO()
    with Progress(Console(file=stream, width=40)) as progress:
        for length in lengths:
            progress.observe(replay(events[:length]))
    return stream.getvalue()


def test_every_report_is_one_line_without_a_terminal(events: list[dict[str, Any]]) -> None:
    """A log of a cluster job is searched by line; a line wrapped at forty columns is found by nobody."""
    text = watched(events, list(range(1, len(events) + 1)))
    lines = [line for line in text.splitlines() if "epoch " in line and "left" in line]
    assert len(lines) == 6
    assert lines[0] == (
        "0-teacher trial 0 epoch 1/2 loss 2.500 (ce 2.25, score 0.5) valid MRR 0.4000 120 examples/s 0:30 left"
    )
    assert lines[4].startswith("1-layers2 trial 1 mask_ratio=0.2 epoch 1/2")


def test_nothing_is_told_twice(events: list[dict[str, Any]]) -> None:
    """The state is told whole each time; only what is new is news."""
    once = watched(events, list(range(1, len(events) + 1)))
    twice = watched(events, [length for length in range(1, len(events) + 1) for _ in range(2)])
    assert once == twice


def test_reports_that_arrive_together_are_all_told(events: list[dict[str, Any]]) -> None:
    """The observer is called at most every half second, and quick epochs are quicker."""
    text = watched(events, [1, len(events)])
    assert text.count("examples/s") == 6
    assert text.count(": trials") == 2


def test_history_of_a_resumed_run_is_summed_up(events: list[dict[str, Any]]) -> None:
    """Hours of old lines on resume hide the new ones."""
    text = watched(events, [6, len(events)])
    assert text.startswith("resumed: 1 trials done, 1 grades promoted")
    assert text.count("0-teacher trial 0") == 0
    assert text.count("1-layers2 trial") == 4


def test_failed_trial_is_told_with_its_reason(events: list[dict[str, Any]]) -> None:
    """A failed trial would only be seen as missing."""
    place = {"lineage": "main", "grade": 1, "number": 2, "time": 0.0}
    begun = {"kind": "trial_begun", **place, "identity": "x", "parameters": {}, "epochs": 2}
    more = [*events[:1], begun, {"kind": "trial_failed", **place, "reason": "loss [nan] in step 7"}]
    text = watched(more, [1, 2, 3])
    assert text == "1-layers2 trial 2 failed: loss [nan] in step 7\n"


def test_work_that_ladders_share_is_told_once(events: list[dict[str, Any]]) -> None:
    """A comparison of twenty methods would tell each epoch of the grades above twenty times, and its own students would drown."""
    place = {"lineage": "second", "grade": 1, "number": 0, "time": 9.0}
    shared = {"kind": "trial_reused", **place, "source": ["main", 1, 1], "identity": "main-1-1", "parameters": {}}
    promotion = {
        **next(one for one in events if one["kind"] == "grade_promoted" and one["grade"] == 1),
        "lineage": "second",
    }
    again = [{**one, "lineage": "third"} for one in (shared, promotion)]
    told = [{**events[0], "lineages": ["main", "second", "third"]}, *events[1:], shared, promotion, *again]
    text = watched(told, list(range(1, len(told) + 1)))
    assert text.count("examples/s") == 6
    assert text.count(": trials") == 2
    assert text.endswith(
        "second 1-layers2 trial 0: the same work as main 1-layers2 trial 1, done once; more ladders that share it are not named\n"
    )


def test_running_view_shows_running_trials_only(events: list[dict[str, Any]]) -> None:
    """A finished trial in the live table would push running ones off the screen."""
    stream = io.StringIO()
    Console(file=stream, width=200).print(running_view(replay(events[:10])))
    text = stream.getvalue()
    assert "1 of 2 grades promoted, 0 tested; trials: 1 running, 2 finished" in text
    assert "1-layers2 trial 1" in text
    assert "epoch 1/2" in text
    assert "trial 0" not in text


def test_terminal_gets_a_live_view_and_the_tables(events: list[dict[str, Any]]) -> None:
    """A live display that is never stopped leaves the terminal without a cursor."""
    stream = io.StringIO()
    with Progress(Console(file=stream, width=120, force_terminal=True)) as progress:
        for length in range(1, len(events) + 1):
            progress.observe(replay(events[:length]))
    text = stream.getvalue()
    assert "1-layers2: trials" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_headline_before_anything_happened() -> None:
    """The first call may come with an empty state."""
    assert headline(CampaignState()) == "0 of 0 grades promoted, 0 tested; trials: none yet"


def test_time_left_is_epochs_times_their_mean(events: list[dict[str, Any]]) -> None:
    """Time left from the last epoch alone jumps with every hiccup."""
    events[1]["epochs"] = 5
    events[2]["metrics"]["seconds"] = 10.0
    events[2]["outcome"] = events[3]["outcome"] = "running"
    record = replay(events[:4]).of("main", 0)[0]
    assert seconds_left(record) == pytest.approx(3 * 20.0)
    assert seconds_left(replay(events[:2]).of("main", 0)[0]) is None


def test_watching_without_a_console_watches_nothing() -> None:
    """`observe=None` is cheaper than an observer that drops everything."""
    with watching(None) as progress:
        assert progress is None


def test_ladders_beside_each_other_are_told_apart(events: list[dict[str, Any]]) -> None:
    """Events of two ladders come in turns: each would be taken for news of a resumed campaign, or told again and again."""
    stream = io.StringIO()
    ladders = [{**events[0], "config_fingerprint": name} for name in ("first", "second")]
    with Progress(Console(file=stream, width=200)) as progress:
        for length in range(1, len(events) + 1):
            for number, started in enumerate(ladders):
                progress.observe(replay([started, *events[1:length]]), f"ladder {number:04d}")
    text = stream.getvalue()
    assert text.count("examples/s") == 12
    assert text.count(": trials") == 4
    assert "resumed" not in text
    assert sum(line.startswith("ladder 0000: 1-layers2 trial") for line in text.splitlines()) == sum(
        line.startswith("ladder 0001: 1-layers2 trial") for line in text.splitlines()
    )
    assert "ladder 0001: main 1-layers2: trials" in text


def test_next_ladder_of_a_search_is_told_like_the_first(events: list[dict[str, Any]]) -> None:
    """Its trials have the names of those before: a search of a night would fall silent after its first ladder."""
    stream = io.StringIO()
    with Progress(Console(file=stream, width=40)) as progress:
        for ladder in ("first", "second"):
            started = {**events[0], "config_fingerprint": ladder}
            for length in range(1, len(events) + 1):
                progress.observe(replay([started, *events[1:length]]))
    text = stream.getvalue()
    assert text.count("examples/s") == 12
    assert text.count(": trials") == 4
    assert "resumed" not in text
