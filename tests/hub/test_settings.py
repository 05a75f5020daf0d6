"""What the environment means, and that every fault in it is told at once, in a sentence that says what to do."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hub.settings import VARIABLES, Settings, SettingsFault, kept_secret, read_settings

TWILIO = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "canary-auth-token",
    "TWILIO_API_KEY_SID": "SK" + "1" * 32,
    "TWILIO_API_KEY_SECRET": "canary-key-secret",
}
PUBLIC = {"HUB_PUBLIC_URL": "https://hub.example.com"}
SMTP = {"HUB_SMTP_URL": "smtp://support:canary-smtp@mail.example.com:587"}
IMAP = {"HUB_IMAP_URL": "imaps://support:canary%2Fimap@mail.example.com:993"}
POSTGRES = {"HUB_DATABASE_URL": "postgresql://hub:canary-pg@127.0.0.1/hub"}


def read(tmp_path: Path, **environ: str) -> Settings:
    return read_settings({"HUB_DATA_DIR": str(tmp_path / "var"), **environ})


def faults(tmp_path: Path, **environ: str) -> list[str]:
    with pytest.raises(SettingsFault) as caught:
        read(tmp_path, **environ)
    return caught.value.faults


def test_with_nothing_set_the_embedded_hub_runs_against_the_sandbox(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.sandbox
    assert not settings.sandbox_attached
    assert (settings.host, settings.port, settings.public_url) == ("127.0.0.1", 8080, "http://127.0.0.1:8080")
    assert settings.database_url == f"sqlite:///{tmp_path}/var/hub.db"
    assert settings.files_url == f"file://{tmp_path}/var/files"
    assert settings.redis_url is None
    assert settings.channels_off == {}


def test_the_embedded_secret_is_made_once_and_only_for_this_user(tmp_path: Path) -> None:
    first, second = read(tmp_path), read(tmp_path)
    assert first.secret_key == second.secret_key
    assert len(first.secret_key) >= 48
    assert stat.S_IMODE((tmp_path / "var" / "secret.key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "var") == ["secret.key"]


def test_a_kept_secret_is_never_replaced(tmp_path: Path) -> None:
    assert kept_secret(tmp_path / "a") == kept_secret(tmp_path / "a") != kept_secret(tmp_path / "b")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"HUB_HOST": "localhost"}, True),
        ({"HUB_HOST": "::1"}, True),
        ({"HUB_HOST": "0.0.0.0"}, False),
        ({"HUB_HOST": "0.0.0.0", "HUB_SANDBOX": "1"}, True),
        ({"HUB_SANDBOX": "0"}, False),
        (PUBLIC, False),
        ({**PUBLIC, "HUB_SANDBOX": "public"}, True),
        (SMTP, False),
        (IMAP, False),
        ({**TWILIO, **PUBLIC}, False),
        ({**TWILIO, "HUB_TWILIO_API_BASE": "http://127.0.0.1:9090"}, False),
        ({**TWILIO, "HUB_TWILIO_API_BASE": "http://127.0.0.1:9090", "HUB_SANDBOX": "1"}, True),
        ({**POSTGRES, "HUB_SECRET_KEY": "k" * 32}, True),
        ({"HUB_REDIS_URL": "redis://127.0.0.1/1"}, True),
    ],
)
def test_when_the_sandbox_starts(tmp_path: Path, environ: dict[str, str], expected: bool) -> None:
    assert read(tmp_path, **environ).sandbox is expected


def test_a_child_is_attached_to_a_running_sandbox(tmp_path: Path) -> None:
    settings = read(tmp_path, **TWILIO, HUB_SANDBOX="1", HUB_TWILIO_API_BASE="http://127.0.0.1:9090/")
    assert settings.sandbox_attached
    assert settings.twilio is not None
    assert settings.twilio.api_base == "http://127.0.0.1:9090"


@pytest.mark.parametrize(
    ("environ", "off"),
    [
        ({"HUB_SANDBOX": "0"}, {"voice", "sms", "email"}),
        ({**TWILIO, **PUBLIC}, {"voice", "email"}),
        ({**TWILIO, **PUBLIC, "TWILIO_APP_SID": "AP" + "2" * 32, **SMTP, **IMAP}, set()),
        (SMTP, {"voice", "sms", "email"}),
        (IMAP, {"voice", "sms", "email"}),
        ({**SMTP, **IMAP}, {"voice", "sms"}),
    ],
)
def test_channels_that_are_off_say_why(tmp_path: Path, environ: dict[str, str], off: set[str]) -> None:
    found = read(tmp_path, **environ).channels_off
    assert set(found) == off
    assert all("set " in reason for reason in found.values())


@pytest.mark.parametrize("absent", sorted(TWILIO))
def test_half_a_twilio_configuration_names_what_is_missing(tmp_path: Path, absent: str) -> None:
    given = {name: value for name, value in TWILIO.items() if name != absent}
    found = faults(tmp_path, **given, **PUBLIC)
    assert len(found) == 1
    assert found[0].startswith(f"Twilio is only half configured: set {absent} too")
    assert "canary" not in found[0]


def test_twilio_needs_a_public_address(tmp_path: Path) -> None:
    assert faults(tmp_path, **TWILIO) == [
        "HUB_PUBLIC_URL is not set, so Twilio cannot reach the hub; set it, such as https://hub.example.com."
    ]


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"HUB_PORT": "eighty"}, "HUB_PORT"),
        ({"HUB_PORT": "70000"}, "HUB_PORT"),
        ({"HUB_PORT": "-1"}, "HUB_PORT"),
        ({"HUB_PUBLIC_URL": "hub.example.com"}, "HUB_PUBLIC_URL"),
        ({"HUB_PUBLIC_URL": "http://hub.example.com"}, "https://"),
        ({"HUB_PUBLIC_URL": "https://hub.example.com/desk"}, "HUB_PUBLIC_URL"),
        ({"HUB_PUBLIC_URL": "https://hub.example.com:x"}, "HUB_PUBLIC_URL"),
        ({"HUB_DATABASE_URL": "mysql://root@127.0.0.1/x", "HUB_SECRET_KEY": "k" * 32}, "HUB_DATABASE_URL"),
        ({"HUB_DATABASE_URL": "postgresql://127.0.0.1", "HUB_SECRET_KEY": "k" * 32}, "HUB_DATABASE_URL"),
        ({"HUB_DATABASE_URL": "sqlite://", "HUB_SECRET_KEY": "k" * 32}, "HUB_DATABASE_URL"),
        (POSTGRES, "HUB_SECRET_KEY"),
        ({"HUB_SECRET_KEY": "short"}, "HUB_SECRET_KEY has 5 characters"),
        ({"HUB_REDIS_URL": "127.0.0.1:6379"}, "HUB_REDIS_URL"),
        ({"HUB_SMTP_URL": "mail.example.com"}, "HUB_SMTP_URL"),
        ({"HUB_SMTP_URL": "smtp://support@mail.example.com"}, "HUB_SMTP_URL"),
        ({"HUB_IMAP_URL": "pop3://mail.example.com"}, "HUB_IMAP_URL"),
        ({"HUB_FILES_URL": "ftp://files.example.com"}, "HUB_FILES_URL"),
        ({"HUB_FILES_URL": "file://relative/path"}, "HUB_FILES_URL"),
        ({"HUB_SANDBOX": "maybe"}, "HUB_SANDBOX"),
        ({"HUB_LOG_LEVEL": "loud"}, "HUB_LOG_LEVEL"),
        ({"HUB_LOG_FORMAT": "xml"}, "HUB_LOG_FORMAT"),
        ({"HUB_TWILIO_API_BASE": "http://127.0.0.1:9"}, "HUB_TWILIO_API_BASE"),
        ({**TWILIO, **PUBLIC, "HUB_TWILIO_API_BASE": "http://127.0.0.1/path"}, "HUB_TWILIO_API_BASE"),
        ({**TWILIO, **PUBLIC, "TWILIO_ACCOUNT_SID": "SK" + "0" * 32}, "TWILIO_ACCOUNT_SID"),
        ({**TWILIO, "HUB_SANDBOX": "public", **PUBLIC}, "HUB_SANDBOX=1 runs without Twilio"),
        ({**SMTP, "HUB_SANDBOX": "1"}, "HUB_SANDBOX=1 must not reach real people"),
    ],
)
def test_a_fault_is_one_sentence_that_names_its_variable(tmp_path: Path, environ: dict[str, str], word: str) -> None:
    found = faults(tmp_path, **environ)
    assert len(found) == 1, found
    assert word in found[0]
    assert found[0].endswith((".", "'")), found[0]
    assert "\n" not in found[0]


def test_all_faults_come_together(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        HUB_PORT="x",
        HUB_DATABASE_URL="oracle://db",
        HUB_REDIS_URL="nowhere",
        HUB_LOG_LEVEL="loud",
        TWILIO_AUTH_TOKEN="alone",
        HUB_SECRET_KEY="short",
    )
    for name in ("HUB_PORT", "HUB_DATABASE_URL", "HUB_REDIS_URL", "HUB_LOG_LEVEL", "TWILIO_", "HUB_SECRET_KEY"):
        assert sum(name in sentence for sentence in found) == 1, (name, found)
    assert len(found) == 6


def test_a_data_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    found = faults(tmp_path)
    assert len(found) == 1
    assert found[0].startswith("Cannot write to the data folder")
    assert "HUB_DATA_DIR" in found[0]


def test_a_data_folder_without_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the suite may run as root, whom nothing stops
    (found,) = faults(tmp_path)
    assert found.startswith(f"Cannot write to the data folder {tmp_path}/var (this user may not write there)")


def test_a_misspelt_variable_is_told(tmp_path: Path) -> None:
    settings = read(tmp_path, HUB_DATABSE_URL="postgresql://127.0.0.1/hub", TWILIO_REGION="ie1", HUB_TEST_X="1")
    assert settings.warnings == (
        "HUB_DATABSE_URL is not a setting of the hub; did you mean HUB_DATABASE_URL?",
        "TWILIO_REGION is not a setting of the hub.",
    )


def test_no_secret_is_shown_but_all_are_known_to_the_log(tmp_path: Path) -> None:
    environ = {**TWILIO, **PUBLIC, **SMTP, **IMAP, **POSTGRES, "HUB_SECRET_KEY": "canary-secret-key-" * 2}
    environ["HUB_REDIS_URL"] = "redis://:canary-redis@127.0.0.1/0"
    settings = read(tmp_path, **environ)
    assert "canary" not in repr(settings)
    for word in ("auth-token", "key-secret", "smtp", "/imap", "%2Fimap", "pg", "redis"):
        assert f"canary{'' if word.startswith(('/', '%')) else '-'}{word}" in settings.secrets
    assert environ["HUB_SECRET_KEY"] in settings.secrets


def test_every_variable_is_in_the_page_for_operators() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    rows = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert rows >= set(VARIABLES)
    assert {name for name in rows if name.startswith(("HUB_", "TWILIO_"))} == set(VARIABLES)
