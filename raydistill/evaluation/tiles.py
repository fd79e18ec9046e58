"""Score tiles: products of one fixed shape, so that equal vectors get equal scores wherever they stand.

Matrix products round differently at the ragged edge of a matrix (a product with 5 columns already gives two copies of
one column two different results). Ranks with exact ties cannot live with that. Hence every product here has the same
shape, a multiple of the kernels' block, with zeros where no vector is; within a ranking a score then depends on the two
vectors alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydistill.errors import ShapeError

_ROW_BLOCK, _COLUMN_BLOCK, _ALIGNMENT_BYTES = 16, 64, 64
_MAX_TILE = 2**24  # counts are summed in float32, exact up to here


def fast_tiles(num_queries: int, device: torch.device) -> tuple[int, int]:
    """Queries and candidates of a product that a device is fast at; two tables of scores of that shape are held, 34 MB at most.

    On a processor a square product takes two thirds of the time of one of 256 x 4096 (384 units, two cores). The queries are divided evenly, so that the last
    product is as full as the others.
    """
    side = 2048 if device.type == "cuda" else 1024
    parts = max(1, -(-num_queries // side))
    return max(1, -(-num_queries // parts)), side


class ScoreTiles:
    """Products of one shape, written over and over into one buffer.

    Args:
        query_tile: most queries in one product.
        candidate_tile: most candidates in one product.
        device: where the products are made.
    """

    def __init__(self, query_tile: int, candidate_tile: int, device: torch.device) -> None:
        for name, size in (("query_tile", query_tile), ("candidate_tile", candidate_tile)):
            if not 1 <= size <= _MAX_TILE:
                raise ShapeError(
                    f"{name}={size}", expected=f"a number from 1 to {_MAX_TILE}", remedy="leave the default"
                )
        self.query_tile, self.candidate_tile, self.device = query_tile, candidate_tile, device
        shape = _round_up(query_tile, _ROW_BLOCK), _round_up(candidate_tile, _COLUMN_BLOCK)
        self._scores = torch.empty(shape, dtype=torch.float32, device=device)
        self._compared = torch.empty_like(self._scores)

    def candidate_block(self, candidates: Tensor) -> Tensor:
        """Bring at most `candidate_tile` rows `(candidates, hidden)` to the full shape, on the device, in float32."""
        return _padded(candidates, self._scores.shape[1], self.device)

    def scores(self, queries: Tensor, block: Tensor, num_candidates: int) -> Tensor:
        """Score at most `query_tile` queries against a block.

        Returns:
            `(queries, num_candidates)` float32, valid until the next call.
        """
        rows = _padded(queries, self._scores.shape[0], self.device)
        torch.mm(rows, block.T, out=self._scores)
        return self._scores[: len(queries), :num_candidates]

    def paired(self, queries: Tensor, partners: Tensor) -> Tensor:
        """Score query i with partner i alone, by products of the same shape as all others.

        Returns:
            `(queries,)` float32.
        """
        result = torch.empty(len(queries), dtype=torch.float32, device=self.device)
        for row in range(0, len(queries), self.query_tile):
            stop = min(row + self.query_tile, len(queries))
            for first in range(row, stop, self.candidate_tile):
                last = min(first + self.candidate_tile, stop)
                scores = self.scores(queries[row:stop], self.candidate_block(partners[first:last]), last - first)
                result[first:last] = scores[first - row : last - row].diagonal()
        return result

    def count_above(self, scores: Tensor, gold: Tensor) -> Tensor:
        """Count per row `(queries,)` the scores strictly above gold `(queries,)`; NaN is never above."""
        compared = self._compared[: scores.shape[0], : scores.shape[1]]
        return torch.gt(scores, gold[:, None], out=compared).sum(dim=1).long()

    def count_equal(self, scores: Tensor, gold: Tensor) -> Tensor:
        """Count per row `(queries,)` the scores equal to gold `(queries,)`; NaN is never equal."""
        compared = self._compared[: scores.shape[0], : scores.shape[1]]
        return torch.eq(scores, gold[:, None], out=compared).sum(dim=1).long()


def check_vectors(queries: Tensor, candidates: Tensor, candidates_name: str) -> None:
    """Refuse vectors whose products would be wrong, NaN or infinite.

    Args:
        queries: `(queries, hidden)`.
        candidates: `(candidates, hidden)`, at least one.
        candidates_name: what the latter are, for the message.

    Raises:
        ShapeError: wrong shapes or types, no candidate, values that are not finite, or so large that a product could
            overflow float32.
    """
    for name, vectors in (("queries", queries), (candidates_name, candidates)):
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ShapeError(
                f"{name} of shape {tuple(vectors.shape)} and type {vectors.dtype}",
                expected="floats of shape (rows, hidden)",
            )
    if queries.shape[1] != candidates.shape[1] or 0 in candidates.shape:
        raise ShapeError(
            f"queries {tuple(queries.shape)} and {candidates_name} {tuple(candidates.shape)}",
            expected="vectors of the same width, and at least one of the latter",
            remedy="encode both with the two towers of one model",
        )
    largest = largest_magnitude("queries", queries) * largest_magnitude(candidates_name, candidates)
    bound = largest * queries.shape[1]
    if bound > torch.finfo(torch.float32).max:
        raise ShapeError(
            f"vectors whose products may reach {bound:.3g}",
            expected="products within float32",
            consequence="scores would overflow and compare as equal",
            remedy="normalise the vectors",
        )


def largest_magnitude(name: str, vectors: Tensor) -> float:
    """Return the largest absolute value, 0 for no vectors.

    Raises:
        ShapeError: a value is NaN or infinite.
    """
    if vectors.numel() == 0:
        return 0.0
    low, high = torch.aminmax(vectors)
    magnitude = max(abs(low.item()), abs(high.item()))
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = (~torch.isfinite(vectors)).any(dim=1).nonzero().flatten()
        raise ShapeError(
            f"{name} with NaN or infinite values in {len(bad)} of {len(vectors)} rows, the first is row {int(bad[0])}",
            expected="finite vectors",
            consequence="such rows would silently leave the comparison and make the ranks look better",
            remedy="look at the checkpoint and at the texts of these rows",
        )
    return magnitude


def _padded(vectors: Tensor, rows: int, device: torch.device) -> Tensor:
    vectors = vectors.to(device=device, dtype=torch.float32)
    # Kernels may also choose their path by the address, so a view into the middle of a matrix is used as it is only
    # where it is aligned.
    if len(vectors) == rows and vectors.is_contiguous() and vectors.data_ptr() % _ALIGNMENT_BYTES == 0:
        return vectors
    full = torch.zeros((rows, vectors.shape[1]), dtype=torch.float32, device=device)
    full[: len(vectors)] = vectors
    return full


def _round_up(size: int, block: int) -> int:
    return -(-size // block) * block
