"""A tower's folder as `sentence-transformers` reads it: which modules, how token states are pooled, how long texts may be.

Written in the form of its version 5, which version 6 reads as well; what version 6 writes itself, older ones do not know.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydistill.errors import CapabilityError, EncoderError
from raydistill.models.biencoder import Pooling

MODULES, TRANSFORMER, POOLING, NORMALIZE = "modules.json", "sentence_bert_config.json", "1_Pooling", "2_Normalize"
_KINDS = ("Transformer", "Pooling", "Normalize")
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


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise _unreadable(path, str(problem)) from None


def _unreadable(path: Path, why: str) -> EncoderError:
    return EncoderError(
        f"{path} cannot be read ({why})",
        expected="what sentence-transformers writes",
        consequence="token states might be pooled in another way than the encoder was trained with",
        remedy="fetch the folder again",
    )


def _unlike(folder: Path, what: str, expected: str) -> CapabilityError:
    return CapabilityError(
        f"{folder} {what}",
        expected=expected,
        consequence="its vectors would not be those it was trained to give",
        remedy="choose another encoder; one of the hub may have a version without further modules",
    )
