"""Train a structural teacher: python jobs/structural.py DATASET OUT [--interaction complex] [--dimension 64] [--epochs 100] [--seed 0]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging


def main() -> None:
    """Train on the dataset's triples, write the folder that method.teachers of `reinforced` names, print how it ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--interaction", default="complex", help="complex or distmult")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.cli.places import dataset_here
        from raydistill.training.structural.learning import StructuralSettings
        from raydistill.training.structural.making import make_structural

        settings = StructuralSettings(given.interaction, given.dimension, given.epochs, given.seed)
        for name, value in make_structural(dataset_here(given.dataset), given.out, settings).items():
            print(f"{name} {value:.4f}")
        print(given.out)


if __name__ == "__main__":
    main()
