from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from celery import Celery
from celery.exceptions import Retry
from sqlalchemy.exc import OperationalError

from model.errors import ImageError
from pipeline.errors import BusyError, ImageSourceError, NotEnoughDataError, ServiceError
from workers.retrying import LONGEST_PAUSE, is_transient, loop_task


@pytest.fixture(autouse=True)
def app() -> Iterator[Celery]:
    made = Celery("test", set_as_current=True, broker="memory://")
    yield made
    made.close()


def failing(error: Exception) -> Callable[[], dict]:
    def task() -> dict:
        raise error

    return task


def from_network() -> ImageSourceError:
    error = ImageSourceError("The image cannot be fetched; try later.")
    error.__cause__ = httpx.ConnectTimeout("slow")
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ServiceError("Redis is away; start it."), True),
        (BusyError("Busy; wait."), True),
        (OperationalError("SELECT", {}, Exception("locked")), True),
        (from_network(), True),
        (ImageSourceError("The path leaves the folder; mend it."), False),
        (ImageError("Not an image; replace it."), False),
        (NotEnoughDataError("Too little; label more."), False),
        (ZeroDivisionError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient


def test_a_transient_error_is_retried_with_a_growing_pause() -> None:
    task = loop_task("test.away")(failing(ServiceError("Away; start it.")))
    pauses = []
    for attempt in range(8):
        task.push_request(retries=attempt, called_directly=False, id="1")
        with pytest.raises(Retry) as caught:
            task.run()
        task.pop_request()
        pauses.append(caught.value.when)
    assert all(0 <= pause <= min(2 * 2**n, LONGEST_PAUSE) for n, pause in enumerate(pauses))
    assert max(pauses) > 10


def test_after_the_last_retry_the_sentence_is_the_result(caplog: pytest.LogCaptureFixture) -> None:
    task = loop_task("test.given_up", retries=2)(failing(ServiceError("Away; start it.")))
    task.push_request(retries=2, called_directly=False, id="1")
    assert task.run() == {"problem": "Away; start it."}
    task.pop_request()
    assert "Away; start it." in caplog.text


def test_an_error_of_ours_is_a_result_not_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    task = loop_task("test.bad_image")(failing(ImageError("Not an image; replace it.")))
    assert task() == {"problem": "Not an image; replace it."}
    assert "Traceback" not in caplog.text


def test_a_bug_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        loop_task("test.bug")(failing(ZeroDivisionError()))()


def test_a_pause_ends_before_redis_would_hand_out_a_copy(app: Celery) -> None:
    app.conf.broker_transport_options = {"visibility_timeout": 10}
    task = loop_task("test.short")(failing(ServiceError("Away; start it.")))
    for _ in range(30):
        task.push_request(retries=7, called_directly=False, id="1")
        with pytest.raises(Retry) as caught:
            task.run()
        task.pop_request()
        assert caught.value.when <= 5
