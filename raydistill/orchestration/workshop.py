"""What orchestration asks of the floors below, gathered in one place: training, verifying and evaluating are functions it is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from raydistill.config.other_teachers import other_places
from raydistill.config.schema import CampaignConfig
from raydistill.config.trial import Bring, TeacherAt, TeacherReference, TrialConfig
from raydistill.data.synthetic import usual_examples
from raydistill.errors import CapabilityError
from raydistill.imports import uncollected
from raydistill.kg.store import Dataset, count_of
from raydistill.models.pretrained import EncoderFacts, locate_encoder, positions, tokenizer_digest
from raydistill.planning.ground import Ground

if TYPE_CHECKING:
    from raydistill.training.gather import World
    from raydistill.training.trial import EpochReport


class RunTrial(Protocol):
    """Train one trial; see `training.trial.run_trial`."""

    def __call__(
        self,
        config: TrialConfig,
        directory: Path,
        world: Any,
        teacher_at: TeacherAt,
        interrupted: Callable[[], bool],
        bring: Bring | None = None,
        saved: Callable[[], None] | None = None,
    ) -> Iterator[EpochReport]:
        """A report per validated epoch."""


@dataclass(frozen=True)
class Workshop:
    """The functions a campaign runs on. Each must be importable by name, because worker processes look it up again.

    Attributes:
        run_trial: train one trial, one report per completed epoch; it asks who teaches an epoch where the teacher changes, and after every step,
            beside a long one from another thread, and before what it encodes besides, whether it is to end.
        world: the world of a process; True = it belongs to a process group.
        set_threads: how many CPU threads a trial may use.
        verify_checkpoint: SHA-256 of a sound checkpoint's manifest.
        checkpoint_facts: its parameters, bytes and layers.
        test_metrics: score a checkpoint on the test split: (checkpoint, campaign, who do it together) -> metrics, the same for each of them.
        survey: what a campaign stands on.
        query_milliseconds: time of one query on one CPU thread: (checkpoint, campaign) -> milliseconds.
    """

    run_trial: RunTrial
    world: Callable[[bool], World]
    set_threads: Callable[[int], None]
    verify_checkpoint: Callable[[str], str]
    checkpoint_facts: Callable[[str], dict[str, Any]]
    test_metrics: Callable[[str, CampaignConfig, World], dict[str, float]]
    survey: Callable[[CampaignConfig], Ground]
    query_milliseconds: Callable[[str, CampaignConfig], float]


def standard_workshop() -> Workshop:
    """The real thing. Torch is imported when a function is first called, not here."""
    return Workshop(_run_trial, _world, _set_threads, _verify, _facts, _test_metrics, survey, _query_milliseconds)


def survey(config: CampaignConfig) -> Ground:
    """Find dataset, encoder and a given teacher, and take their fingerprints.

    Raises:
        DataError: the dataset is missing or damaged.
        EncoderError: the encoder is.
        CheckpointError: the given teacher is, or another one that a method names.
        CapabilityError: such a one has another tokenizer, or is a structural model of another dataset.
    """
    dataset = Dataset.load(config.data.path)
    encoder = locate_encoder(config.encoder.name)
    encoder.require_positions(config.data.max_tokens)
    teacher, layers, given, foreign = None, None, dict[str, Any](), False
    if config.teacher.checkpoint is not None:
        path = str(Path(config.teacher.checkpoint).absolute())
        teacher = TeacherReference(path=path, digest=_verify(path))
        layers = int(_facts(path)["layers"])
        # It may have been pruned, or be of another encoder.
        given = _tower(path)
        foreign = _is_foreign(path, encoder)
        _tell_of_other_dataset(path, dataset.fingerprint)
    tokens = config.data.max_tokens
    others = {place: _named(place, dataset.fingerprint, encoder, tokens) for place in other_places(config)}
    return Ground(
        dataset.fingerprint,
        encoder.fingerprint,
        encoder.num_layers,
        teacher,
        layers,
        encoder_width=encoder.hidden_size,
        num_relations=len(set(dataset.train[:, 1].tolist())),
        epoch_examples=usual_examples(count_of(dataset)),
        others=others,
        structural=frozenset(one.digest for one in others.values() if _is_structural(one.path)),
        encoder_intermediate=encoder.intermediate_size,
        encoder_heads=encoder.num_heads,
        encoder_vocabulary=encoder.vocabulary,
        given_teacher_width=given.get("hidden_size"),
        given_teacher_intermediate=given.get("intermediate_size"),
        given_teacher_heads=given.get("num_attention_heads"),
        given_teacher_tokens=positions(given) if given else None,
        given_teacher_foreign=foreign,
    )


def _named(place: str, data_fingerprint: str, encoder: EncoderFacts, tokens: int) -> TeacherReference:
    """What a method names as teacher: a checkpoint, of texts of up to so many tokens, or a structural model of this dataset."""
    from raydistill.training.checkpoint import read_record, refuse_unfinished
    from raydistill.training.structural.folder import load_structural

    path = str(Path(place).absolute())
    digest = _verify(path)
    if _is_structural(path):
        load_structural(path, data_fingerprint, verify=False)
        return TeacherReference(path=path, digest=digest)
    if _is_foreign(path, encoder):
        raise CapabilityError(
            f"teacher {place} has another tokenizer than the campaign's encoder",
            expected="one tokenizer for student and teachers",
            consequence="it would read the student's token ids as other words",
            remedy="name checkpoints of an encoder with the same tokenizer in method.teachers",
        )
    refuse_unfinished(Path(path), read_record(path))
    if (read := positions(_tower(path))) < tokens:
        raise CapabilityError(
            f"teacher {place} reads {read} positions",
            expected=f"at least the {tokens} tokens of data.max_tokens",
            consequence="longer texts would be beyond it",
            remedy="lower data.max_tokens, or name other checkpoints in method.teachers",
        )
    return TeacherReference(path=path, digest=digest)


def _tell_of_other_dataset(path: str, data_fingerprint: str) -> None:
    from raydistill.training.checkpoint import tell_of_other_dataset

    tell_of_other_dataset(path, data_fingerprint)


def _tower(path: str) -> dict[str, Any]:
    """What a checkpoint's config.json says of its query tower; the other one is of the same shape."""
    config: dict[str, Any] = json.loads((Path(path) / "query_encoder" / "config.json").read_text(encoding="utf-8"))
    return config


