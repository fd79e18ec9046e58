"""Entity vectors kept between two calls: encoding all entities of a large graph takes minutes, answering one query a moment.

They lie in the user's cache, `$XDG_CACHE_HOME/raydistill/vectors` (else `~/.cache/...`), named after checkpoint, dataset and device, and carry their own
digest. Anything there may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raydistill.shipping.entities import EntityVectors

logger = logging.getLogger(__name__)
NAMES = {"vectors", "scale"}
MOST_KEPT = 8
"""Files kept; the ones unused for longest make room."""


def cache_folder() -> Path:
    """Where vectors are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "raydistill" / "vectors"


def remembered(identity: str, num_entities: int, encode: Callable[[], EntityVectors]) -> EntityVectors:
    """The vectors that `encode` gives, from the cache where they were kept before.

    Args:
        identity: names everything the vectors depend on.
        num_entities: rows they must have.
        encode: makes them.
    """
    path = cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
    kept = _read(path)
    if kept is not None and len(kept) == num_entities:
        return kept
    vectors = encode()
    try:
        _write(path, vectors)
    except (OSError, SafetensorError) as problem:
        logger.info("%s cannot be written (%s); the next call encodes all entities again", path, problem)
    return vectors


def _read(path: Path) -> EntityVectors | None:
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            sound = tensors.keys() <= NAMES and (file.metadata() or {}).get("sha256") == _digest(tensors)
        os.utime(path)
    except (OSError, SafetensorError):
        sound = False
    if not sound:
        logger.warning("%s is damaged; all entities are encoded again", path)
        return None
    return EntityVectors.from_tensors(tensors)


def _write(path: Path, vectors: EntityVectors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.aside")
    content = {name: tensor.to("cpu").contiguous() for name, tensor in vectors.tensors().items()}
    try:
        save_file(content, aside, metadata={"sha256": _digest(content)})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    newest = sorted(path.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in newest[MOST_KEPT:]:
        old.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
