"""The exported files answer as the network does, for any number of prompts and size of image."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.checkpoints.files import default_checkpoint, load
from model.errors import ExportError, PromptError
from model.export.check import Files, compare, request
from model.export.decoder import PromptDecoder
from model.export.onnx_files import ImageEncoder, export
from model.network.config import SMALL, SegNextConfig
from model.network.prompts import Box, Click, Polygon, Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext
from tests.shapes import shape_picture

DOC = Path(__file__).resolve().parents[4] / "docs" / "export.md"
TINY = replace(SMALL, size=160, dim=32, depth=1, heads=2, fusion_depth=1, fusion_heads=2,
               neck=(8, 8, 8, 8), head=8, detail=8)  # fmt: skip
VIT = SegNextConfig(
    size=64, dim=24, depth=3, heads=3, pretrain_grid=2, fusion_heads=3, neck=(8, 8, 8, 8), head=8
)
CONFIGS = {
    "small": TINY,
    "sax2": VIT,
    "sax1": replace(VIT, fusion_depth=1, window_freq=2),
    "naive": replace(VIT, fusion="naive", fusion_depth=0, radius=3),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return export(load(default_checkpoint()), tmp_path_factory.mktemp("shipped"))


def made(config):
    torch.manual_seed(0)
    return SegNext(config).eval()


def prompts_of(n, image_size, seed=0):
    """``n`` prompts of every kind that the files take, on and off the image."""
    rng = np.random.default_rng(seed)
    previous = rng.random((20, 30), np.float32)

    def point():
        return tuple(rng.uniform(-0.1, 1.1, 2) * image_size)

    prompts = []
    for i in range(n):
        clicks = [Click(*point(), positive=bool(rng.integers(2))) for _ in range(rng.integers(4))]
        clicks.append(Click(image_size[0] / 2, image_size[1] / 3, positive=i % 5 > 0))
        prompts.append(
            Prompt(
                tuple(clicks),
                boxes=(Box(*point(), *point()),) if i % 3 == 1 else (),
                polygons=(Polygon((point(), point(), point())),) if i % 4 == 2 else (),
                mask=previous if i % 2 else None,
            )
        )
    return prompts


def check(model, files, image_size, prompts):
    shape = model.input_size(image_size)
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    embedding = replace(model.encode(picture), image_size=image_size)
    expected = model.decode_many(embedding, prompts)
    masks, logits = files.decode(files.encode(picture), prompts, image_size)
    assert masks.shape == (len(prompts), *image_size) and masks.dtype == bool
    np.testing.assert_allclose(logits, [each.logits for each in expected], atol=1e-3)
    for ours, mask in zip(expected, masks, strict=True):
        assert (ours.mask() ^ mask).sum() <= 0.001 * max(ours.mask().sum(), 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_any_number_of_prompts_on_images_of_any_shape(name, tmp_path):
    model = made(CONFIGS[name])
    exported = export(model, tmp_path)
    assert exported.agreement.holds
    files = Files(exported.encoder, exported.decoder)
    for image_size in ((100, 100), (61, 400), (1000, 330)):
        for n in (1, 2, 7):
            check(model, files, image_size, prompts_of(n, image_size, seed=n))
    check(model, files, (40, 300), prompts_of(256, (40, 300)))


def test_the_shipped_weights(shipped):
    model = load(default_checkpoint())
    files = Files(shipped.encoder, shipped.decoder)
    assert shipped.agreement.answers == 12 and shipped.agreement.mask_iou >= 0.999
    for seed, size in enumerate(((384, 384), (192, 384), (384, 352))):
        picture, mask = shape_picture(seed, size)
        embedding, maps = model.encode(picture), files.encode(picture)
        row, col = np.argwhere(mask == 1).mean(0)
        prompts = [Prompt((Click(row, col),)), Prompt((Click(row, col), Click(3, 3, False)))]
        expected = model.decode_many(embedding, prompts)
        masks, logits = files.decode(maps, prompts, size)
        np.testing.assert_allclose(logits, [each.logits for each in expected], atol=1e-3)
        for ours, given_mask in zip(expected, masks, strict=True):
            assert ours.mask().sum() > 100  # or the comparison says little
            assert (ours.mask() & given_mask).sum() / (ours.mask() | given_mask).sum() >= 0.999


def test_the_example_of_the_documentation_runs_without_torch(shipped, tmp_path):
    code = DOC.read_text().split("```python\n")[1].split("```")[0]
    for path in (shipped.encoder, shipped.decoder):
        (tmp_path / path.name).symlink_to(path)
    picture, truth = shape_picture(0, (480, 640))
    row, col = np.argwhere(truth == 1).mean(0).astype(int)
    code = code.replace("[320, 180]", f"[{col}, {row}]")
    Image.fromarray(picture).save(tmp_path / "photo.jpg", quality=95)
    code += "import sys; assert not {'torch', 'model'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    model = load(default_checkpoint())
    photo = np.asarray(Image.open(tmp_path / "photo.jpg"))
    ours = model.decode(model.encode(photo), Prompt((Click(row, col),))).mask()
    assert mask.shape == (480, 640)
    assert (mask & ours).sum() / (mask | ours).sum() > 0.98  # it resizes the image by other means


@cache
def decoder():
    return PromptDecoder(made(VIT))


sides = st.integers(1, 2000)
places = st.integers(-1000, 3000).map(lambda n: n / 4)


@settings(max_examples=150, deadline=None)
@given(
    image_size=st.tuples(sides, sides),
    clicks=st.lists(st.builds(Click, places, places, st.booleans()), max_size=4),
    box=st.none() | st.builds(Box, places, places, places, places),
)
def test_prompts_are_drawn_as_the_network_draws_them(image_size, clicks, box):
    if not clicks and box is None:
        return
    prompt = Prompt(tuple(clicks), (box,) if box else ())
    size = (48, 80)
    try:
        expected = prompt_map(prompt, image_size, size, radius=5)[1:]
    except PromptError:  # all of it lies outside the image
        expected = torch.zeros(2, *size)
    given_ = request([prompt], image_size, size)
    drawn = decoder().draw(
        torch.from_numpy(given_["point_coords"]),
        torch.from_numpy(given_["point_labels"]),
        size,
        torch.tensor(size),
        torch.from_numpy(given_["orig_im_size"]),
    )
    torch.testing.assert_close(drawn[0], expected, rtol=0, atol=0)


def test_the_files_say_what_they_are_and_nothing_of_the_machine(shipped):
    for path in (shipped.encoder, shipped.decoder):
        file = onnx.load(path)
        said = {each.key: each.value for each in file.metadata_props}
        assert said["format"] == "maskloop-onnx-1"
        assert SegNextConfig.from_json(said["config"]) == load(default_checkpoint()).config
        assert json.loads(said["input"]) == {"rule": "fit", "size": 384, "multiple": 32}
        assert "no text" in said["prompts"]
        data = path.read_bytes()
        assert str(Path(__file__).parents[4]).encode() not in data and b"site-packages" not in data
    # Each holds its own part of the weights, and there is no other file in the folder.
    n = sum(p.numel() for p in load(default_checkpoint()).parameters())
    sizes = [path.stat().st_size for path in (shipped.encoder, shipped.decoder)]
    assert 4 * n < sum(sizes) < 4.2 * n + 1e6
    assert {path.name for path in shipped.encoder.parent.iterdir()} == {
        "encoder.onnx",
        "decoder.onnx",
    }


@pytest.mark.parametrize("error", [0.1, np.nan])
def test_files_that_give_other_masks_are_not_kept(tmp_path, monkeypatch, error):
    (tmp_path / "encoder.onnx").write_bytes(b"of before")
    real = ImageEncoder.forward
    monkeypatch.setattr(
        ImageEncoder, "forward", lambda self, image: tuple(m + error for m in real(self, image))
    )
    with pytest.raises(ExportError, match=r"other masks than the network .*\.$"):
        export(made(VIT), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    assert (tmp_path / "encoder.onnx").read_bytes() == b"of before"


def test_a_full_disk_leaves_both_files_as_they_were(tmp_path, monkeypatch):
    for name in ("encoder.onnx", "decoder.onnx"):
        (tmp_path / name).write_bytes(b"of before")
    copied = []

    def fail_at_the_second(source, target):
        copied.append(source)
        target.write(source.read(1000))
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fail_at_the_second)
    with pytest.raises(ExportError, match=r"No space left on device.*\.$"):
        export(made(VIT), tmp_path)
    assert len(copied) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "encoder.onnx": b"of before",
        "decoder.onnx": b"of before",
    }


def test_a_text_branch_is_not_exported(tmp_path):
    model = made(replace(VIT, text_tower="small", text_dim=16, text_depth=1))
    exported = export(model, tmp_path)
    assert model.text_branch is not None
    plain = export(made(VIT), tmp_path / "plain")
    assert exported.decoder.stat().st_size < plain.decoder.stat().st_size + 1000
    assert compare(model, exported.encoder, exported.decoder).holds


def test_without_the_onnx_packages_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx and onnxruntime; install .*maskloop\[export\]"):
        export(made(VIT), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"file cannot be written .*\.$"):
        export(made(VIT), tmp_path / "file")
