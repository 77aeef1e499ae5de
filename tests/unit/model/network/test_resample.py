from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.network.resample import bilinear


@pytest.mark.parametrize("old", [(1, 1), (2, 7), (37, 53), (640, 480), (31, 900)])
@pytest.mark.parametrize("new", [(1, 1), (64, 64), (96, 33)])
def test_it_samples_as_pytorch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, new, mode="bilinear", align_corners=False)[0]
    ours = bilinear(image, new)
    assert ours.dtype == np.float32 and ours.shape == (*new, 3)
    np.testing.assert_allclose(ours, expected.permute(1, 2, 0).numpy(), atol=2e-2)
