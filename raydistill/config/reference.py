"""What a configuration may hold, in words: the phrases of error messages and the tables of docs/configuration.md.

Both are read off the JSON schema of `CampaignConfig`, so they cannot say anything the validation does not do.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

Node = dict[str, Any]

SPACES = {"choice": "{choice: [...]}", "uniform": "{uniform: [low, high]}", "log_uniform": "{log_uniform: [low, high]}"}
"""The mappings that ask for a search, by their only key."""


def resolve(node: Node, schema: Node) -> Node:
    """Follow a `$ref` into the definitions of `schema`."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def members(node: Node, schema: Node) -> list[Node]:
    """The alternatives of a union without null; a node that is no union is its own only member."""
    node = resolve(node, schema)
    alternatives = [resolve(member, schema) for member in node.get("anyOf", [node])]
    return [member for member in alternatives if member.get("type") != "null"]


def space_key(node: Node) -> str | None:
    """`choice`, `uniform` or `log_uniform` where a node is one of these mappings."""
    keys = list(node.get("properties", {}))
    return keys[0] if len(keys) == 1 and keys[0] in SPACES else None


def expectation(node: Node, schema: Node) -> str:
    """A node in words, such as `a number in [0, 1), or {choice: [...]} or {uniform: [low, high]}`."""
    node = resolve(node, schema)
    if "anyOf" in node:
        return _joined([expectation(member, schema) for member in node["anyOf"]])
    if "oneOf" in node:
        return f"a section whose name is {_either(tags(node))}"
    if "const" in node or "enum" in node:
        return _either([str(value) for value in node.get("enum", [node.get("const")])])
    kind = str(node.get("type"))
    if kind in ("number", "integer"):
        return ("a number" if kind == "number" else "an integer") + _bounds(node)
    if kind == "array":
        if "prefixItems" in node:
            return f"a list of {len(node['prefixItems'])} {_plural(expectation(node['prefixItems'][0], schema))}"
        return f"a list of {_plural(expectation(node['items'], schema))}"
    if kind == "object":
        key = space_key(node)
        return SPACES[key] if key else f"a section with the keys {', '.join(node['properties'])}"
    return {"string": "text", "boolean": "true or false", "null": "null"}[kind]


def tags(node: Node) -> list[str]:
    """The names a discriminated union tells apart."""
    return list(node["discriminator"]["mapping"])


def _joined(phrases: list[str]) -> str:
    """Phrases with `or` between them, and a comma where the one before has an `or` or comma of its own."""
    text = phrases[0]
    for before, phrase in pairwise(phrases):
        text += f"{', or ' if not before.startswith('{') and (', ' in before or ' or ' in before) else ' or '}{phrase}"
    return text


def _plural(phrase: str) -> str:
    return re.sub(r"^an? (number|integer|section)", r"\1s", phrase)


def _either(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _bounds(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if (low is None and above is None) and (high is None and below is None):
        return ""
    if high is None and below is None:
        return f" of at least {low:g}" if low is not None else f" above {above:g}"
    left = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else "(-inf"
    return f" in {left}, " + (f"{high:g}]" if high is not None else f"{below:g})")


def configuration_reference(schema: Node) -> str:
    """All sections with their keys, allowed values, defaults and meanings, as Markdown."""
    parts = [
        "# Configuration",
        "One YAML file is a whole campaign. Unknown keys are refused with a suggestion, keys given twice and tags are\n"
        "refused, `--set section.key=value` overrides one value, and the resolved file is saved as `RUN/config.yaml`.\n"
        "Where `{choice: ...}`, `{uniform: ...}` or `{log_uniform: ...}` is allowed, the value may be searched.",
        "This page is written by `make docs` from the schema in `raydistill/config/`; a test holds the two equal.",
        "## The file",
        _table(schema, schema),
    ]
    for name, node in schema["properties"].items():
        for section in sections(node, schema):
            tag = section["properties"].get("name", {}).get("const")
            title = f"{name}: {tag}" if name == "method" else name
            parts += [f"## {title}", section.get("description", ""), _table(section, schema)]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(node: Node, schema: Node) -> list[Node]:
    """The sections a key leads to: none, one, or one per method."""
    found: list[Node] = []
    for member in members(node, schema):
        inner = resolve(member.get("items", member), schema)
        alternatives = [resolve(choice, schema) for choice in inner.get("oneOf", [inner])]
        found += [section for section in alternatives if "properties" in section]
    return found


def _table(section: Node, schema: Node) -> str:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, node in section["properties"].items():
        required = key in section.get("required", [])
        default = "required" if required else _shown(node.get("default"), schema, node)
        value = _value(node, schema)
        meaning = node.get("description", "").replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{key}` | {value} | {default} | {meaning} |".replace("  |", " |"))
    return "\n".join(rows)


def _value(node: Node, schema: Node) -> str:
    below = sections(node, schema)
    if below and not any(space_key(section) for section in below):
        listed = "items" in resolve(node, schema)
        nullable = any(member.get("type") == "null" for member in node.get("anyOf", []))
        kind = "a list of sections" if listed else "a section"
        return f"{kind}{' or null' if nullable else ''}, see below"
    return expectation(node, schema).replace("|", "\\|")


def _shown(default: Any, schema: Node, node: Node) -> str:
    if isinstance(default, dict):
        return f"`name: {default['name']}`" if len(sections(node, schema)) > 1 else "its defaults"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"
