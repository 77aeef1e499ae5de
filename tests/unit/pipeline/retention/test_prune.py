"""What is removed, and above all what stays."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.record.tables import (
    Event,
    GateDecision,
    Image,
    Interaction,
    Job,
    ModelVersion,
    Snapshot,
    SnapshotRegion,
    Task,
    now,
)
from pipeline.retention.prune import PruneReport, prune
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, RetentionSettings, Settings

OLD = now() - timedelta(days=400)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setattr("pipeline.retention.prune.copies_folder", lambda: tmp_path / "copies")
    settings = Settings(home=tmp_path / "home", retention=RetentionSettings(snapshots=1))
    with Runtime(settings, migrate=True) as opened:
        yield opened


def version(session: Session, name: str, status: str, **fields: object) -> ModelVersion:
    row = ModelVersion(
        name=name,
        encoder="e",
        sha256="0",
        key=f"models/{name}.safetensors",
        status=status,
        created_at=OLD,
        **fields,
    )
    session.add(row)
    session.flush()
    return row


def reply(session: Session, task: Task, region: str, at: datetime = OLD) -> int:
    assert task.image_id is not None
    row = Interaction(
        task_id=task.id,
        image_id=task.image_id,
        region_id=region,
        label="Object",
        prompts=[],
        model_version_id=1,
        probability=b"p",
        rle=b"r",
        score=0.5,
        milliseconds=1,
        created_at=at,
    )
    session.add(row)
    session.flush()
    return row.id


def test_an_empty_record_has_nothing_to_remove(runtime: Runtime) -> None:
    assert prune(runtime) == PruneReport(0, 0, 0, 0, 0, 0)


def test_only_what_nobody_needs_is_removed(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        version(session, "base", "serving")
        image = Image(sha256="a", width=1, height=1, extension="png", split="train")
        session.add(image)
        session.flush()
        tasks = [
            Task(ls_project_id=1, ls_task_id=n, url="/x", image_id=image.id, status=status)
            for n, status in enumerate(("accepted", "pool"))
        ]
        session.add_all(tasks)
        session.flush()
        accepted, pool = tasks
        ids = [reply(session, accepted, "r") for _ in range(4)]
        other = [reply(session, accepted, "s"), reply(session, accepted, "s", now())]
        open_ids = [reply(session, pool, "t") for _ in range(3)]
        young = [reply(session, accepted, "u", now()) for _ in range(3)]
        done = Event(key="old", action="TEST", payload={}, done_at=OLD)
        session.add_all([done, Event(key="open", action="TEST", payload={}, received_at=OLD)])
        session.add_all(
            [
                Job(kind="select", status="done", started_at=OLD),
                Job(kind="select", status="running", started_at=OLD),
                Job(kind="select", status="done"),
            ]
        )
    assert prune(runtime, dry_run=True) == PruneReport(1, 2, 1, 0, 0, 0)
    assert prune(runtime) == PruneReport(1, 2, 1, 0, 0, 0)
    with runtime.sessions() as session:
        left = {row.id for row in session.query(Interaction)}
        assert left == {ids[0], ids[3], *other, *open_ids, *young}
        assert [row.key for row in session.query(Event)] == ["open"]
        assert session.query(Job).count() == 2
    assert prune(runtime) == PruneReport(0, 0, 0, 0, 0, 0)


def test_weights_that_were_refused_go_and_those_that_ever_served_stay(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        names = {
            "base": version(session, "base", "serving"),
            "refused": version(session, "refused", "refused"),
            "left": version(session, "left", "refused", promoted_at=OLD),
            "waiting": version(session, "waiting", "candidate"),
            "retired": version(session, "retired", "retired", promoted_at=OLD),
        }
        shared = version(session, "shared", "refused")
        shared.key = names["base"].key
    for row in names.values():
        runtime.store.write(row.key, b"weights")
    assert prune(runtime).weights == 1
    assert not runtime.store.exists(names["refused"].key)
    assert all(runtime.store.exists(row.key) for name, row in names.items() if name != "refused")


def test_masks_of_judged_snapshots_go_and_their_digests_stay(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        base = version(session, "base", "serving")
        image = Image(sha256="a", width=1, height=1, extension="png", split="train")
        session.add(image)
        session.flush()
        for number in range(3):
            row = Snapshot(digest=f"digest-{number}")
            session.add(row)
            session.flush()
            member = SnapshotRegion(
                snapshot_id=row.id, image_id=image.id, label="o", mask=b"m", split="train"
            )
            session.add(member)
            if number < 2:  # The newest is not judged yet.
                made = version(session, f"v{number}", "retired", snapshot_id=row.id)
                decision = GateDecision(
                    candidate_id=made.id, serving_id=base.id, promoted=True, reason="", metrics={}
                )
                session.add(decision)
    assert prune(runtime).snapshots == 1
    with runtime.sessions() as session:
        assert [row.snapshot_id for row in session.query(SnapshotRegion)] == [2, 3]
        assert session.query(Snapshot).count() == 3


def test_what_crashes_left_behind_goes(runtime: Runtime, tmp_path: Path) -> None:
    home = runtime.settings.home
    old = time.time() - 30 * 86_400
    paths = {
        home / "store" / "images" / "aa" / ".x.png.abc.part": True,
        home / "work" / "finetune-1.pt": True,
        tmp_path / "copies" / "digest" / "a.png": True,
        home / "store" / "images" / "aa" / "x.png": False,
        home / "files" / "mine.part": False,
    }
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (old, old))
    fresh = home / "store" / "images" / "aa" / ".y.png.abc.part"
    fresh.write_bytes(b"being written")
    assert prune(runtime).files == 3
    assert all(path.exists() is not gone for path, gone in paths.items())
    assert fresh.exists()


def test_the_command_says_what_it_removed(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime.sessions
    monkeypatch.setenv(HOME_VARIABLE, str(runtime.settings.home))
    result = CliRunner().invoke(app, ["prune", "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    assert '"events": 0' in result.stdout
