"""Encoders and tokenizers from folders: safetensors only, no code from the folder is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.errors import EncoderError


def load_encoder(folder: Path) -> nn.Module:
    """A pre-trained encoder, float32, evaluation mode, from safetensors only.

    Raises:
        EncoderError: the weights do not fit the configuration.
    """
    from transformers import AutoModel

    try:
        model: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError) as problem:
        raise EncoderError(f"the encoder in {folder} cannot be loaded: {str(problem).splitlines()[0]}", remedy="check the folder's files") from None
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """The encoder's fast tokenizer.

    Raises:
        EncoderError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise EncoderError(f"no tokenizer in {folder}: {str(problem).splitlines()[0]}", expected="tokenizer.json or vocab.txt") from None
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(f"the tokenizer in {folder} has no fast version", expected="tokenizer.json")
    return tokenizer
