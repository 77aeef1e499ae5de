"""The whole loop once, on the real stack: a click, a mask, a better model, the next round.

``maskloop up`` starts everything; the annotator and the data team use a real Chromium. The tests
are the steps of one scenario and run in order.

It is longer than 300 lines because the steps of one scenario need each other.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image as Pillow
from playwright.sync_api import Browser, Page
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from model.masks import iou
from pipeline.images.catalog import split_of
from pipeline.labelstudio.regions import brush_region, mask_of
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import from_png
from pipeline.record.tables import (
    Effort,
    Embedding,
    GateDecision,
    Interaction,
    ModelVersion,
    Region,
    Round,
    RoundItem,
    Task,
)
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.stack.home import prepare_home
from pipeline.stack.processes import leftovers
from tests.annotator import Annotator
from tests.browser.fiftyone_page import PATIENCE, login_of, samples, visit, wait_for_green
from tests.browser.page import LabelStudioPage, masks_in
from tests.services.label_studio import LabelStudioServer
from tests.services.stack import FIRST_START_SECONDS, Stack, made_stack
from tests.shapes import shape_picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Mask = npt.NDArray[np.bool_]

SIZE = (240, 320)
TRAIN, HOLDOUT, POOL = 10, 8, 6
DEMO = 12
ROUND_SIZE = 4
HALO = 12  # pixels
WAIT_SECONDS = 600  # a fine-tune and its gate, on a busy machine
SETTINGS = {
    "FINETUNE__MIN_NEW_REGIONS": TRAIN + HOLDOUT,
    "FINETUNE__STEPS": 60,
    "FINETUNE__BATCH": 4,
    "FINETUNE__LEARNING_RATE": 1e-3,
    "FINETUNE__GATE_CLICKS": 5,
    "SELECTION__SIZE": ROUND_SIZE,
    "WORKERS__CHECK_SECONDS": 5,
    "WORKERS__MIRROR_SECONDS": 20,
    "LABEL_STUDIO__POLL_SECONDS": 15,
}


@dataclass
class Loop:
    """The running stack, and the data that this scenario has put into it."""

    stack: Stack
    settings: Settings
    sessions: sessionmaker[Session]
    client: Annotator
    objects: dict[int, Mask] = field(default_factory=dict)  # task -> its disk
    labelled: list[int] = field(default_factory=list)  # tasks for masks made through the API
    clicked: int = 0  # the annotator's task

    @property
    def project(self) -> int:
        assert self.settings.label_studio.project is not None
        return self.settings.label_studio.project

    def backend_versions(self) -> list[str]:
        own = self.settings.backend
        auth = (own.user, own.password.get_secret_value())
        answer = httpx.get(f"{own.url}/versions", auth=auth, timeout=60, trust_env=False)
        versions: list[str] = answer.raise_for_status().json()["versions"]
        return versions

    def backend_processes(self) -> set[int]:
        return {p.pid for p in leftovers(self.stack.home) if "uvicorn" in _command_line(p)}

    def wait(self, ready: Callable[[Session], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            with self.sessions() as session:
                if ready(session):
                    return
            if time.monotonic() > deadline:
                logs = sorted((self.stack.home / "logs").glob("*.log"))
                tails = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs]
                pytest.fail(f"{what} did not happen in {WAIT_SECONDS} s\n" + "\n".join(tails))
            time.sleep(0.5)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def pictures() -> Iterator[tuple[str, str, bytes, Mask]]:
    """Kind, name, PNG and disk of each picture that the scenario needs."""
    wanted = {"train": TRAIN, "holdout": HOLDOUT, "pool": POOL}
    for seed in range(1000):
        image, indices = shape_picture(seed, SIZE)
        file = io.BytesIO()
        Pillow.fromarray(image).save(file, "PNG")
        data = file.getvalue()
        split = split_of(sha256(data).hexdigest(), 0.2)
        kind = split if wanted[split] else "pool"
        if wanted[kind]:
            wanted[kind] -= 1
            yield kind, f"shape{seed}.png", data, indices == 1
        if not any(wanted.values()):
            return


def with_halo(mask: Mask) -> Mask:
    """The mask that this team wants: the object and a rim around it, which no model expects."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * HALO + 1, 2 * HALO + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _round_after_the_decision(session: Session) -> bool:
    """Whether a round was written after the gate's newest decision, as a promotion requires.

    The first round was chosen before anything was labelled.
    """
    decided = session.scalar(select(func.max(GateDecision.created_at)))
    written = session.scalar(select(func.max(Round.written_at)))
    return decided is not None and written is not None and written > decided


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    with made_stack(tmp_path_factory.mktemp("loop"), **SETTINGS) as stack:
        stack.up(FIRST_START_SECONDS)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in stack.environment.items():
                if name.startswith("MASKLOOP_"):
                    patch.setenv(name, value)
            settings = prepare_home(stack.home)
        with Runtime(settings) as runtime, Annotator(settings.label_studio) as client:
            yield Loop(stack, settings, runtime.sessions, client)


