"""The files around the code: what they name exists, and what they promise holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.settings import Settings, load_settings
from pipeline.stack.foundations import REDIS_COMMANDS
from pipeline.stack.services import THREADS

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "MASKLOOP_"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def filled_in(value: object) -> str:
    """The value with ``${NAME:-default}`` as its default and ``${NAME:?...}`` as some word."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
    return re.sub(r"\$\{\w+:\?[^}]*\}", "word", text)


def test_compose_begins_by_saying_what_it_starts(compose: dict[str, Any]) -> None:
    comment = (ROOT / "docker-compose.yml").read_text().split("\nname:")[0]

    assert comment.startswith("# Starts")
    for service in compose["services"]:
        assert re.search(rf"^#   {service} ", comment, re.MULTILINE), service


def test_compose_sets_only_settings_that_exist_to_values_they_take(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = compose["services"]["backend"]["environment"]
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    for name in ours:
        section: Any = Settings
        for part in name.removeprefix(PREFIX).lower().split("__"):
            assert part in section.model_fields, name
            section = section.model_fields[part].annotation
    for name, value in ours.items():
        monkeypatch.setenv(name, filled_in(value))
    settings = load_settings()

    assert settings.sql_url.startswith("postgresql+psycopg://")
    assert settings.label_studio.project == 1
    for service in ("worker", "beat", "trainer", "fiftyone"):
        assert compose["services"][service]["environment"] == environment


def test_compose_looks_after_every_service(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
    command = compose["services"]["redis"]["command"]
    assert " ".join(command).endswith(REDIS_COMMANDS)  # as `maskloop up` starts it
    assert compose["services"]["mongo"]["environment"]["MONGO_INITDB_ROOT_PASSWORD"]
    assert not any("-B" in service.get("command", ()) for service in compose["services"].values())


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_compose_lets_label_studio_reach_the_backend(compose: dict[str, Any]) -> None:
    environment = compose["services"]["label-studio"]["environment"]

    assert environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"


def test_containers_run_torch_as_maskloop_up_does() -> None:
    lines = re.findall(r"^ENV (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    given = dict(word.split("=", 1) for line in lines for word in line.split())

    assert {name: given.get(name) for name in THREADS} == THREADS


@pytest.mark.parametrize("name", [
    "constraints.txt", "constraints-label-studio.txt", "constraints-label-studio-ml.txt",
])  # fmt: skip
def test_constraints_are_versions_only(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line), line


def test_every_dependency_is_pinned_by_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }

    names = {re.split(r"[\[<>=]", name)[0].lower().replace("_", "-") for name in wanted}
    assert names <= pinned


def test_opencv_is_headless_only() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert re.findall(r"^opencv[\w-]*", text, re.MULTILINE) == ["opencv-python-headless"]


def test_the_makefile_explains_each_of_its_commands() -> None:
    text = (ROOT / "Makefile").read_text()

    for target in ("help", "install", "up", "down", "test", "check", "bench"):
        assert re.search(rf"^{target}:.*## \w+", text, re.MULTILINE), target
