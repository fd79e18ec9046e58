"""A tower's folder as `sentence-transformers` reads it: which modules, how token states are pooled, how long texts may be.

Written in the form of its version 5, which version 6 reads as well; what version 6 writes itself, older ones do not know.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from raydistill.errors import CapabilityError, EncoderError
from raydistill.models.biencoder import Pooling

logger = logging.getLogger(__name__)
MODULES, TRANSFORMER, POOLING, NORMALIZE = "modules.json", "sentence_bert_config.json", "1_Pooling", "2_Normalize"
PROMPTS = "config_sentence_transformers.json"
_KINDS = ("Transformer", "Pooling", "Normalize")
_OTHER = "choose another encoder; one of the hub may have a version without further modules"
_NAMES: dict[Pooling, str] = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}


def sentence_files(pooling: Pooling, hidden: int, max_tokens: int) -> dict[str, Any]:
    """What stands beside an encoder's config.json, by file name, as JSON.

    Args:
        pooling: how token states become one vector.
        hidden: width of the encoder.
        max_tokens: tokens per text, specials included.
    """
    parts = zip(_KINDS, ("", POOLING, NORMALIZE), strict=True)
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(parts)
    ]
    flags = {f"pooling_mode_{name}": how == pooling for how, name in _NAMES.items()}
    return {
        MODULES: modules,
        TRANSFORMER: {"max_seq_length": max_tokens, "do_lower_case": False},
        f"{POOLING}/config.json": {"word_embedding_dimension": hidden, **flags},
        # An empty folder would be lost in a manifest, in git and on the hub.
        f"{NORMALIZE}/config.json": {"module_input_name": "sentence_embedding"},
    }


def pooling_of(folder: Path) -> Pooling | None:
    """How the token states of an encoder's folder are pooled; None where it does not say.

    Raises:
        EncoderError: its files cannot be read.
        CapabilityError: vectors go through more than pooling and normalisation, or are pooled in a way that is not ours.
    """
    if not (folder / MODULES).exists():
        return None
    modules = _read(folder / MODULES)
    try:
        kinds = {str(one["type"]).rpartition(".")[2]: folder / str(one["path"]) for one in modules}
        if not set(kinds) <= set(_KINDS) or "Pooling" not in kinds:
            raise _unlike(folder, f"has the modules {', '.join(kinds)}", ", ".join(_KINDS))
        config = _read(kinds["Pooling"] / "config.json")
        flags = [how for how, name in _NAMES.items() if config.get(f"pooling_mode_{name}") is True]
        named = {str(key) for key, value in config.items() if str(key).startswith("pooling_mode_") and value is True}
        modes = [config["pooling_mode"]] if "pooling_mode" in config else flags
        foreign = len(named) > len(flags)
    except (KeyError, TypeError, AttributeError) as problem:
        raise _unreadable(folder / MODULES, repr(problem)) from None
    if len(modes) == 1 and not foreign:
        for how in _NAMES:
            if modes[0] == how:
                return how
    raise _unlike(folder, f"pools by {', '.join(map(str, modes)) or 'something else'}", f"one of {', '.join(_NAMES)}")


def check_settings(folder: Path, tokenizer: Any) -> None:
    """Refuse what would be done to texts before they are read and is not done here; warn where it may have been.

    Args:
        folder: of an encoder.
        tokenizer: the one in it, a fast one.

    Raises:
        EncoderError: its files cannot be read.
        CapabilityError: texts are made lower-case by other than the tokenizer, or a prompt stands before each.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    lowers = normalizer is not None and normalizer.normalize_str("ABC") == "abc"
    # Named after the encoder's kind once: sentence_roberta_config.json.
    for path in sorted(folder.glob("sentence_*_config.json")):
        if _entries(path).get("do_lower_case") and not lowers:
            raise _unlike(
                folder,
                f"has do_lower_case in {path.name}, and a tokenizer that tells capitals from small letters",
                "texts that are read as they are",
                "give tokenizer.json a normalizer of the type Lowercase and import again; where it was trained with capitals, set do_lower_case to false",
            )
    _check_prompts(folder)


def _check_prompts(folder: Path) -> None:
    config = _entries(folder / PROMPTS)
    try:
        prompts = {str(name): text for name, text in (config.get("prompts") or {}).items() if text}
    except AttributeError as problem:
        raise _unreadable(folder / PROMPTS, repr(problem)) from None
    default = config.get("default_prompt_name")
    # A default that is not among them is refused too: what it was is not known.
    if default and (default in prompts or default not in (config.get("prompts") or {})):
        raise _unlike(
            folder,
            f"puts the prompt {default!r} before each text ({PROMPTS})",
            "texts without a prompt",
            "choose an encoder that was trained without one; where this one was, set default_prompt_name to null",
        )
    if prompts:
        logger.warning("%s has prompts (%s) and no default: texts are read without", folder, ", ".join(prompts))
    elif _entries(folder / POOLING / "config.json").get("include_prompt") is False:
        logger.warning(
            "%s leaves prompts out of its pooling and names none: texts are read without, as no prompt is known", folder
        )


def _entries(path: Path) -> dict[str, Any]:
    """What a file says, by name; nothing where it is not there."""
    content = _read(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise _unreadable(path, "no entries with names")
    return content


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise _unreadable(path, str(problem)) from None


def _unreadable(path: Path, why: str) -> EncoderError:
    return EncoderError(
        f"{path} cannot be read ({why})",
        expected="what sentence-transformers writes",
        consequence="texts might be read, or token states pooled, in another way than the encoder was trained with",
        remedy="fetch the folder again",
    )


def _unlike(folder: Path, what: str, expected: str, remedy: str = _OTHER) -> CapabilityError:
    return CapabilityError(
        f"{folder} {what}",
        expected=expected,
        consequence="its vectors would not be those it was trained to give",
        remedy=remedy,
    )
