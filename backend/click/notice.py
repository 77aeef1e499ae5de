"""Messages to the annotator.

Label Studio's page never shows a backend's errors. So the labelling config has two places for
messages (``pipeline.labelstudio.template``): a read-only text that each answer fills, and, where
browsers can reach the backend, a line that fetches its text (``backend.process.page_notice``).
"""

from __future__ import annotations

from sqlalchemy.exc import SQLAlchemyError

from backend.process.page_notice import UNAVAILABLE
from model.errors import MaskloopError
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.types import RegionJson

LONGEST = 300  # characters of a notice
SAFE = "Your drawing is safe."
BROKEN = f"Something broke inside maskloop; its log says what. {SAFE}"
NOTHING_FOUND = "Nothing was found there; click on the object again, or draw a box around it."
NOT_SAVED = "Label Studio had not saved your drawing yet; click again to have it read."
NO_DRAWING = "There is no new drawing to read, so only the click counted."
FOREIGN = "This label only takes away from a mask; click the object with its own label first."
NOTHING_TO_TAKE = "There is no mask to take away from; click the object itself first."
NOT_LOGGED = (
    "The mask is right, but the click could not be written to the log, because the database or its "
    "disc does not take it; tell whoever runs maskloop."
)
SMOOTHED = "The mask was too ragged to be shown whole, so it was smoothed."


def notice_region(config: LabelConfig, text: str) -> list[RegionJson]:
    """The result that shows a text in the page; an empty text removes the last one.

    The list is empty if the labelling config has no place for notices. Label Studio shows a notice
    at once and never saves it.
    """
    if config.notice_tag is None:
        return []
    return [
        {
            "id": "notice",
            "type": "textarea",
            "from_name": config.notice_tag,
            "to_name": config.notice_on or "",
            "value": {"text": [text[:LONGEST]] if text else []},
        }
    ]


def sentence(error: Exception) -> str:
    """The sentence that tells an annotator about an error."""
    if isinstance(error, MaskloopError):
        return f"{error} {SAFE}"
    return UNAVAILABLE if isinstance(error, SQLAlchemyError) else BROKEN
