"""Reads the JSON of ``POST /predict`` as values; the JSON may hold anything.

Label Studio sends every click, or every box, of one label since the last accept or reject, oldest
first, in percent of the upright image. It sends words alone. With each request comes the task as it
was last saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from backend.request.prompts import Mark
from model.errors import PromptError
from model.network.prompts import MAX_TEXT
from pipeline.errors import RequestError, UnknownRecordError
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.numbers import number, percent
from pipeline.record.tables.base import is_storable

MAX_MARKS = 1000
MAX_TASKS = 10_000
MAX_NAME = 255  # characters of an id or a label
_MARKS = ("keypointlabels", "rectanglelabels", "textarea")

Region = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gesture:
    """The marks of one request, in percent, oldest first, and their label."""

    marks: tuple[Mark, ...]
    label: str | None
    rotation: int  # degrees the annotator has turned the view by; coordinates do not change with it

    def on_image(self, height: int, width: int, *, config: LabelConfig) -> tuple[Mark, ...]:
        """The marks in pixels of an image; marks whose label no mask can carry form a group."""
        group = self.label if self.label not in config.labels else None
        return tuple(
            replace(mark.on_image(height, width), group=group or "") for mark in self.marks
        )


@dataclass(frozen=True, slots=True, eq=False)
class TaskView:
    """A task as the request shows it."""

    id: int
    data: Mapping[str, Any]
    kept: Mapping[str, Region]  # regions the annotator's page showed when it was last saved, by id
    drawn: Mapping[str, Region]  # those of them in this annotator's own drafts

    def url(self, field: str) -> str:
        """The image's address. Raises UnknownRecordError when the task has none in ``field``."""
        value = self.data.get(field)
        if not isinstance(value, str) or not value.strip() or not is_storable(value):
            raise UnknownRecordError(
                f"Task {self.id} has no image in its field {field!r}; import it with one, or "
                "correct the <Image> tag of the labelling config."
            )
        return value

    def with_draft(self, draft: Mapping[str, Any]) -> TaskView:
        """The view with a newer draft than the request's."""
        drawn = _by_id([draft])
        return replace(self, kept=drawn, drawn=drawn)


@dataclass(frozen=True, eq=False)
class Question:
    """One ``POST /predict``. ``gesture`` is None without a click: for a batch or an opened task."""

    project_id: int
    tasks: tuple[TaskView, ...]
    label_config: Any  # as it was sent
    asked: bool  # whether an annotator waits in the editor
    gesture: Gesture | None

    @cached_property
    def config(self) -> LabelConfig:
        """The project's labelling config. Raises LabelConfigError when it cannot be used."""
        return read_label_config(self.label_config)


def read_question(body: Any) -> Question:
    """The values in a request's JSON.

    Raises:
        RequestError: it names no valid project, or a task in it has no valid id.
        PromptError: a click, box or text in it cannot be understood.
    """
    if not isinstance(body, Mapping):
        raise RequestError("The request holds no JSON object; send what Label Studio sends.")
    listed = body.get("tasks")
    if not isinstance(listed, list) or len(listed) > MAX_TASKS:
        raise RequestError(f"The request lists no tasks; send 1 to {MAX_TASKS} of them.")
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


def _project(body: Mapping[str, Any], tasks: list[Any]) -> int:
    # Label Studio sends "<id>.<time when the project was made>".
    text = str(body.get("project") or "").partition(".")[0]
    if not text.isdecimal() and tasks:
        text = str(tasks[0].get("project", ""))
    if not text.isdecimal() or len(text) > 9:
        raise RequestError("The request names no project; send Label Studio's project id.")
    return int(text)


def _task(entry: Any) -> TaskView:
    task_id = entry.get("id") if isinstance(entry, Mapping) else None
    if not isinstance(task_id, int) or isinstance(task_id, bool) or not 0 < task_id < 2**31:
        raise RequestError("The request lists a task without an id; import it first.")
    data = entry.get("data")
    submitted, drafts = _dicts(entry.get("annotations")), _dicts(entry.get("drafts"))
    drawn = _by_id(drafts)
    if drafts:
        kept = drawn  # The page shows only these, and nothing of other annotations.
    elif submitted:
        kept = _by_id(submitted)  # The request does not say which of them is open.
    else:
        # Label Studio begins an annotation with a copy of the prediction it shows, and saves it as
        # a draft only when something was changed.
        kept = _by_id(_dicts(entry.get("predictions")))
    return TaskView(
        id=task_id,
        data=data if isinstance(data, Mapping) else {},
        kept=kept,
        drawn=drawn,
    )


def _by_id(sources: Iterable[Mapping[str, Any]]) -> dict[str, Region]:
    """Regions by their ids, without those whose id the log cannot hold.

    Where the label stays selected, Label Studio repeats an accepted region under the tag of the
    click. The entry that is not a click is the one that is drawn.
    """
    found: dict[str, Region] = {}
    for region in (region for source in sources for region in _dicts(source.get("result"))):
        name = region.get("id")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not is_storable(name):
            continue
        if name not in found or region.get("type") not in _MARKS:
            found[name] = region
    return found


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
        kind, value = entry.get("type"), entry.get("value")
        if kind not in _MARKS or not isinstance(value, Mapping):
            continue  # Shapes come with the draft.
        if kind == "textarea":
            marks.append(words_mark(_id(entry), entry))
        else:
            label = _label(value, kind) or label
            marks.append(_click(entry, value) if kind == "keypointlabels" else _box(entry, value))
        turned = entry.get("image_rotation")
        rotation = turned if isinstance(turned, int) else 0
    return Gesture(tuple(marks), label, rotation) if marks else None


def words_of(region: Region) -> str:
    """The words of a text box; if it has several texts, the words of the last one.

    Raises:
        PromptError: the text box holds no words.
    """
    value = region.get("value")
    text = value.get("text") if isinstance(value, Mapping) else None
    if isinstance(text, list):
        text = text[-1] if text else None
    if not isinstance(text, str) or not text.strip() or not is_storable(text):
        raise PromptError("The text box holds no words; type what the object is called.")
    # One character too many is kept, so that the model refuses a text that is too long.
    return " ".join(text.split())[: MAX_TEXT + 1]


def words_mark(name: str, region: Region) -> Mark:
    """The mark of a text box. Its id depends on the words, because edited words are a new mark."""
    words = words_of(region)
    digest = hashlib.blake2b(words.encode(), digest_size=6).hexdigest()
    return Mark(f"{name}/{digest}", "text", True, text=words)


def _click(entry: Region, value: Mapping[str, Any]) -> Mark:
    x, y = percent(value, "x"), percent(value, "y")
    return Mark(_id(entry), "click", entry.get("is_positive") is not False, x, y)


def _box(entry: Region, value: Mapping[str, Any]) -> Mark:
    x, y = percent(value, "x"), percent(value, "y")
    x2, y2 = x + percent(value, "width"), y + percent(value, "height")
    return Mark(_id(entry), "box", True, x, y, x2, y2, number(value.get("rotation") or 0))


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
