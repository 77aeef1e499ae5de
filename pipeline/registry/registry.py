"""The registry joins the rows of model versions with their weights in the store.

A row says which version serves (``pipeline.record.versions``). Weights are read, checked and
written outside every transaction, so that no click waits for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

from model.errors import CheckpointError
from pipeline.errors import StoreError
from pipeline.record import versions
from pipeline.record.tables import ModelVersion, Snapshot, now
from pipeline.registry.weights import Weights, file_digest, read_weights, store_key
from pipeline.settings import Settings
from pipeline.storage.store import Store

if TYPE_CHECKING:  # torch takes seconds to import, and listing versions needs none of it
    from model.network.segnext import SegNext

DIGEST_SHOWN = 8  # characters of a checksum that are added to make a name unique


class Registry:
    """Model versions with their weights. Threads may share one.

    Args:
        open_sessions: opens the database when it is first needed; a checkpoint file needs none.
    """

    def __init__(
        self, open_sessions: Callable[[], sessionmaker[Session]], store: Store, settings: Settings
    ) -> None:
        self._open_sessions = open_sessions
        self.store = store
        self.settings = settings

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        return self._open_sessions()

    @property
    def device(self) -> str:
        """The torch device of the settings, with "auto" replaced by a real device."""
        if self.settings.model.device != "auto":
            return self.settings.model.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    # Names.

    def named_file(self, name: str | None = None) -> Path | None:
        """The checkpoint file called ``name``; None when there is no such file.

        A caller that accepts "a file or a version" calls this first and then ``named_version``.

        Args:
            name: None: the base of the settings, else the checkpoint that ships.
        """
        wanted = self.settings.model.base if name is None else Path(name)
        if wanted is None:
            from model.checkpoints import files as checkpoints

            return checkpoints.default_checkpoint()
        return wanted if wanted.is_file() else None

    def named_version(self, name: str | None = None) -> ModelVersion:
        """The model version called ``name``, when ``named_file`` found no file of that name.

        Args:
            name: None: the base of the settings.

        Raises:
            CheckpointError: there is no such version either.
        """
        wanted = str(self.settings.model.base) if name is None else name
        with self.sessions() as session:
            version = versions.named(session, wanted)
        if version is None:
            of_settings = "mend the setting model.base"
            remedy = of_settings if name is None else "`maskloop models list` names the versions"
            raise CheckpointError(f"{wanted} is neither a file nor a model version; {remedy}.")
        return version

    # Adding versions.

    def ensure_base(self) -> ModelVersion:
        """The version that fine-tunes start from. The first call registers it, and lets it serve if
        no version serves.

        Raises:
            CheckpointError: the base checkpoint is missing or damaged.
        """
        known = self._base()
        with self.sessions() as session:
            if versions.serving_id(session) is not None:
                return known
        with self.sessions.begin() as session:
            versions.hold_serving(session)
            known = session.get_one(ModelVersion, known.id)
            if versions.serving_id(session) is None:
                versions.promote(session, known)
        return known

    def _base(self) -> ModelVersion:
        path = self.named_file()
        if path is None:
            return self.named_version()
        digest = file_digest(path)
        with self.sessions() as session:
            known = versions.by_digest(session, digest)
        return known or self.add(read_weights(path), name="base")

    def add(
        self, weights: Weights, *, name: str, source: str | None = None, wished: bool = False
    ) -> ModelVersion:
        """Register weights from a file as a candidate; known weights return their existing version.

        Args:
            name: of the new version; when it is taken, a part of the checksum is added to it.
            source: where the file came from, for people to read.
            wished: a person chose the name, so a taken name is an error.

        Raises:
            CheckpointError: ``wished`` is True and the name is taken.
        """
        digest = hashlib.sha256(weights.data).hexdigest()
        encoder = weights.model.encoder_fingerprint  # a checksum of all its weights: takes time
        self.store.write(store_key(digest), weights.data)  # over an entry that may be damaged
        with self.sessions.begin() as session:
            versions.hold_serving(session)
            known = versions.by_digest(session, digest)
            if known is not None:  # another process may have registered it meanwhile
                return known
            taken = versions.named(session, name) is not None
            if taken and wished:
                raise name_taken(name)
            version = ModelVersion(
                name=f"{name}-{digest[:DIGEST_SHOWN]}" if taken else name,
                encoder=encoder,
                sha256=digest,
                key=store_key(digest),
                status="candidate",
                source=source,
                source_sha256=weights.source_sha256,
            )
            session.add(version)
        return version

    def add_candidate(self, model: SegNext, snapshot: Snapshot) -> ModelVersion:
        """Store the weights of a fine-tuned ``model`` as a new candidate, trained on
        ``snapshot``."""
        from model.checkpoints import files as checkpoints

        # Exact, because rounding would make the encoder differ from that of the base.
        data = checkpoints.to_bytes(model, exact=True)
        digest = hashlib.sha256(data).hexdigest()
        encoder = model.encoder_fingerprint
        self.store.write(store_key(digest), data)
        with self.sessions.begin() as session:
            version = ModelVersion(
                # A temporary unique name, because the readable name needs the row's number.
                name=f"candidate-{digest[:DIGEST_SHOWN]}-{now():%Y%m%d%H%M%S%f}",
                encoder=encoder,
                sha256=digest,
                key=store_key(digest),
                status="candidate",
                snapshot_id=snapshot.id,
            )
            session.add(version)
            session.flush()
            version.name = f"v{version.id}"
        return version

    # Loading networks.

    def load(self, version: ModelVersion) -> SegNext:
        """The network of ``version`` on the device of the settings, in float32.

        Raises:
            CheckpointError: its weights are missing from the store or damaged.
        """
        from model.checkpoints import files as checkpoints

        remedy = "put the file back, or roll back with `maskloop models rollback`"
        try:
            path = self.store.local_path(version.key)
        except StoreError as error:
            raise CheckpointError(
                f"The weights of {version.name} are missing from the store; {remedy}."
            ) from error
        if file_digest(path) != version.sha256:
            raise CheckpointError(
                f"The weights of {version.name} are damaged in the store; {remedy}."
            )
        return checkpoints.load(path, device=self.device)

    def load_to_serve(self, version: ModelVersion) -> SegNext:
        """The network of ``version`` as ``load`` returns it, in the precision of the settings."""
        from model.inference import precision

        model = self.load(version)
        precision.lower(model, precision.choose(self.settings.model.precision, model))
        return model

    def load_named(self, name: str | None) -> tuple[str, SegNext]:
        """(name, network) of a checkpoint file, which needs no database, or of a model version.

        Args:
            name: None: the base of the settings.

        Raises:
            CheckpointError: it is neither, or cannot be used.
        """
        path = self.named_file(name)
        if path is not None:
            return load_file(path, self.device)
        with self.sessions() as session:
            serves = versions.serving_id(session) is not None
        if not serves:  # On the first use, "base" must be registered first.
            self.ensure_base()
        version = self.named_version(name)
        return version.name, self.load(version)


def name_taken(name: str) -> CheckpointError:
    """The error for a chosen name that another version has."""
    return CheckpointError(f"There is already another version {name}; give another --name or none.")


def load_file(path: Path, device: str) -> tuple[str, SegNext]:
    """(name, network) of a checkpoint file. Raises CheckpointError when it cannot be used."""
    from model.checkpoints import files as checkpoints

    return path.name, checkpoints.load(path, device=device)
