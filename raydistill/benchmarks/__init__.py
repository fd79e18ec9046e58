"""What the product costs here, beside what the machine's arithmetic allows and what others take: what `jobs/benchmark.py` prints."""

PARTS = (
    "steps",
    "epochs",
    "profile",
    "contrastive",
    "ranking",
    "texts",
    "growth",
    "replay",
    "calls",
    "inline",
    "train",
    "workers",
)
"""Of the benchmark, in the order in which they are measured; the last five need Ray."""
