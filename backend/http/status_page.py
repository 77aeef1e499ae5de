"""The page a person sees who opens the backend's address in a browser: how the loop stands.

Built as a tree of elements, so that no text in it can be taken for markup: labels, file names and
messages of errors are other people's words. It needs nothing from anywhere else and no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import Element, tostring

REFRESH_SECONDS = 10
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}
STYLE = """
:root { color-scheme: light dark; --back: #f6f5f2; --card: #ffffff; --text: #1c1e21;
  --soft: #62666d; --line: #e2dfd9; --main: #1f7a70; --warn: #b23a48; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --card: #1e2125; --text: #e9e7e3;
    --soft: #9aa0a8; --line: #30343a; --main: #46b7a9; --warn: #ef7d88; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--back); color: var(--text); padding: 2rem 1rem 3rem;
  font: 15px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 62rem; margin: 0 auto; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1.5rem; }
h1 { font-size: 1.5rem; letter-spacing: -.02em; flex: 1; }
h2 { font-size: .8rem; font-weight: 600; color: var(--soft); margin-bottom: .5rem; }
a { color: var(--main); text-underline-offset: .2em; }
main { display: grid; gap: 1rem; margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1rem 1.25rem; overflow-wrap: anywhere; }
.wide { grid-column: 1 / -1; overflow-x: auto; }
.large { font-size: 1.75rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.2; }
.soft, footer { color: var(--soft); font-size: .9rem; }
.warn { color: var(--warn); }
p + p, p + progress, progress + p { margin-top: .4rem; }
progress { width: 100%; height: .5rem; accent-color: var(--main); display: block; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: .8rem; color: var(--soft); }
th, td { padding: .3rem 1rem .3rem 0; vertical-align: top; }
td { border-top: 1px solid var(--line); }
th, td:not(:last-child) { white-space: nowrap; }
td:last-child { width: 60%; min-width: 14rem; }
footer { margin-top: 1rem; }
"""


def page(status: Mapping[str, Any], links: Mapping[str, str], moment: datetime) -> str:
    """The page as HTML.

    Args:
        status: what ``pipeline.status.status`` gives.
        links: addresses of the other pages, by their names.
        moment: now, with its zone.
    """
    anchors = [_node("a", name, href=address) for name, address in links.items()]
    root = _node(
        "html",
        _node(
            "head",
            _node("meta", charset="utf-8"),
            _node("meta", name="viewport", content="width=device-width, initial-scale=1"),
            _node("meta", {"http-equiv": "refresh", "content": str(REFRESH_SECONDS)}),
            _node("title", "maskloop"),
            _node("style", STYLE),
        ),
        _node(
            "body",
            _node("header", _node("h1", "maskloop"), *anchors),
            _node(
                "main",
                *_problems(status),
                _model(status, moment),
                _clicks(status),
                _images(status),
                _masks(status),
                _decision(status, moment),
                _round(status),
                _jobs(status, moment),
            ),
            _node("footer", f"As of {moment:%H:%M:%S} UTC, read anew every {REFRESH_SECONDS} s."),
        ),
        lang="en",
    )
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html")


def ago(iso: str, moment: datetime) -> str:
    """How long before ``moment`` something was, in the largest unit that fits."""
    seconds = max((moment - datetime.fromisoformat(iso)).total_seconds(), 0)
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _problems(status: Mapping[str, Any]) -> list[Element]:
    said = [status["queues_problem"]] if status["queues_problem"] else []
    if status["tasks_with_problems"]:
        said.append(
            f"The images of {status['tasks_with_problems']} tasks cannot be used; "
            "`maskloop encode` says why."
        )
    return [_node("section", _node("p", text), {"class": "wide warn"}) for text in said]


def _model(status: Mapping[str, Any], moment: datetime) -> Element:
    since = status["serving_since"]
    lines = [_soft(f"answers clicks, chosen {ago(since, moment)}")] if since else []
    return _card("Model", _large(status["serving"] or "none yet"), *lines)


def _decision(status: Mapping[str, Any], moment: datetime) -> Element:
    last = status["last_decision"]
    if last is None:
        return _card("Last fine-tune", _large("none yet"), _soft("It starts by itself when due."))
    verdict = "promoted" if last["promoted"] else "refused"
    judged = f"{last['candidate']}, judged {ago(last['at'], moment)}"
    return _card("Last fine-tune", _large(verdict), _soft(judged), _node("p", last["reason"]))


def _images(status: Mapping[str, Any]) -> Element:
    encoded, images = status["encoded_images"], status["images"]
    tasks = ", ".join(f"{count} {name}" for name, count in status["tasks"].items())
    return _card(
        "Images",
        _large(f"{encoded} of {images}"),
        _soft("encoded: a first click there is answered at once"),
        _bar(encoded, images),
        _soft(f"Tasks: {tasks or 'none yet'}"),
    )


def _masks(status: Mapping[str, Any]) -> Element:
    new, needed = status["new_regions"], status["new_regions_for_a_finetune"]
    lines = [
        _large(str(status["accepted_regions"])),
        _soft(f"accepted; {new} of {needed} new ones for the next fine-tune"),
        _bar(new, needed),
    ]
    if status["finetune_due"]:
        lines.append(_soft("A fine-tune is due."))
    if status["mean_clicks"] is not None:
        lines.append(_soft(f"{status['mean_clicks']:.1f} clicks each on average"))
    return _card("Accepted masks", *lines)


def _clicks(status: Mapping[str, Any]) -> Element:
    lines = [_large(str(status["clicks_answered"])), _soft("answered")]
    if status["click_p50_ms"] is not None:
        half, most = status["click_p50_ms"], status["click_p95_ms"]
        lines.append(_node("p", f"half within {half:.0f} ms, 95 % within {most:.0f} ms"))
    return _card("Clicks", *lines)


def _round(status: Mapping[str, Any]) -> Element:
    current = status["round"]
    if current is None:
        when = "The first is chosen once every image is encoded."
        return _card("Round", _large("none yet"), _soft(when))
    where = "Label Studio hands it out" if current["in_label_studio"] else "not in Label Studio yet"
    return _card(
        "Round",
        _large(f"number {current['number']}"),
        _soft(f"{current['accepted']} of {current['tasks']} tasks accepted; {where}"),
        _bar(current["accepted"], current["tasks"]),
    )


def _jobs(status: Mapping[str, Any], moment: datetime) -> Element:
    if not status["jobs"]:
        return _card("Jobs", _soft("None has run yet."), wide=True)
    names = ("Job", "State", "Started", "What came of it")
    rows = [_node("tr", *(_node("th", name) for name in names))]
    for job in status["jobs"]:
        state = job["status"]
        if state == "running" and job["total"]:
            state = f"{job['done']} of {job['total']}"
        colour = {"class": "warn"} if state == "failed" else {}
        cells = (job["kind"], state, ago(job["started"], moment), job["message"] or "")
        rows.append(_node("tr", *(_node("td", cell) for cell in cells), colour))
    return _card("Jobs", _node("table", *rows), wide=True)


def _card(title: str, *inside: Element, wide: bool = False) -> Element:
    return _node("section", _node("h2", title), *inside, {"class": "wide"} if wide else {})


def _large(text: str) -> Element:
    return _node("p", text, {"class": "large"})


def _soft(text: str) -> Element:
    return _node("p", text, {"class": "soft"})


def _bar(done: int, total: int) -> Element:
    return _node("progress", f"{done} of {total}", value=str(min(done, total)), max=str(total or 1))


def _node(tag: str, *inside: Element | str | dict[str, str], **attributes: str) -> Element:
    """An element holding elements or one text; a dict holds attributes that are no Python names."""
    node = Element(tag, attributes)
    for part in inside:
        if isinstance(part, dict):
            node.attrib.update(part)
        elif isinstance(part, str):
            node.text = part
        else:
            node.append(part)
    return node
