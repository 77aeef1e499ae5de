"""What Label Studio asks for: the JSON of ``POST /predict`` as values, hostile or not.

A *mark* is one click or box. Label Studio sends every mark of one tool and label since the last
accept or reject, oldest first, in percent of the upright image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from model.errors import PromptError
from model.prompts import Box, Click, Prompt
from pipeline.errors import UnknownRecordError
from pipeline.masks import Mask

Kind = Literal["click", "box"]
MAX_MARKS = 1000
MAX_TASKS = 10_000
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Mark:
    """One click, or one box from (x, y) to (x2, y2). In percent as it comes, then in pixels."""

    id: str
    kind: Kind
    positive: bool
    x: float
    y: float
    x2: float | None = None
    y2: float | None = None
    turn: float = 0.0  # degrees a box is turned clockwise about (x, y); only before ``on_image``

    def on_image(self, height: int, width: int) -> Mark:
        """The same mark in pixels of an image; a turned box becomes the upright one around it."""
        if self.x2 is None or self.y2 is None:
            return replace(self, x=_clip(self.x / 100 * width, width), y=_row(self.y, height))
        angle = math.radians(self.turn)
        left, top = self.x / 100 * width, self.y / 100 * height
        wide, high = (self.x2 - self.x) / 100 * width, (self.y2 - self.y) / 100 * height
        corners = [(0.0, 0.0), (wide, 0.0), (0.0, high), (wide, high)]
        xs = [left + a * math.cos(angle) - b * math.sin(angle) for a, b in corners]
        ys = [top + a * math.sin(angle) + b * math.cos(angle) for a, b in corners]
        return replace(
            self,
            x=_clip(min(xs), width),
            y=_clip(min(ys), height),
            x2=_clip(max(xs), width),
            y2=_clip(max(ys), height),
            turn=0.0,
        )

    def to_json(self, *, carried: bool = False) -> dict[str, Any]:
        """The entry of ``Interaction.prompts``; ``carried``: accepted before this session."""
        entry = {key: value for key, value in asdict(self).items() if value is not None}
        del entry["turn"]
        return entry | {"carried": True} if carried else entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Mark:
        """Back from an entry of ``Interaction.prompts``."""
        names = ("id", "kind", "positive", "x", "y", "x2", "y2")
        return cls(**{name: entry[name] for name in names if name in entry})


@dataclass(frozen=True, slots=True)
class Gesture:
    """The marks of one request, in percent, oldest first, and what they are labelled."""

    marks: tuple[Mark, ...]
    label: str | None
    rotation: int  # degrees the annotator has turned the view by; coordinates do not change with it


@dataclass(frozen=True, slots=True, eq=False)
class TaskView:
    """A task as the request shows it."""

    id: int
    data: Mapping[str, Any]
    kept: Mapping[str, Mapping[str, Any]]  # regions the annotator's page shows, by id

    def url(self, field: str) -> str:
        """Where the image is. Raises UnknownRecordError when the task names none."""
        value = self.data.get(field)
        if not isinstance(value, str) or not value.strip() or not is_storable(value):
            raise UnknownRecordError(
                f"Task {self.id} has no image in its field {field!r}; import it with one, or mend "
                "the <Image> tag of the labelling config."
            )
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One ``POST /predict``. ``gesture`` is None when nobody clicked: a batch, an opened task."""

    project_id: int
    tasks: tuple[TaskView, ...]
    label_config: Any
    asked: bool  # somebody waits in the editor
    gesture: Gesture | None


def read_question(body: Any) -> Question:
    """The values in a request's JSON.

    Raises:
        UnknownRecordError: it names no project or no task that could be one.
        PromptError: a click or box in it means nothing.
    """
    if not isinstance(body, Mapping):
        raise UnknownRecordError("The request holds no JSON object; send what Label Studio sends.")
    listed = body.get("tasks")
    if not isinstance(listed, list) or len(listed) > MAX_TASKS:
        raise UnknownRecordError(f"The request lists no tasks; send 1 to {MAX_TASKS} of them.")
    tasks = tuple(_task(entry) for entry in listed)
    parameters = body.get("params")
    context = parameters.get("context") if isinstance(parameters, Mapping) else None
    asked = isinstance(context, Mapping) and isinstance(context.get("result"), list)
    return Question(
        project_id=_project(body, listed),
        tasks=tasks,
        label_config=body.get("label_config"),
        asked=asked,
        gesture=_gesture(context["result"]) if asked and context is not None else None,
    )


