"""How much room is left on the discs that maskloop writes to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings import Settings

FULL_BYTES = 20_000_000  # with less, the next writes fail, such as an embedding or a log row


@dataclass(frozen=True)
class Room:
    """The free bytes of the disc under one folder."""

    free: int
    folder: Path

    @property
    def full(self) -> bool:
        return self.free < FULL_BYTES


def least_room(settings: Settings) -> Room:
    """The fullest of the discs of the home folder and of the store. A bucket has no limit."""
    folders = {settings.home.resolve()}
    if "://" not in settings.store_address:
        folders.add(Path(settings.store_address).resolve())
    rooms = [Room(shutil.disk_usage(_existing(folder)).free, folder) for folder in folders]
    return min(rooms, key=lambda room: (room.free, room.folder))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())
