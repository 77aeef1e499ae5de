"""connect with a real Label Studio, and a server that answers only the requests of a handshake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from pipeline.errors import LabelConfigError, LabelStudioError
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.connect import WEBHOOK_ACTIONS, Template, connect
from pipeline.labelstudio.template import Output, default_label_config
from pipeline.settings import BackendSettings, LabelStudioSettings, Settings
from tests.annotator import Annotator
from tests.handshake import PASSWORD, Handshake
from tests.services.label_studio import (
    LabelStudioServer,
    free_port,
    label_studio,
    start_label_studio,
)

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def handshake() -> Iterator[Handshake]:
    with Handshake() as server:
        yield server


@pytest.fixture
def settings(label_studio: LabelStudioServer, handshake: Handshake, tmp_path: Path) -> Settings:
    return settings_of(label_studio, handshake.url, tmp_path)


def settings_of(server: LabelStudioServer, backend_url: str, home: Path) -> Settings:
    return Settings(
        home=home,
        label_studio=LabelStudioSettings(url=server.url, token=SecretStr(server.token)),
        backend=BackendSettings(url=backend_url, password=SecretStr(PASSWORD)),
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[Annotator]:
    with Annotator(settings.label_studio) as client:
        yield client


def test_connect_attaches_the_backend_and_a_webhook_with_credentials(
    client: Annotator, settings: Settings, handshake: Handshake
) -> None:
    project = client.create_project("connect: all", default_label_config())
    report = connect(client, settings, project)
    assert report.project_title == "connect: all"
    assert report.labels == ("Object", "Other")
    assert report.advice == ()
    assert len(report.changed) == 2
    (backend,) = client.backends(project)
    assert (backend["id"], backend["state"]) == (report.backend_id, "CO")
    assert backend["is_interactive"]
    assert backend["auth_method"] == "BASIC_AUTH"
    (webhook,) = client.webhooks(project)
    assert webhook["headers"]["Authorization"].startswith("Basic ")
    assert set(webhook["actions"]) == set(WEBHOOK_ACTIONS)

    # The credentials that Label Studio sends are accepted.
    handshake.deliveries.clear()
    (task,) = client.import_tasks(project, [{"data": {"image": "/a.jpg"}}])
    made = client.create_annotation(task, [])
    client.update_annotation(made["id"], was_cancelled=True)
    client.delete_annotation(made["id"])
    client.delete_task(task)
    assert [delivery["action"] for delivery in handshake.deliveries] == [
        "TASKS_CREATED",
        "ANNOTATION_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_DELETED",
    ]


def test_connecting_again_changes_nothing(client: Annotator, settings: Settings) -> None:
    project = client.create_project("connect: again", default_label_config())
    first = connect(client, settings, project)
    assert connect(client, settings, project) == replace(first, changed=())
    assert len(client.backends(project)) == 1
    assert len(client.webhooks(project)) == 1


def test_connect_repairs_what_was_half_made(client: Annotator, settings: Settings) -> None:
    project = client.create_project("connect: repair", default_label_config())
    first = connect(client, settings, project)
    client.delete_webhook(first.webhook_id)
    client.update_backend(
        first.backend_id,
        url=settings.backend.url,
        project=project,
        is_interactive=False,
        auth_method="BASIC_AUTH",
        basic_auth_user="maskloop",
        basic_auth_pass=PASSWORD,
    )
    client.add_webhook(url=f"{settings.backend.url}/webhook", project=project, is_active=False)
    client.add_webhook(url=f"{settings.backend.url}/webhook", project=project)
    client.add_webhook(url="http://127.0.0.1:9/someone-elses", project=project)
    report = connect(client, settings, project)
    assert report.backend_id == first.backend_id
    assert len(report.changed) == 3
    (backend,) = client.backends(project)
    assert backend["is_interactive"]
    ours = [row for row in client.webhooks(project) if row["url"].endswith("/webhook")]
    assert len(ours) == 1
    assert ours[0]["is_active"]
    assert ours[0]["headers"]["Authorization"]
    assert len(client.webhooks(project)) == 2  # a webhook of another program stays


def test_a_config_without_masks_is_told_before_anything_changes(
    client: Annotator, settings: Settings
) -> None:
    config = '<View><Image name="image" value="$image"/><Choices name="c" toName="image">'
    config += '<Choice value="x"/></Choices></View>'
    project = client.create_project("connect: no masks", config)
    with pytest.raises(
        LabelConfigError,
        match=r"no tag for the masks; add .*connect --project \d+ --template`",
    ):
        connect(client, settings, project)
    assert client.backends(project) == []


def test_a_config_that_could_be_better_is_advised(client: Annotator, settings: Settings) -> None:
    config = """
    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="mask" toName="image" smart="false"><Label value="Object"/></BrushLabels>
      <KeyPointLabels name="click" toName="image" smart="true">
        <Label value="Object"/>
      </KeyPointLabels>
    </View>
    """
    project = client.create_project("connect: advice", config)
    advice = connect(client, settings, project).advice
    assert [line.split(";")[0] for line in advice] == [
        "The labelling config has no smart <RectangleLabels>",
        'No tag of the labelling config has smartOnly="true", so a label\'s digit picks a tool '
        "that asks no model",
        "The labelling config has no place to tell annotators what goes wrong and no tools to draw "
        "hints for the model",
    ]


@pytest.mark.parametrize("output", get_args(Output))
def test_connect_writes_a_labelling_config_with_the_labels_that_were_there(
    client: Annotator, settings: Settings, output: Output
) -> None:
    config = """
    <View>
      <Image name="photo" value="$image"/>
      <RectangleLabels name="r" toName="photo"><Label value="Cat &amp; dog"/></RectangleLabels>
      <PolygonLabels name="p" toName="photo"><Label value="Owl"/></PolygonLabels>
    </View>
    """
    project = client.create_project(f"connect: template {output}", config)
    report = connect(client, settings, project, Template(output=output, text=True))
    assert report.labels == ("Cat & dog", "Owl")
    assert report.advice == ()
    assert report.changed[0] == "wrote a labelling config for masks of Cat & dog, Owl"
    written = read_label_config(client.project(project)["label_config"])  # type: ignore[index]
    assert (written.output, written.text_tag) == (output, "text")
    again = connect(client, settings, project, Template(output=output, text=True))
    assert again.changed == ()
    named = connect(client, settings, project, Template(labels=("Hen",)))
    assert named.labels == ("Hen",)


def test_labels_that_cannot_be_written_change_nothing(
    client: Annotator, settings: Settings
) -> None:
    project = client.create_project("connect: bad labels", default_label_config())
    with pytest.raises(LabelConfigError, match="different names"):
        connect(client, settings, project, Template(labels=("Cat", "Cat")))
    assert client.project(project)["label_config"] == default_label_config()  # type: ignore[index]
    assert client.backends(project) == []


def test_a_missing_project_is_told(client: Annotator, settings: Settings) -> None:
    with pytest.raises(LabelStudioError, match="has no project 424242; look the number up"):
        connect(client, settings, 424242)


def test_a_backend_that_is_down_is_told(
    client: Annotator, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    project = client.create_project("connect: down", default_label_config())
    settings = settings_of(label_studio, f"http://127.0.0.1:{free_port()}", tmp_path)
    with pytest.raises(LabelStudioError, match="health check failed.*mend that"):
        connect(client, settings, project)


def test_a_backend_password_that_is_wrong_is_told(client: Annotator, settings: Settings) -> None:
    project = client.create_project("connect: password", default_label_config())
    wrong = settings.backend.model_copy(update={"password": SecretStr("wrong")})
    with pytest.raises(LabelStudioError, match="authentication parameters"):
        connect(client, settings.model_copy(update={"backend": wrong}), project)


@pytest.mark.parametrize(
    "overrides",
    [
        {"USE_DEFAULT_BANNED_SUBNETS": "true"},
        # Here the backend is allowed and its webhook is not, so an incomplete row stays.
        {"USE_DEFAULT_BANNED_SUBNETS": "true", "ML_BLOCK_LOCAL_IP": "false"},
    ],
)
def test_a_label_studio_that_bans_private_networks_is_told_the_switch(
    overrides: dict[str, str], handshake: Handshake, tmp_path: Path
) -> None:
    process = start_label_studio(tmp_path, overrides)
    try:
        settings = settings_of(process.server, handshake.url, tmp_path)
        with Annotator(settings.label_studio) as client:
            project = client.create_project("connect: banned", default_label_config())
            for _ in range(2):
                with pytest.raises(LabelStudioError, match="USE_DEFAULT_BANNED_SUBNETS=false"):
                    connect(client, settings, project)
    finally:
        process.stop()
