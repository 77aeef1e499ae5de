"""The part of ``bench.clicks`` that measures networks with a large encoder, run at each click.

It measures the released shape (ViT-B sax2 at 1024), the default image encoder of Label Studio's SAM
2 example (``sam2_hiera_l`` at 1024), which runs at each click there, and the smallest encoder that
this example allows. Of the example only the encoder is measured, without prompts or masks, so the
example itself takes longer. All have random weights, which take as long as trained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench import network
from model.compat import ensure_torchvision
from model.inference import precision

ensure_torchvision()  # timm imports torchvision

import timm  # noqa: E402

REPEATS = 3
SIDE = 1024  # pixels of the example's input
EXAMPLE = "sam2_hiera_large"  # timm's name of its default
SMALLEST = "sam2_hiera_tiny"

Row = dict[str, Any]


def measure() -> list[Row]:
    """Median milliseconds of a click that includes the encoder; for our network, also of a click on
    an encoded picture."""
    rows = [_released()]
    for name, said in ((EXAMPLE, "SAM 2 example"), (SMALLEST, "SAM 2 example, smallest")):
        rows.append({"network": said, "each_click_ms": _encoder(name), "encoded_ms": ""})
    return rows


def _released() -> Row:
    model = network.network("released")
    precision.lower(model, precision.choose("auto", model))
    photo, prompts = network.picture("astronaut"), network.clicks(REPEATS)
    embedding = model.encode(photo)
    each = iter(prompts)
    encoded = _median(lambda: model.decode(embedding, next(each)).mask())
    each = iter(prompts)
    every = _median(lambda: model.decode(model.encode(photo), next(each)).mask())
    return {"network": "released shape", "each_click_ms": every, "encoded_ms": encoded}


@torch.inference_mode()
def _encoder(name: str) -> float:
    encoder: Any = timm.create_model(name, pretrained=False).eval()
    image = torch.rand(1, 3, SIDE, SIDE)
    encoder.forward_features(image)  # warms up
    return _median(lambda: encoder.forward_features(image))


def _median(work: Callable[[], object]) -> float:
    return round(1000 * network.median(work, REPEATS), 1)
