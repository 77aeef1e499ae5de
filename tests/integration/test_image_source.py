"""Images as a real Label Studio serves them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from botocore.session import Session
from moto.server import ThreadedMotoServer
from PIL import Image
from pydantic import SecretStr

from pipeline.errors import ImageSourceError
from pipeline.images.source import ImageSource
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute.encode import encode_project
from pipeline.settings import ImageSettings, LabelStudioSettings, Settings
from tests.annotator import Annotator
from tests.loop import make_loop
from tests.services.label_studio import LabelStudioServer, label_studio

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def http(label_studio: LabelStudioServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Token {label_studio.token}"}
    with httpx.Client(base_url=label_studio.url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def project(http: httpx.Client) -> int:
    made = http.post("/api/projects/", json={"title": "images"}).raise_for_status()
    return int(made.json()["id"])


def source(server: LabelStudioServer, headers: Mapping[str, str], **images: object) -> ImageSource:
    settings = Settings(
        label_studio=LabelStudioSettings(url=server.url),
        images=ImageSettings.model_validate(images),
    )
    return ImageSource(settings, lambda: headers)


@pytest.fixture
def uploaded(http: httpx.Client, project: int) -> str:
    """The value of the image field of a task made by uploading a file."""
    file = {"file": ("a picture (1).png", png(), "image/png")}
    http.post(f"/api/projects/{project}/import", files=file).raise_for_status()
    tasks = http.get("/api/tasks/", params={"project": project}).raise_for_status().json()["tasks"]
    return str(next(iter(tasks[0]["data"].values())))


@pytest.fixture
def personal_token(http: httpx.Client) -> Iterator[str]:
    """A personal access token; it is revoked at the end, because an account has only one."""
    yield str(http.post("/api/token/").raise_for_status().json()["token"])
    for row in http.get("/api/token/").json():
        http.post("/api/token/blacklist/", json={"refresh": row["token"]}).raise_for_status()


def test_an_upload_with_either_kind_of_token(
    label_studio: LabelStudioServer, uploaded: str, personal_token: str
) -> None:
    assert uploaded.startswith("/data/upload/")
    for token in (label_studio.token, personal_token):
        settings = Settings(
            label_studio=LabelStudioSettings(url=label_studio.url, token=SecretStr(token))
        )
        with (
            Annotator(settings.label_studio) as client,
            ImageSource(settings, client.auth_header) as images,
        ):
            assert images.fetch(uploaded) == png()
            assert images.fetch(label_studio.url + uploaded) == png()


def test_an_upload_whose_file_is_gone(label_studio: LabelStudioServer) -> None:
    with (
        source(label_studio, {"Authorization": f"Token {label_studio.token}"}) as images,
        pytest.raises(ImageSourceError, match="still there"),
    ):
        images.fetch("/data/upload/1/missing.png")


def test_an_upload_without_a_token_names_the_token(
    label_studio: LabelStudioServer, uploaded: str
) -> None:
    for headers in ({}, {"Authorization": "Token nonsense"}):
        with (
            source(label_studio, headers) as images,
            pytest.raises(ImageSourceError, match=r"label_studio\.token"),
        ):
            images.fetch(uploaded)


def test_local_files_directly_and_through_label_studio(
    label_studio: LabelStudioServer, http: httpx.Client, project: int
) -> None:
    folder = label_studio.files / "photos"
    folder.mkdir(exist_ok=True)
    (folder / "a b.png").write_bytes(png())
    storage = {"project": project, "path": str(folder), "use_blob_urls": True}
    http.post("/api/storages/localfiles", json=storage).raise_for_status()
    url = "/data/local-files/?d=photos/a%20b.png"
    with source(label_studio, {"Authorization": f"Token {label_studio.token}"}) as images:
        assert images.fetch(url) == png()
    with source(label_studio, {}, files_root=label_studio.files) as images:
        assert images.fetch(url) == png()


@pytest.fixture
def bucket() -> Iterator[str]:
    """The address of an S3 server with a bucket of pictures."""
    # Otherwise it logs a line for each request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    client = Session().create_client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="reader",
        aws_secret_access_key="word",
    )
    client.create_bucket(Bucket="shelf")
    client.put_object(Bucket="shelf", Key="sub/a b.png", Body=png())
    yield f"http://{host}:{port}"
    server.stop()


@pytest.mark.parametrize("presign", [True, False])
def test_a_bucket_directly_and_through_label_studio(
    label_studio: LabelStudioServer, http: httpx.Client, project: int, bucket: str, presign: bool
) -> None:
    """With ``presign`` Label Studio redirects to the bucket's server, or else it sends the file."""
    storage = {
        "project": project,
        "bucket": "shelf",
        "regex_filter": ".*png",
        "use_blob_urls": True,
        "presign": presign,
        "recursive_scan": True,
        "aws_access_key_id": "reader",
        "aws_secret_access_key": "word",
        "s3_endpoint": bucket,
        "region_name": "us-east-1",
    }
    made = http.post("/api/storages/s3", json=storage).raise_for_status().json()
    http.post(f"/api/storages/s3/{made['id']}/sync").raise_for_status()
    listed = {"project": project, "fields": "all"}
    raw = http.get("/api/tasks/", params={**listed, "resolve_uri": "false"}).json()["tasks"]
    resolved = http.get("/api/tasks/", params=listed).json()["tasks"]
    (given,), (proxied,) = raw[0]["data"].values(), resolved[0]["data"].values()

    assert given == "s3://shelf/sub/a b.png"
    assert "/resolve/?fileuri=" in proxied
    with source(
        label_studio, {}, s3_buckets=["shelf"], s3_endpoint=bucket, s3_key="a", s3_secret="b"
    ) as images:
        assert images.fetch(given) == png()
    hosts = [bucket.removeprefix("http://")] if presign else []
    token = {"Authorization": f"Token {label_studio.token}"}
    with source(label_studio, token, allowed_hosts=hosts) as images:
        assert images.fetch(proxied) == png()
        assert images.fetch(proxied.replace("/resolve/", "/presign/")) == png()


