"""`raydistill prepare`: from a public layout to a dataset directory."""

from __future__ import annotations

import click

from raydistill.kg.layouts import LAYOUTS


@click.command(short_help="From a public layout to an audited dataset directory.")
@click.argument("source")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The dataset directory to write.")
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="auto",
    show_default=True,
    help="Layout of SOURCE (docs/data.md shows each); auto recognises it.",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(min=0, max=0.5, min_open=True, max_open=True),
    metavar="SHARE",
    help="Cut the splits that SOURCE lacks, valid, test or both, out of its training triples: each gets this share of all "
    "triples of SOURCE, so that 0.1 leaves eight in ten for training. All triples between two entities go together, and "
    "every entity and relation stays in training. Comes before --sample and --part.",
)
@click.option("--sample", type=click.IntRange(min=1), help="Keep a connected cut of this many entities.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Decides what --hold-out and --sample take.",
)
@click.option("--part", metavar="K/N", help="Keep the triples of part K of N of the relations; --sample comes first.")
@click.option("--quarantine", is_flag=True, help="Set malformed lines aside instead of refusing the source.")
@click.option("--overwrite", is_flag=True, help="Replace another dataset in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def prepare(
    source: str,
    out: str,
    layout: str,
    hold_out: float | None,
    sample: int | None,
    seed: int,
    part: str | None,
    quarantine: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Read a knowledge graph from SOURCE, audit it, and write a dataset directory.

    SOURCE is a folder (KG-BERT, SimKGC, Wikidata5M, OpenKE ids, LibKGE, plain TSV or CSV, Parquet), one file of triples
    (.tsv, .txt, .csv, .parquet; with --hold-out), or pykeen:NAME, such as pykeen:umls.
    """
    from raydistill.cli.output import echo_json, errors_only, waiting
    from raydistill.kg.audit import describe
    from raydistill.kg.prepare import prepare as prepare_dataset

    with errors_only("raydistill.kg.prepare"), waiting(f"reading {source}"):
        dataset = prepare_dataset(
            source,
            out,
            layout=layout,
            sample=sample,
            seed=seed,
            part=part,
            hold_out=hold_out,
            quarantine=quarantine,
            overwrite=overwrite,
        )
        audit = dataset.audit()
    if as_json:
        echo_json({"path": str(dataset.path), "fingerprint": dataset.fingerprint, "audit": audit})
        return
    for sentence in describe(audit):
        click.echo(sentence)
    click.echo(f"dataset {dataset.path} (fingerprint {dataset.fingerprint[:12]})")
