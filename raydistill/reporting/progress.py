"""Watching a campaign: a live table on a terminal, one line per report everywhere else, and the trials of every grade that ends.

Work that several ladders share is told where it was done, and once that it is shared: a comparison of twenty methods would else say it twenty times a grade.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from raydistill.planning.records import ENDED, MRR, TrialKey, TrialRecord
from raydistill.planning.state import CampaignState
from raydistill.reporting.report import trial_table
from raydistill.reporting.table import ABSENT, duration, number, plain


class Progress:
    """Shows a campaign while it runs, or one after another. `observe` is given the state after every event.

    Args:
        console: where to write; a terminal gets a table that is redrawn, anything else plain lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._campaign: str | None = None
        self._told: dict[TrialKey, int] = {}
        self._promoted: set[tuple[str, int]] = set()
        self._noted: dict[TrialKey, int] = {}
        self._failed: set[TrialKey] = set()
        self._shared: set[TrialKey] = set()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, state: CampaignState) -> None:
        """Show what is new since the last call."""
        if state.config_fingerprint != self._campaign:
            self._greet(state)
        for record in list(state.trials.values()):
            self._report(state, record)
        for key in sorted(state.promotions.keys() - self._promoted):
            self._promoted.add(key)
            if any(record.reused_from is None for record in state.of(*key)):
                self._print(trial_table(state, *key).as_rich())
        if self._live is not None:
            self._live.update(running_view(state), refresh=True)

    def _greet(self, state: CampaignState) -> None:
        """A resumed campaign starts with a history, which is not news. The next ladder of a search has trials of the same names, which are."""
        self._campaign = state.config_fingerprint
        for known in (self._told, self._promoted, self._noted, self._failed, self._shared):
            known.clear()
        done = [record for record in state.trials.values() if record.status in ENDED]
        self._promoted |= state.promotions.keys()
        self._told |= {record.key: len(record.reports) for record in done}
        self._failed |= {record.key for record in done if record.status == "failed"}
        self._shared |= {record.reused_from for record in done if record.reused_from}
        self._noted |= {record.key: len(record.notes) for record in state.trials.values()}
        if done:
            self._print(Text(f"resumed: {len(done)} trials done, {len(state.promotions)} grades promoted"))

    def _report(self, state: CampaignState, record: TrialRecord) -> None:
        told = self._told.get(record.key, 0)
        self._told[record.key] = len(record.reports)
        source = state.trials[record.reused_from] if record.reused_from else None
        if source is not None and source.key not in self._shared:
            self._shared.add(source.key)
            same = f"{_name(state, record)}: the same work as {_name(state, source)}, done once"
            self._print(Text(f"{same}; more ladders that share it are not named"))
        if source is None and self._live is None:
            for position in range(told, len(record.reports)):
                self._print(Text(" ".join(cell for cell in trial_cells(state, record, position) if cell)))
        for note in record.notes[self._noted.get(record.key, 0) :]:
            self._print(Text(f"{_name(state, record)}: {note}"))
        self._noted[record.key] = len(record.notes)
        if record.status == "failed" and record.key not in self._failed:
            self._failed.add(record.key)
            self._print(Text(f"{_name(state, record)} failed: {record.reason}"))

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


def running_view(state: CampaignState) -> RenderableType:
    """A headline and one row per running trial."""
    running = [record for record in list(state.trials.values()) if record.status == "running"]
    table = RichTable.grid(padding=(0, 2))
    for record in running:
        table.add_row(*(Text(cell) for cell in trial_cells(state, record, len(record.reports) - 1)))
    return Group(Text(headline(state), style="bold"), table)


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
    folder = state.grades[record.grade] if record.grade < len(state.grades) else str(record.grade)
    lineage = f"{record.lineage} " if len(state.lineages) > 1 else ""
    return f"{lineage}{folder or ABSENT} trial {record.number}"