def test_bad_images_of_a_project_do_not_stop_the_others(
    label_studio: LabelStudioServer, bucket: str, http: httpx.Client, tmp_path: Path
) -> None:
    files = {"good.png": png(), "empty.png": b"", "cut.png": png()[:50], "words.jpg": b"no picture"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    addresses = {
        "/data/local-files/?d=good.png": None,
        "/data/local-files/?d=empty.png": "is empty",
        "/data/local-files/?d=cut.png": "damaged or cut off",
        "s3://shelf/sub/a b.png": None,
        "s3://others/a.png": "add others to images.s3_buckets",
        "/data/local-files/?d=words.jpg": "not an image",
        "/data/local-files/?d=../../etc/passwd": "leads out",
        "http://169.254.169.254/latest/meta-data": "not allowed",
        "file:///etc/passwd": "file: addresses cannot be used",
        "data:image/png;base64,AAAA": "data: addresses cannot be used",
        f"{label_studio.url}/data/local-files/?d=missing.png": "404",
        "/data/local-files/?d=./good.png": None,
    }
    loop = make_loop(
        tmp_path / "home",
        label_studio={"url": label_studio.url, "token": label_studio.token},
        images={
            "files_root": tmp_path, "s3_buckets": ["shelf"], "s3_endpoint": bucket,
            "s3_key": "reader", "s3_secret": "word",
        },
    )  # fmt: skip
    with loop.runtime, Annotator(loop.runtime.settings.label_studio) as client:
        made = client.create_project("good and bad", default_label_config())
        tasks = client.import_tasks(made, [{"data": {"image": address}} for address in addresses])
        report = encode_project(loop.runtime, made)

    wanted = dict(zip(tasks, addresses.values(), strict=True))
    assert (report.tasks, report.encoded) == (12, 3)
    assert set(report.problems) == {task for task, sentence in wanted.items() if sentence}
    for task, problem in report.problems.items():
        assert str(wanted[task]) in problem and problem.endswith(".")
