"""Every request that was captured from a real Label Studio gets a correct answer.

The captures are outside the repository; without them these tests are left out. Other tests make
requests of the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_studio_sdk.label_interface.interface import LabelInterface

from pipeline.labelstudio.regions import mask_of
from tests.editor import backend, photograph, save, settings_for

pytestmark = pytest.mark.integration

SHARED = Path(os.environ.get("MASKLOOP_TESTS_SHARED", Path(__file__).parents[3].parent / "shared"))
CAPTURES = SHARED / "labelstudio" / "captures"
LARGEST_SIDE = 1200  # pixels; the 12-megapixel capture uses a smaller picture, to save time


def requests(path: str) -> list[Any]:
    """Every captured request to a route; when there is none, a single test that is left out."""
    found = []
    for file in sorted(CAPTURES.glob("*.json")):
        capture = json.loads(file.read_text())
        for k, request in enumerate(
            capture.get("requests", []) if isinstance(capture, dict) else []
        ):
            if request["path"] == path:
                found.append(pytest.param(request, id=f"{file.stem}-{k}"))
    absent = pytest.mark.skip(reason="the captures in ../shared are not there")
    return found or [pytest.param(None, marks=absent)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with backend(settings_for(home)) as running:
        yield running


def with_local_images(body: dict[str, Any], home: Path) -> dict[str, Any]:
    """The request with each task's image replaced by one of ours of the size in the request."""
    context = body["params"]["context"] or {}
    sizes = [(r["original_width"], r["original_height"]) for r in context.get("result", [])
             if "original_width" in r]  # fmt: skip
    width, height = sizes[0] if sizes else (600, 400)
    shrink = max(1, max(width, height) // LARGEST_SIDE)
    name = f"{width}x{height}.jpg"
    path = home / "files" / name
    if not path.exists():
        save(photograph(height // shrink, width // shrink), path)
    tasks = [dict(task, data={"image": f"/data/local-files/?d={name}"}) for task in body["tasks"]]
    return dict(body, tasks=tasks)


@pytest.mark.parametrize("request_", requests("/predict"))
def test_predict(request_: dict[str, Any], client: httpx.Client, home: Path) -> None:
    body = with_local_images(request_["body"], home)
    response = client.post("/predict", json=body)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(body["tasks"])
    interface = LabelInterface(body["label_config"])
    brush = next(tag for tag in interface.controls if tag.tag == "BrushLabels")
    context = body["params"]["context"]
    for answer in results:
        if context is None and answer == []:
            continue
        regions = answer["result"]
        if context is not None and not context["result"]:
            assert regions == []
        for region in regions:
            assert (region["from_name"], region["to_name"]) == (brush.name, brush.to_name[0])
            assert set(region["value"]["brushlabels"]) <= set(brush.labels)
            assert interface.validate_region(
                {name: region[name] for name in ("id", "type", "from_name", "to_name", "value")}
            )
            mask = mask_of(region)
            assert mask is not None
            assert mask.any()
    if context is None or "score" not in results[0]:
        return
    prompts = [r for r in context["result"] if r["type"] in ("keypointlabels", "rectanglelabels")]
    if any(prompt.get("is_positive", True) for prompt in prompts):
        label = prompts[0]["value"][prompts[0]["type"]][0]
        assert label not in brush.labels or len(results[0]["result"]) == 1


@pytest.mark.parametrize("request_", requests("/setup"))
def test_setup(request_: dict[str, Any], client: httpx.Client) -> None:
    assert client.post("/setup", json=request_["body"]).json() == {"model_version": "base"}


@pytest.mark.parametrize("request_", requests("/webhook"))
def test_webhook(request_: dict[str, Any], client: httpx.Client) -> None:
    assert client.post("/webhook", json=request_["body"]).status_code == 201


@pytest.mark.parametrize("request_", [*requests("/versions"), *requests("/health")])
def test_the_rest(request_: dict[str, Any], client: httpx.Client) -> None:
    response = client.request(request_["method"], request_["path"], json=request_["body"])
    assert response.status_code == 200


@pytest.mark.parametrize(
    "names",
    [
        ("predict_continuous_1", "predict_continuous_2", "predict_continuous_3_alt"),
        ("predict_keypoint_positive_1", "predict_keypoint_positive_2",
         "predict_keypoint_alt_negative", "predict_keypoint_after_draft"),
        ("predict_smartonly_keypoint", "predict_smartonly_keypoint_2"),
        ("predict_rectangle_1", "predict_rectangle_2_same_label"),
    ],
)  # fmt: skip
def test_one_session_is_one_region(
    names: tuple[str, ...], client: httpx.Client, home: Path
) -> None:
    if not CAPTURES.is_dir():
        pytest.skip("the captures in ../shared are not there")
    ids = set()
    for name in names:
        body = json.loads((CAPTURES / f"{name}.json").read_text())["requests"][0]["body"]
        answer = client.post("/predict", json=with_local_images(body, home)).json()
        ids.add(answer["results"][0]["result"][0]["id"])
    assert len(ids) == 1
