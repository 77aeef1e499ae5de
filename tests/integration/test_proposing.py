"""``maskloop propose`` with a real Label Studio and the shipped weights."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import select

from model.inference.proposals import Proposal, ProposalConfig
from model.masks import iou
from pipeline.cli import app as cli
from pipeline.cli import work
from pipeline.labelstudio.connection import Json
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute import propose as proposing
from pipeline.precompute.propose import propose_project
from pipeline.record.jobs import job
from pipeline.record.tables import Round, RoundItem, Task
from pipeline.runtime import Runtime
from pipeline.selection.label_order import write_round
from pipeline.settings import LabelStudioSettings, Settings
from tests.annotator import Annotator
from tests.services.label_studio import LabelStudioServer, label_studio
from tests.shapes import shape_picture

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration

VERSION = "base proposals"
Propose = Callable[..., tuple[int, dict[str, Any], str]]


@dataclass
class Project:
    """Two tasks without an annotation, one with an annotation, and one whose image is missing."""

    runtime: Runtime
    client: Annotator
    id: int
    waiting: list[int]
    annotated: int
    lost: int
    objects: list[npt.NDArray[np.uint8]]  # of the tasks without an annotation

    def ours(self, task: int) -> Json:
        (found,) = [p for p in self.client.predictions(task) if p["model_version"] == VERSION]
        return found

    def make_round(self, number: int, ls_task_id: int) -> None:
        """Write a round that contains only this task."""
        with self.runtime.sessions.begin() as session:
            row = Round(ls_project_id=self.id, number=number, settings={})
            session.add(row)
            session.flush()
            task = session.scalars(select(Task).where(Task.ls_task_id == ls_task_id)).one()
            session.add(RoundItem(round_id=row.id, task_id=task.id, rank=0, reason="hard"))
        assert write_round(self.runtime, row.id) == 1


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def project(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    account = LabelStudioSettings(url=label_studio.url, token=SecretStr(label_studio.token))
    settings = Settings(home=tmp_path_factory.mktemp("home"), label_studio=account)
    with Runtime(settings, migrate=True) as runtime, Annotator(account) as client:
        number = client.create_project(
            "proposing", default_label_config(), show_collab_predictions=False
        )
        tasks, objects = [], []
        for seed in range(3):
            picture, indices = shape_picture(seed, (180, 240))
            tasks.append(client.upload_image(number, f"shape{seed}.png", png(picture)))
            objects.append(indices)
        client.create_annotation(tasks[2], [])
        (lost,) = client.import_tasks(number, [{"data": {"image": "/data/upload/none.png"}}])
        yield Project(runtime, client, number, tasks[:2], tasks[2], lost, objects[:2])


@pytest.fixture
def propose(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Propose:
    """Runs the command; returns its exit code, its report, and its output on stderr."""
    monkeypatch.setattr(work, "open_runtime", lambda: nullcontext(project.runtime))

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        named = ["propose", "--project", str(project.id), "--grid", "5", "--json", *arguments]
        monkeypatch.setattr(sys, "argv", ["maskloop", *named])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), json.loads(out) if out else {}, err

    return run


def test_every_task_without_an_annotation_gets_one_prediction_of_masks(
    project: Project, propose: Propose
) -> None:
    code, report, said = propose()
    assert (code, report["tasks"], report["proposed"], report["left"]) == (1, 3, 2, 0)
    assert list(report["problems"]) == [str(project.lost)]
    assert f"Task {project.lost}: " in said
    for task, indices in zip(project.waiting, project.objects, strict=True):
        found = project.ours(task)
        assert 0 < found["score"] <= 1
        masks = [mask for mask in map(mask_of, found["result"]) if mask is not None]
        for index in (1, 2):
            assert max(iou(mask, indices == index) for mask in masks) > 0.7
        areas = [int(mask.sum()) for mask in masks]
        assert areas == sorted(areas, reverse=True)
        assert {label_of(region) for region in found["result"]} == {"Object"}
        assert all(0 < region["score"] <= 1 for region in found["result"])
        assert len({region["id"] for region in found["result"]}) == len(masks)
    assert project.client.predictions(project.annotated) == []
    shown = project.client.project(project.id)
    assert shown is not None
    assert shown["model_version"] == VERSION
    assert "Use predictions to prelabel tasks" in report["advice"][0]


def test_a_task_keeps_its_proposals_until_they_are_made_again(
    project: Project, propose: Propose
) -> None:
    first, second = project.waiting
    theirs = {"task": first, "model_version": "theirs", "score": 0.5, "result": []}
    project.client.import_predictions(project.id, [theirs])
    before = project.ours(first)

    _, report, _ = propose()
    assert (report["left"], report["proposed"]) == (2, 0)
    assert project.ours(first) == before

    code, report, _ = propose("--task", str(first), "--task", str(second), "--label", "Other")
    assert (code, report["proposed"], report["problems"]) == (0, 2, {})
    after = project.ours(first)
    assert after["id"] != before["id"]
    assert {label_of(region) for region in after["result"]} == {"Other"}
    versions = [p["model_version"] for p in project.client.predictions(first)]
    assert sorted(versions) == [VERSION, "theirs"]

    # Proposals with another label do not count, and a limit stops after the first task.
    _, report, _ = propose("--limit", "1")
    assert (report["left"], report["proposed"]) == (0, 1)


def test_predictions_of_others_stay_whatever_they_are_called(
    project: Project, propose: Propose
) -> None:
    first, second = project.waiting
    theirs = {"model_version": "RPN proposals", "score": 0.5, "result": []}
    for task in project.waiting:
        project.client.import_predictions(project.id, [{"task": task, **theirs}])
    project.client.update_project(project.id, model_version="RPN proposals")

    _, report, _ = propose("--task", str(first), "--task", str(second))
    assert report["proposed"] == 2
    versions = {p["model_version"] for p in project.client.predictions(first)}
    assert versions == {VERSION, "theirs", "RPN proposals"}
    shown = project.client.project(project.id)
    assert shown is not None
    assert shown["model_version"] == "RPN proposals"  # a person chose it
    assert "the predictions of 'RPN proposals' only" in report["advice"][1]


def test_what_cannot_be_proposed_for_is_told(project: Project, propose: Propose) -> None:
    code, report, _ = propose("--task", str(project.annotated))
    assert code == 1
    assert "annotated already" in report["problems"][str(project.annotated)]
    code, report, said = propose("--label", "Cat")
    assert (code, report) == (1, {})
    assert "labels are Object, Other, and 'Cat' is not among them" in said


def test_a_round_hands_out_its_tasks_with_their_proposals(
    project: Project, propose: Propose
) -> None:
    first = project.waiting[1]
    project.make_round(3, first)
    assert handed_out(project, first)["result"] == project.ours(first)["result"]

    # Tasks of a round come first.
    _, report, _ = propose("--limit", "1", "--again", "--label", "Other")
    assert report["proposed"] == 1
    assert report["advice"][1:] == []
    ours, shown = project.ours(first), handed_out(project, first)
    assert label_of(ours["result"][0]) == "Other"
    assert shown["result"] == ours["result"]
    assert shown["score"] == 0.5


def test_a_round_that_comes_while_it_proposes_hands_out_what_is_new(
    project: Project, propose: Propose, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = project.waiting[1]
    find = proposing.propose

    def with_a_round(*args: Any) -> list[Proposal]:
        project.make_round(4, first)
        return find(*args)

    monkeypatch.setattr(proposing, "propose", with_a_round)
    _, report, _ = propose("--task", str(first), "--label", "Object")
    assert (report["proposed"], report["advice"][1:]) == (1, [])
    assert label_of(project.ours(first)["result"][0]) == "Object"
    assert handed_out(project, first)["result"] == project.ours(first)["result"]


def test_a_limit_gets_past_images_that_are_lost_or_show_nothing(
    project: Project, propose: Propose
) -> None:
    client = project.client
    other = client.create_project("limited", default_label_config())
    (lost,) = client.import_tasks(other, [{"data": {"image": "/data/upload/none.png"}}])
    blank = client.upload_image(other, "blank.png", png(np.full((180, 240, 3), 128, np.uint8)))
    shape = client.upload_image(other, "shape.png", png(shape_picture(0, (180, 240))[0]))
    counts = []
    for _ in range(3):
        code, report, _ = propose("--project", str(other), "--limit", "1")
        assert (code, list(report["problems"])) == (1, [str(lost)])
        counts.append((report["left"], report["proposed"]))
    assert counts == [(0, 0), (1, 1), (2, 0)]
    (nothing,) = client.predictions(blank)
    assert (nothing["model_version"], nothing["score"], nothing["result"]) == (VERSION, 0, [])
    (something,) = client.predictions(shape)
    assert something["result"]


def test_it_says_how_far_it_is_within_a_task_too(project: Project) -> None:
    told: list[tuple[int, int | None]] = []
    propose_project(
        project.runtime,
        project.id,
        only=project.waiting,
        config=ProposalConfig(grid=8),  # 64 clicks are more than one batch
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told)
    assert min(told.count((done, 2)) for done in (0, 1)) >= 3


def test_two_do_not_propose_at_once(project: Project, propose: Propose) -> None:
    with job(project.runtime.sessions, "propose"):
        code, report, said = propose()
    assert (code, report) == (1, {})
    assert "propose job is already running" in said


def handed_out(project: Project, task: int) -> Json:
    """The prediction that an annotator sees on the next task."""
    found = project.client.project(project.id)
    assert found is not None
    (shown,) = [
        prediction
        for prediction in project.client.predictions(task)
        if prediction["model_version"] == found["model_version"]
    ]
    return shown
