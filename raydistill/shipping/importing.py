"""A checkpoint from encoders that were trained elsewhere, to teach, to be ranked and to answer: the way back from `exporting.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydistill.data.tokens import LONGEST_PIECE
from raydistill.errors import CapabilityError, ConfigError, EncoderError
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.models.biencoder import BiEncoder, Pooling
from raydistill.models.loading import load_encoder, load_tokenizer
from raydistill.models.pretrained import EncoderFacts, locate_encoder
from raydistill.shipping.sentences import check_settings, pooling_of
from raydistill.training.checkpoint import TrainingState
from raydistill.training.saving import require_new_folder, save_checkpoint

FEWEST_TOKENS = 8
PICKLES = ("*.bin", "*.mdl", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def import_teacher(
    folders: Sequence[str | Path],
    out: str | Path,
    data: str | Path,
    *,
    pooling: Pooling | None = None,
    temperature: float = 0.05,
    max_tokens: int = 50,
    rule: TextRule = TextRule(),  # noqa: B008 - frozen
) -> str:
    """Write a checkpoint of ours from one or two folders that `transformers` wrote; a campaign takes it as `teacher.checkpoint`, where `encoder.name` has the same tokenizer files.

    Args:
        folders: the query tower and the entity tower, or one encoder for both; BERT- or RoBERTa-like, weights in safetensors, tokenizer beside them.
        out: a new folder.
        data: the dataset they learned from, or are to teach.
        pooling: how token states become one vector; None = as the folders say (`1_Pooling`), else mean.
        temperature: what their cosines were divided by in training.
        max_tokens: tokens per text, specials included.
        rule: neighbour names and what counts as a short description.

    Returns:
        The digest of what was written.

    Raises:
        ConfigError: there is something at `out`, or a number is out of range.
        EncoderError: a folder holds no such encoder, or its weights in another format.
        CapabilityError: the towers do not fit each other, read shorter texts, or were trained with texts, or vectors, that are changed in a way that is not ours.
        DataError: damaged dataset.
        StorageError: the disk is full or read-only.
    """
    require_new_folder(out, "what is in it would be lost")
    if not 1 <= len(folders) <= 2 or not 0 < temperature <= 1 or rule.max_neighbors < 0:
        raise ConfigError(
            f"{len(folders)} encoders, temperature {temperature}, {rule.max_neighbors} neighbours",
            expected="one or two encoders, a temperature above 0 and at most 1, 0 neighbours or more",
            consequence="there would be no two towers with a score, or no texts for them",
            remedy="name the query tower, then the entity tower, or one encoder for both",
        )
    dataset = Dataset.load(data)
    facts = [_checked(Path(folder), max_tokens) for folder in folders]
    used = _pooling([Path(folder) for folder in folders], pooling)
    _check_pair(facts)
    tokenizer = load_tokenizer(facts[0].folder)
    for folder in folders:
        check_settings(Path(folder), tokenizer)
    encoders = [load_encoder(one.folder) for one in facts]
    model = BiEncoder(encoders[0], encoders[-1], pooling=used, temperature=temperature)
    record = _record(facts, dataset, used, max_tokens, rule)
    return save_checkpoint(Path(out), model, facts[0].folder, record, TrainingState({}, {}), in_trial=False)


def _checked(folder: Path, max_tokens: int) -> EncoderFacts:
    if not folder.is_dir():
        # A name of the hub would not do: what is fetched of it does not say how token states are pooled.
        raise EncoderError(
            f"{folder}: no such folder",
            expected="a folder with config.json, model.safetensors and the tokenizer's files",
            consequence="there would be nothing to import",
            remedy="check the path; fetch an encoder of the hub with huggingface_hub.snapshot_download",
        )
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not (folder / "model.safetensors").exists():
        raise EncoderError(
            f"{folder} holds {pickles[0]} and no model.safetensors",
            expected="weights in the safetensors format, under the names that transformers gives them",
            consequence="other formats have to be unpickled, which runs whatever code the file carries",
            remedy="where you trust the file: load it into transformers' model, and model.save_pretrained(folder, safe_serialization=True); towers that lie in "
            "one file (such as SimKGC's hr_bert and tail_bert in a .mdl) go into a folder each",
        )
    facts = locate_encoder(str(folder))
    most = min(facts.max_tokens, LONGEST_PIECE)
    if not FEWEST_TOKENS <= max_tokens <= most:
        raise CapabilityError(
            f"max_tokens is {max_tokens}, and the encoder in {folder} has positions for {facts.max_tokens}",
            expected=f"from {FEWEST_TOKENS} to {most}",
            consequence="texts would be beyond it, or hold nothing but special tokens",
            remedy="name another number",
        )
    return facts


def _pooling(folders: Sequence[Path], asked: Pooling | None) -> Pooling:
    said = [pooling_of(folder) for folder in folders]
    told = [one for one in said if one is not None]
    if len({*told, *([asked] if asked else [])}) > 1:
        raise CapabilityError(
            f"pooling {asked or ' and '.join(told)}, where the folders say {', '.join(map(str, said))}",
            expected="one way to pool for both towers, the one they were trained with",
            consequence="their vectors would not be those they were trained to give",
            remedy="leave the pooling to the folders, or remove modules.json where it is wrong",
        )
    if asked is not None:
        return asked
    return told[0] if told else "mean"


def _check_pair(facts: Sequence[EncoderFacts]) -> None:
    shapes = [(one.num_layers, one.hidden_size, one.num_heads, one.tokenizer_fingerprint) for one in facts]
    if shapes[0] != shapes[-1]:
        raise CapabilityError(
            f"{facts[0].folder} and {facts[-1].folder} differ in layers, width, heads or tokenizer",
            expected="two towers of one shape, with the same tokenizer files",
            consequence="their vectors could not be compared, or texts would be read as other words",
            remedy="name the two towers of one model",
        )


def _record(
    facts: Sequence[EncoderFacts], dataset: Dataset, pooling: Pooling, max_tokens: int, rule: TextRule
) -> dict[str, Any]:
    fingerprint = hashlib.sha256(" ".join(one.fingerprint for one in facts).encode()).hexdigest()
    layers = facts[0].num_layers
    return {
        "format": 1,
        "identity": fingerprint[:16],
        "imported": [one.fingerprint for one in facts],
        "pooling": pooling,
        "shared_towers": len(facts) == 1,
        "layers": layers,
        "layer_map": list(range(layers)),
        "init": "pretrained",
        "text": {
            "max_tokens": max_tokens,
            "max_neighbors": rule.max_neighbors,
            "short_description_words": rule.short_description_words,
        },
        "method": {"name": "none"},
        "mask_ratio": 0.0,
        "view": "separate",
        "seed": 0,
        "precision": "fp32",
        "data_fingerprint": dataset.fingerprint,
        "encoder_fingerprint": facts[0].fingerprint,
        "lineage": [],
        "epoch": 0,
        "step": 0,
        "metrics": {},
    }
