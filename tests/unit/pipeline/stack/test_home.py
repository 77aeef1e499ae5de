"""The home folder: secrets made once, what a person wrote kept, one `maskloop up` at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.errors import ServiceError, SettingsError
from pipeline.settings import HOME_VARIABLE, SETTINGS_FILE
from pipeline.stack.home import lock_holder, only_one, prepare_home, remember_project


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, "to be put back")  # prepare_home sets it for the process
    return tmp_path / "home"


def read(home: Path) -> dict[str, object]:
    return tomllib.loads((home / SETTINGS_FILE).read_text())


def test_first_run_makes_secrets_that_only_the_owner_reads(home: Path) -> None:
    settings = prepare_home(home)

    assert stat.S_IMODE((home / SETTINGS_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert len(settings.label_studio.token.get_secret_value()) == 40
    secrets = [settings.label_studio.password, settings.backend.password]
    assert all(len(secret.get_secret_value()) >= 12 for secret in secrets)
    assert settings.redis_url.endswith("@127.0.0.1:6390/0")
    assert os.environ[HOME_VARIABLE] == str(home)


def test_two_homes_share_no_secret(home: Path, tmp_path: Path) -> None:
    first, second = prepare_home(home), prepare_home(tmp_path / "other")

    assert first.label_studio.token != second.label_studio.token
    assert first.redis_url != second.redis_url


def test_second_run_changes_nothing(home: Path) -> None:
    prepare_home(home)
    before = (home / SETTINGS_FILE).read_bytes()
    prepare_home(home)

    assert (home / SETTINGS_FILE).read_bytes() == before


def test_what_a_person_wrote_stays_and_what_is_missing_comes(home: Path) -> None:
    home.mkdir()
    (home / SETTINGS_FILE).write_text(
        '# mine\nlog_level = "DEBUG"\n[backend]\nport = 9191 # beside another\nuser = "me"\n'
    )
    (home / SETTINGS_FILE).chmod(0o644)
    settings = prepare_home(home)

    text = (home / SETTINGS_FILE).read_text()
    assert "# mine" in text
    assert "# beside another" in text
    assert (settings.log_level, settings.backend.port, settings.backend.user) == (
        "DEBUG",
        9191,
        "me",
    )
    assert settings.backend.password.get_secret_value()
    assert stat.S_IMODE((home / SETTINGS_FILE).stat().st_mode) == 0o600


def test_a_file_that_is_not_toml_is_one_sentence_and_stays(home: Path) -> None:
    home.mkdir()
    (home / SETTINGS_FILE).write_text("port = = 1\n")

    with pytest.raises(SettingsError, match="not valid TOML .*mend or remove it"):
        prepare_home(home)
    assert (home / SETTINGS_FILE).read_text() == "port = = 1\n"


def test_a_section_that_is_no_table_is_one_sentence(home: Path) -> None:
    home.mkdir()
    (home / SETTINGS_FILE).write_text("backend = 3\n")

    with pytest.raises(SettingsError, match=r"\[backend\].*not a table"):
        prepare_home(home)


def test_a_home_that_cannot_be_made_is_one_sentence(home: Path) -> None:
    home.write_text("a file")

    with pytest.raises(SettingsError, match="cannot be made"):
        prepare_home(home)


def test_the_project_is_remembered(home: Path) -> None:
    prepare_home(home)

    assert remember_project(home, 7).label_studio.project == 7
    assert prepare_home(home).label_studio.project == 7


def test_only_one_at_a_time_across_processes(home: Path) -> None:
    prepare_home(home)
    other = (
        "import sys; from pathlib import Path; from pipeline.stack.home import only_one\n"
        "try:\n  with only_one(Path(sys.argv[1])): print('got it')\n"
        "except Exception as error: print(error)"
    )

    def try_it() -> str:
        command = [sys.executable, "-c", other, str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with only_one(home):
        assert lock_holder(home) == os.getpid()
        refusal = try_it()
        assert f"already runs on {home} (process {os.getpid()})" in refusal
        assert "maskloop down" in refusal
        with pytest.raises(ServiceError, match="already runs"), only_one(home):
            pass
    assert lock_holder(home) is None
    assert "got it" in try_it()


def test_no_home_has_no_holder(home: Path) -> None:
    assert lock_holder(home) is None
