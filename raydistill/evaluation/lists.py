"""Lists per row, stored as offsets and one flat array of ids."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Id = TypeVar("Id", np.int32, np.int64)


def spread_ranges(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return all positions of the ranges, one range after the other, and the length of each range."""
    lengths = stops - starts
    skipped = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - skipped, lengths), lengths


def select_lists(
    offsets: npt.NDArray[np.int64], ids: npt.NDArray[Id], rows: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Id]]:
    """Return offsets and ids of the lists of some rows, in that order; a row may be asked for repeatedly."""
    places, lengths = spread_ranges(offsets[rows], offsets[rows + 1])
    return offsets_of(lengths), ids[places]


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the `(rows + 1,)` bounds of lists of these lengths."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths)))
