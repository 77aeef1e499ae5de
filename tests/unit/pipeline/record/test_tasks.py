"""Which tasks come next for an annotator, on a real SQLite database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from pipeline.record import schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Round, RoundItem, Task, now
from pipeline.record.tasks import following
from pipeline.settings import Settings


class Project:
    """Project 1 with tasks 1 to 9 of Label Studio, and what comes after one of them."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self.sessions = sessions
        with sessions.begin() as session:
            # Not in their order: a row's own number says nothing.
            for number in (5, 3, 9, 1, 7, 2, 8, 4, 6):
                session.add(Task(ls_project_id=1, ls_task_id=number, url=f"{number}.png"))

    def change(self, number: int, **fields: Any) -> None:
        with self.sessions.begin() as session:
            task = self._task(session, number)
            for name, value in fields.items():
                setattr(task, name, value)

    def draw(self, number: int, *tasks: int, written: bool = True) -> None:
        """A round that hands out tasks in this order."""
        with self.sessions.begin() as session:
            drawn = Round(ls_project_id=1, number=number, settings={})
            drawn.written_at = now() if written else None
            session.add(drawn)
            session.flush()
            for rank, task in reversed(list(enumerate(tasks))):
                row = self._task(session, task)
                item = RoundItem(round_id=drawn.id, task_id=row.id, rank=rank, reason="hard")
                session.add(item)

    def after(self, number: int, count: int = 9) -> Sequence[int]:
        with self.sessions() as session:
            found = following(session, self._task(session, number), count)
            return [task.ls_task_id for task in found]

    def _task(self, session: Session, number: int) -> Task:
        wanted = select(Task).where(Task.ls_task_id == number, Task.ls_project_id == 1)
        return session.scalars(wanted).one()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    schema.upgrade(Settings(home=tmp_path))
    sessions = sessions_on(make_engine(Settings(home=tmp_path)))
    yield Project(sessions)
    sessions().get_bind().dispose()


def test_without_a_round_tasks_come_by_their_number(project: Project) -> None:
    assert project.after(3) == [4, 5, 6, 7, 8, 9]
    assert project.after(1, count=3) == [2, 3, 4]
    assert project.after(9) == []
    assert project.after(3, count=0) == []


def test_in_a_round_they_come_by_their_rank(project: Project) -> None:
    project.draw(1, 8, 3, 6, 2)
    assert project.after(8, count=3) == [3, 6, 2]
    assert project.after(3, count=2) == [6, 2]


def test_behind_the_round_come_larger_numbers_and_none_twice(project: Project) -> None:
    project.draw(1, 8, 3, 6, 2)
    assert project.after(3) == [6, 2, 4, 5, 7, 8, 9]
    assert project.after(3, count=4) == [6, 2, 4, 5]
    assert project.after(2) == [3, 4, 5, 6, 7, 8, 9]  # the round's last


def test_a_task_in_no_round_is_followed_by_numbers(project: Project) -> None:
    project.draw(1, 8, 3, 6, 2)
    assert project.after(5) == [6, 7, 8, 9]


def test_the_newest_round_of_several_counts(project: Project) -> None:
    project.draw(1, 3, 4, 5)
    project.draw(2, 3, 9, 8)
    assert project.after(3, count=2) == [9, 8]
    assert project.after(4, count=2) == [5, 6]  # only the older one has it


def test_a_round_that_label_studio_does_not_have_yet_does_not_count(project: Project) -> None:
    project.draw(1, 3, 4, 5)
    project.draw(2, 3, 9, 8, written=False)
    assert project.after(3, count=2) == [4, 5]
    project.draw(3, 7, 1, written=False)
    assert project.after(7) == [8, 9]


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "accepted"},
        {"status": "skipped"},
        {"status": "deleted"},
        {"problem": "4.png is not here; put it there."},
    ],
    ids=lambda fields: next(iter(fields.values()))[:8],
)
def test_what_is_done_or_cannot_be_shown_is_passed_over(
    project: Project, fields: dict[str, Any]
) -> None:
    project.change(4, **fields)
    assert project.after(3, count=2) == [5, 6]
    project.draw(1, 3, 4, 9)
    assert project.after(3, count=2) == [9, 5]


def test_tasks_of_a_round_wait_for_an_annotation_as_others_do(project: Project) -> None:
    project.draw(1, 3, 4, 9)
    project.change(4, status="queued")
    assert project.after(3, count=2) == [4, 9]


def test_a_task_that_is_done_is_followed_all_the_same(project: Project) -> None:
    project.draw(1, 3, 4, 9)
    project.change(3, status="accepted", problem="gone")
    assert project.after(3, count=2) == [4, 9]


def test_projects_do_not_mix(project: Project) -> None:
    with project.sessions.begin() as session:
        for number in (10, 11):
            session.add(Task(ls_project_id=2, ls_task_id=number, url="x.png"))
    assert project.after(8) == [9]
    with project.sessions() as session:
        other = session.scalars(select(Task).where(Task.ls_task_id == 10)).one()
        assert [task.ls_task_id for task in following(session, other, 5)] == [11]
