"""A round in a real Label Studio: both ways of getting tasks follow our order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.labelstudio.template import default_label_config
from pipeline.record.tables import Round, RoundItem, Task
from pipeline.runtime import Runtime
from pipeline.selection.label_order import write_round
from pipeline.settings import LabelStudioSettings, Settings
from tests.annotator import Annotator
from tests.services.label_studio import LabelStudioServer, label_studio

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration


@pytest.fixture
def runtime(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[Runtime]:
    account = LabelStudioSettings(url=label_studio.url, token=SecretStr(label_studio.token))
    with Runtime(Settings(home=tmp_path, label_studio=account), migrate=True) as made:
        yield made


@pytest.fixture
def client(runtime: Runtime) -> Iterator[Annotator]:
    with Annotator(runtime.settings.label_studio) as made:
        yield made


def make_project(client: Annotator) -> tuple[int, list[int]]:
    project = client.create_project("order", default_label_config())
    tasks = [{"data": {"image": f"/{k}.jpg", "owner": "ours"}} for k in range(12)]
    return project, client.import_tasks(project, tasks)


def add_round(runtime: Runtime, project: int, number: int, ls_task_ids: list[int]) -> int:
    with runtime.sessions.begin() as session:
        row = Round(ls_project_id=project, number=number, settings={})
        session.add(row)
        session.flush()
        for rank, ls_task_id in enumerate(ls_task_ids):
            task = Task(ls_project_id=project, ls_task_id=ls_task_id, url="/x.jpg")
            session.add(task)
            session.flush()
            session.add(RoundItem(round_id=row.id, task_id=task.id, rank=rank, reason="hard"))
        return row.id


def view_of(client: Annotator, project: int, title: str) -> int:
    (view,) = [view for view in client.views(project) if view["data"]["title"] == title]
    return int(view["id"])


def handed_out(client: Annotator, project: int, tasks: int) -> list[int]:
    """The tasks that the Label button gives, each after the previous one is submitted."""
    order = []
    for _ in range(tasks):
        task = client.next_task(project)
        assert task is not None
        order.append(task)
        client.create_annotation(task, [])
    return order


def test_label_studio_hands_out_the_round_in_our_order(client: Annotator, runtime: Runtime) -> None:
    project, tasks = make_project(client)
    wanted = [tasks[k] for k in (7, 2, 11, 5)]
    round_id = add_round(runtime, project, 1, wanted)
    assert write_round(runtime, round_id) == 4
    with runtime.sessions() as session:
        assert session.get_one(Round, round_id).written_at is not None
    listed = list(client.tasks(project, view=view_of(client, project, "Round 1")))
    assert [task.id for task in listed] == wanted
    assert all(task.data["owner"] == "ours" for task in listed)
    assert handed_out(client, project, 4) == wanted

    after = [tasks[k] for k in (9, 0, 3)]
    write_round(runtime, add_round(runtime, project, 2, after))
    view = view_of(client, project, "Round 2")
    assert [task.id for task in client.tasks(project, view=view)] == after
    assert handed_out(client, project, 3) == after


def test_writing_again_changes_nothing(client: Annotator, runtime: Runtime) -> None:
    project, tasks = make_project(client)
    wanted = [tasks[k] for k in (4, 1)]
    round_id = add_round(runtime, project, 1, wanted)
    write_round(runtime, round_id)
    before = list(client.tasks(project))
    write_round(runtime, round_id)
    assert [task.data for task in client.tasks(project)] == [task.data for task in before]
    assert len(client.views(project)) == 1
    first = client.task(wanted[0])
    assert first is not None
    assert [row["model_version"] for row in first["predictions"]] == ["round-1"]
    assert client.next_task(project) == wanted[0]


def test_a_task_deleted_meanwhile_is_left_out(client: Annotator, runtime: Runtime) -> None:
    project, tasks = make_project(client)
    round_id = add_round(runtime, project, 1, [tasks[3], tasks[8]])
    client.delete_task(tasks[3])
    assert write_round(runtime, round_id) == 1
    assert client.next_task(project) == tasks[8]
