"""A replacement for label-studio-ml 2.x, which no package registry has: its base class and server.

``python label_studio_ml_2.py PORT`` hosts ``MaskloopModel`` as the source of 2.x does. Each request
makes a model with the project and its labelling config, and the constructor calls ``setup``. There
is a cache for each project. Webhooks are refused, except those for training. An error in /predict
or /setup is answered with its traceback. Flask is the real one.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flask import Flask, jsonify, request

TRAIN_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")

cache: dict[tuple[str, str], Any] = {}


class LabelStudioMLBase:
    """The part of 2.x's base class that a model uses."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        self.setup()

    def setup(self) -> None: ...

    def get(self, key: str) -> Any:
        return cache.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        cache[self.project_id, key] = value

    @property
    def label_config(self) -> Any:
        return self.get("label_config")


def serve(model_class: Any, port: int) -> None:
    server = Flask(__name__)

    def with_traceback(route: Callable[[], Any]) -> Callable[[], Any]:
        def answer() -> Any:
            try:
                return route()
            except Exception as error:
                return jsonify(detail=str(error), result=traceback.format_exc()), 500

        answer.__name__ = route.__name__
        return answer

    @server.route("/predict", methods=["POST"])
    @with_traceback
    def predict() -> Any:
        body = request.get_json()
        params = body.get("params", {})
        context = params.pop("context", {})
        project = str(body.get("project")).split(".", 1)[0]
        model = model_class(project_id=project, label_config=body.get("label_config"))
        return jsonify(results=model.predict(body.get("tasks"), context=context, **params))

    @server.route("/setup", methods=["POST"])
    @with_traceback
    def setup() -> Any:
        body = request.get_json()
        project = body["project"].split(".", 1)[0]
        model = model_class(project_id=project, label_config=body.get("schema"))
        return jsonify(model_version=model.get("model_version"))

    @server.route("/webhook", methods=["POST"])
    def webhook() -> Any:
        data = request.get_json()
        event = data.pop("action")
        if event not in TRAIN_EVENTS:
            return jsonify(status="Unknown event"), 200
        project = data["project"]
        model = model_class(str(project["id"]), label_config=project["label_config"])
        return jsonify(result=model.fit(event, data), status="ok"), 201

    @server.route("/health")
    def health() -> Any:
        return jsonify(status="UP", model_class=model_class.__name__)

    server.run(host="127.0.0.1", port=port)


if __name__ == "__main__":
    package, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    package.__path__ = []
    module.LabelStudioMLBase = LabelStudioMLBase  # type: ignore[attr-defined]
    sys.modules |= {"label_studio_ml": package, "label_studio_ml.model": module}
    from backend.label_studio_ml import MaskloopModel

    serve(MaskloopModel, int(sys.argv[1]))
