"""The demo's photographs are really in the installed wheels."""

from __future__ import annotations

from pipeline.images.decode import decode_image
from pipeline.settings import ImageSettings
from pipeline.stack.demo import _uploaded, photographs


def test_a_dozen_photographs_that_can_be_read() -> None:
    paths = photographs()

    assert len(paths) == 12
    assert len({path.name for path in paths}) == 12
    for path in paths:
        height, width, channels = decode_image(path.read_bytes(), ImageSettings()).shape
        assert min(height, width) >= 300
        assert channels == 3


def test_an_upload_is_known_by_its_name() -> None:
    urls = ["/data/upload/1/0b5a8e31-coffee.png", "/data/upload/1/rocket.jpg"]

    assert _uploaded("coffee.png", urls)
    assert _uploaded("rocket.jpg", urls)
    assert not _uploaded("offee.png", urls)
    assert not _uploaded("china.jpg", urls)
