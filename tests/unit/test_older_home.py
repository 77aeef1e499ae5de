"""A home folder of the version before this one starts with this one, and nothing is lost.

``tests/data/home-0002.zip`` was written by maskloop at revision 0002 of the database. It holds
seven accepted masks with the clicks behind them, a fine-tune that the gate refused, a round, tasks
that wait, a task whose image is gone, and an event that nobody worked on.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from typer.testing import CliRunner

from backend.request.session import replies
from pipeline.cli.app import app
from pipeline.errors import DatabaseError
from pipeline.record import embeddings, images, interactions, regions, rounds, tasks, versions
from pipeline.record.engine import make_engine
from pipeline.record.migrations.runner import alembic_config
from pipeline.record.tables import ModelVersion
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, load_settings
from pipeline.stack.home import OLD_MONGOD_ADDRESS, prepare_home
from pipeline.status import status
from pipeline.training.finetune import run_finetune

HOME = Path(__file__).parents[1] / "data" / "home-0002.zip"
NEW_COLUMNS = {
    "region": {"mask_sha256"},
    "job": {"attempt"},
    "task": {"attempts", "try_at"},
    "event": {"attempts", "try_at"},
}
NEW_TABLES = {"heartbeat", "project"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    with zipfile.ZipFile(HOME) as packed:
        packed.extractall(folder)
    monkeypatch.setenv(HOME_VARIABLE, str(folder))
    return folder


@pytest.fixture
def runtime(home: Path) -> Iterator[Runtime]:
    with Runtime(load_settings().model_copy(update={"home": home}), migrate=True) as opened:
        yield opened


def contents(home: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, without columns that the old version did not have."""
    with sqlite3.connect(home / "maskloop.sqlite3") as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = {}
        for (table,) in tables:
            if table in NEW_TABLES:
                continue
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY 1")]
            fresh = NEW_COLUMNS.get(table, set())
            found[table] = [{k: v for k, v in row.items() if k not in fresh} for row in rows]
    del found["alembic_version"]
    return found


def test_every_row_is_kept(home: Path) -> None:
    before = contents(home)
    with Runtime(load_settings(), migrate=True) as runtime:
        assert runtime.sessions

    assert contents(home) == before
    assert sum(map(len, before.values())) == 86


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005"])
def test_every_earlier_revision_comes_up_with_its_rows(home: Path, revision: str) -> None:
    with Runtime(load_settings(), migrate=True) as runtime:
        assert runtime.sessions
    engine = make_engine(load_settings())
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # as an upgrade does
        connection.commit()
        command.downgrade(alembic_config(connection), revision)
        connection.commit()
    engine.dispose()
    before = contents(home)
    with Runtime(load_settings(), migrate=True) as runtime:
        assert runtime.sessions
    after = contents(home)
    assert sum(map(len, before.values())) == 86
    for table, rows in before.items():
        assert [
            {name: row[name] for name in old} for old, row in zip(rows, after[table], strict=True)
        ] == rows
        assert len(after[table]) == len(rows)
    (copy,) = [each.name for each in (home / "backups").iterdir() if revision in each.name][-1:]
    assert copy.startswith(f"record-{revision}-")


def test_a_command_that_reads_asks_for_the_upgrade_and_changes_nothing(home: Path) -> None:
    before = (home / "maskloop.sqlite3").read_bytes()
    with (
        Runtime(load_settings()) as runtime,
        pytest.raises(DatabaseError, match="maskloop upgrade"),
    ):
        _ = runtime.sessions

    assert (home / "maskloop.sqlite3").read_bytes() == before
    assert CliRunner().invoke(app, ["upgrade"]).exit_code == 0
    listed = CliRunner().invoke(app, ["models", "list", "--json"])
    assert listed.exit_code == 0 and '"v2"' in listed.stdout


def test_its_settings_are_read_and_stay(home: Path) -> None:
    before = (home / "maskloop.toml").read_text()
    settings = prepare_home(home)

    after = (home / "maskloop.toml").read_text()
    # mongod asked for no password then, and does now.
    assert settings.fiftyone.database_uri.startswith("mongodb://maskloop:")
    assert after.replace(settings.fiftyone.database_uri, OLD_MONGOD_ADDRESS) == before
    assert settings.label_studio.user == "admin@maskloop.example"


def test_masks_clicks_and_what_they_cost_are_there(runtime: Runtime) -> None:
    with runtime.sessions() as session:
        shown = images.shown(session)
        accepted = regions.accepted_on(session, shown)
        assert len(accepted) == 7
        for each in accepted:
            digest = hashlib.sha256(each.region.mask).hexdigest()
            assert each.region.mask_sha256 == digest
            assert each.effort is not None and each.effort.last_iou == 1.0
        task = tasks.find(session, 1, 1)
        assert task is not None and task.image_id is not None
        log = replies(session, task.id, task.image_id)
        assert [len(reply.own) for reply in log] == [2, 1]  # the newest first
        assert interactions.count(session) == 14


def test_what_serves_loads_and_its_embeddings_are_used(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, model = runtime.serving.current()
    assert version.name == "base"
    monkeypatch.setattr(type(model), "encode", None)  # nothing is encoded again
    with runtime.sessions() as session:
        shown = images.shown(session)
        assert embeddings.count_images(session, version.encoder) == len(shown) == 11
    for image in shown:
        assert runtime.embeddings.get(image, model).image_size == (64, 64)


def test_the_loop_goes_on_where_it_was(runtime: Runtime) -> None:
    report = status(runtime)
    assert report["tasks"] == {"accepted": 7, "pool": 2, "queued": 3}
    assert report["tasks_with_problems"] == 1
    assert report["open_events"] == 1
    assert report["round"]["tasks"] == 3
    assert not report["finetune_due"]
    with runtime.sessions() as session:
        assert [each.name for each in versions.versions(session)] == ["v2", "base"]
        assert rounds.next_number(session, 1) == 1


def test_what_was_judged_before_is_not_trained_again(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        base = session.get_one(ModelVersion, 1)
        assert base.status == "serving"
    file = runtime.store.local_path(base.key)
    settings = runtime.settings
    model = settings.model.model_copy(update={"base": file})
    with Runtime(settings.model_copy(update={"model": model})) as again:
        result = run_finetune(again)

    assert result["status"] == "unchanged" and "judged before" in result["reason"]
