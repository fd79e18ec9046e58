"""The room of learning: terms, the assembly of methods, the loop, checkpoints."""
