"""Writes the network as two ONNX files, for programs without PyTorch: browsers, servers, tools.

``encoder.onnx`` runs once for each image, ``decoder.onnx`` once for each click or for many prompts
together. The decoder draws the prompts and gives masks of the image's own size; its inputs and
outputs have the names of segment-anything's ONNX decoder. See docs/export.md.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.errors import ExportError
from model.export.check import Agreement, compare
from model.export.decoder import PromptDecoder
from model.files import replacing
from model.network.block import Block
from model.network.segnext import MULTIPLE, SegNext

FORMAT = "maskloop-onnx-1"
OPSET = 18
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
PACKAGES = ("onnx", "onnxruntime")

MAPS = {"image_embeddings": 16, "skip_4": 4, "skip_8": 8}  # the encoder's outputs and their strides
# The decoder's inputs other than these, with the names of the sides that vary.
PROMPTS = {
    "point_coords": {0: "prompts", 1: "points"},
    "point_labels": {0: "prompts", 1: "points"},
    "mask_input": {0: "prompts", 2: "mask_height", 3: "mask_width"},
    "has_mask_input": {0: "prompts"},
    "regions": {0: "prompts", 2: "regions_height", 3: "regions_width"},
    "orig_im_size": {},
}
ANSWERS = {
    "masks": {0: "prompts", 1: "image_height", 2: "image_width"},
    "low_res_masks": {0: "prompts", 2: "height_4", 3: "width_4"},
}


@dataclass(frozen=True)
class Exported:
    """Two ONNX files, and how well their answers agree with the network's."""

    encoder: Path
    decoder: Path
    agreement: Agreement


def export(model: SegNext, folder: Path) -> Exported:
    """Write ``model`` as ``encoder.onnx`` and ``decoder.onnx``, and compare them with PyTorch.

    Both files appear in ``folder`` when they give the network's masks, else neither. A text branch
    is not exported.

    Args:
        model: left as it is.
        folder: is made where there is none; files of these names in it are replaced.

    Raises:
        ExportError: the ONNX packages are not installed, ``folder`` cannot be written, or the
            files do not give the network's masks.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"Exporting needs {' and '.join(missing)}; install with `pip install "
            "'maskloop[export]'`."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            encoder, decoder = Path(scratch) / ENCODER, Path(scratch) / DECODER
            _write_both(_plain(model), encoder, decoder)
            agreement = compare(_plain(model), encoder, decoder)
            # Both names change at the very end: a full disk leaves neither file.
            with ExitStack() as files:
                for made in (encoder, decoder):
                    target = files.enter_context(replacing(folder / made.name))
                    with made.open("rb") as source:
                        shutil.copyfileobj(source, target)
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written ({error.strerror}); give another folder."
        ) from None
    return Exported(folder / ENCODER, folder / DECODER, agreement)


def _plain(model: SegNext) -> SegNext:
    """A copy in full precision, without a text branch."""
    plain = copy.deepcopy(model).cpu().float().eval()
    plain.text_branch = None
    for block in _blocks(plain):
        block.lower(torch.float32)
    return plain


def _blocks(model: SegNext) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


class ImageEncoder(nn.Module):
    """The image encoder, with normalisation before it; see ``forward``."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: SegNext) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.register_buffer("mean", torch.tensor(model.config.mean))
        self.register_buffer("std", torch.tensor(model.config.std))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Encode an image, uint8 ``[H, W, 3]`` RGB at the network's input size.

        Returns:
            Features ``[1, C, H/16, W/16]``; with the small encoder also the skips
            ``[1, 24, H/4, W/4]`` and ``[1, 32, H/8, W/8]``.
        """
        normalised = (image.float() / 255 - self.mean) / self.std
        features, skips = self.backbone(normalised.permute(2, 0, 1)[None])
        return features, *skips


class HeadByHead(nn.Module):
    """timm's attention, computed one head after the other.

    A runtime without fused attention then keeps the attention matrix of only one head at a time,
    not of all heads (67 MB each at 4096 tokens).
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads, self.scale = attention.num_heads, attention.scale

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, C]``."""
        parts = self.qkv(tokens).chunk(3 * self.heads, 2)
        n = self.heads
        queries, keys, values = parts[:n], parts[n : 2 * n], parts[2 * n :]
        answers = [
            (q * self.scale @ k.transpose(1, 2)).softmax(2) @ v
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
        out: Tensor = self.proj(torch.cat(answers, 2))
        return out


@torch.no_grad()
def _write_both(model: SegNext, encoder: Path, decoder: Path) -> None:
    """Write both files; ``model`` is changed. The sizes below are examples to trace with."""
    for block in _blocks(model):
        block.attn = HeadByHead(block.attn)
    small = model.config.encoder == "mobilenetv2"
    height, width = (4 * MULTIPLE, 3 * MULTIPLE) if small else (model.config.size,) * 2
    network = ImageEncoder(model)
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    features, *skips = network(image)
    maps: dict[str, dict[int, str]] = {
        name: {2: f"height_{stride}", 3: f"width_{stride}"} if small else {}
        for name, stride in list(MAPS.items())[: 1 + len(skips)]
    }
    sides = {0: "height", 1: "width"} if small else {}
    _write(network, (image,), {"image": sides}, maps, model, encoder)

    n, k = 2, 3
    prompts = (
        torch.zeros(n, k, 2),
        torch.ones(n, k),
        torch.zeros(n, 1, 4, 5),
        torch.ones(n),
        torch.zeros(n, 2, 6, 7),
        torch.tensor([30.0, 40.0]),
    )
    _write(
        PromptDecoder(model), (features, skips, *prompts), maps | PROMPTS, ANSWERS, model, decoder
    )


def _write(
    network: nn.Module,
    example: tuple[Any, ...],
    inputs: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    model: SegNext,
    path: Path,
) -> None:
    """Write one file. ``inputs`` and ``outputs`` give the names of each tensor's varying sides."""
    import onnx
    import torch.onnx

    with warnings.catch_warnings():
        # It warns that it is the older exporter, and that sizes became constants; ``compare`` finds
        # out whether that did harm.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=inputs | outputs,
            opset_version=OPSET,
            # The newer exporter takes more than a minute where this one takes a second.
            dynamo=False,
        )
    file = onnx.load(path)
    onnx.helper.set_model_props(file, _properties(model))
    onnx.checker.check_model(file)
    onnx.save(file, path)


def _properties(model: SegNext) -> dict[str, str]:
    """The metadata of both files; see docs/export.md."""
    config = model.config
    squash = config.encoder == "vit"
    return {
        "format": FORMAT,
        "config": config.to_json(),
        "input": json.dumps(
            {"rule": "squash" if squash else "fit", "size": config.size}
            | ({} if squash else {"multiple": MULTIPLE})
        ),
        "prompts": "clicks, box, regions, previous mask; no text",
    }
