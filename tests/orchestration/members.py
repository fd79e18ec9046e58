"""What the members of a team do in tests of teams, importable in their processes."""

from __future__ import annotations

import os
import time

from raydistill.errors import OutOfMemoryError


def added(own: int) -> tuple[int, int]:
    """The sum of everybody's number, and how many there are."""
    import torch
    import torch.distributed as dist

    number = torch.tensor(own + dist.get_rank())
    dist.all_reduce(number)
    return int(number), dist.get_world_size()


def dies(mark: str) -> None:
    import torch.distributed as dist

    if dist.get_rank() == 1:
        with open(mark, "a") as file:
            file.write("died\n")
        os._exit(1)
    dist.barrier()


def refuses(mark: str) -> None:
    """The second member has an error of ours to tell, later than the first one notices that it is gone."""
    import torch.distributed as dist

    with open(mark, "a") as file:
        file.write("tried\n")
    if dist.get_rank() == 1:
        dist.destroy_process_group()
        time.sleep(1.0)
        raise OutOfMemoryError("the ranking did not fit")
    dist.barrier()
