"""Files in the authors' format are read as they are meant, or refused with a reason."""

from __future__ import annotations

import io
import os
import pickle
import resource
import time
import zipfile
from dataclasses import replace

import pytest
import torch

from model.checkpoints.files import load
from model.errors import CheckpointError
from tests.parity.plain import Shape, checkpoint

SHAPE = Shape(
    size=64, dim=12, depth=2, freq=2, fusion="self_attention", fusion_depth=1, neck=(8, 8, 8, 8)
)


def saved(file: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(file, buffer, **options)
    return buffer.getvalue()


def refused(tmp_path, data: bytes) -> str:
    (tmp_path / "a.pth").write_bytes(data)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.pth")
    assert time.monotonic() - started < 20  # most take milliseconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
    return sentence


def test_the_shape_comes_from_the_file(tmp_path):
    torch.save(checkpoint(SHAPE), tmp_path / "a.pth")
    config = load(tmp_path / "a.pth").config
    assert (config.size, config.dim, config.depth, config.heads) == (64, 12, 2, 3)
    assert (config.window_freq, config.mlp_ratio, config.fusion_mlp_ratio) == (2, 2.0, 2.0)
    assert (config.fusion, config.fusion_depth, config.fusion_heads) == ("self_attention", 1, 2)
    assert (config.neck, config.head, config.radius, config.dropout) == ((8, 8, 8, 8), 7, 5, 0.1)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {k: v for k, v in state.items() if not k.startswith("backbone.fc_norm")},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
        lambda state: {name: tensor.bfloat16().float() for name, tensor in state.items()},
        lambda state: {name: tensor.half() for name, tensor in state.items()},
    ],
    ids=["DataParallel", "no fc_norm", "parameters", "double", "bfloat16", "half"],
)
def test_harmless_differences_are_read(tmp_path, wrap):
    file = checkpoint(SHAPE)
    state = file["state_dict"]
    torch.save(file | {"state_dict": wrap(state)}, tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth").state_dict()
    assert loaded.keys() == state.keys() - {"backbone.fc_norm.weight", "backbone.fc_norm.bias"}
    for name, tensor in loaded.items():
        torch.testing.assert_close(tensor, state[name], rtol=0.01, atol=1e-3)


def test_what_the_file_is_called_does_not_matter(tmp_path):
    torch.save(checkpoint(SHAPE), tmp_path / "checkpoint")
    assert load(tmp_path / "checkpoint").config.dim == 12


# --- the config ---

FIELDS = [
    *[("backbone_params", "embed_dim", value) for value in (10**9, -12, 0, "12", 12.0, True, [12])],
    *[("backbone_params", "depth", value) for value in (10**6, 10**5000, -1, "2", None, 3)],
    *[("backbone_params", "num_heads", value) for value in (0, 5, -1, "3")],
    *[("backbone_params", "img_size", value) for value in ((64, 32), (64,), "64", 10**9, 16, None)],
    *[("backbone_params", "patch_size", value) for value in ((14, 14), 8, "16", (16, 8))],
    *[("backbone_params", "global_atten_freq", value) for value in ("3", 1.5, None, 10**9)],
    *[("backbone_params", "mlp_ratio", v) for v in (0, -1, 1e308, float("nan"), "4", 10**5000)],
    ("backbone_params", "in_chans", 4),
    ("backbone_params", "qkv_bias", 1),
    ("backbone_params", "qkv_bias", False),
    ("backbone_params", "norm_layer", "BatchNorm"),
    ("backbone_params", "act_layer", "ReLU"),
    ("backbone_params", "use_rel_pos", True),
    *[("neck_params", "in_dim", value) for value in (768, "12", None)],
    *[("neck_params", "out_dims", value) for value in ([8] * 3, [8] * 17, [8, 8, 8, 0], 8, "8888")],
    ("neck_params", "upsample", "x4"),
    ("fusion_params", "scale", 0.5),
    ("head_params", "out_channels", 10**9),
    ("head_params", "out_channels", "7"),
    ("head_params", "num_classes", 2),
    ("head_params", "in_channels", [8, 8, 8, 9]),
    ("head_params", "in_select_index", [0, 1, 2]),
    ("head_params", "in_select_index", [3, 2, 1, 0]),
    ("head_params", "interpolate_mode", "nearest"),
    ("head_params", "align_corners", True),
    ("head_params", "dropout_ratio", 1.5),
    ("head_params", "upsample", "x4"),
    *[("fusion_params", "type", v) for v in ("cross_attention", "x" * 10**5, None, ["naive"])],
    *[("fusion_params", "depth", value) for value in (10**6, -1, "1", 0, 2)],
    ("fusion_params", "params", None),
    ("fusion_params", "params", {"num_heads": 2}),
    ("fusion_params", "params", {"dim": 24, "num_heads": 2}),
    ("fusion_params", "params", {"dim": 12, "num_heads": 5}),
    ("fusion_params", "params", {"dim": 12, "num_heads": 2, "norm_layer": "x"}),
]  # fmt: skip


def test_a_field_that_we_cannot_follow_is_refused(tmp_path, subtests):
    for group, name, value in FIELDS:
        with subtests.test(f"{group}.{name}"):
            file = checkpoint(replace(SHAPE, extra={group: {name: value}}))
            refused(tmp_path, saved(file))


def test_a_top_field_that_we_cannot_follow_is_refused(tmp_path, subtests):
    for name, value, says in [
        ("use_disks", False, "use_disks=False"),
        ("use_disks", None, "use_disks"),
        ("norm_radius", 5.5, "norm_radius=5.5"),
        ("norm_radius", 0, "out of range"),
        ("norm_mean_std", ([0, 0, 0], [1, 1, 0]), "mean and std"),
        ("norm_mean_std", [[0, 0], [1, 1]], "norm_mean_std"),
        ("norm_mean_std", [["a", 0, 0], [1, 1, 1]], "norm_mean_std"),
        ("norm_mean_std", None, "norm_mean_std"),
        ("with_prev_mask", True, "with_prev_mask"),  # SimpleClick's, of the same class name
        ("head_params", None, "head_params"),
        ("backbone_params", [1, 2], "backbone_params"),
    ]:
        with subtests.test(f"{name}={value}"):
            file = checkpoint(SHAPE)
            file["config"]["params"][name] = {"type": "builtin", "value": value}
            assert says in refused(tmp_path, saved(file))


def test_a_config_of_another_form_is_refused(tmp_path, subtests):
    params = checkpoint(SHAPE)["config"]["params"]
    name = "isegm.model.is_plainvit_model.PlainVitModel"
    nested: object = {}
    for _ in range(100):
        nested = {"value": nested}
    for config in (
        None, 7, [], {}, {"class": name}, {"params": params}, {"class": 3, "params": params},
        {"class": "isegm.model.is_hrnet_model.HRNetModel", "params": params},
        {"class": name, "params": {}}, {"class": name, "params": list(params)},
        {"class": name, "params": {**params, "use_disks": True}},
        {"class": name, "params": {**params, "use_disks": {"type": "builtin"}}},
        {"class": name, "params": {**params, 3: {"value": 3}}},
        {"class": name, "params": nested}, {"class": name, "params": torch.zeros(3)},
    ):  # fmt: skip
        with subtests.test(repr(config)[:40]):
            refused(tmp_path, saved(checkpoint(SHAPE) | {"config": config}))


# --- the weights ---


def test_weights_that_do_not_fit_are_refused(tmp_path, subtests):
    file = checkpoint(SHAPE)
    state, name = file["state_dict"], "head.seg_conv.weight"
    good = state[name]
    dense = {k: v for k, v in state.items() if k != name}
    sparse = torch.zeros(1, 7, 1, 1).to_sparse()
    for kind, says, changed in [
        ("missing", f"lacks {name}", dense),
        ("another name", "lacks", dense | {"head.seg.weight": good}),
        ("one too many", "too many", state | {"maskmodel.weight": good}),
        ("a shape", "in the shape", state | {name: good[0]}),
        ("integers", "as int64", state | {name: good.long()}),
        ("truth values", "as bool", state | {name: good.bool()}),
        ("complex", "as complex64", state | {name: good.to(torch.complex64)}),
        ("not a number", "not finite", state | {name: good * torch.nan}),
        ("without end", "not finite", state | {name: good / 0}),
        ("sparse", "plain tensors", state | {name: sparse}),
        ("no memory", "plain tensors", state | {name: good.to("meta")}),
        ("no tensor", "plain tensors", state | {name: 3}),
        ("no name", "plain tensors", dense | {3: good}),
        ("a list", "plain tensors", list(state.values())),
        ("nothing", "plain tensors", None),
        ("empty", "lacks", {}),
    ]:
        with subtests.test(kind):
            assert says in refused(tmp_path, saved(file | {"state_dict": changed}))


def test_a_small_file_that_claims_large_weights_is_refused(tmp_path):
    one = torch.zeros(1)
    state = {f"w{i}": one.expand(4096, 4096) for i in range(1000)}
    data = saved(checkpoint(SHAPE) | {"state_dict": state})
    assert len(data) < 1_000_000
    assert "claims more" in refused(tmp_path, data)


# --- the archive ---


def test_a_file_cut_short_is_refused_wherever_it_is_cut(tmp_path, subtests):
    data = saved(checkpoint(SHAPE))
    n = len(data)
    for length in (4, 30, 64, 500, n // 4, n // 2, n * 3 // 4, n - 1000, n - 22, n - 1):
        with subtests.test(str(length)):
            assert "cut short or damaged" in refused(tmp_path, data[:length])
    for length in (1, 3):
        refused(tmp_path, data[:length])


def test_a_changed_bit_is_noticed(tmp_path, subtests):
    data = saved(checkpoint(SHAPE))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
    middle = max(entries, key=lambda entry: entry.file_size)  # of the weights
    for where in (middle.header_offset + 300, len(data) // 2, len(data) - 30, len(data) - 300):
        with subtests.test(str(where)):
            refused(tmp_path, data[:where] + bytes([data[where] ^ 4]) + data[where + 1 :])


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    file = checkpoint(SHAPE)
    file["state_dict"]["head.seg_conv.weight"] = torch.zeros(5_000_000)
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(file))) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for entry in plain.infolist():
            deflated.writestr(entry.filename, plain.read(entry))
    assert len(packed.getvalue()) < 1_000_000
    assert "unpack to more" in refused(tmp_path, packed.getvalue())


class _Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize("hidden", ["state_dict", "config", "epoch"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, hidden):
    monkeypatch.chdir(tmp_path)
    file = checkpoint(SHAPE) | {hidden: _Attack()}
    assert "not safe to read: it wants to run posix.system" in refused(tmp_path, saved(file))
    assert "bare pickle" in refused(tmp_path, pickle.dumps({"state_dict": _Attack()}, protocol=2))
    old = saved(file, _use_new_zipfile_serialization=False)
    assert "bare pickle" in refused(tmp_path, old)
    assert not (tmp_path / "attacked").exists()


def test_other_files_are_refused(tmp_path, subtests):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as other:
        other.writestr("word/document.xml", "text")
    broken = io.BytesIO()
    with zipfile.ZipFile(broken, "w") as other:
        other.writestr("archive/data.pkl", b"\x80\x02}q\x00" + b"(" * 1000)
        other.writestr("archive/version", "3")
    page = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    for name, data, says in [
        ("nothing", b"", "is empty"),
        ("text", b"not weights", "neither"),
        ("a page", page, "web page"),
        ("a page, with space before it", b"\r\n  <HTML lang=en>", "web page"),
        ("another archive", archive.getvalue(), "cannot be read"),
        ("a broken pickle", broken.getvalue(), "cannot be read|not safe"),
        ("a list", saved([1, 2]), "no state_dict and config"),
        ("a tensor", saved(torch.zeros(3)), "no state_dict and config"),
        ("bare weights", saved(checkpoint(SHAPE)["state_dict"]), "no state_dict and config"),
    ]:
        with subtests.test(name):
            assert any(part in refused(tmp_path, data) for part in says.split("|"))
