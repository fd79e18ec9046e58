"""The loop: batches to terms to steps. It knows no method, no file and no Ray; what it does is decided by the terms it is given."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydistill.data.ahead import built_ahead, usual_builders
from raydistill.data.batches import BatchBuilder, Source, TripleBatch
from raydistill.data.masking import clean_view
from raydistill.data.texts import Texts
from raydistill.models.biencoder import BiEncoder, Tower
from raydistill.models.features import Needs, TowerOutput
from raydistill.students.reshaping import Reshaper
from raydistill.teachers.views import Stop, TeacherSource, never
from raydistill.training.clock import Clock
from raydistill.training.encoding import Reader, encode_view
from raydistill.training.gather import SharedGradients, World
from raydistill.training.gradient_cache import StudentPass
from raydistill.training.memory import GradientCache, MemoryPlan
from raydistill.training.optimizer import Optimizer
from raydistill.training.outputs import StepOutputs, Wanted
from raydistill.training.progress import Corruption, PreBatch, Progress
from raydistill.training.standstill import Standstill
from raydistill.training.step import LOSS, NORM, Prepared, Taken
from raydistill.training.structure import Structure
from raydistill.training.terms.term import OnView, Term, wanted_on
from raydistill.training.verdicts import Verdicts


class Trainer:
    """Trains a student on batches of triples with a sum of terms.

    Args:
        student: the model, on its device.
        teacher: where teacher outputs come from.
        terms: the summands of the loss.
        source: deals triples into batches.
        builder: turns triples into texts and indices.
        optimizer: steps and learning rate.
        corruption: mask ratio and which terms see it.
        max_gradient_norm: gradients are scaled down to this norm.
        seed: of masks and dropout. Randomness is a function of (seed, epoch, step), so a resumed run needs no random states.
        world: the workers of this trial.
        pre_batch: how many earlier batches serve as negatives.
        measure_gradients: gradient norm of each term on the first batch of an epoch.
        gradient_cache: what happens when memory runs out (see `MemoryPlan`); changes no result.
        reshapers: what changes the student's shape or number format on the way; each has prepared it.
    """

    def __init__(
        self,
        student: BiEncoder,
        teacher: TeacherSource,
        terms: Sequence[Term],
        source: Source,
        builder: BatchBuilder,
        optimizer: Optimizer,
        corruption: Corruption,
        *,
        max_gradient_norm: float,
        seed: int,
        world: World,
        pre_batch: int = 0,
        measure_gradients: bool = True,
        gradient_cache: GradientCache = "auto",
        reshapers: Sequence[Reshaper] = (),
    ) -> None:
        self.student, self.teacher, self.terms = student, teacher, tuple(terms)
        self.source, self.builder, self.optimizer, self.corruption = source, builder, optimizer, corruption
        self.max_gradient_norm, self.measure_gradients, self.seed = max_gradient_norm, measure_gradients, seed
        # What is never done again needs no word between the workers.
        self.world = replace(world, careful=gradient_cache != "never")
        self.memory = MemoryPlan(student, self.world, gradient_cache)
        self.shared = SharedGradients(self.world, optimizer.parameters)
        self.pre_batch = PreBatch(pre_batch)
        self.builders = usual_builders(student.log_inverse_temperature.device, world.size, in_turn=pre_batch > 0)
        self.structure = Structure(student, tuple(reshapers), self.terms, optimizer, self.pre_batch, self.world)
        self.progress, self.clock, self.verdicts, self.standstill = Progress(), Clock(), Verdicts(), Standstill()
        self._wanted: dict[OnView, Wanted] = {on: wanted_on(self.terms, on) for on in ("clean", "corrupted")}
        looked_at = self._wanted["corrupted"] != Wanted(None, None)
        self._separate = not corruption.shared and corruption.ratio > 0 and looked_at

    @property
    def global_step(self) -> int:
        """Steps taken since the beginning."""
        return self.progress.epoch * self.source.steps_per_epoch + self.progress.step_in_epoch

    def prepare(self, stop: Stop = never) -> bool:
        """Have the teacher ready for the current epoch; all workers must call, and are told whether it is ready for all of them.

        Args:
            stop: asked at first and before each micro-batch of the teacher: whether to leave the rest.

        Raises:
            OutOfMemoryError: it does not fit into memory.
        """

        def taught() -> bool:
            return not stop() and self.teacher.at_epoch(self.progress.epoch, stop)

        what, longest = "the teacher's pass over the training texts", self.builder.assembler.max_tokens
        with self.clock.part("teacher"):
            # Not by an error: whoever stops takes part in what the workers say to each other about memory, and a word more.
            ready = self.memory.encode(taught, what, longest, self.teacher)
        return not self.world.anyone(not ready)

    def run_epoch(self) -> Iterator[int]:
        """Train to the end of the current epoch; yields the steps taken in it after each step.

        Raises:
            NonFiniteLossError: a term, or the gradient, is NaN or infinite; the step was not taken. On a GPU it is said a step later.
            OutOfMemoryError: a step, or what the teacher does before the first, does not fit into memory; it was not taken.
        """
        self.student.train()
        self.prepare()
        # What builds ahead ends with an epoch that is left, not with the last who remembers why.
        with contextlib.closing(self._batches()) as batches:
            while True:
                started = time.perf_counter()
                with self.clock.part("data"):
                    prepared = next(batches, None)
                if prepared is None:
                    break
                self._step(prepared)
                self.progress.count(len(prepared.batch), time.perf_counter() - started)
                yield self.progress.step_in_epoch
        self.verdicts.settle()
        self.progress.epoch, self.progress.step_in_epoch = self.progress.epoch + 1, 0

    def _batches(self) -> Generator[Prepared]:
        """What is left of the epoch."""
        earlier, epoch = self.pre_batch.entities_ahead(), self.progress.epoch

        def build(given: tuple[int, NDArray[np.int32]]) -> Prepared:
            step, triples = given
            batch = self.builder.build(triples, earlier.all_entities())
            earlier.push(batch.column_entities)
            return self._prepared(batch, epoch, step)

        triples = enumerate(self.source.batches(epoch, self.progress.step_in_epoch), self.global_step)
        return built_ahead(triples, build, builders=self.builders)

    def _prepared(self, batch: TripleBatch, epoch: int, step: int) -> Prepared:
        batch, corrupts = self.corruption.timed(batch, step), self.corruption.shared or self._separate
        return Prepared(batch, self.corruption.of(batch, epoch, step) if corrupts else None)

    def averages(self) -> dict[str, float]:
        """Means over the epoch's steps of loss and unweighted terms, and the gradient norms; resets them."""
        return self.progress.take_averages()

    def reshaped(self) -> None:
        """Hear that the student has other parameters than before, and the optimizer has them too."""
        self.shared = SharedGradients(self.world, self.optimizer.parameters)

    def losses(self, batch: TripleBatch, step: int) -> dict[str, Tensor]:
        """Unweighted values of all terms for a batch, with gradient."""
        self.teacher.at_epoch(self.progress.epoch)
        prepared = self._prepared(batch, self.progress.epoch, step)
        outputs = self._outputs(prepared, self._student_pass(step, cached=False), step)
        return {term.name: term.value(outputs) for term in self.terms}

    def _step(self, prepared: Prepared) -> None:
        step, batch = self.global_step, prepared.batch
        longest = max(batch.queries.longest, batch.candidates.longest)
        with self.standstill.lasting():
            attempt, forget = partial(self._gradients, prepared, step), self.structure.forget_attempt
            taken = self.memory.fit(attempt, forget, longest, self.teacher)
        with self.clock.part("optimizer"):
            # Of the last step, and all of this one's work has been handed to the device by now.
            unless = self.verdicts.ask(taken.values, f"epoch {self.progress.epoch + 1}, step {step}")
            if taken.column_vectors is not None:
                self.pre_batch.push(taken.column_vectors, batch.column_entities)
            self.structure.after_backward(step)
            self.optimizer.step(step, unless)
            if self.structure.after_step(step):
                self.reshaped()
        self.progress.sums.update(taken.gradient_norms)
        self.progress.add(taken.reported)

    def _gradients(self, prepared: Prepared, step: int) -> Taken:
        """Everything of a step but the change of weights: may be done again."""
        student = self._student_pass(step, cached=self.memory.cached)
        with self.clock.part("forward"):
            outputs = self._outputs(prepared, student, step)
        with self.clock.part("terms"), self.standstill.busy():
            values = {term.name: term.value(outputs) for term in self.terms}
        epoch = self.progress.epoch
        loss = torch.stack([term.weight_at(epoch) * values[term.name] for term in self.terms]).sum()
        norms = {}
        if self.measure_gradients and self.progress.step_in_epoch == 0:
            norms = self._gradient_norms(values, student)
        with self.shared.averaged(), self.clock.part("backward"):
            student.backward(loss)
        with self.clock.part("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.max_gradient_norm)
        return Taken(
            {name: value.detach() for name, value in {**values, LOSS: loss, NORM: norm}.items()},
            norms,
            outputs.clean.candidate_vectors[: prepared.batch.num_columns].detach() if self.pre_batch.limit else None,
            outputs.notes,
        )

    def _student_pass(self, step: int, *, cached: bool) -> StudentPass:
        return StudentPass(self.student, (self.seed, step, self.world.rank), cached=cached)

    def _outputs(self, prepared: Prepared, student: StudentPass, step: int) -> StepOutputs:
        batch, wanted = prepared.batch, self._wanted["clean"]
        teacher = self.teacher.of_batch(batch)
        taught = Reader(partial(self._teach, teacher), teacher.reads_at_once)
        views = clean_view(batch.queries), clean_view(batch.candidates)
        if not self._separate:
            views, wanted = prepared.corrupted or views, wanted | self._wanted["corrupted"]
        encoded = corrupted = encode_view(batch, views, student.reader("clean"), taught, wanted, self.world)
        if self._separate:
            assert prepared.corrupted is not None
            learns, wanted = student.reader("corrupted"), self._wanted["corrupted"]
            corrupted = encode_view(batch, prepared.corrupted, learns, taught, wanted, self.world)
        return StepOutputs(
            clean=encoded,
            corrupted=corrupted,
            inverse_temperature=self.student.inverse_temperature,
            teacher_inverse_temperature=teacher.inverse_temperature,
            earlier=self.pre_batch.earlier(),
            epoch=self.progress.epoch,
            step=step,
            other_inverse_temperatures=teacher.other_inverse_temperatures,
        )

    def _teach(self, teacher: TeacherSource, texts: Texts, tower: Tower, needs: Needs) -> TowerOutput:
        with self.clock.part("teacher"):
            return teacher.encode(texts, tower, needs)

    def _gradient_norms(self, values: dict[str, Tensor], student: StudentPass) -> dict[str, float]:
        """Norm of each term's own gradient, unweighted, over all parameters and all workers' shares."""
        norms = {}
        for name, value in values.items():
            gradients = student.gradients(value, self.optimizer.parameters)
            squares = [gradient.float().square().sum() for gradient in self.world.mean(gradients)]
            norms[f"gradient_norm/{name}"] = float(torch.stack(squares).sum().sqrt())
        return norms
