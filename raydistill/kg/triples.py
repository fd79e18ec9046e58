"""Triples as integer arrays, and the one place that says how inverse relations are numbered.

A triple is a row (head, relation, tail). A graph with R relations has ids 0..R-1; relation r seen from the tail is the
inverse relation r + R, so that asking for a head becomes asking for the tail of an inverse query.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from raydistill.errors import DataError, ShapeError

Split: TypeAlias = Literal["train", "valid", "test"]
IntArray: TypeAlias = npt.NDArray[np.signedinteger[Any]]

SPLITS: tuple[Split, Split, Split] = ("train", "valid", "test")


@overload
def inverse_relation(relation: int, num_relations: int) -> int: ...
@overload
def inverse_relation(relation: IntArray, num_relations: int) -> IntArray: ...
def inverse_relation(relation: int | IntArray, num_relations: int) -> int | IntArray:
    """Return the id of the inverse; the inverse of an inverse is the relation itself.

    Args:
        relation: one id or an array of ids in 0..2R-1.
        num_relations: R, the number of relations without inverses.
    """
    _check_num_relations(num_relations)
    result: int | IntArray = (relation + num_relations) % (2 * num_relations)
    return result


def with_inverses(triples: IntArray, num_relations: int) -> IntArray:
    """Return the triples followed by their inverses.

    Args:
        triples: `(n, 3)`, columns head, relation, tail, relations in 0..R-1.
        num_relations: R, the number of relations without inverses.

    Returns:
        `(2n, 3)`: the rows as given, then (tail, r + R, head) in the same order.
    """
    check_shape(triples)
    _check_num_relations(num_relations)
    inverse = triples[:, ::-1].copy()
    inverse[:, 1] += num_relations
    return np.concatenate((triples, inverse))


def query_keys(heads: IntArray, relations: IntArray, num_relations: int) -> npt.NDArray[np.int64]:
    """Return one number per query (head, relation), equal exactly where the queries are equal.

    Args:
        heads: entity ids, any shape.
        relations: ids in 0..2R-1, of a shape that broadcasts with `heads`.
        num_relations: R, the number of relations without inverses.

    Returns:
        int64, head * 2R + relation.
    """
    _check_num_relations(num_relations)
    keys: npt.NDArray[np.int64] = np.asarray(heads, dtype=np.int64) * (2 * num_relations) + relations
    return keys


def check_shape(triples: IntArray) -> None:
    """Refuse what is not an `(n, 3)` array of integers.

    Raises:
        ShapeError: the array has another shape or is not of integers.
    """
    shape, kind = np.shape(triples), np.asarray(triples).dtype
    if len(shape) != 2 or shape[1] != 3 or not np.issubdtype(kind, np.integer):
        raise ShapeError(
            f"triples of shape {shape} and type {kind}",
            expected="integers of shape (n, 3) with the columns head, relation, tail",
            consequence="columns would be read as something they are not",
            remedy="pass one row per triple",
        )


def check_ids(triples: IntArray, num_entities: int, num_relations: int) -> None:
    """Refuse triples that name an entity or relation the graph does not have.

    Raises:
        ShapeError: not an `(n, 3)` array of integers.
        DataError: an id is outside its range.
    """
    check_shape(triples)
    if len(triples) == 0:
        return
    low, high = triples.min(axis=0), triples.max(axis=0)
    limits = (num_entities, num_relations, num_entities)
    for name, least, most, limit in zip(("head", "relation", "tail"), low, high, limits, strict=True):
        if least < 0 or most >= limit:
            raise DataError(
                f"{name} ids from {least} to {most}",
                expected=f"ids from 0 to {limit - 1}",
                consequence="other texts than the triple's own would be learnt",
                remedy="prepare the dataset again from its source",
            )


def _check_num_relations(num_relations: int) -> None:
    if num_relations < 1:
        raise DataError(
            f"a graph of {num_relations} relations",
            expected="at least one relation",
            consequence="relations and their inverses would get the same ids",
            remedy="check that the triple files are not empty",
        )