@pytest.fixture(scope="module")
def annotator(browser: Browser, loop: Loop) -> Iterator[LabelStudioPage]:
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    own = loop.settings.label_studio
    token, password = own.token.get_secret_value(), own.password.get_secret_value()
    home = loop.stack.home
    server = LabelStudioServer(own.url, token, own.user, password, home, home / "files")
    page = LabelStudioPage(context.new_page(), server)
    page.log_in()
    yield page
    context.close()


@pytest.fixture(scope="module")
def team(browser: Browser, loop: Loop) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1400, "height": 900}, http_credentials=login_of(loop.settings)
    )
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def test_new_tasks_are_encoded_before_anyone_opens_them(loop: Loop) -> None:
    for kind, name, data, disk in pictures():
        task = loop.client.upload_image(loop.project, name, data)
        loop.objects[task] = disk
        if kind != "pool":
            loop.labelled.append(task)
        elif not loop.clicked:
            loop.clicked = task
    everything = DEMO + TRAIN + HOLDOUT + POOL
    loop.wait(
        lambda session: session.scalar(select(func.count(Embedding.id))) == everything,
        "encoding every image",
    )


def test_a_click_an_alt_click_the_tick_and_submit(loop: Loop, annotator: LabelStudioPage) -> None:
    disk = loop.objects[loop.clicked]
    rows, columns = np.nonzero(disk)
    annotator.open_task(loop.project, loop.clicked)
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    (first,) = masks_in(annotator.click(columns.mean(), rows.mean()))
    covered = mask_of(first)
    assert covered is not None
    assert iou(covered, disk) > 0.7
    # The negative click is just outside the object, so the mask must still cover the object.
    (second,) = masks_in(annotator.click(columns.mean(), rows.min() - 12, negative=True))
    assert second["id"] == first["id"]
    annotator.accept()
    stored = annotator.submit()
    kept = [mask for mask in map(mask_of, stored["result"]) if mask is not None]
    assert len(kept) == 1
    assert iou(kept[0], disk) > 0.7

    of_task = select(Region).join(Interaction, Interaction.id == Region.interaction_id)
    of_task = of_task.join(Task, Task.id == Interaction.task_id)
    of_task = of_task.where(Task.ls_task_id == loop.clicked)
    loop.wait(lambda session: session.scalars(of_task).first(), "the webhook's region in SQL")
    with loop.sessions() as session:
        region = session.scalars(of_task).one()
        effort = session.get_one(Effort, region.id)
        prompts = session.get_one(Interaction, region.interaction_id).prompts
        np.testing.assert_array_equal(from_png(region.mask), kept[0])
    assert region.label == "Object"
    assert (effort.clicks, effort.negative_clicks, effort.last_iou) == (2, 1, 1.0)
    assert [prompt["positive"] for prompt in prompts] == [True, False]
    assert prompts[0]["x"] == pytest.approx(columns.mean(), abs=2)
    assert prompts[0]["y"] == pytest.approx(rows.mean(), abs=2)


