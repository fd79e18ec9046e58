"""From pydantic's many errors to one readable line per mistake.

A value that may be fixed or searched is a union, and pydantic complains once for every alternative, naming its own types. So:

1. Each error's location is followed through the JSON schema, as far as it names keys and positions a reader wrote.
2. Where it enters a union, the value decides: `{uniform: ...}` was meant as an interval, so only complaints about the interval count;
   anything else gets one line that says what was expected altogether.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from pydantic import ValidationError

from raydistill.config.reference import Form, expectation, members, resolve, sections, space_key, tags
from raydistill.config.schema import CampaignConfig

Place = tuple[str | int, ...]


def complaints(problem: ValidationError, content: dict[str, Any]) -> list[str]:
    """One line per mistake, `path: what is wrong`, with the path written as `--set` takes it."""
    schema = CampaignConfig.model_json_schema()
    found: dict[Place, str] = {}
    for error in problem.errors(include_url=False):
        complaint = _complaint(error, content, schema)
        if complaint is not None:
            found.setdefault(*complaint)
    # A list whose only entry is wrong is also called too short; the entry's own line says it all.
    inner = [place for place in found if not any(other[: len(place)] == place for other in found if other != place)]
    return [f"{_path(place)}: {found[place]}" for place in inner] or [str(problem)]


def _complaint(error: Any, content: Any, schema: Form) -> tuple[Place, str] | None:
    """The place and text of one error; None where it speaks of an alternative that was not meant."""
    location, form, section = list(error["loc"]), schema, schema
    place: Place = ()
    while location:
        options = members(form, schema)
        if len(options) > 1:
            value = _look_up(content, place)
            member = _meant(value, options)
            if member is None:
                return place, _union_complaint(value, form, schema)
            if not _speaks_of(str(location.pop(0)), member):
                return None
            form = section = member
            continue
        [form] = options
        part = location.pop(0)
        if "oneOf" in form:
            form = resolve({"$ref": form["discriminator"]["mapping"][part]}, schema)
            section = form
            continue
        place = (*place, part)
        if part in form.get("properties", {}):
            section, form = form, form["properties"][part]
        elif "items" in form or "prefixItems" in form:
            form = form["items"] if "items" in form else form["prefixItems"][part]
        else:
            section = form
            break
        section = resolve(section, schema)
    return place, _text(error, place, form, section, schema)


def _meant(value: Any, options: list[Form]) -> Form | None:
    """The alternative that the shape of `value` asks for."""
    if isinstance(value, dict):
        found = [one for one in options if len(value) == 1 and space_key(one) in value]
        found = found or [one for one in options if "properties" in one and not space_key(one)]
        return found[0] if len(found) == 1 else None
    if isinstance(value, list):
        return next((option for option in options if option.get("type") == "array"), None)
    return None


def _speaks_of(label: str, member: Form) -> bool:
    """Whether pydantic's name for a union member is that of `member`."""
    if member.get("title") in re.findall(r"\w+", label):
        return True
    named = re.search(r"Choice|LogUniform|Uniform|tuple", label)
    return named is not None and named[0].lower() == (space_key(member) or "tuple").replace("_", "")


def _union_complaint(value: Any, form: Form, schema: Form) -> str:
    if isinstance(value, dict):
        spaces = [key for key in map(space_key, members(form, schema)) if key]
        for key in value:
            if spaces and key not in spaces:
                return f"unknown key {key!r}; expected {expectation(form, schema)}{_did_you_mean(str(key), spaces)}"
    return f"received {_shown(value)}; expected {expectation(form, schema)}"


def _text(error: Any, place: Place, form: Form, section: Form, schema: Form) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        missing = "this key is required" if isinstance(place[-1], str) else "an entry is missing"
        return f"{missing}; expected {expectation(form, schema)}"
    if kind == "extra_forbidden":
        return f"unknown key {place[-1]!r}{_suggestion(str(place[-1]), section, schema)}"
    if kind == "union_tag_invalid":
        known, given = tags(members(form, schema)[0]), str(context["tag"])
        return f"unknown method {given!r}; expected one of {', '.join(known)}{_did_you_mean(given, known)}"
    if kind == "union_tag_not_found":
        return f"no `name` given; expected {expectation(form, schema)}"
    if kind == "too_short":
        return f"received {context['actual_length']} entries; expected at least {context['min_length']}"
    if kind == "invalid_key":
        return f"the key {place[-1]!r} is not text"
    return f"received {_shown(error.get('input'))}; expected {expectation(form, schema)}"


def _suggestion(key: str, section: Form, schema: Form) -> str:
    """A key of the same section if one is close, else one of other sections, else all keys of the section."""
    own = list(section.get("properties", {}))
    elsewhere = _places_by_key(schema)
    close = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.75)
    if suggestion := _did_you_mean(key, own):
        return suggestion
    return f"; did you mean {' or '.join(elsewhere[close[0]])}?" if close else f"; expected one of {', '.join(own)}"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _places_by_key(schema: Form) -> dict[str, list[str]]:
    """Where each key belongs, as `--set` writes it: `training.epochs`, `grades.0.layers`, `method.alpha of pmd`."""
    places: dict[str, list[str]] = {key: [key] for key in schema["properties"]}
    for name, form in schema["properties"].items():
        prefix = f"{name}.0" if any("items" in member for member in members(form, schema)) else name
        for section in sections(form, schema):
            method = section["properties"].get("name", {}).get("const") if name == "method" else None
            for key in section["properties"]:
                places.setdefault(key, []).append(f"{prefix}.{key}" + (f" of {method}" if method else ""))
    return places


def _look_up(content: Any, place: Place) -> Any:
    for part in place:
        content = content[part]
    return content


def _path(place: Place) -> str:
    return ".".join(str(part) for part in place) or "the campaign"


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, TypeError):
        # A value that contains itself, or a key that is no text.
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
