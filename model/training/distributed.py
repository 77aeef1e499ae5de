"""One training run over several processes, as torchrun starts them.

A process that runs alone is a team of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

# The others wait while the leading process measures; the usual ten minutes are not enough.
LONGEST_WAIT = timedelta(hours=3)


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together.

    Attributes:
        rank: its number, from 0.
        size: how many processes there are.
        device: the torch device that it computes on.
    """

    rank: int
    size: int
    device: str

    @property
    def leads(self) -> bool:
        """Whether this process writes, reports and measures for all of them."""
        return self.rank == 0

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the mean of all processes' gradients, in place."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))


@contextmanager
def join_team(device: str) -> Iterator[Team]:
    """Join the other processes that torchrun started; a team of one where it started none.

    Args:
        device: "cpu" or "cuda"; each process takes the GPU of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(0, 1, device)
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Team(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
