"""Layer maps: which layers of a deeper model a student is made of, or learns from. Zero-based, embeddings excluded. No torch here."""

from __future__ import annotations

from raydistill.errors import CapabilityError

RULES = ("uniform", "first", "last", "skip")
_PMD_NINE_OF_TWELVE = (0, 2, 3, 5, 6, 7, 9, 10, 11)
"""The one map of PMD's public code that no rule gives; its 6 (1,3,5,7,9,11) and 3 (2,6,10) are the middles of equal blocks."""


def resolve_layer_map(layer_map: str | tuple[int, ...], source_layers: int, student_layers: int) -> tuple[int, ...]:
    """The layers of a `source_layers`-deep model that a `student_layers`-deep one takes.

    Args:
        layer_map: `uniform` (evenly from the first to the last layer), `first`, `last`, `skip` (the middle of each of equally long blocks; PMD's
            own map for 9 of 12), or the layers themselves.

    Raises:
        CapabilityError: the student is deeper than its source, or a layer is named that the source does not have.
    """
    if student_layers > source_layers:
        raise CapabilityError(
            f"a student of {student_layers} layers from a model of {source_layers}",
            expected=f"at most {source_layers} layers",
            consequence="the added layers would start from nothing",
            remedy="lower `layers`, or start from a deeper encoder",
        )
    if isinstance(layer_map, str):
        return _by_rule(layer_map, source_layers, student_layers)
    outside = [layer for layer in layer_map if not 0 <= layer < source_layers]
    if outside or len(layer_map) != student_layers or list(layer_map) != sorted(set(layer_map)):
        what = f"layer {outside[0]} does not exist" if outside else "the layers must rise, one per student layer"
        raise CapabilityError(
            f"layer map {list(layer_map)} for {student_layers} of {source_layers} layers: {what}",
            expected=f"{student_layers} rising numbers from 0 to {source_layers - 1} (layers count from zero)",
            remedy=f"for example {list(_by_rule('skip', source_layers, student_layers))}",
        )
    return tuple(layer_map)


def _by_rule(rule: str, source: int, student: int) -> tuple[int, ...]:
    if rule == "first":
        return tuple(range(student))
    if rule == "last":
        return tuple(range(source - student, source))
    if rule == "uniform":
        return (source - 1,) if student == 1 else tuple(round(i * (source - 1) / (student - 1)) for i in range(student))
    if rule == "skip":
        if (source, student) == (12, 9):
            return _PMD_NINE_OF_TWELVE
        return tuple(int((2 * i + 1) * source // (2 * student)) for i in range(student))
    raise CapabilityError(f"layer map {rule!r}", expected=f"one of {', '.join(RULES)}, or the layers themselves")
