"""The sections of learning: the contrastive term and the loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raydistill.config.space import Section

Ratio = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
HARMLESS_TRAINING = frozenset({"gradient_cache", "keep_checkpoints", "remember_states"})
"""Settings of the loop that change no result but its last bits: no part of what a trial is named by, and they may differ when a run is resumed."""


class ContrastiveSection(Section):
    """The contrastive term (SimKGC): InfoNCE with additive margin and trainable temperature."""

    temperature: float = Field(0.05, gt=0, description="cosines are divided by it; where it starts if it is trained")
    train_temperature: bool = Field(True, description="learn the temperature along with the weights")
    margin: float = Field(0.02, ge=0, lt=1, description="taken off the cosine of the right answer")
    self_negatives: bool = Field(False, description="the head entity of a query as one more candidate")
    pre_batch: int = Field(0, ge=0, description="earlier batches whose entity vectors serve as candidates; 0 = off")
    pre_batch_weight: float = Field(0.5, gt=0, le=1, description="multiplier of pre-batch logits")


class TrainingSection(Section):
    """The loop. A batch counts examples; each triple is two, one per direction."""

    batch_size: int = Field(512, ge=2, description="examples per step, over all workers of a trial")
    epochs: Count = Field(50, description="passes over the training split")
    learning_rate: float = Field(5.0e-5, gt=0, description="its peak, after warm-up; it falls linearly to 0 from there")
    warmup_ratio: Ratio = Field(0.1, description="share of all steps over which the learning rate rises")
    weight_decay: float = Field(1.0e-4, ge=0, description="on matrices only: not on biases, LayerNorm or temperature")
    max_gradient_norm: float = Field(10.0, gt=0, description="longer gradients are scaled down to this norm")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of matrix products; weights and vectors are kept in float32 either way; auto: bf16 on GPUs and processors that have "
        "instructions for it, elsewhere fp32",
    )
    tokens_per_micro_batch: Literal["auto"] | Annotated[int, Field(ge=64)] = Field(
        "auto",
        description="texts are encoded in length order, this many tokens at a time; auto: 2048 on a processor, whose caches are small, "
        "131072 on a GPU, which waits where it is given less",
    )
    # Not `on` and `off`: YAML reads those as true and false.
    gradient_cache: Literal["never", "auto", "always"] = Field(
        "auto",
        description="always: one micro-batch's graph in memory at a time, for one more forward pass and the same gradients; "
        "auto: from the first step on that runs out of memory; whatever does so is done again with half the tokens at a time; "
        "never: running out of memory ends the trial; may be changed when a run is resumed",
    )
    trim_vocabulary: bool = Field(
        True, description="train only the embedding rows whose pieces occur in the graph's texts"
    )
    evaluate_every: Count = Field(1, description="epochs between validations; the last epoch is always validated")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="also checkpoint every so many steps inside an epoch; null = at epoch ends only"
    )
    remember_teacher: bool = Field(
        True,
        description="compute the teacher's outputs for each training text once, and keep them on disk for all trials of the grade, "
        "instead of computing them in every epoch; for corrupted texts only with `corruptions`",
    )
    remember_states: int = Field(
        1024,
        ge=0,
        description="on processors: MiB of memory in which each process of a trial may keep the teacher's token states for all training texts as they are, where a method "
        "looks at them; where they need more, or on a GPU, the teacher is run in every step; 0 = always that; may be changed when a run is resumed",
    )
    corruptions: int | None = Field(
        None,
        ge=1,
        description="corruptions of each text, taken in turns epoch by epoch, so that the teacher's outputs for them can be kept; "
        "null = a new one every time",
    )
    keep_checkpoints: Count = Field(
        2,
        description="newest checkpoints kept beside the best one while a trial runs; may be changed when a run is resumed",
    )
    measure_gradients: bool = Field(True, description="gradient norm of every term, on the first batch of an epoch")
