"""``maskloop models add``: a checkpoint of somebody else's becomes a version in the registry."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from model.errors import CheckpointError, MaskloopError
from model.network.config import SegNextConfig
from model.progress import Progress, silent
from pipeline.record import versions
from pipeline.record.tables import ModelVersion
from pipeline.registry.download import alone, fetch_drive, fetch_url, shown
from pipeline.registry.weights import add_weights, by_digest, file_digest, read_weights
from pipeline.runtime import Runtime
from pipeline.storage.store import Store

# What the authors of SegNext released: our name, and the file's id on Google Drive.
RELEASED = {
    "vitb-sax1": "1G_m9_sVYVD2MBDf5ulrAUz-iSvi8bQfZ",
    "vitb-sax2": "1uHEcvwA2spsLQqDJiYKqv1pf3vgLAG7-",
    "vitb-sax2-hq": "1qkXIvxnlY3Z4xLYGWJcoAHBUNyDmvwPS",  # fine-tuned on HQSeg-44K
}
LONGEST = 55  # characters of a name: a piece of a checksum may come behind it
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
TAKEN = re.compile(
    r"v\d+|base(-.*)?|candidate-.*|serving"
)  # what versions are called by themselves


@dataclass(frozen=True)
class Added:
    """A checkpoint that is in the registry.

    Attributes:
        is_new: it was not before.
        network: its shape, in words.
        parameters: how many numbers it holds.
        input_size: side in pixels, the longest of what it sees of an image.
        sha256: of the file as it came.
        serving: name of the version that serves; None: none does.
        same_encoder: it reads the embeddings that the serving version does.
    """

    name: str
    is_new: bool
    network: str
    parameters: int
    input_size: int
    sha256: str
    source: str
    serving: str | None
    same_encoder: bool


def add(runtime: Runtime, what: str, name: str | None = None, progress: Progress = silent) -> Added:
    """Fetch, check, convert and register a checkpoint; nothing changes when it is there already.

    Args:
        what: a name in ``RELEASED``, an http(s) address, or a path.
        name: for the version; None: made from ``what``.
        progress: counts the bytes of a download.

    Raises:
        CheckpointError: it cannot be fetched or used; the message says why.
    """
    if name is not None:
        _check_name(runtime, name, _source(what))
    if (known := _known_release(runtime, what)) is not None:
        return _report(runtime, known, is_new=False)
    with _file(runtime, what, progress) as path:
        digest = file_digest(path)
        with runtime.sessions() as session:
            known = by_digest(session, digest)
        if known is not None and _is_whole(runtime.store, known):
            return _report(runtime, known, is_new=False)
        weights = read_weights(path)
    with runtime.sessions.begin() as session:
        before = {version.id: version.name for version in versions.versions(session)}
        version = add_weights(
            session, runtime.store, weights, name=name or _derived(what), source=_source(what)
        )
        is_new = version.id not in before
        if is_new and name is not None and version.name != name:
            raise _taken(name)  # by another process, or by what the same path held before
    return _report(runtime, version, is_new=is_new)


# --- where it comes from ---


def _is_address(what: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", what) is not None


def _source(what: str) -> str:
    if what in RELEASED:
        return f"{what}, Google Drive {RELEASED[what]}"
    return shown(what) if _is_address(what) else str(Path(what).resolve())[-500:]


@contextmanager
def _file(runtime: Runtime, what: str, progress: Progress) -> Iterator[Path]:
    """A file on this machine; a fetched one goes when it is no longer needed."""
    if what not in RELEASED and not _is_address(what):
        path = Path(what)
        if not path.is_file():
            raise CheckpointError(
                f"{what} is neither a file here, nor an http(s) address, nor one of the released "
                f"{', '.join(RELEASED)}; check it."
            )
        yield path
        return
    if what not in RELEASED and not what.lower().startswith(("http://", "https://")):
        raise CheckpointError(
            f"{shown(what)} is no http(s) address; fetch the file yourself and give its path."
        )
    # A name of its own, so that parts of different files never meet; its end is shown in errors.
    folder = runtime.settings.home / "downloads" / hashlib.sha256(what.encode()).hexdigest()[:16]
    target = folder / f"{_derived(what)}.pth"
    with alone(target):
        if what in RELEASED:
            fetch_drive(RELEASED[what], target, progress)
        else:
            fetch_url(what, target, progress)
        try:
            yield target
        finally:  # also when it was refused: a damaged file would be met again otherwise
            target.unlink(missing_ok=True)


def _known_release(runtime: Runtime, what: str) -> ModelVersion | None:
    """The version made from a released file: half a gigabyte is not fetched twice to learn that."""
    if what not in RELEASED:
        return None
    with runtime.sessions() as session:
        statement = select(ModelVersion).where(ModelVersion.source == _source(what))
        known = session.scalars(statement.order_by(ModelVersion.id)).first()
    return known if known is not None and _is_whole(runtime.store, known) else None


def _is_whole(store: Store, version: ModelVersion) -> bool:
    try:
        return file_digest(store.local_path(version.key)) == version.sha256
    except MaskloopError:
        return False


# --- what it is called ---


def _check_name(runtime: Runtime, name: str, source: str) -> None:
    """Before anything is fetched. A version of that name from the same place may be this one."""
    if not NAME.fullmatch(name) or TAKEN.fullmatch(name):
        raise CheckpointError(
            f"{name[:80]!r} cannot be a version's name; take up to {LONGEST} letters, digits, dots "
            "and dashes, and none of the names that versions get by themselves (v7, base)."
        )
    with runtime.sessions() as session:
        taken = session.scalars(select(ModelVersion).where(ModelVersion.name == name)).first()
    if taken is not None and taken.source != source:
        raise _taken(name)


def _taken(name: str) -> CheckpointError:
    return CheckpointError(f"There is another version {name} already; give another --name or none.")


def _derived(what: str) -> str:
    stem = Path(shown(what)).name if _is_address(what) else Path(what).name
    stem = re.sub(r"\.(pth|pt|safetensors)$", "", stem)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:LONGEST]
    return f"model-{stem}"[:LONGEST].rstrip("-") if not stem or TAKEN.fullmatch(stem) else stem


# --- what is said of it ---


def _report(runtime: Runtime, version: ModelVersion, *, is_new: bool) -> Added:
    from model.checkpoints import files as checkpoints

    config = checkpoints.read_config(runtime.store.local_path(version.key))
    with runtime.sessions() as session:
        serving = versions.serving(session)
    return Added(
        name=version.name,
        is_new=is_new,
        network=_in_words(config),
        parameters=sum(each.numel() for each in checkpoints.outline(config).parameters()),
        input_size=config.size,
        sha256=version.source_sha256 or version.sha256,
        source=version.source or "",
        serving=None if serving is None else serving.name,
        same_encoder=serving is not None and serving.encoder == version.encoder,
    )


def _in_words(c: SegNextConfig) -> str:
    encoder = f"ViT, {c.depth} blocks of {c.dim}" if c.encoder == "vit" else f"{c.encoder}, {c.dim}"
    blocks = c.fusion_depth if c.fusion == "self_attention" else 0
    return f"{encoder} channels, {blocks or 'no'} fusion blocks"
