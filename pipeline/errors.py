"""The exceptions of the loop; all are kinds of ``model.errors.MaskloopError``."""

from __future__ import annotations

from model.errors import MaskloopError


class SettingsError(MaskloopError):
    """A setting is missing or has a value that cannot be used."""


class DatabaseError(MaskloopError):
    """The database cannot be used: out of reach, not maskloop's, or of another version."""


class ImageSourceError(MaskloopError):
    """An image cannot be fetched: unknown scheme, refused host or path, missing file, too large."""


class StoreError(MaskloopError):
    """The store of images, embeddings and weights cannot be read or written, or an entry in it is
    missing or damaged."""


class BackupError(MaskloopError):
    """A backup that cannot be made, is damaged, or cannot be restored here."""


class RleError(MaskloopError):
    """A brush RLE that is truncated, of the wrong size, or not RLE at all."""


class LabelConfigError(MaskloopError):
    """A labelling config that lacks what maskloop needs; the message names it."""


class LabelStudioError(MaskloopError):
    """Label Studio refused a call, is out of reach, or answered something unexpected."""


class ServiceError(MaskloopError):
    """A service (Redis, mongod, Label Studio, backend, worker, FiftyOne) did not start or died."""


class BusyError(ServiceError):
    """Another process is doing the same thing at the moment."""


class JobEndedError(MaskloopError):
    """A job was cancelled, or another process has taken it over, so this run must not go on."""


class RequestError(MaskloopError):
    """A request to the backend that is not what Label Studio sends or is too large, or a message to
    a worker that asks for something impossible."""


class NotEnoughDataError(MaskloopError):
    """A job has too few accepted regions or images to do anything meaningful."""


class UnknownRecordError(MaskloopError):
    """A task, image, model version or round that the database does not know."""
