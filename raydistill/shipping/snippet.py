"""The lines of a card with which a stranger gets the vectors that raydistill gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex

_LOOKED_AT = 1000
"""Triples among which one with plain texts is looked for."""

_POOLED = {
    "mean": "(states * real).sum(1) / real.sum(1)",
    "max": "states.masked_fill(real == 0, -torch.inf).max(1).values",
    "cls": "states[:, 0]",
}


@dataclass(frozen=True)
class Example:
    """A triple in words.

    Args:
        head: name, description and names of neighbours.
        relation: phrase.
        tails: names and descriptions of candidates.
    """

    head: tuple[str, str, list[str]]
    relation: str
    tails: list[tuple[str, str, list[str]]]


MADE_UP = Example(
    ("Rome", "a city on the Tiber", ["Italy"]),
    "capital of",
    [("Italy", "a country in Europe", []), ("Tiber", "a river", [])],
)


def example_of(dataset: Dataset | None, max_neighbors: int, short_words: int) -> Example:
    """The first training triple whose texts cannot end a block of code, and two candidates; one that is made up where there is none.

    Args:
        dataset: the graph.
        max_neighbors: names of neighbours that are added at most.
        short_words: to descriptions of fewer words.
    """
    if dataset is None:
        return MADE_UP
    index = NeighborIndex.from_triples(dataset.train, dataset.num_entities)

    def entity(number: int) -> tuple[str, str, list[str]]:
        description = dataset.entity_descriptions[number]
        short = len(description.split()) < short_words
        names = [dataset.entity_names[one] for one in index.first(number, max_neighbors).tolist()] if short else []
        return dataset.entity_names[number], description, names

    for head, relation, tail in dataset.train[:_LOOKED_AT].tolist():
        other = next((one for one in range(dataset.num_entities) if one not in (head, tail)), tail)
        found = Example(entity(head), dataset.relation_phrases[relation], [entity(tail), entity(other)])
        if "`" not in repr(found):
            return found
    return MADE_UP


def snippet(record: Mapping[str, Any], example: Example) -> str:
    """Python that prints the example's cosines, from the folder of the card, with nothing but transformers.

    Args:
        record: of the checkpoint.
        example: what is asked.
    """
    text = record["text"]
    tower = "query_encoder" if record["shared_towers"] else "entity_encoder"
    candidates = "".join(f"    entity_text({', '.join(map(repr, one))}),\n" for one in example.tails)
    return f'''import torch
from transformers import AutoModel, AutoTokenizer

FOLDER = "."  # the folder of this card; from the hub: huggingface_hub.snapshot_download("OWNER/NAME")


def entity_text(name, description="", neighbours=()):
    pieces = [description]
    if len(description.split()) < {text["short_description_words"]}:
        pieces += list(neighbours)[:{text["max_neighbors"]}]
    rest = " ".join(" ".join(piece.split()) for piece in pieces if piece.split())
    name = " ".join(name.split())
    return f"{{name}}: {{rest}}" if rest else name


def encode(tower, *texts):
    """Texts, or texts and the relations beside them, to vectors of length 1."""
    tokenizer = AutoTokenizer.from_pretrained(f"{{FOLDER}}/{{tower}}")
    model = AutoModel.from_pretrained(f"{{FOLDER}}/{{tower}}").eval()
    batch = tokenizer(*texts, padding=True, truncation="longest_first", max_length={text["max_tokens"]}, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    real = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize({_POOLED[record["pooling"]]}, dim=-1)


# ({example.head[0]!r}, {example.relation!r}, ?). For (?, relation, tail) give the tail's text, and "inverse " before the relation.
heads = [entity_text({", ".join(map(repr, example.head))})]
relations = [{example.relation!r}]
tails = [
{candidates}]
queries = encode("query_encoder", heads, relations)
candidates = encode("{tower}", tails)
print(queries @ candidates.T)  # cosines
'''