def test_accepted_masks_train_a_model_that_the_gate_lets_serve(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    processes, before = loop.backend_processes(), loop.backend_versions()
    for task in loop.labelled:
        region = brush_region(
            region_id=f"region{task}",
            mask=CodedMask.of_mask(with_halo(loop.objects[task])),
            label="Object",
            from_name="mask",
            to_name="image",
        )
        loop.client.create_annotation(task, [region])
    loop.wait(lambda session: session.scalars(select(GateDecision)).first(), "the gate's decision")
    with loop.sessions() as session:
        decision = session.scalars(select(GateDecision)).first()
        assert decision is not None
        assert decision.promoted, decision.reason
        name = session.get_one(ModelVersion, decision.candidate_id).name
    deadline = time.monotonic() + 30
    while loop.backend_versions()[0] != name:
        assert time.monotonic() < deadline, loop.backend_versions()
        time.sleep(0.2)
    assert name not in before
    assert loop.backend_processes() == processes, "the backend was restarted"

    # The promoted model answers the next click, and it has learned the masks that this team wants.
    task = next(t for t in loop.objects if t not in (*loop.labelled, loop.clicked))
    rows, columns = np.nonzero(loop.objects[task])
    annotator.open_task(loop.project, task)
    annotator.choose("1", "k")
    answer = annotator.click(columns.mean(), rows.mean())["data"]
    assert answer["model_version"] == name
    learned = mask_of(answer["result"][0])
    assert learned is not None
    halo = with_halo(loop.objects[task])
    assert iou(learned, halo) > iou(learned, loop.objects[task])
    annotator.reject()


def test_fiftyone_shows_the_masks(loop: Loop, team: Page, tmp_path: Path) -> None:
    accepted = len(loop.labelled) + 1
    loop.wait(_round_after_the_decision, "the next round")
    deadline = time.monotonic() + 3 * PATIENCE / 1000
    while True:  # the mirror runs after the round, and then regularly
        visit(team, loop.settings, f"datasets/{loop.settings.fiftyone.dataset}?view=accepted")
        if team.get_by_text(f"{accepted} samples", exact=True).is_visible():
            break
        assert time.monotonic() < deadline, "the accepted masks are not in FiftyOne"
        team.wait_for_timeout(2000)
    wait_for_green(team, 0.01)
    visit(team, loop.settings, f"datasets/{loop.settings.fiftyone.dataset}?view=next-round")
    samples(team, ROUND_SIZE)


def test_label_studio_hands_out_the_next_round_first(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    with loop.sessions() as session:
        newest = select(func.max(Round.id)).scalar_subquery()
        ranked = session.scalars(
            select(Task.ls_task_id)
            .join(RoundItem, RoundItem.task_id == Task.id)
            .where(RoundItem.round_id == newest)
            .order_by(RoundItem.rank)
        ).all()
    assert len(ranked) == ROUND_SIZE
    assert not set(ranked) & {*loop.labelled, loop.clicked}
    assert annotator.open_next(loop.project) == ranked[0]


def test_bad_input_is_a_clear_sentence_and_loses_nothing(loop: Loop) -> None:
    with loop.sessions() as session:
        regions = session.scalar(select(func.count(Region.id)))
    tasks = {
        "is not an image": "/data/local-files/?d=notes.txt",
        "leaves": "/data/local-files/?d=../maskloop.toml",
    }
    (loop.settings.home / "files").mkdir(exist_ok=True)
    (loop.settings.home / "files" / "notes.txt").write_text("no picture")
    loop.client.import_tasks(loop.project, [{"image": url} for url in tasks.values()])
    said: list[str] = []

    def problems(session: Session) -> bool:
        said[:] = [p for p in session.scalars(select(Task.problem)) if p]
        return len(said) >= len(tasks)

    loop.wait(problems, "the problems of bad tasks")
    assert all(sentence.endswith(".") for sentence in said), said
    own = loop.settings.backend
    auth = (own.user, own.password.get_secret_value())
    with httpx.Client(base_url=own.url, auth=auth, timeout=60, trust_env=False) as backend:
        unknown = backend.post("/predict", json={"tasks": [{"id": 10**9}], "project": "x"})
        assert httpx.codes.is_client_error(unknown.status_code), unknown.text
        assert backend.post("/predict", content=b"{").status_code < 500
        assert backend.get("/ready").status_code == httpx.codes.OK
    with loop.sessions() as session:
        assert session.scalar(select(func.count(Region.id))) == regions
