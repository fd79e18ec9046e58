"""What Ray Train does with the workers of a trial before and after they train, told without importing torch where it is told.

The process of a trial trains nothing, and to import torch takes seconds of a core, at the moment when the workers need them.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework

from raydistill.orchestration.halting import take_sigterm_as_notice

logger = logging.getLogger(__name__)
LEAVE_SECONDS = 30.0
"""How long workers may take to end what they have in common, as Ray has it."""


class NoticingBackend(Backend):
    """Workers that exchange tensors through torch, take SIGTERM as a notice, and listen to nobody but each other.

    Training runs in a thread of a worker, and only its main thread may ask for signals. What Ray's own does beside is done here, too (`_TorchBackend`, 2.60).
    """

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called before training starts."""
        size = len(worker_group)
        worker_group.execute(_tell_torch)
        if size > 1:
            meeting = worker_group.execute_single(0, _open_meeting)
            asked = (size, backend_config.backend, backend_config.timeout_s)
            ray.get([worker_group.execute_single_async(rank, _join, meeting, rank, *asked) for rank in range(size)])
        worker_group.execute(take_sigterm_as_notice)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Called when training has ended."""
        left = worker_group.execute_async(_leave, len(worker_group) > 1)
        try:
            ray.get(left, timeout=LEAVE_SECONDS)
        except GetTimeoutError:
            logger.warning("workers did not leave each other within %g s, and are ended", LEAVE_SECONDS)


# What follows runs in the workers.


def _tell_torch() -> None:
    from ray.train.torch.config import _set_torch_distributed_env_vars

    _set_torch_distributed_env_vars()  # type: ignore[no-untyped-call]


def _open_meeting() -> tuple[Any, ...]:
    from raydistill.orchestration.meeting import open_meeting

    # As a plain tuple: to unpickle another one, the trial's process would import what it is of, and torch with it.
    return tuple(open_meeting(ray.util.get_node_ip_address()))  # type: ignore[no-untyped-call]


def _join(meeting: tuple[Any, ...], rank: int, size: int, group: str, seconds: float) -> None:
    from raydistill.orchestration.meeting import Meeting, join

    join(Meeting(*meeting), rank, size, group, seconds, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _leave(shared: bool) -> None:
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=shared)  # type: ignore[no-untyped-call]


@dataclass
class NoticingConfig(BackendConfig):
    """What makes Ray take it.

    Attributes:
        backend: "gloo" or "nccl".
        timeout_s: seconds each worker may wait for the others to come.
    """

    backend: str
    timeout_s: float = 1800

    @property
    def backend_cls(self) -> type[NoticingBackend]:
        """The back end."""
        return NoticingBackend

    @property
    def framework(self) -> TrainingFramework:
        """Whose workers they are."""
        return TrainingFramework.TORCH

    def to_dict(self) -> dict[str, Any]:
        """For Ray's own books."""
        return asdict(self)
