"""The root of maskloop's exception tree, and its branch for the network.

Every error a user can cause is one of these, and its message is one sentence that ends in a remedy.
``pipeline.errors`` continues the same tree for the loop around the network.
"""

from __future__ import annotations

import pickle

# What ``torch.load`` raises for a damaged file or one of another kind, and what using its contents
# raises.
UNREADABLE = (RuntimeError, KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError)


class MaskloopError(Exception):
    """Root of every error maskloop raises on purpose. ``str(error)`` is fit to show to a user."""


class ImageError(MaskloopError):
    """The bytes are not an image that can be read, or the image breaks a limit."""


class PromptError(MaskloopError):
    """A prompt without a meaning on this image: empty, not finite, or outside the image."""


class CheckpointError(MaskloopError):
    """A checkpoint that is missing, damaged, of another shape, or not safe to read."""


class RecipeError(MaskloopError):
    """A training recipe that cannot be read or followed."""


class DatasetError(MaskloopError):
    """A folder of images and masks that does not hold what its manifest says."""


class ExportError(MaskloopError):
    """A network that cannot be exported here, or whose exported files give different masks."""
