"""What a sandbox is told when it starts: ports, credentials, the hub's numbers and mailbox, the people outside."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class BadConfig(Exception):
    """The sandbox's configuration cannot be used; the message says which key and why."""


@dataclass(frozen=True)
class Person:
    """Somebody outside: one phone and one mailbox."""

    name: str
    number: str
    email: str


@dataclass(frozen=True)
class NumberConfig:
    """A phone number of the hub. The URLs may be given here or set later by REST, as with the real provider."""

    number: str
    label: str = ""
    voice_url: str = ""
    status_callback: str = ""
    sms_url: str = ""


@dataclass(frozen=True)
class MailboxConfig:
    """The hub's own mailbox: what arrives for `address` by SMTP is read by IMAP with `user` and `password`."""

    address: str = "support@example.test"
    user: str = "support@example.test"
    password: str = "secret"


@dataclass(frozen=True)
class SandboxConfig:
    """All settings. A port of 0 is chosen freely and written to `ports_file` (JSON: http, smtp, imap).

    `speech_scale` multiplies the time that `Say` takes, `time_scale` every other wait that is not the network's
    (pauses, music, gather and ring timeouts, delivery of texts). 0 and about 0.01 suit tests; 1 and 1 are life.
    """

    host: str = "127.0.0.1"
    port: int = 0
    smtp_port: int = 0
    imap_port: int = 0
    ports_file: str = ""
    data_dir: str = "var/sandbox"
    account_sid: str = "AC" + "5a" * 16
    auth_token: str = "5b" * 16
    api_key_sid: str = "SK" + "5c" * 16
    api_key_secret: str = "sandbox-api-key-secret-5d5d5d5d5d"
    numbers: tuple[NumberConfig, ...] = (NumberConfig("+442079460000"),)
    messaging_service_sid: str = "MG" + "5e" * 16
    mailbox: MailboxConfig = field(default_factory=MailboxConfig)
    people: tuple[Person, ...] = ()
    hub_form_url: str = ""
    speech_scale: float = 1.0
    time_scale: float = 1.0
    line_grace_s: float = 10.0
    seed: int = 1

    @property
    def data(self) -> Path:
        return Path(self.data_dir)


_NESTED = {"numbers", "mailbox", "people"}


def config_from_dict(raw: dict[str, Any]) -> SandboxConfig:
    """A configuration from parsed JSON. Unknown keys are refused: a typing error must not become a default."""
    known = set(SandboxConfig.__dataclass_fields__)
    if unknown := sorted(set(raw) - known):
        raise BadConfig(f"unknown sandbox setting: {', '.join(unknown)}")
    plain = {key: value for key, value in raw.items() if key not in _NESTED}
    try:
        if "numbers" in raw:
            plain["numbers"] = tuple(
                NumberConfig(entry) if isinstance(entry, str) else NumberConfig(**entry) for entry in raw["numbers"]
            )
        if "mailbox" in raw:
            plain["mailbox"] = MailboxConfig(**raw["mailbox"])
        if "people" in raw:
            plain["people"] = tuple(Person(**entry) for entry in raw["people"])
        return SandboxConfig(**plain)
    except TypeError as exc:
        raise BadConfig(str(exc)) from exc


def config_from_file(path: Path) -> SandboxConfig:
    """The configuration in a JSON file; raises BadConfig with one sentence when it cannot be read."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise BadConfig(f"cannot read {path}: {exc}") from exc
    if not isinstance(raw, dict):
        raise BadConfig(f"{path} must hold a JSON object")
    return config_from_dict(raw)
