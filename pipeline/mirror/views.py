"""How FiftyOne shows the mirror: colours, the sidebar, saved views, and search by similarity."""

from __future__ import annotations

import hashlib
import logging
import warnings
from typing import Any

log = logging.getLogger(__name__)

ACCEPTED_COLOUR = "#2ec27e"
PREDICTION_COLOUR = "#ff7800"
SHOWN = ["accepted", "prediction", "status", "round"]
# The groups of the sidebar, the most useful fields first; True: the group is open at first.
GROUPS: list[tuple[str, list[str], bool]] = [
    ("masks", ["accepted", "prediction"], True),
    ("loop", ["status", "round", "round_rank", "reason", "split"], True),
    ("difficulty", ["hardness", "n_clicks", "seconds", "first_iou", "last_iou", "score"], True),
    ("tags", [], True),
    ("people", ["annotators", "n_accepted"], False),
    ("origin", ["ls_url", "ls_project_id", "ls_task_id", "filepath", "sha256", "record"], False),
]
SMALLEST_MAP = 5  # the smallest number of samples for which a map is useful
MAP_KEY, SIMILARITY_KEY = "map", "similarity"
WEAK_FIRST_ANSWER = 0.7  # IoU of the first suggestion with the accepted mask


def dress(fiftyone: Any, dataset: Any) -> None:
    """Show masks from the start, accepted masks and predictions in different colours.

    This is done only when nothing is set, so the choices that people made in the App stay.
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


def save_views(fiftyone: Any, dataset: Any) -> None:
    """Save our views where they are missing or were changed.

    A view that is as it should be is left alone. To overwrite one, FiftyOne deletes it and adds it
    at the end of the list, and an App that opens a view by its link at that moment shows another.
    """
    field = fiftyone.ViewField
    accepted = field("n_accepted") > 0
    views = {
        "next_round": (
            "What Label Studio hands out now, in that order",
            # Only tasks of a project's newest round are queued.
            dataset.match(field("status") == "queued").sort_by("round_rank"),
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
    saved = set(dataset.list_saved_views())
    for name, (description, view) in views.items():
        if name not in saved or dataset.load_saved_view(name) != view:
            dataset.save_view(name, view, description=description, overwrite=True)
        elif dataset.get_saved_view_info(name)["description"] != description:
            dataset.update_saved_view_info(name, {"description": description})


def compute_likeness(dataset: Any) -> bool:
    """Compute a map of the images (PCA) and search by similarity, from the stored vectors.

    Nothing is downloaded.

    Returns:
        Whether anything was computed. Nothing is computed when there are too few vectors, or when
        they have not changed since the last time.
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
        warnings.simplefilter("ignore")  # they come from libraries of FiftyOne's brain
        from fiftyone import brain

        try:
            brain.compute_visualization(
                encoded, embeddings="embedding", method="pca", brain_key=MAP_KEY, seed=0
            )
            brain.compute_similarity(
                encoded, embeddings="embedding", backend="sklearn", brain_key=SIMILARITY_KEY
            )
        except Exception as error:  # after any error, FiftyOne leaves a broken run
            _forget(dataset)
            log.warning("FiftyOne shows no map of the images: %s", error)
            return False
    dataset.info["likeness"] = digest
    dataset.save()
    return True


def _forget(dataset: Any) -> None:
    for key in {MAP_KEY, SIMILARITY_KEY} & set(dataset.list_brain_runs()):
        dataset.delete_brain_run(key)
