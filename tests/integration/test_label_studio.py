"""The client with a real Label Studio: each kind of token, each kind of failure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import httpx
import jwt
import pytest
from pydantic import SecretStr

from pipeline.errors import LabelStudioError, SettingsError
from pipeline.settings import LabelStudioSettings
from tests.annotator import Annotator
from tests.services.label_studio import LabelStudioServer, free_port, label_studio

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image" smart="false"><Label value="Object"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true" smartOnly="true">
    <Label value="Object"/>
  </KeyPointLabels>
</View>
"""
titles = (f"client {number}" for number in count())


def client_of(url: str, token: str) -> Annotator:
    return Annotator(LabelStudioSettings(url=url, token=SecretStr(token)), timeout_seconds=20)


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[Annotator]:
    with client_of(label_studio.url, label_studio.token) as client:
        yield client


@pytest.fixture
def personal_token(label_studio: LabelStudioServer) -> Iterator[str]:
    """A personal access token; it is revoked at the end, because an account has only one."""
    with httpx.Client(
        base_url=label_studio.url, headers={"Authorization": f"Token {label_studio.token}"}
    ) as http:
        yield http.post("/api/token/").raise_for_status().json()["token"]
        for row in http.get("/api/token/").json():
            http.post("/api/token/blacklist/", json={"refresh": row["token"]}).raise_for_status()


def test_tasks_and_annotations_round_trip(client: Annotator) -> None:
    project = client.create_project(next(titles), CONFIG)
    first, second = client.import_tasks(
        project, [{"data": {"image": "/a.jpg"}}, {"data": {"image": "/b.jpg"}}]
    )
    made = client.create_annotation(first, [], lead_time=2.0)
    client.update_annotation(made["id"], was_cancelled=True)
    assert [(task.id, task.annotations) for task in client.tasks(project)] == [
        (first, 1),
        (second, 0),
    ]
    found = client.annotation(made["id"])
    assert found is not None
    assert found["was_cancelled"]
    assert [row["id"] for row in client.annotations(first)] == [made["id"]]
    client.delete_annotation(made["id"])
    assert client.annotation(made["id"]) is None
    client.delete_task(second)
    assert client.task(second) is None
    assert client.annotations(second) == []
    assert [task.id for task in client.tasks(project)] == [first]


@pytest.mark.parametrize("change", ["create", "update", "delete"])
def test_every_change_of_an_annotation_moves_its_tasks_update_time(
    client: Annotator, change: str
) -> None:
    project = client.create_project(next(titles), CONFIG)
    (task,) = client.import_tasks(project, [{"data": {"image": "/a.jpg"}}])
    made = client.create_annotation(task, []) if change != "create" else None
    before = next(client.tasks(project)).updated_at
    if made is None:
        client.create_annotation(task, [])
    elif change == "update":
        client.update_annotation(made["id"], lead_time=9.0)
    else:
        client.delete_annotation(made["id"])
    assert next(client.tasks(project)).updated_at > before


def test_a_personal_access_token_works_past_the_life_of_its_access_token(
    label_studio: LabelStudioServer, personal_token: str
) -> None:
    with client_of(label_studio.url, personal_token) as client:
        check_renewal(client, label_studio.url)


def check_renewal(client: Annotator, url: str) -> None:
    first = client.auth_header()
    assert first["Authorization"].startswith("Bearer ")
    assert client.auth_header() == first  # it is renewed only when needed
    # The state five minutes later: the client has an expired access token.
    over = datetime.now(UTC) - timedelta(seconds=1)
    client._connection._access = (jwt.encode({"exp": over}, "x" * 32), over)
    renewed = client.auth_header()
    assert (
        jwt.decode(renewed["Authorization"].split()[1], options={"verify_signature": False})["exp"]
        > datetime.now(UTC).timestamp()
    )
    assert isinstance(client.projects(), list)
    # Images are fetched with the header alone.
    answer = httpx.get(f"{url}/api/current-user/whoami", headers=renewed)
    assert answer.status_code == httpx.codes.OK


@pytest.mark.parametrize("token", ["f" * 40, "not a token"])
def test_a_wrong_token_is_told(label_studio: LabelStudioServer, token: str) -> None:
    told = pytest.raises(LabelStudioError, match="refuses the token.*set label_studio.token")
    with client_of(label_studio.url, token) as client, told:
        client.projects()


@pytest.mark.parametrize("days", [-1, 1])
def test_a_personal_token_that_is_over_or_foreign_is_told(
    label_studio: LabelStudioServer, days: int
) -> None:
    foreign = jwt.encode({"exp": datetime.now(UTC) + timedelta(days=days)}, "x" * 32)
    told = pytest.raises(LabelStudioError, match="refuses the token")
    with client_of(label_studio.url, foreign) as client, told:
        client.projects()


def test_no_token_is_told() -> None:
    with pytest.raises(SettingsError, match="needs a token; set label_studio.token"):
        client_of("http://127.0.0.1:8080", "")


def test_a_server_that_is_down_is_told() -> None:
    told = pytest.raises(LabelStudioError, match=r"out of reach .* start it with `make up`")
    with client_of(f"http://127.0.0.1:{free_port()}", "f" * 40) as client, told:
        client.projects()


def test_an_address_of_another_page_is_told(label_studio: LabelStudioServer) -> None:
    told = pytest.raises(LabelStudioError, match="check that label_studio.url is Label Studio's")
    with client_of(f"{label_studio.url}/elsewhere", label_studio.token) as client, told:
        client.project(1)


def test_what_label_studio_finds_wrong_is_passed_on(client: Annotator) -> None:
    with pytest.raises(LabelStudioError, match="title: Ensure this field has at least 3"):
        client.create_project("x", CONFIG)
    with pytest.raises(LabelStudioError, match="label_config: .*unclosed token"):
        client.create_project(next(titles), "<View><Foo")
    with pytest.raises(LabelStudioError, match="has no project 987654; check its number"):
        client.update_project(987654, title="nobody")
    assert client.project(987654) is None
