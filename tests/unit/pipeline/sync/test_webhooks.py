from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from backend.http.webhook import ACTIONS, TRAINING
from pipeline.labelstudio.connect import WEBHOOK_ACTIONS
from pipeline.labelstudio.template import DEFAULT_LABEL_CONFIG
from pipeline.record.engine import make_sessions, upgrade
from pipeline.sync import webhooks as events
from tests.loop import tiny_settings


class Client:
    """A Label Studio with one project and nothing in it."""

    def project(self, _project: int) -> dict[str, Any]:
        return {"label_config": DEFAULT_LABEL_CONFIG}


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {TRAINING}))
def test_what_label_studio_is_asked_to_send_is_worked_on(
    action: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny_settings(tmp_path)
    upgrade(settings)
    sessions = make_sessions(settings)
    parts = cast(Any, events.Parts)(sessions, Client(), None, None, settings)
    with caplog.at_level(logging.DEBUG, events.log.name):
        events.work(parts, action, {"project": {"id": 1}})
        assert "concerns nothing" not in caplog.text
        events.work(parts, "PROJECT_UPDATED", {})
        assert "concerns nothing" in caplog.text
    sessions.kw["bind"].dispose()


def test_the_backend_keeps_what_label_studio_is_asked_to_send() -> None:
    assert set(ACTIONS) == {*WEBHOOK_ACTIONS, TRAINING}
