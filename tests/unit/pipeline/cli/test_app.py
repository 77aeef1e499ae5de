from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.evaluation.simulation import START_KINDS
from pipeline.cli import app as cli
from pipeline.cli.measure import FirstPrompt
from pipeline.record import versions
from pipeline.record.tables import Embedding
from tests.loop import Loop, command_loop, disk_picture
from tests.parity.plain import Shape, checkpoint


class Ran:
    """A command's exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    return command_loop(tmp_path, monkeypatch)


@pytest.fixture
def maskloop(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["maskloop", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return Ran(0 if code is None else int(code), *capfd.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "set"
    (made / "images").mkdir(parents=True)
    (made / "masks").mkdir()
    lines = []
    for n in range(3):
        data, mask = disk_picture(n)
        (made / "images" / f"{n}.png").write_bytes(data)
        Image.fromarray(mask.astype(np.uint8)).save(made / "masks" / f"{n}.png")
        paths = {"image": f"images/{n}.png", "mask": f"masks/{n}.png"}
        lines.append(json.dumps({"name": str(n), "split": "val" if n else "train", **paths}))
    (made / "manifest.jsonl").write_text("\n".join(lines))
    return made


def one_sentence(ran: Ran) -> str:
    assert ran.code == 1
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.strip().count("\n") == 0
    return ran.err.strip()


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['maskloop', '--help']\n"
        "from pipeline.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'celery', 'sqlalchemy', 'pydantic', 'fiftyone'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for name in ("up", "down", "status", "encode", "propose", "finetune", "select", "eval"):
        assert name in ran.stdout


def test_status_of_an_empty_loop_says_that_redis_is_away(loop: Loop, maskloop) -> None:
    report = maskloop("status", "--json").json()
    assert report["accepted_regions"] == report["images"] == 0
    assert "out of reach" in report["queues_problem"]
    assert maskloop("status").code == 0


def test_status_counts(loop: Loop, maskloop) -> None:
    loop.accept_many(4, 3)
    report = maskloop("status", "--json").json()
    assert report["images"] == report["accepted_regions"] == report["new_regions"] == 7
    assert report["holdout_images"] == 3
    assert report["finetune_due"] is True
    assert report["tasks"] == {"pool": 7}


def test_finetune_then_models(loop: Loop, maskloop) -> None:
    loop.accept_many(4, 3)
    ran = maskloop("finetune", "--json")
    result = ran.json()
    assert result["status"] in ("promoted", "refused")
    assert maskloop("finetune").out.startswith("These regions were judged before")

    names = [row["name"] for row in maskloop("models", "list", "--json").json()]
    assert names == [result["candidate"], "base"]
    shown = maskloop("models", "show", result["candidate"], "--json").json()
    assert shown["judgement"] == result["reason"]
    assert shown["metrics"]["bootstrap"]["miou3"]
    assert "miou3" in maskloop("models", "show", result["candidate"]).out

    assert maskloop("models", "promote", result["candidate"]).code == 0
    assert maskloop("status", "--json").json()["serving"] == result["candidate"]
    assert maskloop("models", "rollback", "--json").json()["name"] == "base"
    assert "No earlier model version" in one_sentence(maskloop("models", "rollback"))


def test_a_checkpoint_is_added_then_promoted(loop: Loop, maskloop, tmp_path: Path) -> None:
    loop.accept("train")
    torch.save(checkpoint(Shape(size=64, dim=8, depth=1, heads=2)), tmp_path / "vit.pth")
    first = maskloop("models", "add", str(tmp_path / "vit.pth"))
    assert first.code == 0
    for word in ("vit", "ViT, 1 blocks of 8", "maskloop models promote vit", 'base = "vit"'):
        assert word in first.out
    again = maskloop("models", "add", str(tmp_path / "vit.pth"), "--name", "other")
    assert "here already, as vit" in again.out
    added = maskloop("models", "add", str(tmp_path / "vit.pth"), "--json").json()
    assert added["name"] == "vit" and added["is_new"] is False and added["input_size"] == 64
    shown = maskloop("models", "show", "vit", "--json").json()
    assert shown["source_sha256"] == added["sha256"] and shown["source"].endswith("vit.pth")
    assert "out of reach" in one_sentence(maskloop("models", "promote", "vit", "--background"))
    assert maskloop("models", "promote", "vit", "--json").json()["status"] == "serving"
    with loop.runtime.sessions() as session:
        assert session.query(Embedding).count() == 1
    assert "It serves." in maskloop("models", "add", str(tmp_path / "vit.pth")).out


def test_a_version_that_cannot_be_loaded_is_not_promoted(loop: Loop, maskloop) -> None:
    loop.accept_many(4, 3)
    name = maskloop("finetune", "--json").json()["candidate"]
    maskloop("models", "promote", "base")
    with loop.runtime.sessions() as session:
        key = versions.find(session, name).key
    loop.runtime.store.delete(key)
    assert "missing from the store" in one_sentence(maskloop("models", "promote", name))
    assert maskloop("status", "--json").json()["serving"] == "base"


def test_eval_prints_the_fields_figures(loop: Loop, folder: Path, maskloop) -> None:
    report = maskloop("eval", str(folder), "--json").json()
    assert report["n"] == 3
    assert report["clicks"] == 20
    assert {"noc85", "noc90", "nof90", "miou1", "miou3", "miou5"} <= set(report)
    assert report["checkpoint"] == "base.safetensors"
    few = maskloop("eval", str(folder), "--limit", "1", "--clicks", "5", "--json").json()
    assert (few["n"], few["clicks"]) == (1, 5)
    assert maskloop("eval", str(folder), "--split", "val", "--json").json()["n"] == 2


def test_eval_measures_each_kind_of_first_prompt(loop: Loop, folder: Path, maskloop) -> None:
    everything = maskloop(
        "eval", str(folder), "--limit", "1", "--clicks", "5", "--prompt", "all", "--json"
    ).json()
    assert list(everything["prompts"]) == list(START_KINDS)
    assert everything["prompts"]["click"]["miou1"] == everything["miou1"]
    box = maskloop(
        "eval", str(folder), "--limit", "1", "--clicks", "5", "--prompt", "box", "--json"
    ).json()
    assert box["miou1"] == everything["prompts"]["box"]["miou1"]
    assert {kind.value for kind in FirstPrompt} == {*START_KINDS, "all"}


def test_eval_of_a_named_version(loop: Loop, folder: Path, maskloop) -> None:
    loop.runtime.registry.ensure_base()
    report = maskloop("eval", str(folder), "--checkpoint", "base", "--json").json()
    assert report["checkpoint"] == "base"


def test_the_base_may_be_a_version_that_was_added(
    loop: Loop, folder: Path, maskloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(checkpoint(Shape(size=64, dim=8, depth=1, heads=2)), tmp_path / "vit.pth")
    maskloop("models", "add", str(tmp_path / "vit.pth"), "--name", "mine")
    monkeypatch.setenv("MASKLOOP_MODEL__BASE", "mine")
    report = maskloop("eval", str(folder), "--limit", "1", "--clicks", "5", "--json").json()
    assert report["checkpoint"] == "mine"
    monkeypatch.setenv("MASKLOOP_MODEL__BASE", "gone")
    assert "gone is neither a file nor" in one_sentence(maskloop("eval", str(folder)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "nowhere"), "manifest.jsonl"),
        (("encode",), "--project"),
        (("select", "--background"), "--project"),
        (("finetune",), "submit some in Label Studio"),
        (("finetune", "--background"), "out of reach"),
        (("models", "show", "v7"), "models list"),
        (("models", "promote", "v7"), "models list"),
        (("models", "promote", "v7", "--background"), "models list"),
        (("models", "promote", "base", "--now", "--background"), "leave --background out"),
        (("models", "add", "vitb-sax3"), "vitb-sax1, vitb-sax2, vitb-sax2-hq"),
        (("models", "add", "/dev/null"), "neither a file"),
        (("models", "add", "http://127.0.0.1:9/a.pth", "--name", "v7"), "cannot be a version"),
        (("connect", "--project", "1"), "token"),
    ],
)
def test_what_a_user_can_do_wrong_is_one_sentence(
    loop: Loop, maskloop, arguments: tuple[str, ...], message: str
) -> None:
    assert message in one_sentence(maskloop(*arguments))


def test_an_unknown_checkpoint_is_one_sentence(loop: Loop, folder: Path, maskloop) -> None:
    sentence = one_sentence(maskloop("eval", str(folder), "--checkpoint", "v9"))
    assert "neither a file nor a model version" in sentence


def test_settings_that_cannot_be_used_are_one_sentence(
    loop: Loop, maskloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOP_FINETUNE__STEPS", "-1")
    assert "finetune.steps" in one_sentence(maskloop("status"))
