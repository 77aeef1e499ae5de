"""How the data team meets the mirror in FiftyOne: colours, what is ticked, views, likeness."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

ACCEPTED_COLOUR = "#2ec27e"
PREDICTION_COLOUR = "#ff7800"
SHOWN = ["accepted", "prediction", "status", "round"]
# The sidebar, from what is asked most to what is only kept; True: open at first.
GROUPS: list[tuple[str, list[str], bool]] = [
    ("masks", ["accepted", "prediction"], True),
    ("loop", ["status", "round", "round_rank", "reason", "split"], True),
    ("difficulty", ["hardness", "n_clicks", "seconds", "first_iou", "last_iou", "score"], True),
    ("tags", [], True),
    ("people", ["annotators", "n_accepted"], False),
    ("origin", ["ls_url", "ls_project_id", "ls_task_id", "filepath", "sha256", "record"], False),
]
SMALLEST_MAP = 5  # samples from which a map of them says something
MAP_KEY, SIMILARITY_KEY = "map", "similarity"
WEAK_FIRST_ANSWER = 0.7  # IoU of the first suggestion with what was accepted


def dress(fiftyone: Any, dataset: Any) -> None:
    """Show masks at once, accepted ones and predictions in colours of their own.

    What somebody chose in the App stays: this is done when nothing is set.
    """
    if dataset.app_config.color_scheme is not None:
        return
    dataset.app_config.color_scheme = fiftyone.ColorScheme(
        color_by="field",
        opacity=0.6,
        fields=[
            {"path": "accepted", "fieldColor": ACCEPTED_COLOUR},
            {"path": "prediction", "fieldColor": PREDICTION_COLOUR},
        ],
    )
    dataset.app_config.active_fields = fiftyone.ActiveFields(paths=SHOWN)
    dataset.app_config.sidebar_groups = [
        fiftyone.SidebarGroupDocument(name=name, paths=paths, expanded=expanded)
        for name, paths, expanded in GROUPS
    ]
    dataset.save()


def save_views(fiftyone: Any, dataset: Any, rounds: Sequence[tuple[int, int]]) -> None:
    """Save our views, over their older selves; ``rounds`` are the newest (project, number)."""
    field = fiftyone.ViewField
    none = field("ls_project_id") < 0
    newest = none
    for project, number in rounds:
        newest |= (field("ls_project_id") == project) & (field("round") == number)
    accepted = field("n_accepted") > 0
    views = {
        "next_round": (
            "What Label Studio hands out now, in that order",
            dataset.match(newest & (field("status") == "queued")).sort_by("round_rank"),
        ),
        "hardest_unlabelled": (
            "Not in a round yet, hardest first",
            dataset.match((field("status") == "pool") & (field("hardness") >= 0)).sort_by(
                "hardness", reverse=True
            ),
        ),
        "accepted": ("Images with accepted masks", dataset.match(accepted)),
        "model_struggled": (
            "Accepted, but the model's first answer was far off; worst first",
            dataset.match(accepted & (field("first_iou") < WEAK_FIRST_ANSWER)).sort_by("first_iou"),
        ),
        "holdout": (
            "Never trained on: what the gate judges by",
            dataset.match(field("split") == "holdout"),
        ),
    }
    for name, (description, view) in views.items():
        dataset.save_view(name, view, description=description, overwrite=True)


def compute_likeness(dataset: Any) -> bool:
    """A map of the images (PCA) and search by likeness, from the vectors that encoding left.

    Nothing is downloaded. Returns whether there was something to compute: not when there are too
    few vectors, and not when they are the ones of the last time.
    """
    encoded = dataset.exists("embedding")
    vectors = encoded.values("embedding")
    if len(vectors) < SMALLEST_MAP:
        _forget(dataset)
        return False
    state = hashlib.sha256(b"".join(vector.tobytes() for vector in vectors))
    state.update("".join(encoded.values("id")).encode())
    digest = state.hexdigest()
    runs = set(dataset.list_brain_runs())
    if dataset.info.get("likeness") == digest and {MAP_KEY, SIMILARITY_KEY} <= runs:
        return False
    _forget(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries FiftyOne's brain stands on
        from fiftyone import brain

        try:
            brain.compute_visualization(
                encoded, embeddings="embedding", method="pca", brain_key=MAP_KEY, seed=0
            )
            brain.compute_similarity(
                encoded, embeddings="embedding", backend="sklearn", brain_key=SIMILARITY_KEY
            )
        except Exception as error:  # FiftyOne leaves a broken run behind, whatever was raised
            _forget(dataset)
            log.warning("FiftyOne shows no map of the images: %s", error)
            return False
    dataset.info["likeness"] = digest
    dataset.save()
    return True


def _forget(dataset: Any) -> None:
    for key in {MAP_KEY, SIMILARITY_KEY} & set(dataset.list_brain_runs()):
        dataset.delete_brain_run(key)
