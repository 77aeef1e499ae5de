"""Against moto, an S3 server that speaks HTTP on loopback."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from botocore.config import Config
from botocore.session import Session
from moto.server import ThreadedMotoServer

from pipeline.errors import ImageSourceError
from pipeline.images.s3 import Buckets
from pipeline.images.source import ImageSource
from pipeline.settings import ImageSettings, LabelStudioSettings, Settings

PICTURE = b"picture bytes"
KEYS = (
    "a.png",
    "sub/a b+c.png",
    "sub/Käse #1 (2)?x=1&y.png",
    "100%25.png",
    "sub//twice.png",
    "a..b/.hidden.png",
)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(endpoint: str) -> Any:
    """A client of whoever owns the buckets: pictures, secrets, and one that anyone may read."""
    client = Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="owner",
        aws_secret_access_key="owner's",
        config=Config(s3={"addressing_style": "path"}),
    )
    for bucket in ("pictures", "secrets", "public"):
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="a.png", Body=PICTURE)
    for key in KEYS:
        client.put_object(Bucket="pictures", Key=key, Body=PICTURE + key.encode())
    client.put_object(Bucket="public", Key="a.png", Body=PICTURE, ACL="public-read")
    return client


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Nothing of whoever runs the tests, nor the role of the machine they run on."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@contextmanager
def source(endpoint: str, label_studio: str = "http://127.0.0.1:9", **images: Any) -> Any:
    given = {
        "s3_endpoint": endpoint,
        "s3_buckets": ["pictures", "public"],
        "s3_key": "reader",
        "s3_secret": "word",
        "timeout_seconds": 10,
        **images,
    }
    settings = Settings(
        label_studio=LabelStudioSettings(url=label_studio),
        images=ImageSettings.model_validate(given),
    )
    with ImageSource(settings, lambda: {"Authorization": "Token secret"}) as made:
        yield made


@pytest.mark.parametrize("key", KEYS)
def test_a_file_of_a_bucket_whatever_its_name(endpoint: str, s3: Any, key: str) -> None:
    with source(endpoint) as images:
        assert images.fetch(f"s3://pictures/{key}") == PICTURE + key.encode()
        assert images.fetch(f" S3://pictures/{key}\n") == PICTURE + key.encode()


@pytest.mark.parametrize("key", KEYS)
def test_what_is_asked_for_is_what_was_signed(key: str) -> None:
    """A server that checks signatures, as moto does not, refuses a name written otherwise."""
    settings = ImageSettings(
        s3_endpoint="http://s3.example", s3_buckets=("pictures",), s3_key="a", s3_secret="b"
    )
    path, _, query = Buckets(settings).signed(f"s3://pictures/{key}", key).raw_path.partition(b"?")
    assert path.decode() == "/pictures/" + quote(key, safe="/-._~")
    assert b"X-Amz-Credential=a%2F" in query and b"X-Amz-Signature=" in query


def test_server_and_credentials_of_the_environment(
    endpoint: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    with source("", s3_key="", s3_secret="") as images:
        assert images.fetch("s3://pictures/a.png").startswith(PICTURE)


def test_without_credentials_what_anyone_may_read(endpoint: str, s3: Any) -> None:
    with source(endpoint, s3_key="", s3_secret="") as images:
        assert images.fetch("s3://public/a.png") == PICTURE
        with pytest.raises(ImageSourceError, match=r"403 .*check images\.s3_key"):
            images.fetch("s3://pictures/a.png")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://secrets/a.png", r"add secrets to images\.s3_buckets"),
        ("s3://Pictures/a.png", r"add Pictures to images\.s3_buckets"),
        ("s3://pictures:80/a.png", "names no file of a bucket"),
        ("s3://me:word@pictures/a.png", "'s3://pictures/a.png' names no file of a bucket"),
        ("s3://pictures", "names no file of a bucket"),
        ("s3://pictures/", "names no file of a bucket"),
        ("s3:///a.png", "names no file of a bucket"),
        ("s3://", "names no file of a bucket"),
        ("s3://pictures/../secrets/a.png", "names no file of a bucket"),
        ("s3://pictures/sub/../../secrets/a.png", "names no file of a bucket"),
        ("s3://pictures/..\\secrets\\a.png", "names no file of a bucket"),
        ("s3://public/%2e%2e/secrets/a.png", "404 NOT FOUND"),
        ("s3://public/..%2fsecrets/a.png", "404 NOT FOUND"),
        ("s3://pictures/missing.png", "404 NOT FOUND; check that the file is still there"),
        ("s3:/pictures/a.png", "cannot be used"),
        ("s3n://pictures/a.png", "cannot be used"),
    ],
)
def test_what_is_refused(endpoint: str, s3: Any, url: str, sentence: str) -> None:
    s3.put_object(Bucket="secrets", Key="a.png", Body=b"secret", ACL="public-read")
    for options in ({}, {"s3_key": "", "s3_secret": ""}):
        with source(endpoint, **options) as images, pytest.raises(ImageSourceError) as caught:
            images.fetch(url)
        if not options or "403" not in str(caught.value):  # who may not list learns less
            assert caught.match(sentence)
        assert str(caught.value).endswith(".") and "word@" not in str(caught.value)


def test_no_bucket_is_allowed_unless_named(endpoint: str, s3: Any) -> None:
    with (
        source(endpoint, s3_buckets=[]) as images,
        pytest.raises(ImageSourceError, match=r"add pictures to images\.s3_buckets"),
    ):
        images.fetch("s3://pictures/a.png")


def test_the_size_cap_holds(endpoint: str, s3: Any) -> None:
    s3.put_object(Bucket="pictures", Key="large", Body=bytes(1001))
    with (
        source(endpoint, max_bytes=1000) as images,
        pytest.raises(ImageSourceError, match="'s3://pictures/large' is over the limit of 1,000"),
    ):
        images.fetch("s3://pictures/large")


def test_a_server_that_is_not_there() -> None:
    with (
        source("http://127.0.0.1:9") as images,
        pytest.raises(ImageSourceError, match="'s3://pictures/a.png' cannot be fetched"),
    ):
        images.fetch("s3://pictures/a.png")


@pytest.mark.parametrize("settings", [{"s3_endpoint": "nonsense"}, {"s3_region": "no region"}])
def test_settings_that_cannot_be(endpoint: str, settings: dict[str, Any]) -> None:
    with (
        source(**{"endpoint": endpoint, **settings}) as images,
        pytest.raises(ImageSourceError, match=r"check images\.s3_endpoint"),
    ):
        images.fetch("s3://pictures/a.png")


# --- what plays the server where moto is too well-behaved ---


@contextmanager
def answering(status: int, **headers: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_bucket_of_another_region_is_said() -> None:
    with (
        answering(400, x_amz_bucket_region="eu-north-1") as address,
        source(address) as images,
        pytest.raises(ImageSourceError, match=r"images\.s3_region: eu-north-1"),
    ):
        images.fetch("s3://pictures/a.png")


def test_a_redirect_of_the_server_is_judged_like_any(endpoint: str, s3: Any) -> None:
    """It may lead to a bucket that is not allowed."""
    with (
        answering(307, Location=f"{endpoint}/secrets/a.png") as address,
        source(address) as images,
        pytest.raises(ImageSourceError, match=r"images\.allowed_hosts"),
    ):
        images.fetch("s3://pictures/a.png")


def test_label_studios_redirect_to_a_signed_address(endpoint: str, s3: Any) -> None:
    """As Label Studio answers for a storage of its own; the other server never sees its token."""
    signed = s3.generate_presigned_url("get_object", {"Bucket": "pictures", "Key": "a.png"})
    place = base64.urlsafe_b64encode(b"s3://pictures/a.png").decode()
    with answering(303, Location=signed) as label_studio:
        for path in ("tasks/3/resolve", "tasks/3/presign", "projects/1/resolve"):
            url = f"/{path}/?fileuri={place}"
            host = endpoint.removeprefix("http://")
            with source("", label_studio, allowed_hosts=[host]) as images:
                assert images.fetch(url).startswith(PICTURE)
                assert images.fetch(label_studio + url).startswith(PICTURE)
            with (
                source("", label_studio) as images,
                pytest.raises(ImageSourceError, match=f"add {host} to") as caught,
            ):
                images.fetch(url)
            assert "Signature" not in str(caught.value)
