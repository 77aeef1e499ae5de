"""``maskloop backup``, ``restore``, ``verify`` and ``prune``: what is kept, and what is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, open_runtime

File = Annotated[Path, typer.Argument(help="The file of the backup, such as maskloop.tar.")]


def backup(
    file: File,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Also the embeddings, which images give again.")
    ] = False,
) -> None:
    """Write everything that cannot be made again into one file, while everything runs.

    It holds the database, Label Studio's own database and files, images, weights and the settings
    with their secrets, so keep it where only you can read it.
    """
    from pipeline.backup.create import back_up

    with open_runtime() as runtime, console.progress_bar("Copying") as progress:
        manifest = back_up(runtime, file.resolve(), embeddings=embeddings, progress=progress)
    size = file.stat().st_size / 1e6
    _say(f"{file} holds {len(manifest.members)} files, {size:.1f} MB.", *manifest.notes)


def restore(file: File) -> None:
    """Put a backup into a new home folder, which MASKLOOP_HOME names; then run `maskloop up`."""
    from pipeline.backup.restore import restore as put_back
    from pipeline.settings import HOME_VARIABLE

    home = Path(os.environ.get(HOME_VARIABLE, ".maskloop"))
    with console.stderr.status("Restoring"):
        contents, settings = put_back(file.resolve(), home)
    _say(
        f"{settings.home} holds {contents.accepted_masks} accepted masks, {contents.images} images "
        f"and {contents.versions} model versions, as of {contents.manifest.made_at}.",
        *contents.manifest.notes,
        "`maskloop up` goes on with it.",
    )


def verify(file: File) -> None:
    """Read a whole backup and check that it can be restored; the exit code is 1 if not."""
    from pipeline.backup.restore import verify as check

    with console.stderr.status("Reading"):
        contents = check(file)
    _say(
        f"{file} is whole: {contents.accepted_masks} accepted masks, {contents.images} images, "
        f"{contents.versions} model versions, as of {contents.manifest.made_at}.",
        *contents.manifest.notes,
        *contents.problems,
    )
    if contents.problems:
        raise typer.Exit(1)


def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove old events, replies, jobs, refused weights and leftovers now, as each night does.

    `[retention]` in the settings says how long each is kept. Accepted masks, images and versions
    that served are never removed.
    """
    from dataclasses import asdict

    from pipeline.retention.prune import prune as remove

    with open_runtime() as runtime:
        report = asdict(remove(runtime, dry_run=dry_run))
    console.print_json(report) if as_json else console.print_pairs(report)


def _say(*sentences: str) -> None:
    for sentence in sentences:
        console.stdout.print(sentence, markup=False, highlight=False, soft_wrap=True)
