"""The sections of a campaign. One YAML file is one `CampaignConfig`; every field has a type, a bound, a unit and a default here and nowhere else."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.ladders import LadderSearchSection
from raydistill.config.methods import Method, PMDSection
from raydistill.config.resources import ResourcesSection
from raydistill.config.space import Choice, Init, LayerMap, Place, SearchedPositive, Section, Uniform, View
from raydistill.config.storage import StorageSection
from raydistill.config.training import ContrastiveSection, Count, Ratio, TrainingSection


class DataSection(Section):
    """The graph and how its texts are put together."""

    path: Place = Field(
        description="dataset directory made by `raydistill prepare`: a path or a URI, such as s3://bucket/graph"
    )
    max_tokens: int = Field(50, ge=8, le=512, description="tokens per text, specials included")
    max_neighbors: int = Field(10, ge=0, description="neighbour names appended to short descriptions; 0 = none")
    short_description_words: int = Field(
        20, ge=0, description="a description below this many words gets neighbour names"
    )


class EncoderSection(Section):
    """The pre-trained encoder that teacher and students start from."""

    name: Place = Field(
        description="hub name (`name@revision` for one of its versions), local folder, or package:<module> that carries weights; an encoder of kind bert, "
        "roberta, xlm-roberta or camembert, as safetensors"
    )
    pooling: Literal["mean", "cls", "max"] = Field(
        "mean", description="what becomes a text's vector: the mean or maximum of its token states, or the first one"
    )
    shared_towers: bool = Field(False, description="one encoder for queries and entities instead of two")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of all students and the teacher while training; null = the encoder's own"
    )


class TeacherSection(Section):
    """Grade 0. What is left null comes from `training`."""

    layers: int | None = Field(None, ge=1, description="null = all layers of the encoder")
    epochs: int | None = Field(None, ge=1, description="passes over the training split; null = `training.epochs`")
    learning_rate: float | None = Field(None, gt=0, description="null = `training.learning_rate`")
    checkpoint: Place | None = Field(
        None, description="take this trained checkpoint (a path or a URI) as the teacher instead of training one"
    )


class GradeSection(Section):
    """One rung of the ladder: the student's shape, its mask ratio, and what may be searched."""

    layers: Count = Field(description="depth of the student")
    mask_ratio: Ratio | Choice[Ratio] | Uniform = Field(
        0.0,
        description="share of each text's tokens that are masked, for student and teacher alike; 0 = none, which every search of it may answer. With view "
        "separate it has an effect in methods that look at masked texts alone (pmd); in others nothing is masked",
    )
    layer_map: LayerMap | Choice[LayerMap] = Field(
        "skip",
        description="which layers the student starts from; first and last: that many from one end; uniform: evenly from the first to "
        "the last; skip: the middle of each of equally long blocks; a list names the layers themselves, rising, counted from 0",
    )
    view: View | Choice[View] | None = Field(None, description="null = the campaign's `view`")
    init: Init | Choice[Init] = Field("pretrained", description="whose layers the student starts from")
    method: Method | None = Field(None, description="null = the campaign's method")
    epochs: int | None = Field(None, ge=1, description="passes over the training split; null = `training.epochs`")
    learning_rate: SearchedPositive | None = Field(None, description="null = `training.learning_rate`")
    trials: int | None = Field(
        None, ge=1, description="points of the search tried at this grade; null = `search.trials`"
    )

    @model_validator(mode="after")
    def _ratio_in_range(self) -> GradeSection:
        if isinstance(self.mask_ratio, Uniform) and not (
            0 <= self.mask_ratio.uniform[0] and self.mask_ratio.uniform[1] < 1
        ):
            raise ValueError(f"a mask ratio lies in [0, 1), received uniform {list(self.mask_ratio.uniform)}")
        maps = self.layer_map.choice if isinstance(self.layer_map, Choice) else (self.layer_map,)
        for explicit in maps:
            if not isinstance(explicit, str) and len(explicit) != self.layers:
                raise ValueError(
                    f"layer map {list(explicit)} names {len(explicit)} layers for a student of {self.layers}"
                )
        return self


class SearchSection(Section):
    """The search within a grade."""

    trials: Count = Field(
        1,
        description="points tried per grade: with 1 a searched value is drawn once; a grid runs whole unless the grade says how many",
    )
    algorithm: Literal["tpe", "random", "grid"] = Field(
        "tpe",
        description="tpe: proposes near what did well so far; random: anywhere; grid: every combination of `choice` values, no intervals",
    )
    early_stopping: Literal["asha", "none"] = Field(
        "none",
        description="asha: a trial whose validation MRR falls behind at certain epochs stops; none: all run to their end",
    )
    grace_epochs: Count = Field(1, description="epochs every trial gets before it may be stopped")
    reduction_factor: int = Field(
        2, ge=2, description="of so many trials about one goes on; asha looks at grace_epochs times its powers"
    )
    startup_trials: Count = Field(4, description="random trials before TPE models the results")


class PromotionSection(Section):
    """Who becomes the next teacher: highest validation MRR; within `tolerance` the smaller model, by its layers, then by its bytes; then the lower trial number."""

    tolerance: float = Field(0.0, ge=0, description="MRR difference that counts as a tie")


