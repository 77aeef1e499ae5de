"""``maskloop models add``: registers an external checkpoint as a model version."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError, MaskloopError
from model.network.config import SegNextConfig
from model.progress import Progress, silent
from pipeline.record import versions
from pipeline.record.tables import ModelVersion
from pipeline.registry.download import alone, fetch_drive, fetch_url, shown
from pipeline.registry.registry import Registry, name_taken
from pipeline.registry.weights import file_digest, read_weights
from pipeline.storage.store import Store

# The checkpoints that the authors of SegNext released: our name, and the file's id on Google Drive.
RELEASED = {
    "vitb-sax1": "1G_m9_sVYVD2MBDf5ulrAUz-iSvi8bQfZ",
    "vitb-sax2": "1uHEcvwA2spsLQqDJiYKqv1pf3vgLAG7-",
    "vitb-sax2-hq": "1qkXIvxnlY3Z4xLYGWJcoAHBUNyDmvwPS",  # fine-tuned on HQSeg-44K
}
LONGEST = 55  # characters of a name, because a part of a checksum may be added to it
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
TAKEN = re.compile(
    r"v\d+|base(-.*)?|candidate-.*|serving"
)  # what versions are called by themselves


@dataclass(frozen=True)
class Added:
    """A checkpoint that is in the registry.

    Attributes:
        is_new: it was not in the registry before.
        network: its shape, in words.
        parameters: how many parameters it has.
        input_size: side length in pixels of the square that an image is scaled to fit.
        sha256: of the original file.
        serving: name of the serving version; None: there is none.
        same_encoder: it uses the same embeddings as the serving version.
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


def add(
    registry: Registry, what: str, name: str | None = None, progress: Progress = silent
) -> Added:
    """Fetch, check, convert and register a checkpoint; one that is registered already stays as is.

    Args:
        what: a name in ``RELEASED``, an http(s) address, or a path.
        name: for the version; None: made from ``what``.
        progress: counts the bytes of a download.

    Raises:
        CheckpointError: it cannot be fetched or used; the message says why.
        BusyError: another process is adding the same file.
    """
    if name is not None:
        _check_name(registry, name, _source(what))
    if (known := _known_release(registry, what)) is not None:
        return _report(registry, known, is_new=False)
    with _file(registry, what, progress) as path:
        digest = file_digest(path)
        with registry.sessions() as session:
            known = versions.by_digest(session, digest)
        if known is not None and _is_whole(registry.store, known):
            return _report(registry, known, is_new=False)
        weights = read_weights(path)
    # Reading takes seconds, in which another process may have added the same weights.
    with registry.sessions() as session:
        before = versions.names(session)
    # The name may have been taken since it was checked: by another process, or because the same
    # path held another file before.
    version = registry.add(
        weights, name=name or _derived(what), source=_source(what), wished=name is not None
    )
    return _report(registry, version, is_new=version.id not in before)


# --- Where a checkpoint comes from ---


def _is_address(what: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", what) is not None


def _source(what: str) -> str:
    if what in RELEASED:
        return f"{what}, Google Drive {RELEASED[what]}"
    return shown(what) if _is_address(what) else str(Path(what).resolve())[-500:]


@contextmanager
def _file(registry: Registry, what: str, progress: Progress) -> Iterator[Path]:
    """A file on this machine; a downloaded file is deleted when it is no longer needed."""
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
            f"{shown(what)} is not an http(s) address; fetch the file yourself and give its path."
        )
    # The folder is named after the source, so that parts of different files are never mixed. The
    # file keeps its own name, because errors show it.
    folder = registry.settings.home / "downloads" / hashlib.sha256(what.encode()).hexdigest()[:16]
    target = folder / f"{_derived(what)}.pth"
    with alone(target):
        if what in RELEASED:
            fetch_drive(RELEASED[what], target, progress)
        else:
            fetch_url(what, target, progress)
        try:
            yield target
        finally:  # also after a refusal, or a damaged file would be used again
            target.unlink(missing_ok=True)


def _known_release(registry: Registry, what: str) -> ModelVersion | None:
    """The version made from a released file, so that half a gigabyte is not downloaded again."""
    if what not in RELEASED:
        return None
    with registry.sessions() as session:
        known = versions.by_source(session, _source(what))
    return known if known is not None and _is_whole(registry.store, known) else None


def _is_whole(store: Store, version: ModelVersion) -> bool:
    try:
        return file_digest(store.local_path(version.key)) == version.sha256
    except MaskloopError:
        return False


# --- The version's name ---


def _check_name(registry: Registry, name: str, source: str) -> None:
    """Check the name before anything is fetched.

    A version of that name from the same source is allowed, because it may be this checkpoint.

    Raises:
        CheckpointError: the name is not allowed, or a version from another source has it.
    """
    if not NAME.fullmatch(name) or TAKEN.fullmatch(name):
        raise CheckpointError(
            f"{name[:80]!r} cannot be a version's name; take up to {LONGEST} letters, digits, dots "
            "and dashes, and none of the names that versions get by themselves (v7, base)."
        )
    with registry.sessions() as session:
        taken = versions.named(session, name)
    if taken is not None and taken.source != source:
        raise name_taken(name)


def _derived(what: str) -> str:
    stem = Path(shown(what)).name if _is_address(what) else Path(what).name
    stem = re.sub(r"\.(pth|pt|safetensors)$", "", stem)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:LONGEST]
    return f"model-{stem}"[:LONGEST].rstrip("-") if not stem or TAKEN.fullmatch(stem) else stem


# --- The report ---


def _report(registry: Registry, version: ModelVersion, *, is_new: bool) -> Added:
    from model.checkpoints import files as checkpoints

    config = checkpoints.read_config(registry.store.local_path(version.key))
    with registry.sessions() as session:
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
