"""`raydistill evaluate`: the full filtered protocol for one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from raydistill.cli.bits import entity_bits_option
from raydistill.cli.environment import env_option, given_variables
from raydistill.cli.places import Folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raydistill.evaluation.report import LinkPredictionReport
    from raydistill.reporting.table import Table


@click.command(short_help="Score a checkpoint: filtered link prediction.")
@click.argument("checkpoint", type=Folder())
@click.option("--data", required=True, type=Folder(), help="The dataset directory.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option("--rerank-hops", type=click.IntRange(min=1), help="Re-rank with neighbours this far from the head.")
@entity_bits_option("Rank against entity vectors rounded to so many bits.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that rank together."
)
@env_option("Give all workers this variable, or NAME=VALUE.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def evaluate(
    checkpoint: str,
    data: str,
    split: str,
    rerank_hops: int | None,
    entity_bits: int,
    workers: int,
    environment: tuple[str, ...],
    as_json: bool,
) -> None:
    """Rank all entities for every query of a split with CHECKPOINT: both directions, filtered by all splits.

    Numbers are realistic ranks: where scores tie, the mean of the best and the worst rank. Several workers, on this machine or on the cluster that
    RAY_ADDRESS names, encode and rank a part of the entities each; the numbers are the same, but for last bits. Those of a cluster have its variables and
    not this shell's: what they need to reach a bucket, --env gives them, in no log.
    """
    from raydistill.cli.output import echo_json, echo_tables, waiting
    from raydistill.cli.places import dataset_here

    chosen = given_variables(environment)
    with waiting(f"ranking the {split} split"):
        folder = dataset_here(data)
        report = scored(checkpoint, data, split, rerank_hops, entity_bits, workers, chosen)
    if as_json:
        echo_json({"checkpoint": checkpoint, "data": data, **report_json(report, folder)})
        return
    echo_tables(metric_tables(report))
    if entity_bits < 32:
        click.echo(f"entity vectors in {entity_bits} bits")
    if report.homonym_ties:
        click.echo(
            f"{report.homonym_ties:.1%} of queries: the answer ties with another entity, mostly of the same text"
        )


def scored(
    checkpoint: str,
    data: str,
    split: str,
    rerank_hops: int | None,
    entity_bits: int,
    workers: int,
    variables: Mapping[str, str] | None = None,
) -> LinkPredictionReport:
    """The report on a checkpoint, wherever it and the data lie, by this process or by several, which get `variables`; as the command's options have it.

    Raises:
        RayDistillError: as `evaluate_checkpoint` has it, or there is no room for so many workers.
    """
    from raydistill.config.schema import RerankSection

    rerank = None if rerank_hops is None else (rerank_hops, RerankSection(hops=rerank_hops).bonus)
    if workers > 1:
        from raydistill.orchestration.evaluating import evaluate_together

        return evaluate_together(checkpoint, data, split, rerank, entity_bits, workers, variables)
    from raydistill.cli.places import checkpoint_here, dataset_here
    from raydistill.training.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(checkpoint_here(checkpoint), dataset_here(data), split, rerank, entity_bits=entity_bits)


def report_json(report: LinkPredictionReport, data: str) -> dict[str, Any]:
    """The whole report, its relations by the keys of the dataset: their numbers mean nothing outside of it."""
    from raydistill.kg.store import Dataset

    keys = Dataset.load(data, verify=False).relation_keys
    rows = {keys[relation]: dict(row) for relation, row in report.per_relation.items()}
    return {**report.to_dict(), "per_relation": rows}


def metric_tables(report: LinkPredictionReport) -> list[Table]:
    """Metrics per direction with the interval of the MRR, and per category of relations."""
    from raydistill.reporting.table import Table, number

    suffix = "+neighbors" if report.reranked else ""
    how = ", re-ranked with neighbours" if report.reranked else ""
    names = ("mr", "mrr", "hits@1", "hits@3", "hits@10", "amri")
    rows = []
    for direction in ("head", "tail", "both"):
        prefix = f"{report.split}/{direction}"
        low, high = report.intervals[f"{prefix}/mrr{suffix}"]
        cells = [number(report.metrics[f"{prefix}/{name}{suffix}"], 1 if name == "mr" else 3) for name in names]
        rows.append((direction, *cells, f"{number(low)} to {number(high)}"))
    title = f"{report.split}, filtered, {report.tie_rule} ranks over {report.num_candidates:,} entities{how}"
    heads = ("direction", "MR", "MRR", "Hits@1", "Hits@3", "Hits@10", "AMRI", "MRR, 95 % interval")
    by_category = tuple(
        (
            str(category),
            *(number(row.get(f"both/{name}{suffix}")) for name in ("mrr", "hits@1", "hits@10")),
            number(row.get(f"both/queries{suffix}"), 0),
        )
        for category, row in report.per_category.items()
    )
    columns = ("relations", "MRR", "Hits@1", "Hits@10", "queries")
    return [Table(title, heads, tuple(rows)), Table(f"by category of relations{how}", columns, by_category)]
