"""`raydistill export`: a checkpoint to deploy or to give away."""

from __future__ import annotations

import click

from raydistill.cli.places import Folder


@click.command(short_help="Write a checkpoint to deploy or to give away.")
@click.argument("checkpoint", type=Folder())
@click.argument("out", type=click.Path())
@click.option(
    "--dataset", "--data", "data", type=Folder(), help="What it learned from: relations and an example for the card."
)
@click.option("--evaluate", "ranked", is_flag=True, help="Rank the test split of --dataset now, for the card.")
@click.option("--base-model", help="Hub name of the encoder it was made of, for the card; else that of its run.")
@click.option("--unpack", is_flag=True, help="Write a checkpoint of few bits in float32.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def export(
    checkpoint: str, out: str, data: str | None, ranked: bool, base_model: str | None, unpack: bool, as_json: bool
) -> None:
    """Write CHECKPOINT into the folder OUT without its training state, and with a model card.

    Each tower loads with transformers and with sentence-transformers; OUT is a checkpoint for verify, evaluate, predict and the next campaign, and can
    be uploaded to the Hugging Face hub as it is. OUT has to be new, empty, or an untouched export of the same checkpoint.
    """
    if "://" in out:
        raise click.UsageError(f"OUT is {out}: give a folder of this machine, and copy it from there")
    if ranked and data is None:
        raise click.UsageError("--evaluate ranks the test split of a dataset: give --dataset")
    from raydistill.cli.output import echo_json, waiting
    from raydistill.cli.places import checkpoint_here, dataset_here
    from raydistill.shipping.exporting import export_checkpoint
    from raydistill.training.checkpoint import read_record

    with waiting(f"writing {out}"):
        digest = export_checkpoint(
            checkpoint_here(checkpoint),
            out,
            data=None if data is None else dataset_here(data),
            base_model=base_model,
            ranked=ranked,
            unpack=unpack,
        )
    record = read_record(out)
    if as_json:
        echo_json({"checkpoint": checkpoint, "out": out, "digest": digest, "record": record})
        return
    click.echo(f"{out}: {record['layers']} layers, {record['bytes']:,} bytes of weights, digest {digest[:12]}")
