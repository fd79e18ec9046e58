from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
import torch

from raydistill.data.ahead import built_ahead, usual_builders
from raydistill.data.passing import Passage, written
from raydistill.errors import CapabilityError, TrainingError

KILLED = """
import fcntl, os, signal, sys, torch
from raydistill.data.ahead import built_ahead
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
batches = built_ahead(range(100), lambda _: (os.getpid(), torch.zeros(300000)), builders=2)
print(next(batches)[0], next(batches)[0], flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process: int) -> bool:
    return not os.path.exists(f"/proc/{process}")


@pytest.mark.parametrize("builders", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_batches_come_in_order_whoever_builds_them(builders: int, count: int) -> None:
    """A batch lost at the end, built twice, or out of order."""
    assert list(built_ahead(range(count), lambda one: one * one, builders=builders)) == [n * n for n in range(count)]


def test_tensors_of_every_kind_arrive_as_they_were_built() -> None:
    """Numbers that change on their way from one process to the other; and tensors that cannot be written to."""
    built = {
        "tokens": torch.arange(6).view(2, 3).T,
        "times": torch.rand(4),
        "valid": torch.tensor([True, False]),
        "none": torch.zeros(0, 2),
        "one": torch.tensor(7.0),
        "large": torch.rand(300, 1000),
    }
    (arrived,) = built_ahead([0], lambda _: built, builders=1)
    for name, tensor in built.items():
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(arrived[name], tensor)
        arrived[name].zero_()


def test_more_than_memory_has_room_for_arrives_as_well() -> None:
    """A batch cut off where shared memory ends; one written over that has not been read; an array between two that ends off a boundary."""
    context = multiprocessing.get_context("fork")
    passage = Passage(context, room=1000)
    things = [
        [torch.full((size,), number, dtype=torch.uint8) for number in range(3)] for size in (1, 100, 400, 5000, 300)
    ]

    def give() -> None:
        for thing in things:
            passage.send(written(thing))

    process = context.Process(target=give)
    process.start()
    passage.sender.close()
    arrived = [passage.receive() for _ in things]
    process.join()
    for thing, there in zip(things, arrived, strict=True):
        assert all(torch.equal(*pair) for pair in zip(thing, there, strict=True))


def test_another_process_builds_two_batches_ahead_and_leaves_randomness_alone() -> None:
    """A device that waits for every batch; a queue that fills memory with batches nobody uses yet; dropout that depends on who builds."""
    built: Synchronized[int] = multiprocessing.get_context("fork").Value("i", 0)

    def build(one: int) -> tuple[int, torch.Tensor]:
        built.value = one + 1
        return os.getpid(), torch.zeros(300000)

    before = torch.get_rng_state()
    batches = built_ahead(range(20), build, builders=1)
    assert next(batches)[0] != os.getpid()
    wait_until(lambda: built.value == 3)
    time.sleep(0.2)
    assert built.value == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert len(list(batches)) == 19


@pytest.mark.parametrize("how", ["killed", "at its end"])
def test_process_and_its_locks_end_with_whoever_began_it(tmp_path: Path, how: str) -> None:
    """A trial that was killed and whose successor waits for ever for its directory; or one that never leaves for a batch that nobody takes."""
    lock = tmp_path / "lock"
    done = subprocess.run([sys.executable, "-c", KILLED, str(lock), how], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGKILL if how == "killed" else 0), done.stderr
    builders = done.stdout.split()
    assert len(set(builders)) == 2
    for builder in builders:
        wait_until(lambda builder=builder: is_gone(int(builder)))  # type: ignore[misc]
    with lock.open("w") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_process_ends_with_an_epoch_that_is_left() -> None:
    """A process for each epoch that was left early."""
    batches = built_ahead(range(100), lambda _: (os.getpid(), torch.zeros(300000)), builders=2)
    builders = {next(batches)[0] for _ in range(2)}
    batches.close()
    assert len(builders) == 2
    assert all(map(is_gone, builders))


@pytest.mark.parametrize("builders", [0, 1, 3])
def test_error_of_a_batch_is_raised_where_its_turn_is(builders: int) -> None:
    """An error lost in a process: an epoch that ends early without a word; or one that has lost what to do."""

    def build(one: int) -> int:
        if one == 2:
            raise CapabilityError("a broken batch", expected="a whole one", remedy="mend it")
        return one

    batches = built_ahead(range(4), build, builders=builders)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(CapabilityError) as caught:
        next(batches)
    assert (caught.value.received, caught.value.remedy) == ("a broken batch", "mend it")


def test_what_cannot_be_sent_is_told() -> None:
    """Want of memory suspected where a batch holds something that does not go from process to process."""
    with pytest.raises(RuntimeError, match="requires grad"):
        list(built_ahead([0], lambda _: torch.zeros(1, requires_grad=True), builders=1))


def test_error_that_cannot_be_sent_says_what_it_said() -> None:
    """Want of memory suspected where a batch failed with an error of a class that only its process knows."""

    class LocalError(Exception):
        """No other process can make one."""

    def build(one: int) -> int:
        raise LocalError("a relation without a phrase")

    with pytest.raises(TrainingError, match="a relation without a phrase"):
        list(built_ahead([0], build, builders=1))


def test_builder_leaves_notices_to_the_process_that_trains_and_its_death_is_told() -> None:
    """A trial that fails because a process that nobody knows of was told to end; or that waits for ever for one that is dead."""
    batches = built_ahead(range(100), lambda _: (os.getpid(), torch.zeros(300000)), builders=2)
    builder, other = (next(batches)[0] for _ in range(2))
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(builder, number)
    assert [next(batches)[0] for _ in range(2)] == [builder, other]
    os.kill(builder, signal.SIGKILL)
    with pytest.raises(TrainingError, match="ended with exit code -9"):
        list(batches)
    assert is_gone(other)


def test_processor_builds_for_itself_and_a_gpu_has_several_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that share the processors of one; negatives of an earlier batch that another process has built."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    gpu = torch.device("cuda")
    assert usual_builders(torch.device("cpu"), 1, in_turn=False) == 0
    assert [usual_builders(gpu, 1, in_turn=in_turn) for in_turn in (False, True)] == [2, 1]
    assert [usual_builders(gpu, workers, in_turn=False) for workers in (2, 5, 6, 16)] == [2, 2, 1, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    assert usual_builders(gpu, 1, in_turn=False) == 1
