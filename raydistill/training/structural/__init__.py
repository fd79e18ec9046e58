"""Structural models: learned from a graph alone, without its texts, and kept in a folder of their own."""
