"""`raydistill predict`: the best answers to one query, or to many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from raydistill.cli.bits import entity_bits_option
from raydistill.cli.places import Folder

if TYPE_CHECKING:
    from raydistill.reporting.table import Table
    from raydistill.shipping.predictor import Prediction
    from raydistill.shipping.queries import Query


@click.command(short_help="The best answers to one query, or to many.")
@click.argument("checkpoint", type=Folder())
@click.option("--data", required=True, type=Folder(), help="The dataset directory.")
@click.option("--head", help="Ask for tails of this entity: its key, its name, or new text.")
@click.option("--relation", help="The relation: its key or its phrase.")
@click.option("--tail", help="Ask for heads of this entity: its key, its name, or new text.")
@click.option(
    "--queries",
    "queries_file",
    type=click.Path(exists=True, dir_okay=False),
    help="Ask everything in this file: head<TAB>relation<TAB>? or ?<TAB>relation<TAB>tail, one a line.",
)
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many answers.")
@click.option("--new", is_flag=True, help="Leave out what the graph knows already.")
@entity_bits_option("Keep entity vectors in so many bits; 8 take a quarter of the memory.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON; of a file, one line a query.")
def predict(
    checkpoint: str,
    data: str,
    head: str | None,
    relation: str | None,
    tail: str | None,
    queries_file: str | None,
    count: int,
    new: bool,
    entity_bits: int,
    as_json: bool,
) -> None:
    """Rank the entities of a graph as answers to queries with CHECKPOINT.

    Give --relation with --head to ask for tails, or with --tail to ask for heads; or --queries with a file of many, which are answered in the order of
    its lines. An answer marked "known" is a triple of the graph already.
    """
    from raydistill.cli.output import echo_json, echo_tables, waiting
    from raydistill.cli.places import checkpoint_here, dataset_here

    queries = _queries(head, relation, tail, queries_file)
    from raydistill.shipping.predictor import Predictor

    with waiting("reading the graph with the model"):
        predictor = Predictor.load(checkpoint_here(checkpoint), dataset_here(data), entity_bits=entity_bits)
        in_turn = predictor.answers_in_turn(queries, count, new=new)
    if as_json and queries_file is not None:
        # As they come: a file of thousands is read on while the rest is still to be answered.
        for query, some in zip(queries, in_turn, strict=True):
            click.echo(json.dumps(_answered(query, some), ensure_ascii=False))
        return
    with waiting("ranking the entities"):
        answers = list(in_turn)
    if as_json:
        echo_json(_answered(queries[0], answers[0]))
    elif queries_file is None:
        echo_tables([_table(str(queries[0]), queries, answers, many=False)])
    else:
        echo_tables([_table(f"{len(queries):,} queries", queries, answers, many=True)])


def _queries(head: str | None, relation: str | None, tail: str | None, file: str | None) -> list[Query]:
    if file is not None and (head, relation, tail) != (None, None, None):
        raise click.UsageError("give either --queries, or --relation with --head or --tail")
    if file is None and (head is None) == (tail is None):
        raise click.UsageError("give either --head, to ask for tails, or --tail, to ask for heads; or --queries")
    if file is None and relation is None:
        raise click.UsageError("give --relation with --head or --tail; or --queries")
    from raydistill.shipping.queries import Query, read_queries

    if file is not None:
        return read_queries(file)
    assert relation is not None
    return [Query(relation, head=head, tail=tail)]


def _answered(query: Query, answers: Sequence[Prediction]) -> dict[str, Any]:
    fields = ("key", "name", "score", "known")
    return {
        "query": {"head": query.head, "relation": query.relation, "tail": query.tail},
        "answers": [{field: getattr(answer, field) for field in fields} for answer in answers],
    }


def _table(title: str, queries: Sequence[Query], answers: Sequence[Sequence[Prediction]], *, many: bool) -> Table:
    """Answers as rows; of many queries, each with its query before it."""
    from raydistill.reporting.table import ABSENT, Table, number

    heads = ("entity", "key", "in the graph", "rank", "score")
    rows = []
    for query, some in zip(queries, answers, strict=True):
        asked = (str(query),) if many else ()
        for rank, answer in enumerate(some, start=1):
            known = "known" if answer.known else ""
            rows.append((*asked, answer.name, answer.key, known, str(rank), number(answer.score)))
        if not some:
            rows.append((*asked, ABSENT, ABSENT, "", ABSENT, ABSENT))
    return Table(title, ("query", *heads) if many else heads, tuple(rows), left=4 if many else 3)
