"""An audit in sentences, for the command line and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raydistill.errors import DataError
from raydistill.kg.triples import SPLITS

_SHOWN = 3
_KINDS = {
    "symmetric": "Symmetric relations",
    "near_inverse": "Pairs of near-inverse relations",
    "near_duplicate": "Pairs of near-equal relations",
}


def describe(audit: Mapping[str, Any]) -> list[str]:
    """Return what an audit says, one sentence per line, the counts first.

    Raises:
        DataError: the object is no audit.
    """
    try:
        return [_counts(audit), *audit["notes"], *_origin(audit), *_texts(audit["texts"]), *_triples(audit)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"an audit without {error}", expected="an audit as prepare writes it", remedy="prepare the dataset again"
        ) from error


def _counts(audit: Mapping[str, Any]) -> str:
    counts = audit["counts"]
    splits = " / ".join(f"{counts[split]:,}" for split in SPLITS)
    return (
        f"{counts['entities']:,} entities, {counts['relations']:,} relations, {splits} triples (train / valid / test)"
    )


def _origin(audit: Mapping[str, Any]) -> Iterator[str]:
    if audit["quarantined"]:
        yield f"{audit['quarantined']:,} malformed lines were set aside in quarantine.tsv."
    blank = sum(counts["blank"] for counts in audit["lines"].values())
    if blank:
        yield f"{blank:,} blank lines were skipped."
    # Older audits do not know of shares.
    held = audit.get("hold_out")
    if held:
        yield from _held_out(held)
    sample = audit["sample"]
    if sample:
        moved, whole = sample["moved"], sample["whole"]["entities"]
        yield f"Cut out of {whole:,} entities with seed {sample['seed']}, asked for {sample['requested']:,}."
        if moved["valid"] or moved["test"]:
            yield f"{moved['valid']:,} and {moved['test']:,} triples were moved from train to valid and test."
    # Older audits do not know of parts.
    part = audit.get("part")
    if part:
        kept, whole = part["kept"], part["whole"]
        yield (
            f"Part {part['number']} of {part['count']}: {kept['relations']:,} of {whole['relations']:,} relations have triples, "
            f"{kept['train']:,} of {whole['train']:,} in train; all entities and relations stay."
        )


def _held_out(held: Mapping[str, Any]) -> Iterator[str]:
    wanted = {split: count for split, count in held["wanted"].items() if count}
    said = " and ".join(f"{held['cut'][split]:,} for {split}" for split in wanted)
    yield (
        f"The source has no {' and no '.join(wanted)}: of {held['whole']:,} triples, {said} were cut out of train "
        f"with seed {held['seed']}, by a share of {held['share']:g} each."
    )
    if any(held["cut"][split] < count for split, count in wanted.items()):
        asked = max(wanted.values())
        yield (
            f"Warning: {asked:,} triples for each were asked for; "
            "more would take an entity or a relation out of training, or tear the graph apart."
        )


def _texts(texts: Mapping[str, Any]) -> Iterator[str]:
    unnamed, unphrased = texts["entities_without_name"], texts["relations_without_phrase"]
    same_name, same_text = texts["entities_sharing_a_name"], texts["entities_sharing_a_text"]
    if unnamed:
        shown = ", ".join(texts["entities_without_name_examples"][:_SHOWN])
        yield f"{unnamed:,} entities have no name in the source; made from the key ({shown})."
    if unphrased:
        yield f"{unphrased:,} relations have no phrase in the source; made from the key."
    if texts["entities_without_description"]:
        yield f"{texts['entities_without_description']:,} entities have no description."
    if same_name:
        share = texts["test_answers_sharing_a_name_ratio"]
        yield f"{same_name:,} entities share their name with another; so do {share:.1%} of test answers."
    if same_text:
        shown = ", ".join(texts["entities_sharing_a_text_examples"][:_SHOWN])
        yield f"{same_text:,} entities share name and description with another; they can only tie ({shown})."
    for clash in texts["relations_sharing_a_phrase"]:
        keys = " and ".join(clash["relations"])
        yield f'Warning: {keys} share the phrase "{clash["phrase"]}"; a text model cannot tell them apart.'


def _triples(audit: Mapping[str, Any]) -> Iterator[str]:
    for split, count in audit["duplicate_triples"].items():
        if count:
            yield f"{count:,} triples of {split} are repeats; kept and counted."
    for split, unseen in audit["unseen_in_train"].items():
        if unseen["triples"]:
            yield (
                f"{unseen['triples']:,} {split} triples hold something unseen in training: "
                f"{unseen['entities']:,} entities, {unseen['relations']:,} relations."
            )
    for split, leak in audit["leakage"].items():
        if leak["in_train"]:
            yield f"Warning: {leak['in_train']:,} {split} triples ({leak['in_train_ratio']:.1%}) are in train too."
        if leak["swapped_in_train"]:
            share = leak["swapped_in_train_ratio"]
            yield f"{share:.1%} of {split} triples join two entities that train joins the other way."
    for kind, words in _KINDS.items():
        pairs = audit["relations"][kind]
        if pairs:
            yield f"{words}: {len(pairs):,}, as {', '.join(_pair(pair) for pair in pairs[:_SHOWN])}."


def _pair(pair: Mapping[str, Any]) -> str:
    keys = pair["first"] if pair["first"] == pair["second"] else f"{pair['first']} and {pair['second']}"
    return f"{keys} ({pair['ratio']:.0%})"
