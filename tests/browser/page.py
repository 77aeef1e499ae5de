"""Uses Label Studio's labelling page as an annotator does: keys, clicks, the tick, Submit."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page, Response, expect

from tests.services.label_studio import LabelStudioServer

LOAD_MS = 60_000  # the first page of a server that just started, on a busy machine
PRESS_MS = 3_000
ANSWER_MS = 60_000  # a first click may have to encode the image
KEEP_LABEL = "Keep label selected after creating a region"
AUTO_ACCEPT = "bottombar-auto-accept-toggle"
AUTO_ANNOTATION = "bottombar-auto-annotation-toggle"
ACCEPT = "bottombar-accept-suggestions-button"
REJECT = "bottombar-reject-suggestions-button"


@dataclass(frozen=True)
class Rectangle:
    """Where the whole image lies on the screen, in CSS pixels; its edges may be cut off."""

    x: float
    y: float
    width: float
    height: float
    columns: int  # width of the image in its own pixels
    rows: int


class LabelStudioPage:
    """One logged-in annotator in one tab. Image coordinates are pixels of the upright image."""

    def _switch_on(self, switch: Locator, *, pressed: Locator) -> None:
        """Press the switch until it is on, because a press fails while the switch moves.

        On a busy machine the page needs time to show the result of a press. A second press would
        undo the first, so there is a wait after each. Another element may cover the switch and
        catch the mouse, so presses of the mouse and of the space bar take turns.
        """
        deadline = time.monotonic() + LOAD_MS / 1000
        by_mouse = True
        while not switch.is_checked():
            assert time.monotonic() < deadline, "the switch does not go on"
            with suppress(Error, AssertionError):
                if by_mouse:
                    pressed.click(force=True, timeout=PRESS_MS)
                else:
                    switch.press("Space", timeout=PRESS_MS)
                expect(switch).to_be_checked(timeout=PRESS_MS)
            by_mouse = not by_mouse

    def __init__(self, page: Page, server: LabelStudioServer) -> None:
        self.page = page
        self.server = server
        self._accepts_itself = False

    def log_in(self) -> None:
        self.page.goto(f"{self.server.url}/user/login/", timeout=LOAD_MS)
        self.page.fill("input[name=email]", self.server.username)
        self.page.fill("input[name=password]", self.server.password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/user/login" not in url, timeout=LOAD_MS)

    def open_task(self, project: int, task: int) -> None:
        """Open one task from the data manager."""
        self.page.goto(f"{self.server.url}/projects/{project}/data?task={task}", timeout=LOAD_MS)
        self._wait_for_editor()

    def open_next(self, project: int) -> int:
        """Press "Label All Tasks", which opens the next task; returns the task's id."""
        # The button must be pressed: its address, when opened directly, gives tasks in the order
        # of the open tab.
        self.page.goto(f"{self.server.url}/projects/{project}/data", timeout=LOAD_MS)
        with self.page.expect_response(
            lambda response: "id=next_task" in response.url, timeout=LOAD_MS
        ) as answer:
            self.page.get_by_role("button", name="Label All Tasks").click(timeout=LOAD_MS)
        assert answer.value.ok, f"Label Studio handed out no task: {answer.value.text()}"
        self._wait_for_editor()
        return int(answer.value.json()["id"])

    def use_smart_tools(self) -> None:
        """Switch Auto-Annotation on, and let the label stay selected between clicks."""
        toggle = self.page.get_by_test_id(AUTO_ANNOTATION)
        self._switch_on(toggle, pressed=toggle)
        self.page.get_by_test_id("bottombar-settings-button").click()
        keep = self.page.locator("label", has_text=KEEP_LABEL)
        keep.wait_for()
        self._switch_on(keep.locator("input"), pressed=keep)
        self.page.keyboard.press("Escape")
        self.page.get_by_text(KEEP_LABEL).wait_for(state="hidden")

    def choose(self, *keys: str) -> None:
        """Press the keys of a label and a tool, such as ``"1", "k"``."""
        # Keys do nothing while an input has the focus, such as a switch after a press.
        self.page.evaluate("document.activeElement.blur()")
        for key in keys:
            self.page.keyboard.press(key)
            self._frame()
        assert self.page.locator(".lsf-tool_active.lsf-tool_smart").count(), "no smart tool is on"

    def click(
        self, column: float, row: float, *, negative: bool = False, on_region: bool = False
    ) -> dict[str, Any]:
        """Click the image (with Alt for a negative click) and wait for the suggestion.

        Args:
            on_region: hold Ctrl too, without which a click on a region only selects it.

        Returns:
            Label Studio's answer: ``{"data": {"result": [...], ...}}``, or ``{"errors": [...]}``.
        """
        x, y = self.on_screen(column, row)
        held = ["Alt"] * negative + ["Control"] * on_region
        for key in held:
            self.page.keyboard.down(key)
        with self.page.expect_response(_is_suggestion, timeout=ANSWER_MS) as answer:
            self.page.mouse.click(x, y)
        for key in held:
            self.page.keyboard.up(key)
        return self._answered(answer.value)

    def drag(self, left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
        """Draw a box with the smart rectangle and wait for the suggestion."""
        self.page.mouse.move(*self.on_screen(left, top))
        self.page.mouse.down()
        self.page.mouse.move(*self.on_screen((left + right) / 2, (top + bottom) / 2), steps=4)
        self.page.mouse.move(*self.on_screen(right, bottom), steps=4)
        with self.page.expect_response(_is_suggestion, timeout=ANSWER_MS) as answer:
            self.page.mouse.up()
        return self._answered(answer.value)

    def pick(self, *keys: str) -> None:
        """Press the keys of a label and perhaps of a tool, with nothing selected.

        This is ``choose`` without the smart tool.
        """
        self.page.evaluate("document.activeElement.blur()")
        for key in ("Escape", *keys):
            self.page.keyboard.press(key)
            self._frame()

    def outline(self, *corners: tuple[float, float]) -> None:
        """Draw a polygon with the picked tool, and close it."""
        before = self.regions()
        for place in (*corners, corners[0]):
            self.page.mouse.click(*self.on_screen(*place))
            self._frame()
        assert self.regions() == before + 1, "the polygon is not there"

    def stroke(self, *places: tuple[float, float]) -> None:
        """Draw with the mouse held down: a brush stroke, or an ellipse from corner to corner."""
        before = self.regions()
        self.page.mouse.move(*self.on_screen(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.on_screen(*place), steps=6)
        self.page.mouse.up()
        self._frame()
        assert self.regions() == before + 1, "nothing was drawn"

    def write(self, words: str) -> dict[str, Any]:
        """Type into the text box, press Enter, and wait for the suggestion."""
        box = self.page.get_by_placeholder("Name the object in words and press Enter")
        box.fill(words)
        with self.page.expect_response(_is_suggestion, timeout=ANSWER_MS) as answer:
            box.press("Enter")
        return self._answered(answer.value)

    def notice(self) -> str:
        """The notice for the annotator above the labels; empty when there is none."""
        shown = self.page.locator('.maskloop-notice [data-testid="htx-textbox-content"]')
        return " ".join(shown.all_inner_texts())

    def live_notice(self) -> str:
        """The notice that the page received without a click."""
        frame = self.page.frame_locator('iframe[title="maskloop"]')
        return frame.locator("#notice").inner_text(timeout=LOAD_MS)

    def auto_accept(self) -> None:
        """Switch Auto-Accept Suggestions on."""
        toggle = self.page.get_by_test_id(AUTO_ACCEPT)
        self._switch_on(toggle, pressed=toggle)
        self._accepts_itself = True
        self.page.evaluate("document.activeElement.blur()")

    def wait_for_draft(self) -> None:
        """Wait until Label Studio has saved the page's draft, which takes up to five seconds."""
        self.page.wait_for_timeout(6_000)

    def undo(self) -> None:
        """Press Ctrl+Z, which sends no request: the suggestion stays until the next click."""
        self.page.evaluate("document.activeElement.blur()")
        before = self.regions()
        self.page.keyboard.press("Control+z")
        self.page.wait_for_function(f"{_REGIONS} < {before}")

    def accept(self) -> None:
        """Press the tick: the suggestion becomes a region, and its prompts are removed."""
        self.page.get_by_test_id(ACCEPT).click()
        self.page.get_by_test_id(ACCEPT).wait_for(state="detached")

    def reject(self) -> None:
        """Press the cross: the suggestion and its prompts are removed."""
        self.page.get_by_test_id(REJECT).click()
        self.page.get_by_test_id(REJECT).wait_for(state="detached")

    def submit(self) -> dict[str, Any]:
        """Press Submit; returns the annotation as Label Studio stored it."""
        with self.page.expect_response(
            lambda response: (
                response.request.method == "POST"
                and response.url.split("?")[0].rstrip("/").endswith("/annotations")
            ),
            timeout=LOAD_MS,
        ) as answer:
            self.page.get_by_test_id("bottombar-submit-button").click()
        assert answer.value.ok, answer.value.text()
        stored: dict[str, Any] = answer.value.json()
        return stored

    def regions(self) -> int:
        """How many regions the page shows in its list, prompts included."""
        return int(self.page.evaluate(_REGIONS))

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=path)

    def _wait_for_editor(self) -> None:
        self.page.get_by_test_id(AUTO_ANNOTATION).wait_for(state="attached", timeout=LOAD_MS)
        self._image(LOAD_MS)

    def _answered(self, response: Response) -> dict[str, Any]:
        answer: dict[str, Any] = response.json()
        if masks_in(answer) and not self._accepts_itself:
            self.page.get_by_test_id(ACCEPT).wait_for()
            self._frame()
        return answer

    def on_screen(self, column: float, row: float) -> tuple[float, float]:
        at = self._image(LOAD_MS)
        return at.x + column / at.columns * at.width, at.y + row / at.rows * at.height

    def _image(self, timeout: float) -> Rectangle:
        """The place of the image when it no longer moves; panels that open and close move it."""
        # In a single call, because a page that shows a prediction draws the image again.
        place = self.page.wait_for_function(_AT_REST, timeout=timeout)
        return Rectangle(**place.json_value())

    def _frame(self) -> None:
        """Wait until the page has drawn its changes."""
        self.page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


def masks_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The regions of an answer, without the notice."""
    found = (answer.get("data") or {}).get("result") or []
    return [region for region in found if region["type"] != "textarea"]


def _is_suggestion(response: Response) -> bool:
    return "/interactive-annotating" in response.url


_REGIONS = """Array.from(Htx.annotationStore.selected.areas.values())
  .filter(area => !area.classification).length"""

# The image is loaded, and has not moved for 300 ms.
_AT_REST = """() => {
  const image = document.querySelector('img[alt="image"]');
  if (!image || !image.complete || !image.naturalWidth || !document.querySelector('canvas')) {
    return false;
  }
  const {x, y, width, height} = image.getBoundingClientRect();
  const place = [x, y, width, height].join(' ');
  if (window.lastPlace !== place || width === 0) {
    window.lastPlace = place;
    window.placedAt = performance.now();
  }
  const [columns, rows] = [image.naturalWidth, image.naturalHeight];
  return performance.now() - window.placedAt > 300 && {x, y, width, height, columns, rows};
}"""
