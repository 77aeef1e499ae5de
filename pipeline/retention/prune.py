"""Removes what nobody needs any more. The table in docs/operations.md says what is kept how long.

Accepted masks, their images and every version that ever served are never removed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from model.files import SUFFIX
from pipeline.record import events, interactions, jobs, snapshots, versions
from pipeline.record.tables import now
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.storage.store import copies_folder
from pipeline.training.due import STATES

log = logging.getLogger(__name__)

PORTION = 500  # rows that one transaction removes, so that no click waits long for it
DAY_SECONDS = 86_400
HALF_WRITTEN_DAYS = 1  # a file that is still being written is younger
COPIES_DAYS = 7  # without being read
STATES_DAYS = 7  # of fine-tunes that were begun and never ended


@dataclass(frozen=True)
class PruneReport:
    """How many rows and files of each kind were removed, or would be."""

    events: int
    replies: int
    jobs: int
    snapshots: int
    weights: int
    files: int


def prune(runtime: Runtime, *, dry_run: bool = False) -> PruneReport:
    """Remove what is older than the settings in ``[retention]`` say.

    Args:
        dry_run: only count.

    Raises:
        StoreError: the store does not answer.
    """
    kept = runtime.settings.retention
    moment = now()
    with runtime.sessions() as session:
        old_events = events.done_before(session, moment - timedelta(days=kept.events_days))
        replies = interactions.superseded_before(
            session, moment - timedelta(days=kept.replies_days)
        )
        old_jobs = jobs.ended_before(session, moment - timedelta(days=kept.jobs_days))
        used = snapshots.judged_before_newest(session, kept.snapshots)
        refused = versions.refused_before(session, moment - timedelta(days=kept.refused_days))
    files = list(_old_files(runtime.settings))
    if not dry_run:
        for delete, ids in (
            (events.delete, old_events),
            (interactions.delete, replies),
            (jobs.delete, old_jobs),
        ):
            for portion in _portions(ids):
                with runtime.sessions.begin() as session:
                    delete(session, portion)
        for number in used:
            with runtime.sessions.begin() as session:
                snapshots.delete_members(session, number)
        for key in refused:
            runtime.store.delete(key)
        files = [path for path in files if _remove(path)]
    return PruneReport(
        len(old_events), len(replies), len(old_jobs), len(used), len(refused), len(files)
    )


def _portions(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), PORTION):
        yield ids[start : start + PORTION]


def _old_files(settings: Settings) -> Iterator[Path]:
    """Files of this machine that a crash left, copies that nobody reads, and old states."""
    home = settings.home.resolve()
    folders = [home]
    if "://" not in settings.store_address:
        folders.append(Path(settings.store_address).resolve())
    seen: set[Path] = set()
    for folder in folders:
        for path in _older(folder.rglob(f".*{SUFFIX}"), HALF_WRITTEN_DAYS):
            if path not in seen:
                seen.add(path)
                yield path
    yield from _older((home / STATES).glob("*.pt"), STATES_DAYS)
    yield from _older(copies_folder().glob("*/*"), COPIES_DAYS, read=True)


def _older(paths: Iterable[Path], days: int, *, read: bool = False) -> Iterator[Path]:
    limit = time.time() - days * DAY_SECONDS
    for path in paths:
        try:
            found = path.lstat()
        except OSError:  # Removed meanwhile.
            continue
        if max(found.st_mtime, found.st_atime if read else 0) < limit and path.is_file():
            yield path


def _remove(path: Path) -> bool:
    try:
        os.unlink(path)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)
        return False
    return True
