"""What the annotator is told in words. Label Studio's page shows no backend's errors, so the
labelling config has two places for them (``pipeline.labelstudio.template``): a read-only text that
each answer fills, and, where browsers reach the backend, a line that asks for itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from model.errors import MaskloopError
from pipeline.labelstudio.config import LabelConfig

LONGEST = 300  # characters of a notice
SAFE = "Your drawing is safe."
UNAVAILABLE = f"The model is unavailable. {SAFE}"
BROKEN = f"Something broke inside maskloop; its log says what. {SAFE}"
NOTHING_FOUND = "Nothing was found there; click on the object again, or draw a box around it."
NOT_SAVED = "Label Studio had not saved your drawing yet; click again to have it read."
NO_DRAWING = "There is no new drawing to read, so only the click counted."
FOREIGN = "This label only takes away from a mask; click the object with its own label first."
NOTHING_TO_TAKE = "There is no mask to take away from; click the object itself first."
SMOOTHED = "The mask was too ragged to be shown whole, so it was smoothed."


def notice_region(config: LabelConfig, text: str) -> list[dict[str, Any]]:
    """The result that puts a text into the page, or takes the last one away; none where the
    labelling config has no place for it. Label Studio shows it at once and never saves it."""
    if config.notice_tag is None:
        return []
    return [
        {
            "id": "notice",
            "type": "textarea",
            "from_name": config.notice_tag,
            "to_name": config.notice_on,
            "value": {"text": [text[:LONGEST]] if text else []},
        }
    ]


def sentence(error: Exception) -> str:
    """An error as an annotator can read it."""
    if isinstance(error, MaskloopError):
        return f"{error} {SAFE}"
    return UNAVAILABLE if isinstance(error, SQLAlchemyError) else BROKEN
