"""Our network against a second, plain network, for shapes without a fixture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.checkpoints.files import load, save
from model.export.parity import differences, tolerance
from tests.parity import plain
from tests.parity.plain import Click, Plain, Shape
from tests.parity.test_parity import FIXTURES, NAMES, needs_fixtures

DEEP = {"fusion": "self_attention", "fusion_depth": 2}
SHAPES = {
    "every block global, frequency missing": Shape(),
    "frequency 0": Shape(freq=0, dim=16, heads=4, depth=3),
    "frequency 1": Shape(freq=1, heads=1, **DEEP),
    "frequency 2 in windows": Shape(size=448, freq=2, depth=5, dim=12, heads=2, **DEEP),
    "frequency 3, the last block global": Shape(size=448, freq=3, depth=4, dim=12, heads=2),
    "three windows a side": Shape(size=672, freq=4, depth=2, dim=8, heads=2),
    "windows of more than 14": Shape(size=512, freq=5, depth=3, dim=12, heads=3),
    "a grid that windows would not tile": Shape(size=464, depth=1, freq=3, dim=12),
    "an odd small grid": Shape(size=48, dim=10, heads=5),
    "a size that patches do not tile": Shape(size=232, freq=2, depth=3),
    "no block": Shape(depth=0, **DEEP),
    "self attention of no depth": Shape(fusion="self_attention"),
    "attention without biases": Shape(backbone_bias=False, fusion_bias=False, **DEEP),
    "another mean, std, radius, ratio": Shape(
        mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.3), radius=2, mlp_ratio=2.7
    ),
    "a size alone": Shape(extra={"backbone_params": {"img_size": 224}}),
    "settings of training": Shape(
        extra={
            "backbone_params": {"pos_drop_rate": 0.1, "norm_layer": None},
            "fusion_params": {"depth": 2, "params": {}},  # naive looks at neither
            "head_params": {"dropout_ratio": 0, "align_corners": False},
        }
    ),
}


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pictures(shape: Shape) -> dict[str, tuple[npt.NDArray[np.uint8], list[Click]]]:
    """Pictures taller, wider, larger and smaller than the input, with clicks in corners or none."""
    large = shape.size + 30
    return {
        "30x51": (picture(30, 51), [(1, 12, 20), (0, 29, 50), (1, 0, 0)]),
        f"{large}x24": (picture(large, 24), [(0, 5, 5), (1, large - 1, 3)]),
        "7x5": (picture(7, 5), []),
    }


@pytest.mark.parametrize("name", SHAPES)
def test_any_shape_of_the_format_gives_the_plain_networks_numbers(name, tmp_path):
    shape = SHAPES[name]
    torch.save(plain.checkpoint(shape), tmp_path / "a.pth")
    arrays = plain.fixture(shape, 0, pictures(shape))
    np.savez(tmp_path / "a.npz", **arrays)
    found = differences(load(tmp_path / "a.pth"), tmp_path / "a.npz")
    assert len(found) == 3 + 3 + 2
    assert all(value <= tolerance(key) for key, value in found.items()), found
    # Each click changes the answer by more than the tolerance, so a wrong click would be seen.
    steps = [arrays[f"30x51/prob_after_{k}_clicks"] for k in (1, 2, 3)]
    assert min(np.abs(a - b).max() for a, b in zip(steps, steps[1:], strict=False)) > 1e-3


def test_a_click_between_two_pixels_of_the_map_is_rounded_as_in_the_reference(tmp_path):
    shape = Shape(size=448, depth=1, dim=8, heads=1)
    torch.save(plain.checkpoint(shape), tmp_path / "a.pth")
    clicks = [(1, 27, 9), (0, 51, 3)]  # 27 * 448 / 384 is 31.5, and a little less in float32
    np.savez(tmp_path / "a.npz", **plain.fixture(shape, 0, {"384x20": (picture(384, 20), clicks)}))
    found = differences(load(tmp_path / "a.pth"), tmp_path / "a.npz")
    assert all(value <= tolerance(key) for key, value in found.items()), found


def test_a_released_file_saved_in_our_format_gives_the_same_answers(tmp_path):
    shape = Shape(size=448, freq=2, depth=3, dim=12, **DEEP)
    torch.save(plain.checkpoint(shape), tmp_path / "a.pth")
    np.savez(tmp_path / "a.npz", **plain.fixture(shape, 0, pictures(shape)))
    released = load(tmp_path / "a.pth")
    save(released, tmp_path / "a.safetensors", exact=True)
    ours = load(tmp_path / "a.safetensors")
    assert ours.encoder_fingerprint == released.encoder_fingerprint
    found = differences(ours, tmp_path / "a.npz")
    assert all(value <= tolerance(key) for key, value in found.items()), found


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_the_plain_network_is_the_reference(name):
    """Without this, our network and the plain one could share the same error."""
    raw = torch.load(FIXTURES / f"{name}.pth", weights_only=True)
    values = {key: entry["value"] for key, entry in raw["config"]["params"].items()}
    backbone, fusion = values["backbone_params"], values["fusion_params"]
    shape = Shape(
        size=backbone["img_size"][0],
        dim=backbone["embed_dim"],
        depth=backbone["depth"],
        heads=backbone["num_heads"],
        freq=backbone["global_atten_freq"],
        fusion_depth=fusion["depth"],
        fusion_heads=fusion["params"]["num_heads"],
        neck=tuple(values["neck_params"]["out_dims"]),
    )
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        size = next(key.split("/")[0] for key in arrays.files if key.endswith("/image"))
        clicks = arrays[f"{size}/clicks_positive_row_col"].tolist()
        found = Plain(shape, raw["state_dict"]).answers(arrays[f"{size}/image"], clicks)
        for key, array in found.items():
            np.testing.assert_allclose(array, arrays[f"{size}/{key}"], atol=tolerance(key))
