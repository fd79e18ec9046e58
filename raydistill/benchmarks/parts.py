"""What the benchmark consists of, in the order in which it is measured."""

from __future__ import annotations

MEASURED = ("steps", "kept", "epochs", "profile", "savings", "contrastive", "ranking", "texts", "growth", "large")
OVERHEADS = ("replay", "calls", "inline", "train", "workers")
"""Of orchestration: these need Ray."""
GRAPHLESS = ("replay", "calls")
"""Those of them that look at no graph."""
PARTS = (*MEASURED, *OVERHEADS)
