"""The fields of the mirrored dataset."""

from __future__ import annotations

from typing import Any

from pipeline.mirror.views import dress


def open_dataset(fiftyone: Any, name: str) -> Any:
    """The dataset ``name``; it is made with all its fields when it does not exist."""
    if fiftyone.dataset_exists(name):
        dataset = fiftyone.load_dataset(name)
    else:
        dataset = fiftyone.Dataset(name, persistent=True)
    dataset.persistent = True
    _declare(fiftyone, dataset)
    dress(fiftyone, dataset)
    return dataset


def _declare(fiftyone: Any, dataset: Any) -> None:
    """Make every field before the first sample, so that an empty dataset shows its sidebar too."""
    integer, number = fiftyone.IntField, fiftyone.FloatField
    text, flag = fiftyone.StringField, fiftyone.BooleanField
    sample_fields = {
        integer: ("ls_project_id", "ls_task_id", "round", "round_rank", "n_accepted", "n_clicks"),
        number: ("hardness", "score", "seconds", "first_iou", "last_iou"),
        text: ("status", "split", "reason", "ls_url", "sha256", "record"),
        fiftyone.VectorField: ("embedding",),
    }
    label_fields = {
        "accepted": {
            integer: ("clicks",),
            number: ("seconds", "first_iou", "last_iou"),
            text: ("ls_region_id", "annotator"),
        },
        "prediction": {
            integer: ("clicks",),
            text: ("ls_region_id", "model_version"),
            flag: ("became_accepted",),
        },
    }
    schema = dataset.get_field_schema(flat=True)
    if "prediction.detections.became_accepted" in schema:
        return  # the field that is declared last exists, so all exist
    for kind, names in sample_fields.items():
        for name in names:
            dataset.add_sample_field(name, kind)
    dataset.add_sample_field("annotators", fiftyone.ListField, subfield=text)
    for label, fields in label_fields.items():
        dataset.add_sample_field(
            label, fiftyone.EmbeddedDocumentField, embedded_doc_type=fiftyone.Detections
        )
        for kind, names in fields.items():
            for name in names:
                dataset.add_sample_field(f"{label}.detections.{name}", kind)
    dataset.create_index("sha256", unique=True)  # two mirror runs cannot add one image twice
    for name in ("status", "round", "hardness"):
        dataset.create_index(name)
