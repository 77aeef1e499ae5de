"""The JSON of Label Studio's API, as far as the loop reads or writes it.

Label Studio may leave out any key, so none is required. JSON from annotators' pages and webhooks
may hold anything, so it is read more carefully (``backend.request.question``).
"""

from __future__ import annotations

from typing import Any, TypedDict


class RegionJson(TypedDict, total=False):
    """One entry of a ``result``: a region, or an answer that is no region, such as a text."""

    id: str
    type: str  # "brushlabels", "polygonlabels", "keypointlabels", "textarea", ...
    from_name: str  # the control tag
    to_name: str  # the object tag
    original_width: int  # of the upright image in pixels
    original_height: int
    image_rotation: int  # degrees the annotator has turned the view by
    score: float  # in [0, 1]
    value: dict[str, Any]


class AnnotationJson(TypedDict, total=False):
    """What an annotator submitted or skipped."""

    id: int
    task: int
    project: int
    result: list[RegionJson]
    was_cancelled: bool
    lead_time: float | None  # seconds
    created_username: str
    updated_at: str  # ISO 8601


class DraftJson(TypedDict, total=False):
    """What an annotator has done and not submitted yet."""

    id: int
    task: int
    user: str
    result: list[RegionJson]


class PredictionJson(TypedDict, total=False):
    """What a model answered for a task."""

    id: int
    task: int
    model_version: str
    score: float
    result: list[RegionJson]


class TaskJson(TypedDict, total=False):
    """A task with its annotations and predictions."""

    id: int
    project: int
    data: dict[str, Any]
    annotations: list[AnnotationJson]
    predictions: list[PredictionJson]


class ProjectJson(TypedDict, total=False):
    """A project and its settings."""

    id: int
    title: str
    label_config: str
    model_version: str  # the one whose predictions annotators see
    show_collab_predictions: bool
    total_annotations_number: int  # submitted ones
    skipped_annotations_number: int


class BackendJson(TypedDict, total=False):
    """An ML backend of a project."""

    id: int
    url: str
    project: int
    title: str
    is_interactive: bool
    state: str  # "CO": connected, "DI": disconnected, "ER": error
    readable_state: str
    error_message: str | None
    auth_method: str
    basic_auth_user: str
    basic_auth_pass_is_set: bool


class WebhookJson(TypedDict, total=False):
    """A webhook of a project."""

    id: int
    url: str
    project: int
    headers: dict[str, str]
    actions: list[str]
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool


class ViewData(TypedDict, total=False):
    """What a tab of the data manager shows."""

    title: str
    type: str
    target: str
    filters: dict[str, Any]
    ordering: list[str]


class ViewJson(TypedDict, total=False):
    """A tab of the data manager."""

    id: int
    data: ViewData