class ScheduleSection(Section):
    """When grades run, and who teaches: one after another, all at once under teachers that improve, or all straight from the teacher."""

    name: Literal["sequential", "pipelined", "independent"] = Field(
        "sequential",
        description="sequential: each grade learns from the one above it; pipelined: the same, but all grades run at once, each under the best "
        "teacher so far, and the last epochs under the final one; independent: all learn from the teacher, side by side",
    )
    min_delta: float = Field(
        0.0, ge=0, description="pipelined: MRR by which a checkpoint must beat the announced teacher to take its place"
    )
    settle_epochs: int = Field(1, ge=1, description="pipelined: last epochs of every trial, under the final teacher")


class CompareSection(Section):
    """Run the same ladder once per method and seed, each as its own lineage, and report mean and spread."""

    methods: tuple[Method, ...] = Field(min_length=1, description="method sections, each as under `method`")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="every method is run once with each; mean and spread are over them"
    )

    @model_validator(mode="after")
    def _distinct(self) -> CompareSection:
        if len(set(self.seeds)) != len(self.seeds) or len(set(self.methods)) != len(self.methods):
            raise ValueError("methods and seeds are compared once each; remove the repeated one")
        return self


class RerankSection(Section):
    """SimKGC's neighbour re-ranking at evaluation. Off unless asked, and named beside every number it touched."""

    hops: int = Field(2, ge=1, description="5 for WN18RR, 2 otherwise, as SimKGC")
    bonus: float = Field(0.05, gt=0, description="added to the cosine of every entity that near to the query's head")


class CampaignConfig(Section):
    """A whole campaign."""

    data: DataSection
    encoder: EncoderSection
    contrastive: ContrastiveSection = ContrastiveSection()
    teacher: TeacherSection = TeacherSection()
    grades: tuple[GradeSection, ...] = Field(min_length=1)
    method: Method = Field(PMDSection(), description="how students learn from their teacher")
    view: View = Field(
        "separate",
        description="separate: CE and score on a clean view, masked features on a corrupted one; shared: one corrupted view, as PMD",
    )
    search: SearchSection = SearchSection()
    promotion: PromotionSection = PromotionSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection = TrainingSection()
    resources: ResourcesSection = ResourcesSection()
    storage: StorageSection = StorageSection()
    compare: CompareSection | None = None
    ladders: LadderSearchSection | None = None
    rerank: RerankSection | None = None
    seed: int = Field(0, ge=0, description="of batches, masks and the search; equal seeds give equal runs")

    @model_validator(mode="after")
    def _depth_falls(self) -> CampaignConfig:
        depths = [self.teacher.layers, *(grade.layers for grade in self.grades)]
        for above, below in pairwise(depths):
            if above is not None and below is not None and below > above:
                raise ValueError(
                    f"a student of {below} layers stands below a teacher of {above}; depth may only fall down the ladder"
                )
        return self

    @model_validator(mode="after")
    def _ladders_are_of_one_kind(self) -> CampaignConfig:
        if self.ladders is None:
            return self
        if self.compare is not None:
            raise ValueError("`ladders` searches over ladders of one method and seed; leave out `compare`")
        if self.method.name != "pmd":
            raise ValueError(f"`ladders` searches over PMD's alpha and beta; the method is {self.method.name}")
        for place, grade in enumerate(self.grades):
            if grade.method is not None:
                raise ValueError(
                    f"grades.{place}.method would take the place of the alpha and beta that `ladders` searches; remove it"
                )
        self.ladders.require_falling(self.teacher.layers)
        return self

    @model_validator(mode="after")
    def _compared_alone_decides(self) -> CampaignConfig:
        """What `compare` would overrule, or be overruled by, is refused; a default spelt out, as in a saved file, says nothing."""
        if self.compare is None:
            return self
        if all(grade.method is not None for grade in self.grades):
            raise ValueError(
                "every grade has a method of its own, so the methods of `compare` would be used nowhere; remove that of the grades to be compared, or remove "
                "`compare`"
            )
        for name, value in (("method", self.method), ("seed", self.seed)):
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"`{name}` would be ignored, because `compare.{name}s` lists what is run; move it there and remove `{name}`"
                )
        return self

    @model_validator(mode="after")
    def _ladders_beside_each_other(self) -> CampaignConfig:
        if self.ladders is None and self.resources.concurrent_ladders > 1:
            raise ValueError(
                f"resources.concurrent_ladders is {self.resources.concurrent_ladders}, and without a section `ladders` there is one ladder; remove resources.concurrent_ladders, or add that section"
            )
        return self

    @model_validator(mode="after")
    def _something_may_stop(self) -> CampaignConfig:
        # Every grade of a searched ladder has the epochs of the first one here.
        grades = self.grades if self.ladders is None else self.grades[:1]
        longest = max(grade.epochs or self.training.epochs for grade in grades)
        if self.search.early_stopping == "asha" and self.search.grace_epochs >= longest:
            raise ValueError(
                f"search.grace_epochs is {self.search.grace_epochs}, and no student trains for more than {longest} epochs, so "
                "early stopping would stop nothing; lower grace_epochs, or set search.early_stopping to none"
            )
        return self