def prompt_of(marks: Iterable[Mark], mask: Any = None) -> Prompt:
    """The network's prompt: marks in pixels of the image, and the previous probabilities."""
    clicks = [Click(m.y, m.x, m.positive) for m in marks if m.kind == "click"]
    boxes = [Box(m.y, m.x, m.y2 or 0.0, m.x2 or 0.0) for m in marks if m.kind == "box"]
    return Prompt(clicks=tuple(clicks), boxes=tuple(boxes), mask=mask)


def covers(mask: Mask, mark: Mark, height: int, width: int) -> bool:
    """Whether a mask, at any resolution of the image, covers a click, or the middle of a box."""
    x = mark.x if mark.x2 is None else (mark.x + mark.x2) / 2
    y = mark.y if mark.y2 is None else (mark.y + mark.y2) / 2
    rows, columns = mask.shape
    row = min(int(y / height * rows), rows - 1)
    column = min(int(x / width * columns), columns - 1)
    return bool(np.asarray(mask)[row, column])


def is_storable(text: str) -> bool:
    """Whether every database takes a text: JSON may hold half a character, or NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _project(body: Mapping[str, Any], tasks: list[Any]) -> int:
    # "<id>.<moment the project was made>"
    text = str(body.get("project") or "").partition(".")[0]
    if not text.isdecimal() and tasks:
        text = str(tasks[0].get("project", ""))
    if not text.isdecimal() or len(text) > 9:
        raise UnknownRecordError("The request names no project; send Label Studio's project id.")
    return int(text)


def _task(entry: Any) -> TaskView:
    number = entry.get("id") if isinstance(entry, Mapping) else None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**31:
        raise UnknownRecordError("The request lists a task without an id; import it first.")
    data = entry.get("data")
    kept: dict[str, Mapping[str, Any]] = {}
    sources = (*_dicts(entry.get("annotations")), *_dicts(entry.get("drafts")))
    # Label Studio begins an annotation with a copy of the prediction it shows, and saves it as a
    # draft only when something was changed.
    for source in sources or _dicts(entry.get("predictions")):
        for region in _dicts(source.get("result")):
            if isinstance(region.get("id"), str):
                kept[region["id"]] = region
    return TaskView(id=number, data=data if isinstance(data, Mapping) else {}, kept=kept)


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return (
        [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
    )


def _gesture(result: list[Any]) -> Gesture | None:
    if len(result) > MAX_MARKS:
        raise PromptError(f"A region has at most {MAX_MARKS} clicks and boxes; accept it first.")
    marks: list[Mark] = []
    label, rotation = None, 0
    for entry in _dicts(result):
        kind = str(entry.get("type", "")).removesuffix("labels")
        value = entry.get("value")
        if kind not in ("keypoint", "rectangle") or not isinstance(value, Mapping):
            continue  # text and shapes are no clicks
        marks.append(_click(entry, value) if kind == "keypoint" else _box(entry, value))
        label = _label(value, f"{kind}labels") or label
        turned = entry.get("image_rotation")
        rotation = turned if isinstance(turned, int) else 0
    return Gesture(tuple(marks), label, rotation) if marks else None


def _click(entry: Mapping[str, Any], value: Mapping[str, Any]) -> Mark:
    x, y = _percent(value, "x"), _percent(value, "y")
    return Mark(_id(entry), "click", entry.get("is_positive") is not False, x, y)


def _box(entry: Mapping[str, Any], value: Mapping[str, Any]) -> Mark:
    x, y = _percent(value, "x"), _percent(value, "y")
    x2, y2 = x + _percent(value, "width"), y + _percent(value, "height")
    return Mark(_id(entry), "box", True, x, y, x2, y2, _number(value.get("rotation") or 0))


def _id(entry: Mapping[str, Any]) -> str:
    name = entry.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not is_storable(name):
        raise PromptError("A click or box has no id; draw it again.")
    return name


def _label(value: Mapping[str, Any], kind: str) -> str | None:
    for key in (kind, "labels"):
        names = value.get(key)
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0][:MAX_NAME]
    return None


def _percent(value: Mapping[str, Any], name: str) -> float:
    return min(max(_number(value.get(name)), -1000.0), 1000.0)


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):  # JSON's whole numbers may be larger than any float
        number = math.nan
    if not math.isfinite(number):
        raise PromptError("A click or box has a coordinate that is no number; draw it again.")
    return number


def _row(percent: float, height: int) -> float:
    return _clip(percent / 100 * height, height)


def _clip(pixels: float, size: int) -> float:
    return min(max(pixels, 0.0), float(size))
