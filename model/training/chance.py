"""What PyTorch draws at random while it trains follows from the training's seed alone.

Dropout and new weights draw on PyTorch's global generators, which belong to the whole process. A
training seeds them for its own steps and gives the caller's state back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def step_seed(*numbers: int) -> int:
    """One seed, 0 to 2**63 - 1, from whole numbers of at least 0, such as a seed and a step."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of ``device`` for the block, then restore them."""
    device = torch.device(device)
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if is_cuda else []):
        # Not ``torch.manual_seed``: it would also seed the GPUs that were not saved.
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
