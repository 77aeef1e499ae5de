from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from pipeline.errors import NotEnoughDataError
from pipeline.record import regions, snapshots
from pipeline.record.jobs import MAX_CRASHES, RETRY_FAILED
from pipeline.record.tables import (
    Annotation,
    GateDecision,
    Job,
    ModelVersion,
    Region,
    Snapshot,
    now,
)
from pipeline.training.due import due
from pipeline.training.snapshots import take_snapshot
from tests.loop import Loop, make_loop


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return make_loop(tmp_path)


def snapshot(loop: Loop) -> Snapshot:
    return take_snapshot(loop.runtime.sessions)


def is_due(loop: Loop) -> bool:
    with loop.runtime.sessions.begin() as session:
        return due(session, loop.runtime.settings)


def judge(loop: Loop, taken: Snapshot) -> None:
    with loop.runtime.sessions.begin() as session:
        version = ModelVersion(
            name=f"v{taken.id}",
            encoder="e",
            sha256="s",
            key="k",
            status="refused",
            snapshot_id=taken.id,
        )
        session.add(version)
        session.flush()
        session.add(
            GateDecision(
                candidate_id=version.id,
                serving_id=version.id,
                promoted=False,
                reason="",
                metrics={},
            )
        )


def test_without_accepted_masks_there_is_no_snapshot(loop: Loop) -> None:
    with pytest.raises(NotEnoughDataError, match="submit some"):
        snapshot(loop)


def test_only_what_stands_counts(loop: Loop) -> None:
    loop.accept("train")
    loop.accept("holdout")
    loop.accept("train", was_cancelled=True)
    loop.accept("train", deleted=True)
    loop.accept("train", prompts_only=True)
    taken = snapshot(loop)
    with loop.runtime.sessions() as session:
        assert len(snapshots.regions(session, taken, "train")) == 1
        assert len(snapshots.regions(session, taken, "holdout")) == 1
        assert regions.count_accepted(session) == 2


def test_the_same_members_give_the_same_snapshot(loop: Loop) -> None:
    loop.accept_many(2, 1)
    first, again = snapshot(loop), snapshot(loop)
    assert (first.id, first.digest) == (again.id, again.digest)
    loop.accept("train")
    assert snapshot(loop).digest != first.digest


def test_a_snapshot_stays_when_its_regions_go(loop: Loop) -> None:
    loop.accept_many(2, 0)
    taken = snapshot(loop)
    with loop.runtime.sessions.begin() as session:
        session.query(Region).delete()
    with loop.runtime.sessions() as session:
        assert len(snapshots.regions(session, taken, "train")) == 2


def test_the_same_mask_by_two_annotators_counts_once(loop: Loop) -> None:
    loop.accept("train")
    with loop.runtime.sessions.begin() as session:
        only = session.query(Region).one()
        session.add(
            Region(
                annotation_id=only.annotation_id,
                image_id=only.image_id,
                ls_region_id="other",
                label=only.label,
                mask=only.mask,
                area=only.area,
            )
        )
    with loop.runtime.sessions() as session:
        assert len(snapshots.regions(session, snapshot(loop), "train")) == 1


def test_a_changed_mask_is_another_snapshot(loop: Loop) -> None:
    loop.accept("train")
    before = snapshot(loop).digest
    other = make_loop(loop.runtime.settings.home.parent / "other")
    other.accept("train", np.eye(64, dtype=bool))
    assert snapshot(other).digest != before


def test_a_mask_corrected_while_it_is_frozen_belongs_to_its_digest(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.accept("train")
    read = regions.with_contents

    def after_a_correction(session: Session) -> list[tuple[Region, regions.Content]]:
        with loop.runtime.sessions.begin() as another:
            another.query(Region).one().mask += b" "
        return read(session)

    monkeypatch.setattr(regions, "with_contents", after_a_correction)
    taken = snapshot(loop)
    monkeypatch.undo()
    assert snapshot(loop).id == taken.id


def test_due_by_count(loop: Loop) -> None:
    assert not is_due(loop)
    loop.accept_many(3, 0)
    assert not is_due(loop)
    loop.accept_many(1, 0)
    assert is_due(loop)
    judge(loop, snapshot(loop))
    assert not is_due(loop)
    loop.accept_many(4, 0)
    assert is_due(loop)


def test_masks_that_were_corrected_count_as_new_and_untouched_ones_do_not(loop: Loop) -> None:
    loop.accept_many(4, 0)
    judge(loop, snapshot(loop))
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Annotation).values(seen_at=now()))
    assert not is_due(loop)  # submitted again as they were: judged before
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Region).values(label="other"))
    assert is_due(loop)


def test_due_by_the_clock_only_when_something_is_new(loop: Loop) -> None:
    loop.accept("train")
    long_ago = now() - timedelta(hours=25)
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Region).values(created_at=long_ago))
    assert is_due(loop)
    taken = snapshot(loop)
    judge(loop, taken)
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Snapshot).values(created_at=long_ago))
        found = snapshots.last_judged(session)
        assert found is not None
        assert found.id == taken.id
    assert not is_due(loop)
    loop.accept("train")
    assert is_due(loop)


def test_a_failed_fine_tune_is_not_due_again_at_once(loop: Loop) -> None:
    loop.accept_many(4, 0)
    with loop.runtime.sessions.begin() as session:
        session.add(Job(kind="finetune", status="failed", finished_at=now()))
    assert not is_due(loop)
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Job).values(finished_at=now() - RETRY_FAILED))
    assert is_due(loop)


def test_a_crashed_fine_tune_is_due_at_once_unless_it_keeps_crashing(loop: Loop) -> None:
    loop.accept_many(4, 0)
    for crash in range(MAX_CRASHES):
        assert is_due(loop), crash
        with loop.runtime.sessions.begin() as session:
            session.add(Job(kind="finetune", status="failed"))
    assert not is_due(loop)


def test_a_running_fine_tune_is_not_due(loop: Loop) -> None:
    loop.accept_many(4, 0)
    with loop.runtime.sessions.begin() as session:
        session.add(Job(kind="finetune", status="running", owner="elsewhere:1"))
    assert not is_due(loop)
