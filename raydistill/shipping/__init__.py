"""The road out: predictions from a checkpoint."""
