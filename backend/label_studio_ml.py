"""maskloop as a model of label-studio-ml, for people who host their models with it.

It uses the same database and the same code as ``backend.http.app``. label-studio-ml creates models
often: 1.0.9 creates one at every /setup, and one more in a separate process for every webhook; 2.x
creates one for every request. So a model holds nothing, and its process holds what is costly.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from backend.answer import answer
from backend.http.errors import code_of
from backend.http.webhook import keep_event
from backend.process.metrics import Metrics
from backend.process.services import Services, open_services
from model.errors import MaskloopError
from pipeline.errors import ServiceError
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
    """This process's services, opened when first needed and closed when the process ends.

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


class MaskloopModel(LabelStudioMLBase):  # type: ignore[misc]  # The package has no types.
    """The model that label-studio-ml calls. Results are lists, which 1.0.9 and 2.x both take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with errors_answered():
            super().__init__(*args, **kwargs)  # In 2.x this calls ``setup``.
            # Without a request, 1.0.9 creates the model for a webhook.
            if not _is_2x(self) and has_request_context():
                self.setup()

    def setup(self) -> None:
        """Find out early, at /setup, whether clicks can be answered."""
        read_label_config(self.label_config or "")
        version, _ = shared_services().runtime.serving.current()
        if _is_2x(self):
            self.set("model_version", version.name)

    def predict(
        self, tasks: list[dict[str, Any]], context: Any = None, **kwargs: Any
    ) -> list[object]:
        """One prediction for each task. A request from the page has one task and a ``context``."""
        results: list[object] = []
        with errors_answered():
            body = {
                "tasks": tasks,
                "project": getattr(self, "project_id", None),
                "label_config": self.label_config,
                "params": {"context": context},
            }
            _, results = answer(shared_services(), body | _sent())
        return results

    def fit(self, event: Any, data: Any = None, **kwargs: Any) -> None:
        """Write a webhook to SQL. The workers do the training, when the settings say so.

        It returns nothing, because 1.0.9 would take a return value for a new model version.
        """
        with errors_answered():
            body = {**data, "action": event} if isinstance(data, Mapping) else None
            services = shared_services()
            event_id = keep_event(services, body)
            if event_id is not None:
                try:
                    services.outbox.send(event_id)  # This process may end at once.
                except ServiceError as error:
                    log.error("Event %d waits for reconcile: %s", event_id, error)

    def process_event(self, event: str, data: Any, job_id: Any, additional_params: Any) -> None:
        """Called by 1.0.9 for each webhook; the base class would drop those not for training."""
        try:
            self.fit(event, data)
        except MaskloopError as error:  # This is a separate process, and no request waits.
            log.error("Webhook %s was not kept: %s", event, error)


@contextmanager
def errors_answered() -> Iterator[None]:
    """Answer a request with an error's sentence, as ``backend.http.app`` does, and log it.

    Without this, label-studio-ml would send the traceback to Label Studio. The response that it
    makes after the error is replaced. Outside a request, the error is raised.
    """
    try:
        yield
    except Exception as error:
        if not has_request_context():
            raise
        ours = isinstance(error, MaskloopError)
        code = code_of(error) if isinstance(error, MaskloopError) else 500
        sentence = str(error) if ours else UNEXPECTED
        # The level is error, because label-studio-ml's template logs nothing below it.
        log.error("%s answered %d: %s", request.path, code, sentence, exc_info=not ours)

        def replace(response: Any) -> Any:
            answered = jsonify({"error": sentence})
            answered.status_code = code
            return answered

        after_this_request(replace)


def _sent() -> dict[str, Any]:
    """The request's project and labelling config; 1.0.9 itself knows those of the last /setup."""
    body = request.get_json(silent=True) if has_request_context() else None
    if not isinstance(body, Mapping):
        return {}
    return {name: body[name] for name in ("project", "label_config") if name in body}


def _is_2x(model: Any) -> bool:
    return hasattr(model, "set")  # It writes to the project's cache, which 1.0.9 does not have.
