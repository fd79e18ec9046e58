"""What the product costs here, beside what the machine's arithmetic allows and what others take: what `jobs/benchmark.py` prints."""
