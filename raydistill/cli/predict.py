"""`raydistill predict`: the best answers to one query."""

from __future__ import annotations

import click

from raydistill.cli.bits import entity_bits_option
from raydistill.cli.places import Folder


@click.command(short_help="The best answers to one query.")
@click.argument("checkpoint", type=Folder())
@click.option("--data", required=True, type=Folder(), help="The dataset directory.")
@click.option("--head", help="Ask for tails of this entity: its key, its name, or new text.")
@click.option("--relation", required=True, help="The relation: its key or its phrase.")
@click.option("--tail", help="Ask for heads of this entity: its key, its name, or new text.")
@click.option("-k", "count", type=click.IntRange(min=1), default=10, show_default=True, help="How many answers.")
@entity_bits_option("Keep entity vectors in so many bits; 8 take a quarter of the memory.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def predict(
    checkpoint: str,
    data: str,
    head: str | None,
    relation: str,
    tail: str | None,
    count: int,
    entity_bits: int,
    as_json: bool,
) -> None:
    """Rank the entities of a graph as answers to one query with CHECKPOINT.

    Give --head to ask for tails, or --tail to ask for heads. An answer marked "known" is a triple of the graph already.
    """
    if (head is None) == (tail is None):
        raise click.UsageError("give either --head, to ask for tails, or --tail, to ask for heads")
    from raydistill.cli.output import echo_json, echo_tables, waiting
    from raydistill.cli.places import checkpoint_here, dataset_here
    from raydistill.reporting.table import Table, number
    from raydistill.shipping.predictor import Predictor

    with waiting("reading the graph with the model"):
        predictor = Predictor.load(checkpoint_here(checkpoint), dataset_here(data), entity_bits=entity_bits)
        if head is not None:
            answers = predictor.tails(head, relation, count)
        else:
            assert tail is not None
            answers = predictor.heads(tail, relation, count)
    if as_json:
        fields = ("key", "name", "score", "known")
        echo_json(
            {
                "query": {"head": head, "relation": relation, "tail": tail},
                "answers": [{field: getattr(answer, field) for field in fields} for answer in answers],
            }
        )
        return
    title = f"({head}, {relation}, ?)" if head is not None else f"(?, {relation}, {tail})"
    rows = tuple(
        (answer.name, answer.key, "known" if answer.known else "", str(rank), number(answer.score))
        for rank, answer in enumerate(answers, start=1)
    )
    echo_tables([Table(title, ("entity", "key", "in the graph", "rank", "score"), rows, left=3)])
