"""The room of objectives: plain functions on tensors, one value per example."""
