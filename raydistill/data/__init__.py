"""The room of batches: token pieces, distinct texts, corrupted views."""
