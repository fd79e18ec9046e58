"""Encoders and tokenizers from folders: safetensors only, no code from the folder is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.errors import EncoderError
from raydistill.imports import uncollected


@uncollected()
def load_encoder(folder: Path) -> nn.Module:
    """A pre-trained encoder, float32, evaluation mode, from safetensors only.

    Raises:
        EncoderError: the weights are damaged, or do not fit the configuration.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    # Its bars would stand between our own progress lines, one per tower.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # What the weights lack is drawn at random: a pooler, which nothing here uses. Seeded, so that it is the same one in every process.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            model, info = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation=_attention(),
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as problem:
            raise EncoderError(
                f"the encoder in {folder} cannot be loaded: {str(problem).splitlines()[0]}",
                expected="config.json and model.safetensors that belong together and are whole",
                consequence="there would be no model to train or to ask",
                remedy="fetch or save the encoder again",
            ) from None
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderError(
            f"the weights in {folder} lack {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
            expected="every weight that config.json speaks of",
            consequence="these layers would begin with random weights",
            remedy="check that config.json and model.safetensors belong together",
        )
    encoder: nn.Module = model.eval()
    return encoder


@uncollected()
def shaped_encoder(folder: Path) -> nn.Module:
    """An encoder of the shape that config.json tells, in evaluation mode, for weights that are stored in another way.

    Raises:
        EncoderError: there is no such configuration.
    """
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng(devices=[]):
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model = AutoModel.from_config(config, attn_implementation=_attention())  # type: ignore[no-untyped-call]
        except (OSError, ValueError, RuntimeError, KeyError) as problem:
            raise EncoderError(
                f"the configuration in {folder} cannot be read: {str(problem).splitlines()[0]}",
                expected="an encoder's config.json",
                consequence="there would be no model to put the weights into",
                remedy="fetch or save the encoder again",
            ) from None
    encoder: nn.Module = model.float().eval()
    return encoder


def _attention() -> str:
    """How attention is computed.

    On a CPU the fused backward pass is slow for short texts: 0.78 s of a 1.9 s step on two cores (6 layers, 314 texts of 7 tokens, bf16).
    """
    return "sdpa" if torch.cuda.is_available() else "eager"


@uncollected()
def load_tokenizer(folder: Path) -> Any:
    """The encoder's fast tokenizer.

    Raises:
        EncoderError: there is none.
    """
    from transformers import AutoTokenizer

    # Without a vocabulary transformers makes an empty tokenizer, to which every word is unknown.
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise EncoderError(
            f"no tokenizer in {folder}",
            expected="tokenizer.json, vocab.txt, or vocab.json with merges.txt",
            consequence="every word would be unknown to the model",
            remedy="save the encoder's tokenizer into that folder",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except Exception as problem:  # the tokenizers library raises Exception itself for a malformed file
        raise EncoderError(
            f"no tokenizer in {folder}: {(str(problem) or repr(problem)).splitlines()[0]}",
            expected="tokenizer.json, vocab.txt, or vocab.json with merges.txt",
            consequence="texts could not be given to the model",
            remedy="save the encoder's tokenizer into that folder again",
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(
            f"the tokenizer in {folder} has no fast version",
            expected="tokenizer.json",
            consequence="the pieces of a text could not be put together as the joined text is tokenised",
            remedy="convert it with transformers' fast tokenizers, or choose another encoder",
        )
    return tokenizer