def _is_foreign(path: str, encoder: EncoderFacts) -> bool:
    return tokenizer_digest(Path(path) / "tokenizer") != encoder.tokenizer_fingerprint


def _run_trial(
    config: TrialConfig,
    directory: Path,
    world: World,
    teacher_at: TeacherAt,
    interrupted: Callable[[], bool],
    bring: Bring | None = None,
    saved: Callable[[], None] | None = None,
) -> Iterator[EpochReport]:
    with uncollected():
        from raydistill.training.trial import run_trial

    return run_trial(config, directory, world, teacher_at, interrupted, bring, saved)


def _world(distributed: bool) -> World:
    from raydistill.training.gather import World

    return World.from_process_group() if distributed else World.alone()


def _set_threads(count: int) -> None:
    with uncollected():
        import torch

    torch.set_num_threads(count)


def _verify(path: str) -> str:
    from raydistill.training.manifest import verify_checkpoint

    return verify_checkpoint(path)


def _is_structural(path: str) -> bool:
    from raydistill.training.checkpoint import is_structural

    return is_structural(path)


def _facts(path: str) -> dict[str, Any]:
    from raydistill.training.checkpoint import checkpoint_facts

    return checkpoint_facts(path)


def _test_metrics(path: str, config: CampaignConfig, world: World) -> dict[str, float]:
    from raydistill.training.evaluate import evaluate_checkpoint

    rerank = (config.rerank.hops, config.rerank.bonus) if config.rerank is not None else None
    tokens = config.training.tokens_per_micro_batch
    report = evaluate_checkpoint(path, config.data.path, "test", rerank, tokens, world=world)
    return {name: float(value) for name, value in report.metrics.items()}


def _query_milliseconds(path: str, config: CampaignConfig) -> float:
    from raydistill.training.evaluate import query_milliseconds

    return query_milliseconds(path, config.data.path)
