"""Every error raydistill raises on purpose: one root, a dozen leaves, all picklable.

A message has four parts, because a reader needs all four: what was received, what was expected, what would have happened had we gone on, and
what to do now. Errors cross process borders (Ray workers, Tune trials), so `__reduce__` rebuilds them from their fields.
"""

from __future__ import annotations


class RayDistillError(Exception):
    """Root of all deliberate errors.

    Args:
        received: what was found, in concrete terms (value, path, line, shape).
        expected: what would have been right.
        consequence: what would have happened had the program gone on.
        remedy: what the reader can do now.
    """

    exit_code: int = 1

    def __init__(self, received: str, *, expected: str = "", consequence: str = "", remedy: str = "") -> None:
        self.received = received
        self.expected = expected
        self.consequence = consequence
        self.remedy = remedy
        super().__init__(received, expected, consequence, remedy)

    def __str__(self) -> str:
        labelled = (
            ("", self.received),
            ("expected: ", self.expected),
            ("otherwise: ", self.consequence),
            ("what to do: ", self.remedy),
        )
        return "\n  ".join(label + part for label, part in labelled if part)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.received, self.expected, self.consequence, self.remedy)


def _rebuild(
    kind: type[RayDistillError], received: str, expected: str, consequence: str, remedy: str
) -> RayDistillError:
    return kind(received, expected=expected, consequence=consequence, remedy=remedy)


class ConfigError(RayDistillError):
    """The configuration cannot be read, or asks for something that is not offered."""

    exit_code = 2


class CapabilityError(ConfigError):
    """Parts of a configuration that are each valid do not fit together."""


class RoomError(ConfigError):
    """The cluster has no room for a single trial, or evaluation: it is too small, or its machines are not there at the moment, or are used by others."""


class RunDirectoryError(ConfigError):
    """The run directory belongs to another configuration, or is in use."""


class EncoderError(ConfigError):
    """The pre-trained encoder is missing, or is of a kind that is not supported."""


class PredictionError(ConfigError):
    """A prediction was asked for something the model or graph cannot answer."""


class DataError(RayDistillError):
    """A source file or dataset directory is malformed."""

    exit_code = 3


class ShapeError(RayDistillError, ValueError):
    """Tensors that would broadcast to a wrong but plausible result."""

    exit_code = 5


class CheckpointError(RayDistillError):
    """A checkpoint is damaged or missing."""

    exit_code = 4


class TeacherError(CheckpointError):
    """The checkpoint that teaches is damaged, missing, or not the one on record."""


class LedgerError(RayDistillError):
    """The ledger of a run is damaged or contradicts itself."""

    exit_code = 4


class TrainingError(RayDistillError):
    """Training cannot go on."""

    exit_code = 5


class NonFiniteLossError(TrainingError):
    """A loss or gradient became NaN or infinite; the step was not taken."""


class OutOfMemoryError(TrainingError):
    """A step, or an encoding without gradient, does not fit into memory."""


class StorageError(TrainingError):
    """Nothing more can be written: the disk is full or the path is read-only."""


class TrialError(TrainingError):
    """A trial failed for good."""


class TrialInterruptedError(TrainingError):
    """A trial was told to end here; what it had learnt is in its newest checkpoint, from which it may go on."""


class PromotionError(TrainingError):
    """No trial of a grade can become the next teacher."""


class ScoringError(TrainingError):
    """A promoted checkpoint could not be scored on the test split, which is all that is missing."""


class ProcessError(TrainingError):
    """One of several processes that worked together was lost. The same work may come to its end when it is begun anew."""


class ClusterError(RayDistillError):
    """The cluster a campaign runs on was lost."""

    exit_code = 5


class JobError(RayDistillError):
    """A job on a cluster, or the cluster itself, was lost; or the job failed before its command could."""

    exit_code = 5
