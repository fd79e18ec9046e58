from __future__ import annotations

import torch

from raydistill.students.reshaping import StructureChange, narrowed


def test_what_stays_of_a_tensor_is_taken_dimension_by_dimension() -> None:
    """Rows taken for columns, an order that is lost, or a dimension that is narrowed though all of it stays."""
    table = torch.arange(12.0).view(3, 4)
    kept = torch.tensor([2, 0])
    assert narrowed(table, (kept, None)).tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert narrowed(table, (None, kept)).tolist() == [[2, 0], [6, 4], [10, 8]]
    assert narrowed(table, (kept, kept)).tolist() == [[10, 8], [2, 0]]
    assert narrowed(table, ()) is table


def test_a_change_speaks_of_the_parameters_it_names_alone() -> None:
    """A parameter narrowed because another one was."""
    change = StructureChange({"weight": (torch.tensor([1]),)})
    assert change.of("weight", torch.tensor([3.0, 4.0])).tolist() == [4.0]
    assert change.of("bias", torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
