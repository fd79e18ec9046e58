"""`raydistill run --dry-run`: what a campaign would do, from its configuration, its graph and its encoder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from raydistill.cli.output import echo_json, echo_tables
from raydistill.reporting.table import Table, count, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raydistill.config.schema import CampaignConfig
    from raydistill.planning.outlook import GradeOutlook
    from raydistill.planning.search import Distribution


def show_outlook(config: CampaignConfig, place: str, *, resume: bool, as_json: bool) -> None:
    """Refuse what `raydistill run` would refuse of configuration, graph, encoder and run directory; print the rest, and start nothing.

    Raises:
        RayDistillError: as `Campaign.run` does.
    """
    # Ray comes with them.
    from raydistill.orchestration.campaign import Campaign
    from raydistill.orchestration.ladder_search import LadderSearch

    if config.ladders is None:
        title, grades = "grades", Campaign(config, place).outlook(resume=resume)
    else:
        title = f"grades of the first of {config.ladders.ladders} ladders"
        grades = LadderSearch(config, place).outlook(resume=resume)
    if as_json:
        echo_json({"run": place, "grades": [_content(one) for one in grades]})
        return
    echo_tables([outlook_table(title, grades)])
    before = ", those that have ended included" if resume else ""
    click.echo(f"{sum(one.trials * len(one.lineages) for one in grades)} trials at most{before}")
    click.echo(f"run {place}")
    click.echo("nothing was begun; leave out --dry-run")


def outlook_table(title: str, grades: Sequence[GradeOutlook]) -> Table:
    """A row for each grade; what is searched is named with its values."""
    several = len({one.lineages for one in grades}) > 1 or any(len(one.lineages) > 1 for one in grades)
    heads = ("grade", "taught by", "method", "mask ratio", "searched")
    numbers = ("layers", "parameters, about", "trials", "epochs", "steps, about")
    rows = []
    for one in grades:
        searched = {name: worded(values) for name, values in one.space.items()}
        mask = searched.pop("mask_ratio", plain(one.mask_ratio))
        wanted = "; ".join(f"{name} {values}" for name, values in searched.items()) or plain(None)
        taught = one.teacher or ("given" if not one.trials else plain(None))
        words = (one.grade, taught, one.method or "contrastive", mask, wanted)
        steps = plain(None) if one.steps is None else f"{one.steps:,}"
        counts = (str(one.layers), count(one.parameters), str(one.trials), str(one.epochs), steps)
        rows.append((*((_family(one),) if several else ()), *words, *counts))
    left = len(heads) + several
    return Table(title, (*(("lineages",) if several else ()), *heads, *numbers), tuple(rows), left=left)


def _family(one: GradeOutlook) -> str:
    first, *others = one.lineages
    return f"{first} and {len(others)} more" if others else first


def worded(distribution: Distribution) -> str:
    """The values a search may choose, in a few words."""
    (kind, values), *_ = distribution.model_dump().items()
    words = [plain(value) for value in values]
    return " | ".join(words) if kind == "choice" else f"{' to '.join(words)}{', log' if kind == 'log_uniform' else ''}"


def _content(one: GradeOutlook) -> dict[str, Any]:
    return {**asdict(one), "space": {name: values.model_dump() for name, values in one.space.items()}}
