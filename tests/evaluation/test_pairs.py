"""Pairs found by tile equal pairs found by looking."""

from __future__ import annotations

import pytest
import torch

from raydistill.evaluation.pairs import PairIndex


@pytest.mark.parametrize("columns", [slice(0, 9), slice(2, 5), slice(8, 9)])
@pytest.mark.parametrize("rows", [slice(0, 6), slice(1, 4), slice(5, 6)])
def test_block_lists_the_pairs_of_a_tile(rows: slice, columns: slice) -> None:
    """A pair attributed to the next tile leaves a known answer in and takes a rival out."""
    table = torch.rand(6, 9, generator=torch.Generator().manual_seed(4)) < 0.3
    pairs = table.nonzero()[torch.randperm(int(table.sum()), generator=torch.Generator().manual_seed(5))]
    twice = torch.cat((pairs, pairs))
    index = PairIndex.from_pairs(twice[:, 0], twice[:, 1], 6, 9)
    found = torch.zeros(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.int64)
    found[index.block(rows, columns)] += 1
    assert torch.equal(found.bool(), table[rows, columns])
    assert len(index.block(rows, columns)[0]) == int(table[rows, columns].sum())
    assert torch.equal(index.counts(), table.sum(dim=1))


def test_columns_of_other_shards_are_dropped() -> None:
    """A column beyond the shard would fall into the next row."""
    index = PairIndex.from_pairs(torch.tensor([0, 0, 1, 1]), torch.tensor([-1, 3, 2, 0]), 2, 3)
    assert [part.tolist() for part in index.block(slice(0, 2), slice(0, 3))] == [[1, 1], [0, 2]]


@pytest.mark.parametrize("rows", [slice(0, 6), slice(1, 4), slice(5, 6)])
def test_rows_that_share_a_list_have_its_pairs(rows: slice) -> None:
    """The pairs of the list whose number is the row's."""
    lists = torch.rand(3, 9, generator=torch.Generator().manual_seed(6)) < 0.4
    list_of = torch.tensor([2, 0, 0, 1, 2, 0])
    index = PairIndex.from_pairs(*lists.nonzero().T, 6, 9, list_of)
    columns = slice(2, 8)
    found = torch.zeros(rows.stop - rows.start, 6, dtype=torch.bool)
    found[index.block(rows, columns)] = True
    assert torch.equal(found, lists[list_of][rows, columns])
    assert torch.equal(index.counts(), lists[list_of].sum(dim=1))
