"""The status page, which a browser shows at the backend's address.

The template escapes every value, because labels, file names and error messages come from other
people. The page loads nothing else and has no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, pass_context
from jinja2.runtime import Context

REFRESH_SECONDS = 10
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}
UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60))  # name and length in seconds


def page(status: Mapping[str, Any], links: Mapping[str, str], moment: datetime) -> str:
    """The page as HTML.

    Args:
        status: the report of ``pipeline.status.status``.
        links: addresses of the other pages, by their names.
        moment: the current time, with its time zone.
    """
    return _template().render(
        status=status, links=links, moment=moment, refresh_seconds=REFRESH_SECONDS
    )


def ago(iso: str, moment: datetime) -> str:
    """How long before ``moment`` something was, in the largest unit that fits.

    Args:
        iso: the time of it in ISO 8601, with its time zone.
    """
    seconds = max((moment - datetime.fromisoformat(iso)).total_seconds(), 0)
    for name, length in UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("backend.http"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ago"] = _ago
    return environment.get_template("status.html")


@pass_context
def _ago(context: Context, iso: str) -> str:
    return ago(iso, context["moment"])
