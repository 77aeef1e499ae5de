"""A training's seed decides everything that it draws; the caller's random state is untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.datasets import read_folder
from model.network.config import SMALL
from model.network.segnext import SegNext
from model.training.chance import seeded, step_seed
from model.training.finetune import FineTuneConfig, Sample, finetune
from model.training.named_pictures import FolderPicture, encode_pictures
from model.training.recipe import DataSource, Recipe
from model.training.text_training import TextTrainConfig, train_text
from model.training.train import train
from tests.shapes import shape_picture, write_folder, write_named_folder

# Dropout of a half: what PyTorch draws shows in the weights.
SHAPE = {"size": 64, "dim": 16, "depth": 0, "heads": 2, "fusion_depth": 1, "fusion_heads": 2,
         "neck": (8, 8, 8, 8), "head": 8, "dropout": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> SegNext:
    with seeded(0):
        return SegNext(replace(SMALL, **SHAPE)).eval()


@pytest.fixture(scope="module")
def samples(base: SegNext) -> list[Sample]:
    image, indices = shape_picture(0, (64, 64))
    return [(base.encode(image), indices == index) for index in (1, 2)]


@pytest.fixture(scope="module")
def pictures(base: SegNext, tmp_path_factory: pytest.TempPathFactory) -> list[FolderPicture]:
    folder = tmp_path_factory.mktemp("named")
    write_named_folder(folder, range(3), size=64)
    return encode_pictures(base, read_folder(folder), folder / "embeddings")


@pytest.fixture(autouse=True)
def caller() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def equal(first: SegNext, second: SegNext) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def check(run: Callable[[int], SegNext]) -> None:
    """``run`` trains with a seed: one seed gives one network, whatever the caller drew before."""
    torch.manual_seed(1)
    before, global_numpy = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = run(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == global_numpy
    torch.manual_seed(2)
    assert equal(first, run(3))
    assert not equal(first, run(4))


def test_a_fine_tune_follows_from_its_seed(base, samples) -> None:
    config = FineTuneConfig(steps=3, batch=2, learning_rate=1e-2, ema=0.5)
    check(lambda seed: finetune(base, samples, replace(config, seed=seed)))


def test_dropout_is_drawn_from_the_seed_too(base, samples) -> None:
    """Without dropout the same fine-tune ends elsewhere, so the test above covers dropout."""
    config = FineTuneConfig(steps=3, batch=2, learning_rate=1e-2, ema=0.5)
    still = SegNext(replace(base.config, dropout=0.0)).eval()
    still.load_state_dict(base.state_dict())
    assert not equal(finetune(base, samples, config), finetune(still, samples, config))


def test_a_run_by_a_recipe_follows_from_its_seed(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    recipe = Recipe(data=[DataSource(tmp_path / "data")], shape=SHAPE, steps=2, images=1,
                    targets=2, crop=64, warmup=1, bf16=False, workers=0, ema=0.5)  # fmt: skip
    runs = iter(range(3))
    check(lambda seed: train(replace(recipe, seed=seed), tmp_path / f"run{next(runs)}"))


def test_a_resumed_run_drops_out_what_an_unbroken_one_does(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 2)
    recipe = Recipe(data=[DataSource(tmp_path / "data")], shape=SHAPE, steps=4, images=1,
                    targets=2, crop=64, warmup=1, bf16=False, workers=0, save_every=2)  # fmt: skip
    unbroken = train(recipe, tmp_path / "unbroken")

    def die(done: int, total: int | None) -> None:
        if done == 3:  # one step after the state was saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", progress=die)
    assert equal(train(recipe, tmp_path / "killed"), unbroken)


def test_a_text_branch_follows_from_its_seed(base, pictures, tmp_path: Path) -> None:
    config = TextTrainConfig(depth=1, steps=2, batch=2, decoder=0.5, ema=0.5)
    runs = iter(range(3))

    def run(seed: int) -> SegNext:
        state = tmp_path / f"state{next(runs)}.pt"
        return train_text(base, pictures, replace(config, seed=seed), state)

    check(run)


def test_step_seeds_differ_by_every_number_and_by_their_order() -> None:
    numbers = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 2, 0), (1, 1, 0), (10**9, 10**9, 3)]
    seeds = [step_seed(*each) for each in numbers]
    assert len(set(seeds)) == len(numbers)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_error_inside_gives_the_state_back() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="inside"), seeded(5):
        torch.rand(3)
        raise ValueError("inside")
    assert torch.equal(torch.get_rng_state(), before)
