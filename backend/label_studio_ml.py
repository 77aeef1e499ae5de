"""maskloop as a model of label-studio-ml, for those who host their models with that.

It answers from the same database as ``backend.http.app`` and by the same code. label-studio-ml
makes models all the time: 1.0.9 one at every /setup, and one more in a process of its own for every
webhook; 2.x one for every request. So a model holds nothing; what is costly, its process does.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from backend.click.answer import answer
from backend.http.errors import code_of
from backend.http.metrics import Metrics
from backend.http.webhook import keep_event, send_event
from backend.tasks.services import Services, open_services
from model.errors import MaskloopError
from pipeline.labelstudio.config import read_label_config
from pipeline.settings import load_settings

try:
    from flask import after_this_request, has_request_context, jsonify, request
    from label_studio_ml.model import LabelStudioMLBase
except ImportError as error:
    raise ImportError(
        f"label-studio-ml cannot be imported ({error}); install 'maskloop[label-studio-ml]', or "
        "run maskloop's own backend, which does not need it."
    ) from error

log = logging.getLogger(__name__)

UNEXPECTED = "Something broke inside maskloop; see the log of label-studio-ml and report it."

_opening = threading.Lock()
_services: Services | None = None


def shared_services() -> Services:
    """This process's services, opened when first asked for and closed when it ends.

    Raises:
        MaskloopError: a setting, the database, the store or the model cannot be used.
    """
    global _services
    with _opening:
        if _services is None:
            stack = ExitStack()
            _services = stack.enter_context(open_services(load_settings(), Metrics()))
            atexit.register(stack.close)
        return _services


class MaskloopModel(LabelStudioMLBase):  # type: ignore[misc]  # it carries no types
    """What label-studio-ml calls, be it 1.0.9 or 2.x; results are lists, which both take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with told():
            super().__init__(*args, **kwargs)  # in 2.x this calls ``setup``
            if not _is_2x(self) and has_request_context():  # else it is made for a webhook
                self.setup()

    def setup(self) -> None:
        """Find out early, at /setup, whether clicks can be answered."""
        read_label_config(self.label_config or "")
        version, _ = shared_services().serving.current()
        if _is_2x(self):
            self.set("model_version", version.name)

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[object]:
        """One prediction for each task; in the editor, with a ``context``, for the one shown."""
        results: list[object] = []
        with told():
            body = {
                "tasks": tasks,
                "project": getattr(self, "project_id", None),
                "label_config": self.label_config,
                "params": {"context": context},
            }
            _, results = answer(shared_services(), body | _sent())
        return results

    def fit(self, event: Any, data: Any = None, **kwargs: Any) -> None:
        """Keep a webhook. Workers train, when the settings say so, and no model by itself.

        It gives nothing: 1.0.9 would take what it gives for the news of another model version.
        """
        with told():
            body = {**data, "action": event} if isinstance(data, Mapping) else None
            services = shared_services()
            event_id = keep_event(services, body)
            if event_id is not None:
                send_event(services, event_id)

    def process_event(self, event: str, data: Any, job_id: Any, additional_params: Any) -> None:
        """As 1.0.9 hands on every webhook; its own would drop those that are not for training."""
        try:
            self.fit(event, data)
        except MaskloopError as error:  # in a process of its own, where nobody waits
            log.error("Webhook %s was not kept: %s", event, error)


@contextmanager
def told() -> Iterator[None]:
    """Answer a request with an error's sentence, as ``backend.http.app`` does, and log it.

    Left to itself, label-studio-ml would send Label Studio the traceback. What it makes of the
    request after the error is replaced. Where nobody waits for an answer, the error is raised.
    """
    try:
        yield
    except Exception as error:
        if not has_request_context():
            raise
        ours = isinstance(error, MaskloopError)
        code = code_of(error) if isinstance(error, MaskloopError) else 500
        sentence = str(error) if ours else UNEXPECTED
        # As an error: label-studio-ml's template logs nothing below it.
        log.error("%s answered %d: %s", request.path, code, sentence, exc_info=not ours)

        def replace(response: Any) -> Any:
            answered = jsonify({"error": sentence})
            answered.status_code = code
            return answered

        after_this_request(replace)


def _sent() -> dict[str, Any]:
    """Project and labelling config as the request says: 1.0.9 knows those of the last /setup."""
    body = request.get_json(silent=True) if has_request_context() else None
    if not isinstance(body, Mapping):
        return {}
    return {name: body[name] for name in ("project", "label_config") if name in body}


def _is_2x(model: Any) -> bool:
    return hasattr(model, "set")  # its cache, one for each project
