"""Kills and stops every service at random while annotators label, and then counts what was lost.

``maskloop up`` runs in a folder of its own. Annotators click through Label Studio and submit masks,
new images arrive, rounds change and fine-tunes run. Meanwhile one service after another is killed
(SIGKILL) or stopped for some seconds (SIGSTOP); PostgreSQL, where a server is installed, is one of
them. Afterwards the loop must become whole without anyone's help.

Run with ``python -m bench.chaos``; it ends with 1 when anything was lost or doubled. It is longer
than 300 lines because attackers, annotators and the examination share one stage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from bench.annotators import World, make_world
from bench.postgresql import Postgres, postgresql
from model.errors import MaskloopError
from model.masks import Mask
from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.regions import brush_region
from pipeline.masks.coded import CodedMask
from pipeline.queue import QUEUES
from pipeline.record import embeddings, heartbeats, images, tasks, versions
from pipeline.record.tables import (
    Annotation,
    Embedding,
    Event,
    GateDecision,
    Job,
    ModelVersion,
    Region,
    Round,
)
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, Settings, load_settings
from pipeline.stack.processes import leftovers

WIDTH, HEIGHT = 320, 240
UP = "every setting:"  # in the last line of a start
UP_SECONDS = 600
HEAL_SECONDS = 300
KILLED_SHARE = 0.7  # of the attacks; the others stop a process for a while
STOPPED_SECONDS = (3.0, 15.0)
NEWCOMERS = 0.25  # share of the images that arrive while services die
# Words of the command line of each service.
SERVICES = {
    "Redis": ("redis-server",),
    "mongod": ("mongod", "--dbpath"),
    "Label Studio": ("label-studio", "start"),
    "backend": ("uvicorn",),
    "worker": ("celery", "worker@maskloop"),
    "trainer": ("celery", "trainer@maskloop"),
    "beat": ("celery", " beat "),
    "FiftyOne": ("pipeline.mirror.app",),
}


@dataclass
class Tally:
    """What happened. ``submitted`` holds Label Studio's numbers of the annotations it confirmed."""

    submitted: dict[int, int] = field(default_factory=dict)  # annotation: task
    clicks: int = 0
    attacks: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Stage:
    """A running stack and what the annotators need to work on it."""

    settings: Settings
    world: World
    tally: Tally
    project: int
    objects: dict[int, Mask] = field(default_factory=dict)  # by task
    ended: threading.Event = field(default_factory=threading.Event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--attacks", type=int, default=100, help="kills and stops, evenly spread")
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sqlite", action="store_true", help="even where PostgreSQL is installed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maskloop-chaos-") as folder, ExitStack() as stack:
        server = None if arguments.sqlite else stack.enter_context(postgresql())
        report = run(arguments, Path(folder), server)
    print(json.dumps(report, indent=1) if arguments.json else table(report))
    sys.exit(0 if report["sound"] else 1)


def run(arguments: argparse.Namespace, folder: Path, server: Postgres | None) -> dict[str, Any]:
    rng = random.Random(arguments.seed)
    home = folder / "home"
    environment = made_environment(home, rng, server)
    os.environ.update(environment)
    with up(environment, folder / "up.log"):
        settings = load_settings()
        project = settings.label_studio.project
        assert project is not None
        world = make_world(arguments.images, WIDTH, HEIGHT)
        stage = Stage(settings, world, Tally(), project)
        early = round(arguments.images * (1 - NEWCOMERS))
        upload(stage, range(early))
        threads = [
            threading.Thread(target=annotate, args=(stage, random.Random(number)))
            for number in range(arguments.annotators)
        ]
        threads.append(threading.Thread(target=upload_slowly, args=(stage, early, arguments)))
        for thread in threads:
            thread.start()
        attack(stage, home, rng, arguments, server)
        begin = time.monotonic()
        stage.ended.set()
        for thread in threads:
            thread.join()
        healed = wait_until_whole(stage, begin)
        report = examine(stage, healed)
    report["orphans"] = len(leftovers(home))
    report["database"] = "SQLite" if server is None else "PostgreSQL"
    report["sound"] = report["sound"] and not report["orphans"]
    return report


def made_environment(home: Path, rng: random.Random, server: Postgres | None) -> dict[str, str]:
    """Settings of a quick loop on ports of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MASKLOOP_")}
    quick = {
        HOME_VARIABLE: str(home),
        "MASKLOOP_PORT_OFFSET": str(rng.randrange(1000, 20_000)),
        "MASKLOOP_FINETUNE__STEPS": "20",
        "MASKLOOP_FINETUNE__GATE_CLICKS": "5",
        "MASKLOOP_FINETUNE__MIN_NEW_REGIONS": "10",
        "MASKLOOP_SELECTION__SIZE": "10",
        "MASKLOOP_LABEL_STUDIO__POLL_SECONDS": "10",
        "MASKLOOP_WORKERS__CHECK_SECONDS": "10",
        "MASKLOOP_WORKERS__MIRROR_SECONDS": "30",
        "MASKLOOP_WORKERS__VISIBILITY_SECONDS": "60",
    }
    return clean | quick | ({} if server is None else {"MASKLOOP_DATABASE_URL": server.url})


@contextmanager
def up(environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """``maskloop up`` until the block ends."""
    command = [str(Path(sys.executable).parent / "maskloop"), "up"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + UP_SECONDS
        while UP not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"maskloop up did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.5)
        yield
        if process.poll() is not None:
            sys.exit(f"maskloop up gave up:\n{log.read_text(errors='replace')}")
    finally:
        process.terminate()
        process.wait(timeout=120)


def upload(stage: Stage, numbers: range) -> None:
    """Upload pictures; each is a task with one object that an annotator will outline."""
    rng = np.random.default_rng(numbers.start)
    with LabelStudio(stage.settings.label_studio) as client:
        for number in numbers:
            picture = stage.world.pictures[number]
            _, data = cv2.imencode(".png", picture.paint(rng)[..., ::-1])
            name = f"{Path(picture.name).stem}.png"
            work = partial(client.upload_image, stage.project, name, data.tobytes())
            task = insist(stage, work)
            if task is not None:
                with stage.tally.lock:
                    stage.objects[task] = picture.things[0].mask(WIDTH, HEIGHT)


def upload_slowly(stage: Stage, start: int, arguments: argparse.Namespace) -> None:
    """Upload the rest of the pictures while services die."""
    pause = 60 * arguments.minutes / max(arguments.images - start, 1)
    for number in range(start, arguments.images):
        if stage.ended.wait(pause):
            return
        upload(stage, range(number, number + 1))


def annotate(stage: Stage, rng: random.Random) -> None:
    """One annotator: click an object, submit the mask, go on; try again while something is down."""
    settings = stage.settings.label_studio
    with (
        LabelStudio(settings) as client,
        httpx.Client(base_url=settings.url, timeout=30, trust_env=False) as http,
    ):
        while not stage.ended.is_set():
            with stage.tally.lock:
                waiting = list(stage.objects)
                task = rng.choice(waiting) if waiting else None
                mask = stage.objects.pop(task) if task is not None else None
            if task is None or mask is None:
                stage.ended.wait(0.5)
                continue
            click(client, stage, task, mask)
            region = brush_region(
                region_id=f"r{task}",
                mask=CodedMask.of_mask(mask),
                label="Object",
                from_name="mask",
                to_name="image",
            )
            headers = client.auth_header()
            made = insist(stage, partial(submit, http, headers, task, region))
            if made is not None:
                with stage.tally.lock:
                    stage.tally.submitted[made] = task


def click(client: LabelStudio, stage: Stage, task: int, mask: Mask) -> None:
    """Click the object as the labelling page does; an answer that fails is not asked for again."""
    rows, columns = np.nonzero(mask)
    mark = {
        "id": f"click{task}",
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "is_positive": True,
        "value": {
            "x": 100 * float(columns.mean()) / WIDTH,
            "y": 100 * float(rows.mean()) / HEIGHT,
            "width": 0.5,
            "keypointlabels": ["Object"],
        },
    }
    with suppress(MaskloopError, httpx.HTTPError):
        (backend,) = client.backends(stage.project)
        client.interactive(backend["id"], task, [mark])  # type: ignore[list-item]
        with stage.tally.lock:
            stage.tally.clicks += 1


def submit(http: httpx.Client, headers: dict[str, str], task: int, region: Any) -> int:
    """Submit an annotation, unless an attempt whose answer was lost has done so."""
    known = http.get(f"/api/tasks/{task}/annotations/", headers=headers)
    known.raise_for_status()
    if known.json():
        return int(known.json()[0]["id"])
    body = {"result": [region]}
    made = http.post(f"/api/tasks/{task}/annotations/", headers=headers, json=body)
    made.raise_for_status()
    return int(made.json()["id"])


def insist(stage: Stage, work: Callable[[], int]) -> int | None:
    """Try again and again while Label Studio is away, as a person does; None: it ended before."""
    while True:
        try:
            return work()
        except (MaskloopError, httpx.HTTPError, KeyError, ValueError):
            if stage.ended.wait(1.0):
                return None


def attack(
    stage: Stage,
    home: Path,
    rng: random.Random,
    arguments: argparse.Namespace,
    server: Postgres | None,
) -> None:
    """Kill and stop services, evenly spread over the time."""
    pause = 60 * arguments.minutes / arguments.attacks
    names = [*SERVICES, *([] if server is None else ["PostgreSQL"])]
    resuming: list[threading.Timer] = []
    begin = time.monotonic()
    for number in range(arguments.attacks):
        time.sleep(max(0.0, begin + number * pause - time.monotonic()))
        name = names[number % len(names)] if number < len(names) else rng.choice(names)
        if name == "PostgreSQL":
            assert server is not None
            server.crash()
            stage.tally.attacks[f"{name} killed"] += 1
            continue
        victims = found(home, SERVICES[name])
        if not victims:  # It is being started again.
            stage.tally.attacks["nothing to hit"] += 1
            continue
        victim = rng.choice(victims)
        with suppress(psutil.Error):
            if rng.random() < KILLED_SHARE:
                victim.kill()
                stage.tally.attacks[f"{name} killed"] += 1
            else:
                victim.suspend()
                stage.tally.attacks[f"{name} stopped"] += 1
                timer = threading.Timer(rng.uniform(*STOPPED_SECONDS), resume, [victim])
                timer.start()
                resuming.append(timer)
    for timer in resuming:
        timer.join()


def resume(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.resume()


def found(home: Path, words: tuple[str, ...]) -> list[psutil.Process]:
    """The running processes of the stack whose command line holds all these words."""
    processes = []
    for process in leftovers(home):
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words):
                processes.append(process)
    return processes


def wait_until_whole(stage: Stage, begin: float) -> float | None:
    """Seconds until every part answers and nothing is left to do; None: it took too long."""
    while time.monotonic() - begin < HEAL_SECONDS:
        with (
            suppress(SQLAlchemyError, MaskloopError),
            Runtime(stage.settings) as runtime,
            runtime.sessions() as session,
        ):
            if is_whole(session, stage) and answers(stage.settings):
                return time.monotonic() - begin
        time.sleep(1)
    return None


def is_whole(session: Session, stage: Stage) -> bool:
    known = set(session.scalars(select(Annotation.ls_annotation_id)))
    return (
        stage.tally.submitted.keys() <= known
        and not tasks.to_encode(session)
        and not heartbeats.silent(session, set(QUEUES.values()), 10)
    )


def answers(settings: Settings) -> bool:
    backend, fiftyone = settings.backend, settings.fiftyone
    login = backend.user, backend.password.get_secret_value()
    asked = (
        (f"{backend.url}/ready", login),
        (f"{settings.label_studio.url}/health", login),
        (f"http://{fiftyone.host}:{fiftyone.port}/fiftyone", settings.fiftyone_login),
    )
    try:
        return all(
            httpx.get(url, auth=auth, timeout=5, trust_env=False).is_success for url, auth in asked
        )
    except httpx.HTTPError:
        return False


def examine(stage: Stage, healed: float | None) -> dict[str, Any]:
    """What was lost or doubled, from the record alone."""
    with Runtime(stage.settings) as runtime, runtime.sessions() as session:
        serving = versions.serving(session)
        rows = session.execute(
            select(Annotation.ls_annotation_id, func.count(Region.id))
            .outerjoin(Region, Region.annotation_id == Annotation.id)
            .group_by(Annotation.ls_annotation_id)
        )
        masks = {number: count for number, count in rows}
        judged = select(GateDecision.candidate_id)
        promoted = (ModelVersion.promoted_at.is_not(None), ModelVersion.snapshot_id.is_not(None))
        report: dict[str, Any] = {
            "attacks": dict(sorted(stage.tally.attacks.items())),
            "attacks in all": sum(stage.tally.attacks.values()),
            "clicks answered": stage.tally.clicks,
            "masks submitted": len(stage.tally.submitted),
            "masks lost": sum(masks.get(number, 0) == 0 for number in stage.tally.submitted),
            "masks doubled": sum(count > 1 for count in masks.values()),
            "images": images.count(session),
            "images not encoded": images.count(session)
            - (0 if serving is None else embeddings.count_images(session, serving.encoder)),
            "images encoded twice": counted(session, func.count(Embedding.id))
            - counted(session, func.count(Embedding.image_id.distinct())),
            "versions serving": len(
                list(session.scalars(select(ModelVersion).where(ModelVersion.status == "serving")))
            ),
            "promoted without a decision": len(
                list(
                    session.scalars(
                        select(ModelVersion.id).where(*promoted, ModelVersion.id.not_in(judged))
                    )
                )
            ),
            "fine-tunes judged": session.scalar(select(func.count(GateDecision.id))),
            "rounds": session.scalar(select(func.count(Round.id))),
            "jobs that crashed and ran again": session.scalar(
                select(func.count(Job.id)).where(Job.attempt > 1)
            ),
            "events left open": session.scalar(
                select(func.count(Event.id)).where(Event.done_at.is_(None))
            ),
            "seconds to heal": None if healed is None else round(healed, 1),
        }
    faults = (
        "masks lost",
        "masks doubled",
        "images not encoded",
        "images encoded twice",
        "promoted without a decision",
    )
    report["sound"] = (
        healed is not None
        and report["versions serving"] == 1
        and not any(report[name] for name in faults)
    )
    return report


def counted(session: Session, what: Any) -> int:
    return session.scalar(select(what)) or 0


def table(report: Mapping[str, Any]) -> str:
    return "\n".join(f"{name:32} {value}" for name, value in report.items())


if __name__ == "__main__":
    main()
