"""What a configuration may hold, in words: the phrases of error messages and the tables of docs/configuration.md.

Both are read off the JSON schema of `CampaignConfig`, so they cannot say anything the validation does not do.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

Form = dict[str, Any]
"""One part of the JSON schema."""

SPACES = {"choice": "{choice: [...]}", "uniform": "{uniform: [low, high]}", "log_uniform": "{log_uniform: [low, high]}"}
"""The mappings that ask for a search, by their only key."""


def resolve(form: Form, schema: Form) -> Form:
    """Follow a `$ref` into the definitions of `schema`."""
    while "$ref" in form:
        form = schema["$defs"][form["$ref"].rsplit("/", 1)[-1]]
    return form


def members(form: Form, schema: Form) -> list[Form]:
    """The alternatives of a union without null; a form that is no union is its own only member."""
    form = resolve(form, schema)
    alternatives = [resolve(member, schema) for member in form.get("anyOf", [form])]
    return [member for member in alternatives if member.get("type") != "null"]


def space_key(form: Form) -> str | None:
    """`choice`, `uniform` or `log_uniform` where a form is one of these mappings."""
    keys = list(form.get("properties", {}))
    return keys[0] if len(keys) == 1 and keys[0] in SPACES else None


def expectation(form: Form, schema: Form) -> str:
    """A form in words, such as `a number in [0, 1), or {choice: [...]} or {uniform: [low, high]}`."""
    form = resolve(form, schema)
    if "anyOf" in form:
        return _joined([expectation(member, schema) for member in form["anyOf"]])
    if "oneOf" in form:
        return f"a section whose name is {_either(tags(form))}"
    if "const" in form or "enum" in form:
        return _either([str(value) for value in form.get("enum", [form.get("const")])])
    kind = str(form.get("type"))
    if kind in ("number", "integer"):
        return ("a number" if kind == "number" else "an integer") + _bounds(form)
    if kind == "array":
        if "prefixItems" in form:
            return f"a list of {len(form['prefixItems'])} {_plural(expectation(form['prefixItems'][0], schema))}"
        return f"a list of {_plural(expectation(form['items'], schema))}"
    if kind == "object":
        key = space_key(form)
        return SPACES[key] if key else f"a section with the keys {', '.join(form['properties'])}"
    return {"string": "text", "boolean": "true or false", "null": "null"}[kind]


def tags(form: Form) -> list[str]:
    """The names a discriminated union tells apart."""
    return list(form["discriminator"]["mapping"])


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


def _bounds(form: Form) -> str:
    low, high = form.get("minimum"), form.get("maximum")
    above, below = form.get("exclusiveMinimum"), form.get("exclusiveMaximum")
    if (low is None and above is None) and (high is None and below is None):
        return ""
    if high is None and below is None:
        return f" of at least {low:g}" if low is not None else f" above {above:g}"
    left = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else "(-inf"
    return f" in {left}, " + (f"{high:g}]" if high is not None else f"{below:g})")


def configuration_reference(schema: Form) -> str:
    """All sections with their keys, allowed values, defaults and meanings, as Markdown."""
    parts = [
        "# Configuration",
        "One YAML file is a whole campaign. Unknown keys are refused with a suggestion, keys given twice and tags are\n"
        "refused, `--set section.key=value` overrides one value, and the resolved file is saved as `RUN/config.yaml`.\n"
        "Where `{choice: ...}`, `{uniform: ...}` or `{log_uniform: ...}` is allowed, the value may be searched. A\n"
        "value of a method may also be `search`, which looks where that is usual ([its page](methods) says where); one of a grade may not.",
        "This page is written by `make docs` from the schema in `raydistill/config/`; a test holds the two equal.",
        "## The file",
        _table(schema, schema),
    ]
    for name, form in schema["properties"].items():
        for section in sections(form, schema):
            tag = section["properties"].get("name", {}).get("const")
            title = f"{name}: {tag}" if name == "method" else name
            parts += [f"## {title}", section.get("description", ""), _table(section, schema)]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(form: Form, schema: Form) -> list[Form]:
    """The sections a key leads to: none, one, or one per method."""
    found: list[Form] = []
    for member in members(form, schema):
        inner = resolve(member.get("items", member), schema)
        alternatives = [resolve(choice, schema) for choice in inner.get("oneOf", [inner])]
        found += [section for section in alternatives if "properties" in section]
    return found


def _table(section: Form, schema: Form) -> str:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, form in section["properties"].items():
        required = key in section.get("required", [])
        default = "required" if required else _shown(form.get("default"), schema, form)
        value = _value(form, schema)
        meaning = _meaning(form, schema).replace("<", "&lt;").replace("|", "\\|")
        rows.append(f"| `{key}` | {value} | {default} | {meaning} |".replace("  |", " |"))
    return "\n".join(rows)


def _meaning(form: Form, schema: Form) -> str:
    """What a key is for; one that leads to a section of its own means what that section says of itself."""
    below = sections(form, schema)
    own: str = form.get("description", "")
    return own or (below[0].get("description", "").rstrip(".") if len(below) == 1 else "")


def _value(form: Form, schema: Form) -> str:
    below = sections(form, schema)
    # A number or a small section of its own, as {min: 1, max: 4}, is told in one phrase.
    either = {"integer", "number"} & {str(member.get("type")) for member in members(form, schema)}
    if below and not either and not any(space_key(section) for section in below):
        listed = "items" in resolve(form, schema)
        nullable = any(member.get("type") == "null" for member in form.get("anyOf", []))
        kind = "a list of sections" if listed else "a section"
        return f"{kind}{' or null' if nullable else ''}, see below"
    return expectation(form, schema).replace("|", "\\|")


def _shown(default: Any, schema: Form, form: Form) -> str:
    if isinstance(default, dict):
        return f"`name: {default['name']}`" if len(sections(form, schema)) > 1 else "its defaults"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"
