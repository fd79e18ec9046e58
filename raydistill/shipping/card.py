"""The card of an export: what the model is, what it scored, and how a stranger uses it without raydistill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydistill import __version__
from raydistill.kg.store import Dataset, count_of
from raydistill.kg.text import INVERSE_PREFIX
from raydistill.shipping.base_model import is_hub_name
from raydistill.shipping.snippet import Example, example_of, snippet

TAGS = ("knowledge-graph-completion", "link-prediction", "knowledge-distillation", "feature-extraction", "raydistill")
_METRICS = (("mr", "MR"), ("mrr", "MRR"), ("hits@1", "Hits@1"), ("hits@3", "Hits@3"), ("hits@10", "Hits@10"))
_SHOWN_RELATIONS = 20


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Args:
        record: of the checkpoint that is exported.
        width: hidden units of its encoders.
        encoder: name of the pre-trained encoder; None = unknown.
    """

    record: Mapping[str, Any]
    width: int
    encoder: str | None


def card(facts: CardFacts, dataset: Dataset | None) -> str:
    """The card, Markdown with the front matter of the Hugging Face hub.

    Args:
        facts: of the model.
        dataset: what it learned from, for relations and an example from life; None = a made-up example.
    """
    record, text = facts.record, facts.record["text"]
    shared = record["shared_towers"]
    example = example_of(dataset, text["max_neighbors"], text["short_description_words"])
    parts = [
        _front_matter(facts),
        f"# A text encoder of {record['layers']} layers for knowledge graph completion\n",
        "Given a head entity and a relation in words, it ranks entities as tails, and the other way round: one encoder reads the query, "
        f"{'the same one' if shared else 'another one'} reads each candidate, and the cosine of their vectors is the score. "
        f"It was {_origin(record)}.\n",
        _facts_table(facts, dataset),
        _metrics_part(record["metrics"]),
        _reading_part(record),
        _using_part(record, example),
        _relations_part(dataset),
        "## With raydistill\n\nThis folder is a checkpoint: `raydistill verify FOLDER`, `raydistill evaluate FOLDER --data DATASET`, "
        "`raydistill predict FOLDER --data DATASET --head X --relation R`. It holds no training state. A file that is changed or added "
        "(this card, for one) no longer agrees with `manifest.json`, and these commands then refuse the folder; what needs no raydistill still works.\n",
    ]
    return "\n".join(part for part in parts if part)


def _origin(record: Mapping[str, Any]) -> str:
    """Where the weights come from, as the end of a sentence."""
    if "imported" in record:
        return "trained elsewhere, and imported by raydistill"
    mask = f", mask ratio {record['mask_ratio']}" if record["mask_ratio"] else ""
    return f"trained with raydistill, method `{record['method']['name']}`{mask}, {record['epoch']} epochs"


def _front_matter(facts: CardFacts) -> str:
    lines = ["library_name: transformers", "pipeline_tag: feature-extraction", "tags:", *(f"- {tag}" for tag in TAGS)]
    if facts.encoder is not None and is_hub_name(facts.encoder):
        lines.append(f"base_model: {facts.encoder}")
    return "\n".join(["---", *lines, "---", ""])


def _facts_table(facts: CardFacts, dataset: Dataset | None) -> str:
    record = facts.record
    counts = "" if dataset is None else ", " + ", ".join(f"{size:,} {what}" for what, size in count_of(dataset).items())
    lineage = " ← ".join(f"checkpoint `{digest[:16]}`" for digest in reversed(record["lineage"])) or "none"
    rows = [
        ("towers", "one encoder for queries and entities" if record["shared_towers"] else "two encoders"),
        ("layers", f"{record['layers']}, of {facts.width} units (layer map {record['layer_map']})"),
        ("parameters", f"{record['parameters']:,}"),
        ("bytes of weights", f"{record['bytes']:,}"),
        ("pooling", f"{record['pooling']}, then length 1"),
        ("longest text", f"{record['text']['max_tokens']} tokens, specials included"),
        ("temperature", f"{math.exp(-record['log_inverse_temperature']):.4f}"),
        ("origin", _origin(record)),
        ("teachers, nearest first", lineage),
        (
            "pre-trained encoder",
            f"{facts.encoder or 'not recorded by name'}, fingerprint `{record['encoder_fingerprint'][:16]}`",
        ),
        ("dataset", f"fingerprint `{record['data_fingerprint']}`{counts}"),
        ("exported from", f"checkpoint `{record['exported']['source']}` by raydistill {__version__}"),
    ]
    if record["exported"]["unpacked"]:
        rows.append(
            ("unpacked", "its weights are on the levels of few bits, written in float32; activations are not rounded")
        )
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""])


