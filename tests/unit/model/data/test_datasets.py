"""Folders of images and masks, and the training crops drawn from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from model.data.crops import make_crop
from model.data.datasets import IGNORE, largest_instance, read_folder
from model.errors import DatasetError
from tests.shapes import write_folder


def test_a_folder_gives_its_items_by_split(tmp_path):
    write_folder(tmp_path, 3, splits=["train", "val", "train"])
    assert [item.name for item in read_folder(tmp_path, "train")] == ["shape0", "shape2"]
    item = read_folder(tmp_path)[0]
    assert item.load_image().shape[2] == 3 and item.load_mask().max() == 2
    with pytest.raises(DatasetError, match="split"):
        read_folder(tmp_path, "test")


def test_a_folder_without_a_valid_manifest_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="manifest"):
        read_folder(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"image": 3')
    with pytest.raises(DatasetError, match="line 1"):
        read_folder(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"image": "a.jpg"}')
    with pytest.raises(DatasetError, match="line 1"):
        read_folder(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("[1]")
    with pytest.raises(DatasetError, match="line 1"):
        read_folder(tmp_path)


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path):
    write_folder(tmp_path, 1)
    (item,) = read_folder(tmp_path)
    assert item.load()[0].shape[:2] == item.load()[1].shape
    Image.open(item.image).resize((50, 70)).save(item.image)
    with pytest.raises(DatasetError, match="size"):
        item.load()


def test_a_manifest_may_name_what_the_instances_are(tmp_path):
    lines: list[dict] = [
        {},
        {"categories": {"1": " big  cat", "2": "dog"}},
        {"category": "horse", "categories": {"7": "rider"}},
        {"categories": {}},
    ]
    entries = [{"image": "a.png", "mask": "b.png"} | line for line in lines]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(json.dumps(entry) for entry in entries))
    unnamed, each, all_alike, nothing = [item.categories for item in read_folder(tmp_path)]
    assert unnamed is None and nothing == {}
    assert each == {1: "big cat", 2: "dog"}
    assert all_alike[1] == all_alike[254] == "horse" and all_alike[7] == "rider"
    assert 255 not in all_alike and 0 not in all_alike
    for bad in (["cat"], {"0": "sky"}, {"255": "sky"}, {"x": "cat"}, {"1": 5}, {"1": " "},
                {"1": "a\0"}, {"1": "c" * 201}):  # fmt: skip
        manifest.write_text(json.dumps(entries[0] | {"categories": bad}))
        with pytest.raises(DatasetError, match=r"line 1.*mend the line\.$"):
            read_folder(tmp_path)


def test_damaged_pictures_and_masks_are_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    entries = [{"image": "a.jpg", "mask": "rgb.png"}, {"image": "absent.jpg", "mask": "absent.png"}]
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(entry) for entry in entries))
    for item in read_folder(tmp_path):
        for load in (item.load_image, item.load_mask):
            with pytest.raises(DatasetError, match=r"\.$"):
                load()


def test_the_largest_instance_leaves_out_background_and_ignored():
    mask = np.zeros((10, 10), np.uint8)
    mask[:6], mask[6:8, :5], mask[9, 0] = IGNORE, 3, 1
    assert largest_instance(mask).sum() == 10
    assert largest_instance(np.zeros((3, 3), np.uint8)) is None


def test_crops_move_image_and_targets_together(tmp_path):
    write_folder(tmp_path, 1)
    item = read_folder(tmp_path)[0]
    seen = 0
    for seed in range(30):
        crop = make_crop(item, 96, 3, np.random.default_rng(seed))
        if crop is None:
            continue
        seen += 1
        assert crop.image.shape == (96, 96, 3) and crop.targets.shape == (3, 96, 96)
        assert crop.targets.any((1, 2)).all()
        # Even after recolouring, the shapes are far brighter than the background.
        for target in crop.targets:
            assert crop.image[target].mean() > crop.image[~crop.targets.any(0)].mean()
    assert seen > 20


def test_a_seed_fixes_a_crop(tmp_path):
    write_folder(tmp_path, 1)
    item = read_folder(tmp_path)[0]
    first, second = (make_crop(item, 96, 2, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.targets, second.targets)
