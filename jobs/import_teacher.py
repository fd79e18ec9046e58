"""Write a teacher's checkpoint from one or two encoders of transformers: python jobs/import_teacher.py QUERY_TOWER [ENTITY_TOWER] OUT --data DATASET [--pooling mean] [--temperature 0.05] [--max-tokens 50]."""

from __future__ import annotations

import argparse

from raydistill.cli.failures import explained
from raydistill.cli.output import configure_logging


def main() -> None:
    """Read the encoders, write a checkpoint, print where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="the query tower, or one encoder for both")
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--data", required=True, help="the dataset it is to teach")
    parser.add_argument("--pooling", choices=("mean", "cls", "max"), help="else as the folder says, else mean")
    parser.add_argument("--temperature", type=float, default=0.05, help="what cosines were divided by in training")
    parser.add_argument("--max-tokens", type=int, default=50, help="tokens per text")
    parser.add_argument("--max-neighbors", type=int, default=10, help="names of neighbours after short descriptions")
    given = parser.parse_args()
    configure_logging(verbose=True)
    with explained():
        from raydistill.cli.places import dataset_here
        from raydistill.kg.text import TextRule
        from raydistill.shipping.importing import import_teacher

        tokens, rule, data = given.max_tokens, TextRule(max_neighbors=given.max_neighbors), dataset_here(given.data)
        pooling, temperature = given.pooling, given.temperature
        import_teacher(
            given.folders, given.out, data, pooling=pooling, temperature=temperature, max_tokens=tokens, rule=rule
        )
        print(given.out)


if __name__ == "__main__":
    main()