def _metrics_part(metrics: Mapping[str, float]) -> str:
    heads = ("split", "direction", "queries", *(label for _, label in _METRICS))
    rows = []
    for split in ("test", "valid"):
        for direction in ("head", "tail", "both"):
            found = {name: metrics.get(f"{split}/{direction}/{name}") for name in ("queries", *dict(_METRICS))}
            if found["mrr"] is not None:
                rows.append((split, direction, *(_number(name, value) for name, value in found.items())))
    if not rows:
        return "## Metrics\n\nNone were measured with these weights.\n"
    lines = [f"| {' | '.join(row)} |" for row in (heads, ("---", "---", *["---:"] * (len(heads) - 2)), *rows)]
    return (
        "## Metrics\n\nLink prediction over all entities, filtered by the triples of all splits. Ranks are realistic: where scores tie, the mean of "
        "the best and the worst rank. Direction `head` asks (?, relation, tail), `tail` asks (head, relation, ?), `both` is their mean over queries.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if name == "queries" else f"{value:.1f}" if name == "mr" else f"{value:.3f}"


def _reading_part(record: Mapping[str, Any]) -> str:
    text = record["text"]
    neighbors = (
        "no names of neighbours are added"
        if text["max_neighbors"] == 0 or text["short_description_words"] == 0
        else f"where the description has fewer than {text['short_description_words']} words, the names of up to {text['max_neighbors']} neighbours follow it, "
        "each after a space: the entities that share a training triple with it, whatever the relation and direction, each once, those that come first "
        "in the dataset; never itself"
    )
    return f"""## What the towers read

- **Entity** (`{"query_encoder" if record["shared_towers"] else "entity_encoder"}`): `name: description`, one text; {neighbors}. Without description and neighbours: `name`, without the colon.
- **Query** (`query_encoder`): a pair of texts, as the tokenizer frames pairs: the head's text, made as an entity's, and the relation's phrase. To ask for heads, the tail's text and `{INVERSE_PREFIX}` before the phrase.
- Every run of white space is one space. Texts are cut to {text["max_tokens"]} tokens; of a pair the longer text is cut first (`longest_first`).
- The vector is the {record["pooling"]} of the last layer's token states{" (all real tokens, special ones among them)" if record["pooling"] != "cls" else " (the first token's)"}, scaled to length 1. The score is the cosine; divided by the temperature it is the logit that was trained.
"""


def _using_part(record: Mapping[str, Any], example: Example) -> str:
    return f"""## Use without raydistill

```python
{snippet(record, example)}```

The same with `sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

queries = SentenceTransformer(f"{{FOLDER}}/query_encoder").encode(list(zip(heads, relations)))
candidates = SentenceTransformer(f"{{FOLDER}}/{"query_encoder" if record["shared_towers"] else "entity_encoder"}").encode(tails)
print(queries @ candidates.T)
```
"""


def _relations_part(dataset: Dataset | None) -> str:
    if dataset is None:
        return "## Relations\n\nOnly relations of the dataset above mean anything to the model, in the words that it was trained with.\n"
    phrases = dataset.relation_phrases[:_SHOWN_RELATIONS]
    listed = ", ".join(f"`{phrase.replace('`', ' ')}`" for phrase in phrases)
    more = f" and {dataset.num_relations - len(phrases)} more" if dataset.num_relations > len(phrases) else ""
    return f"## Relations\n\nThe model was trained with these phrases: {listed}{more}. `relations.json` has them all, by key.\n"
