"""Watching a campaign: a live table on a terminal, one line per report everywhere else, and the trials of every grade that ends.

Work that several ladders share is told where it was done, and once that it is shared: a comparison of twenty methods would else say it twenty times a grade.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from raydistill.planning.records import ENDED, MRR, Place, TrialKey, TrialRecord
from raydistill.planning.state import CampaignState
from raydistill.reporting.report import trial_table
from raydistill.reporting.table import ABSENT, duration, number, plain


@dataclass
class _Told:
    """What has been told of one campaign."""

    reports: dict[TrialKey, int] = field(default_factory=dict)
    notes: dict[TrialKey, int] = field(default_factory=dict)
    promoted: set[Place] = field(default_factory=set)
    failed: set[TrialKey] = field(default_factory=set)
    shared: set[TrialKey] = field(default_factory=set)


class Progress:
    """Shows a campaign while it runs, or the ladders of a search. `observe` is given the state after every event.

    Args:
        console: where to write; a terminal gets a table that is redrawn, anything else plain lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        # By fingerprint: trials of one ladder have the names of another's.
        self._told: dict[str, _Told] = {}
        self._views: dict[str, RenderableType] = {}

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, state: CampaignState, title: str = "") -> None:
        """Show what is new since the last call; `title` says which campaign it is, where there are several."""
        if state.config_fingerprint not in self._told:
            self._greet(state, title)
        told = self._told[state.config_fingerprint]
        for record in list(state.trials.values()):
            self._report(state, record, told, title)
        for key in sorted(state.promotions.keys() - told.promoted):
            told.promoted.add(key)
            if any(record.reused_from is None for record in state.of(*key)):
                table = trial_table(state, *key)
                self._print(replace(table, title=_titled(title, table.title)).as_rich())
        if self._live is not None:
            self._views[title] = running_view(state, title)
            if not any(record.status == "running" for record in state.trials.values()):
                # It has ended, or has nothing to show for the moment; the only one is shown all the same.
                del self._views[title]
            self._live.update(Group(*self._views.values()) if self._views else running_view(state, title), refresh=True)

    def _greet(self, state: CampaignState, title: str) -> None:
        """A resumed campaign starts with a history, which is not news."""
        done = [record for record in state.trials.values() if record.status in ENDED]
        self._told[state.config_fingerprint] = _Told(
            reports={record.key: len(record.reports) for record in done},
            notes={record.key: len(record.notes) for record in state.trials.values()},
            promoted=set(state.promotions),
            failed={record.key for record in done if record.status == "failed"},
            shared={record.reused_from for record in done if record.reused_from},
        )
        if done:
            resumed = f"resumed: {len(done)} trials done, {len(state.promotions)} grades promoted"
            self._print(Text(_titled(title, resumed)))

    def _report(self, state: CampaignState, record: TrialRecord, told: _Told, title: str) -> None:
        name = _titled(title, _name(state, record))
        before = told.reports.get(record.key, 0)
        told.reports[record.key] = len(record.reports)
        source = state.trials[record.reused_from] if record.reused_from else None
        if source is not None and source.key not in told.shared:
            told.shared.add(source.key)
            same = f"{name}: the same work as {_name(state, source)}, done once"
            self._print(Text(f"{same}; more ladders that share it are not named"))
        if source is None and self._live is None:
            for position in range(before, len(record.reports)):
                cells = " ".join(cell for cell in trial_cells(state, record, position) if cell)
                self._print(Text(_titled(title, cells)))
        for note in record.notes[told.notes.get(record.key, 0) :]:
            self._print(Text(f"{name}: {note}"))
        told.notes[record.key] = len(record.notes)
        if record.status == "failed" and record.key not in told.failed:
            told.failed.add(record.key)
            self._print(Text(f"{name} failed: {record.reason}"))

    def _print(self, what: RenderableType) -> None:
        self.console.print(what, soft_wrap=isinstance(what, Text))


@contextmanager
def watching(console: Console | None) -> Iterator[Progress | None]:
    """A `Progress` on a console, or nothing at all without one."""
    if console is None:
        yield None
        return
    with Progress(console) as progress:
        yield progress


def running_view(state: CampaignState, title: str = "") -> RenderableType:
    """A headline and one row per running trial; `title` says of which campaign, where there are several."""
    running = [record for record in list(state.trials.values()) if record.status == "running"]
    table = RichTable.grid(padding=(0, 2))
    for record in running:
        table.add_row(*(Text(cell) for cell in trial_cells(state, record, len(record.reports) - 1)))
    return Group(Text(_titled(title, headline(state)), style="bold"), table)


def headline(state: CampaignState) -> str:
    """How far the campaign is, in one line."""
    wanted = len(state.lineages) * len(state.grades)
    by_status = dict.fromkeys(("running", "paused", "finished", "stopped", "failed"), 0)
    for record in list(state.trials.values()):
        by_status[record.status] += 1
    trials = ", ".join(f"{number_} {status}" for status, number_ in by_status.items() if number_)
    return f"{len(state.promotions)} of {wanted} grades promoted, {len(state.tests)} tested; trials: {trials or 'none yet'}"


def trial_cells(state: CampaignState, record: TrialRecord, position: int) -> list[str]:
    """What there is to say about a trial after one of its reports.

    Args:
        state: the campaign, for the name of the grade.
        record: the trial.
        position: which report; below 0 = none yet.
    """
    name = _name(state, record)
    parameters = " ".join(f"{key.removeprefix('method.')}={plain(value)}" for key, value in record.parameters.items())
    if position < 0:
        return [name, parameters, f"epoch 0/{record.epochs}", "", "", "", ""]
    report = record.reports[position]
    metrics: dict[str, float] = report["metrics"]
    terms = [f"{key.removeprefix('loss/')} {value:.3g}" for key, value in metrics.items() if key.startswith("loss/")]
    loss = f"loss {number(metrics.get('loss'))}" + (f" ({', '.join(terms)})" if terms else "")
    speed = metrics.get("examples_per_second")
    left = seconds_left(record, position)
    return [
        name,
        parameters,
        f"epoch {report['epoch']}/{record.epochs}",
        loss,
        f"valid MRR {number(metrics.get(MRR), 4)}",
        "" if speed is None else f"{speed:.0f} examples/s",
        "" if left is None else f"{duration(left)} left",
    ]


def seconds_left(record: TrialRecord, position: int = -1) -> float | None:
    """Seconds until a trial's last epoch, from the time of its epochs so far; None before the first one."""
    if not record.reports:
        return None
    report = record.reports[position]
    taken: Sequence[float] = [one["metrics"]["seconds"] for one in record.reports if "seconds" in one["metrics"]]
    each = sum(taken) / len(taken) if taken else (report["time"] - record.begun) / max(int(report["epoch"]), 1)
    return float(each * max(record.epochs - int(report["epoch"]), 0))


def _name(state: CampaignState, record: TrialRecord) -> str:
    folder = state.folder(record.grade)
    lineage = f"{record.lineage} " if len(state.lineages) > 1 else ""
    return f"{lineage}{folder or ABSENT} trial {record.number}"


def _titled(title: str, text: str) -> str:
    return f"{title}: {text}" if title else text
