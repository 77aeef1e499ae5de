"""A recipe is read completely, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

import model
from model.errors import CheckpointError, RecipeError
from model.network.config import SMALL
from model.training.recipe import read_recipe

RECIPES = sorted((Path(model.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_recipes_that_ship_can_be_read(path):
    recipe = read_recipe(path)
    assert recipe.data[0].folder == path.parent / "data/train"
    assert (recipe.config == SMALL) == (path.name == "default.yaml")


def test_both_recipes_ship():
    assert [path.name for path in RECIPES] == ["default.yaml", "larger.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2",
        "just words",
        "steps: 5",
        "data: []",
        "data: [{folder: a}]\nstepps: 5",
        "data: [{folder: a, shares: 2}]",
        "data: [{folder: a, share: 0}]",
        "data: [{folder: a}]\nsteps: many",
        "data: [{folder: a}]\nsteps: 0",
        "data: [{folder: a}]\ncrop: 100",
        "data: [{folder: a}]\nema: 1",
        "data: [{folder: a}]\nlearning_rate: .nan",
        "data: [{folder: a}]\nworkers: -1",
        "data: [{folder: a, limit: 0}]",
        "data: [{folder: a}]\nvalidation: {folder: a, limit: -1}",
        "data: [{folder: a}]\nseed: -1",
        "data: [{folder: a}]\nweight_decay: -0.1",
        "data: [{folder: a}]\nshape: {encoder: vit}",
        "data: [{folder: a}]\nkinds: {klick: 1}",
        "data: [{folder: a}]\nkinds: {click: -1, box: 2}",
        "data: [{folder: a}]\nkinds: {click: 0}",
        "data: [{folder: a}]\nkinds: {click: .inf}",
        "data: [{folder: a}]\nkinds: {}",
        "data: !!python/object/apply:os.system [true]",
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused_in_a_sentence(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"\.$"):
        read_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "shape",
    [
        "{sise: 5}",
        "{size: 100}",
        "{dim: [1]}",
        "{heads: 3}",
        "{dim: 390, heads: 6, fusion_heads: 6}",
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(shape, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"data: [{{folder: a}}]\nshape: {shape}")
    with pytest.raises(CheckpointError, match=r"\.$"):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="absent.yaml"):
        read_recipe(tmp_path / "absent.yaml")
