"""What is shipped for production is kept true: every verb, argument and variable that it names exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub.__main__ import build_parser
from hub.settings import VARIABLES, read_settings

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "docs" / "deploy" / "systemd").glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
HUB_SERVICES = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
SECRET = "k" * 40


def verbs_of(words: list[str]) -> list[str]:
    """The arguments are accepted by the hub's own parser; gives them back."""
    build_parser().parse_args(words)
    return words


def test_compose_runs_each_process_and_the_stores() -> None:
    commands = {name: service["command"] for name, service in HUB_SERVICES.items()}
    assert sorted(map(verbs_of, commands.values())) == [
        ["migrate"],
        ["poll"],
        ["web"],
        ["work", "bulk"],
        ["work", "interactive"],
    ]
    assert {"postgres", "valkey"} < set(COMPOSE["services"])
    assert COMPOSE["services"]["web"]["deploy"]["replicas"] == 2


def test_compose_names_only_settings_that_exist_and_they_are_accepted(tmp_path: Path) -> None:
    for name, service in HUB_SERVICES.items():
        environ = service["environment"]
        assert set(environ) <= set(VARIABLES), name
        given = {"POSTGRES_PASSWORD": "pw", "HUB_SECRET_KEY": SECRET, "HUB_PUBLIC_URL": "https://hub.example.com"}
        filled = {key: interpolate(value, given) for key, value in environ.items()}
        settings = read_settings({**filled, "HUB_DATA_DIR": str(tmp_path), "HUB_FILES_URL": f"file://{tmp_path}"})
        assert not settings.sandbox
        assert not settings.warnings
    words = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    assert words - {"POSTGRES_PASSWORD"} <= set(VARIABLES)


def interpolate(text: str, given: dict[str, str]) -> str:
    """Compose's own ${NAME:-default} and ${NAME:?message}."""

    def fill(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":")
        return given.get(name) or (default[1:] if default.startswith("-") else pytest.fail(f"{name} is required"))

    return re.sub(r"\$\{([^}]*)\}", fill, text)


def test_the_image_starts_the_hub_and_holds_every_package() -> None:
    text = (ROOT / "Dockerfile").read_text()
    entry = json.loads(re.findall(r"^ENTRYPOINT (.+)$", text, re.M)[0])
    default = json.loads(re.findall(r"^CMD (.+)$", text, re.M)[0])
    assert entry == ["python", "-m", "hub"]
    verbs_of(default)
    copied = set(re.findall(r"^COPY (\w+) \./", text, re.M))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert copied == packages
    named = set(re.findall(r"\b((?:HUB|TWILIO)_\w+)=", text))
    assert named
    assert named <= set(VARIABLES)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_verb_that_exists_with_settings_that_exist(path: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program == "/opt/hub/.venv/bin/hub"
    for instance in ("interactive", "bulk") if "work" in path.name else ("8080",):
        verbs_of([word.replace("%i", instance) for word in words])
    if "Environment" in unit["Service"]:
        assert unit["Service"]["Environment"].partition("=")[0] in VARIABLES
    for other in unit["Unit"].get("Requires", "").split():
        assert (path.parent / other).exists()


def test_units_are_there_for_each_process() -> None:
    names = [path.name for path in UNITS]
    assert names == ["hub-migrate.service", "hub-poll.service", "hub-web@.service", "hub-work@.service"]


def test_the_example_environment_is_accepted_but_for_what_must_be_changed(tmp_path: Path) -> None:
    lines = (ROOT / "docs" / "deploy" / "systemd" / "hub.env.example").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(environ) <= set(VARIABLES)
    settings = read_settings({**environ, "HUB_DATA_DIR": str(tmp_path)})
    assert not settings.sandbox
    assert settings.public_url == "https://hub.example.com"


def test_the_page_for_operators_names_only_verbs_that_exist() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    known = set(build_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]
    named = set(re.findall(r"`hub (\w+)", text))
    assert named
    assert named <= known
