"""The room of teachers: where the outputs come from that a student imitates."""
