"""Write a checkpoint again in fewer bits: python jobs/quantize.py CHECKPOINT DATA OUT [--weight-bits 8] [--embedding-bits 8] [--activation-bits 8] [--texts 2000]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging


def main() -> None:
    """Tell the ranges of activations from the dataset's texts, write a packed checkpoint, print its size and where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="a dataset like those that it will read")
    parser.add_argument("out", help="a new folder")
    for what, choices in (("weight", (8, 2)), ("embedding", (8, 2)), ("activation", (8, 16, 32))):
        parser.add_argument(f"--{what}-bits", type=int, choices=choices, default=8)
    parser.add_argument("--texts", type=int, default=2000, help="queries and entities that are read")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.cli.places import checkpoint_here, dataset_here
        from raydistill.students.quantized import Formats
        from raydistill.training.checkpoint import read_record
        from raydistill.training.quantizing import quantize_checkpoint

        formats = Formats(given.weight_bits, given.embedding_bits, given.activation_bits)
        source, data = checkpoint_here(given.checkpoint), dataset_here(given.data)
        quantize_checkpoint(source, data, given.out, formats, given.texts)
        print(f"{read_record(source)['bytes']:,} bytes to {read_record(given.out)['bytes']:,}")
        print(given.out)


if __name__ == "__main__":
    main()
