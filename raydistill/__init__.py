"""raydistill: progressive distillation of text-based knowledge graph completion models on Ray.

The names below are the Python API, one for each command. They are found when first asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydistill.config.load import load_config
    from raydistill.kg.prepare import prepare
    from raydistill.kg.store import Dataset
    from raydistill.models.biencoder import BiEncoder
    from raydistill.orchestration.campaign import Campaign
    from raydistill.orchestration.rundir import open_run
    from raydistill.shipping.predictor import Predictor
    from raydistill.training.evaluate import evaluate_checkpoint as evaluate
    from raydistill.training.manifest import verify_checkpoint

__version__ = "0.1.0"
__all__ = [
    "BiEncoder",
    "Campaign",
    "Dataset",
    "Predictor",
    "evaluate",
    "load_config",
    "open_run",
    "prepare",
    "verify_checkpoint",
]

_HOMES = {
    "BiEncoder": ("raydistill.models.biencoder", "BiEncoder"),
    "Campaign": ("raydistill.orchestration.campaign", "Campaign"),
    "Dataset": ("raydistill.kg.store", "Dataset"),
    "Predictor": ("raydistill.shipping.predictor", "Predictor"),
    "evaluate": ("raydistill.training.evaluate", "evaluate_checkpoint"),
    "load_config": ("raydistill.config.load", "load_config"),
    "open_run": ("raydistill.orchestration.rundir", "open_run"),
    "prepare": ("raydistill.kg.prepare", "prepare"),
    "verify_checkpoint": ("raydistill.training.manifest", "verify_checkpoint"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
