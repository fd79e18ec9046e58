"""What a checkpoint's record says of a trial that does not change while training."""

from __future__ import annotations

from typing import Any

from raydistill.config.trial import TrialConfig
from raydistill.models.biencoder import Precision
from raydistill.models.pretrained import EncoderFacts
from raydistill.training.checkpoint import read_record


def trial_record(config: TrialConfig, facts: EncoderFacts, precision: Precision) -> dict[str, Any]:
    """Model, text rule, method and the teachers it descends from; no path, so that equal work has equal records."""
    lineage: list[str] = []
    if config.teacher is not None:
        lineage = [*read_record(config.teacher.path)["lineage"], config.teacher.digest]
    # Not where there are none: equal work has had equal records before there could be.
    beside = {"taught_beside": [one.digest for one in config.others]} if config.others else {}
    return {
        **beside,
        "format": 1,
        "identity": config.identity,
        "pooling": config.encoder.pooling,
        "shared_towers": config.encoder.shared_towers,
        "layers": config.layers,
        "layer_map": list(config.layer_map),
        "init": config.init,
        "text": {
            "max_tokens": config.data.max_tokens,
            "max_neighbors": config.data.max_neighbors,
            "short_description_words": config.data.short_description_words,
        },
        "method": config.method.model_dump(mode="json"),
        "mask_ratio": config.mask_ratio,
        "view": config.view,
        "seed": config.seed,
        "precision": precision,
        "data_fingerprint": config.data_fingerprint,
        "encoder_fingerprint": facts.fingerprint,
        "lineage": lineage,
    }
