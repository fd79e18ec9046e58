"""Objectives: plain functions on tensors, without model, config or reduction over the batch.

Each returns `Weighted(values (rows,), weights (rows,))`; the mean is taken by the trainer, after the rows of all
workers are known.
"""
