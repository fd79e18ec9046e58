"""What a trial gets of a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.space import Section
from raydistill.config.training import Count


class WorkerRange(Section):
    """As many workers as there is room for, between two numbers."""

    min: Count = Field(1, description="a trial waits for room for this many")
    max: Count = Field(description="most it gets")

    @model_validator(mode="after")
    def _ordered(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; exchange them")
        return self


class ResourcesSection(Section):
    """What a trial gets and how many run at once."""

    backend: Literal["auto", "inline", "train"] = Field(
        "auto", description="auto = inline for one CPU worker, else train"
    )
    workers_per_trial: Count | WorkerRange = Field(
        1,
        description="processes that share each batch of a trial; a range: as many as there is room for, fewer when a machine is lost and more "
        "again when it is back. Results are those of one worker but for rounding and dropout; bit for bit they are equal at equal numbers only",
    )
    cpus_per_worker: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        "auto",
        description="auto = the cluster's CPUs divided among a grade's trials, at least one each; the same every time on one machine",
    )
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="auto = one GPU, where a trial fits so on the machines that are there when the campaign begins (on this machine alone also an equal part of one, for "
        "several workers), else none; 0 = train on CPUs; a fraction below 1 lets that many workers share a GPU and its memory; they then exchange vectors through the CPU (Gloo instead of NCCL)",
    )
    placement: Literal["pack", "strict_pack", "spread"] = Field(
        "pack",
        description="where a trial's workers run: pack: on as few machines as possible; strict_pack: on one, or not at all; spread: on many",
    )
    concurrent_trials: Literal["auto"] | Count = Field(
        "auto",
        description="trials of the whole campaign at once, of all grades and lineages together; auto = as many as the cluster has room for",
    )
    concurrent_ladders: Count = Field(
        1,
        description="of a search over `ladders`: how many run at once, from the moment the first has promoted the teacher they share. Each ladder's trials get an equal part of "
        "the CPUs, and of workers in a range; that teacher gets all of them. Which ladders are tried, and when they run, depends on it",
    )
    max_failures: int = Field(
        2,
        ge=0,
        description="restarts of a trial whose process died, those not counted that were told to end and saved; raise it where machines are lost often",
    )

    @model_validator(mode="after")
    def _whole_devices(self) -> ResourcesSection:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(
                f"gpus_per_worker is {self.gpus:g}; a worker gets a part of one GPU, or whole ones: give a number below 1 or a whole one"
            )
        return self

    @property
    def gpus(self) -> float:
        """GPUs of a worker; none for auto, which is settled when the cluster is known (`orchestration/joining.py`)."""
        return 0.0 if self.gpus_per_worker == "auto" else self.gpus_per_worker

    @property
    def least_workers(self) -> int:
        """Workers without which a trial does not begin."""
        return self.workers_per_trial if isinstance(self.workers_per_trial, int) else self.workers_per_trial.min

    @property
    def most_workers(self) -> int:
        """Most workers of a trial."""
        return self.workers_per_trial if isinstance(self.workers_per_trial, int) else self.workers_per_trial.max
