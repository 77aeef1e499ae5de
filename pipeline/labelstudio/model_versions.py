"""The names of model versions under which Label Studio stores our predictions."""

from __future__ import annotations

from collections.abc import Collection


def round_version(number: int) -> str:
    """The name under which the scores of a round are stored."""
    return f"round-{number}"


def proposals_version(name: str) -> str:
    """The name under which the proposals of a model version are stored."""
    return f"{name} proposals"


def our_proposals(names: Collection[str]) -> frozenset[str]:
    """The names under which the proposals of all these model versions are stored.

    Names are compared as a whole, so that predictions of another program, such as "RPN proposals",
    are not removed as ours.
    """
    return frozenset(map(proposals_version, names))
