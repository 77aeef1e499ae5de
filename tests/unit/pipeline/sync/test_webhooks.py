from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.labelstudio.connect import WEBHOOK_ACTIONS
from pipeline.labelstudio.template import default_label_config
from pipeline.runtime import Runtime
from pipeline.sync import webhooks as events
from tests.loop import tiny_settings


class Client:
    """A Label Studio with one project and nothing in it."""

    def project(self, _project: int) -> dict[str, Any]:
        return {"label_config": default_label_config()}


@pytest.mark.parametrize("action", sorted(WEBHOOK_ACTIONS))
def test_what_label_studio_is_asked_to_send_is_worked_on(
    action: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Runtime(tiny_settings(tmp_path), migrate=True) as runtime,
        caplog.at_level(logging.DEBUG, events.log.name),
    ):
        vars(runtime)["label_studio"] = Client()
        events.work(runtime, action, {"project": {"id": 1}})
        assert "concerns nothing" not in caplog.text
        events.work(runtime, "PROJECT_UPDATED", {})
        assert "concerns nothing" in caplog.text


def test_the_backend_keeps_what_label_studio_is_asked_to_send() -> None:
    from backend.http.webhook import ACTIONS, TRAINING

    assert set(ACTIONS) == {*WEBHOOK_ACTIONS, TRAINING}
