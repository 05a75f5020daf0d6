"""How `hub serve` starts the sandbox: its credentials, its configuration, and what the hub's processes are told of it.

The twin is a stranger to the hub: it gets a file, and the hub gets the same environment variables that an operator
would set for real providers. Credentials are made once and kept in the data folder, so that they outlive a restart.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hub.settings import Settings

NUMBERS = ("+442079460000", "+442079460001")
MAILBOX = "support@hub.example.test"
APP_NAME = "Contact hub"
VOICE_PATH, SMS_PATH = "/webhooks/twilio/voice", "/webhooks/twilio/sms"
# The twin, like Twilio, tries again by these connection overrides: two retries, whatever failed.
OVERRIDES = "#rc=2&rp=all"
PORTS_FILE = "sandbox-ports.json"
LOGINS_FILE = "demo-logins.json"
FORM_KEY = "website"
# The outside people offered on the twin's page; the demo company knows the first three.
PEOPLE = (
    ("Ana Example", "+12025550101", "ana@example.com"),
    ("Bo Sample", "+12025550102", "bo@example.com"),
    ("Carla Muster", "+12025550103", "carla@example.com"),
    ("A stranger", "+12025550199", "stranger@example.com"),
)


class TwinFailed(Exception):
    """The sandbox did not start; the text is one sentence."""


@dataclass(frozen=True)
class TwinCredentials:
    """What the twin expects of the hub."""

    account_sid: str
    auth_token: str
    api_key_sid: str
    api_key_secret: str
    mailbox_password: str


@dataclass(frozen=True)
class TwinPorts:
    """Where it listens."""

    http: int
    smtp: int
    imap: int


def credentials(data_dir: Path) -> TwinCredentials:
    """The twin's credentials, made on first use and kept (mode 0600)."""
    path = data_dir / "sandbox-credentials.json"
    try:
        return TwinCredentials(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        made = TwinCredentials(
            account_sid="AC" + secrets.token_hex(16),
            auth_token=secrets.token_hex(16),
            api_key_sid="SK" + secrets.token_hex(16),
            api_key_secret=secrets.token_hex(16),
            mailbox_password=secrets.token_urlsafe(16),
        )
        write_private(path, asdict(made))
        return made


def write_config(settings: Settings, made: TwinCredentials, ports: TwinPorts) -> Path:
    """The twin's configuration file."""
    hub = settings.public_url
    config: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": ports.http,
        "smtp_port": ports.smtp,
        "imap_port": ports.imap,
        "ports_file": str(settings.data_dir / PORTS_FILE),
        "data_dir": str(settings.data_dir / "sandbox"),
        "account_sid": made.account_sid,
        "auth_token": made.auth_token,
        "api_key_sid": made.api_key_sid,
        "api_key_secret": made.api_key_secret,
        "numbers": [
            {
                "number": number,
                "voice_url": f"{hub}{VOICE_PATH}{OVERRIDES}",
                "status_callback": f"{hub}{VOICE_PATH}/status{OVERRIDES}",
                "sms_url": f"{hub}{SMS_PATH}{OVERRIDES}",
            }
            for number in NUMBERS
        ],
        "mailbox": {"address": MAILBOX, "user": MAILBOX, "password": made.mailbox_password},
        "people": [{"name": name, "number": number, "email": email} for name, number, email in PEOPLE],
        "hub_form_url": f"{hub}/forms/{FORM_KEY}",
        "speech_scale": 1.0,
    }
    path = settings.data_dir / "sandbox.json"
    write_private(path, config)
    return path


def demo_logins(data_dir: Path) -> list[str]:
    """Who may log in to the demo, as `login / password (role)`; whoever made the demo company wrote them down."""
    try:
        found = json.loads((data_dir / LOGINS_FILE).read_text())
        return [f"{one['login']} / {one['password']} ({one['role']})" for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def command(config: Path) -> list[str]:
    """How the twin is started. It is a verb of the hub so that it ends with the supervisor like the others."""
    return [sys.executable, "-m", "hub", "sandbox", "--config", str(config)]


def noted_ports(data_dir: Path) -> TwinPorts | None:
    """The ports that the twin wrote down, or None while it has not."""
    try:
        found = json.loads((data_dir / PORTS_FILE).read_text())
        return TwinPorts(http=int(found["http"]), smtp=int(found["smtp"]), imap=int(found["imap"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def wait_for_ports(data_dir: Path, *, alive: Callable[[], bool], within_s: float = 20.0) -> TwinPorts:
    """The ports once it listens; TwinFailed when it ended or is too slow. `alive` tells whether it still runs."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if ports := noted_ports(data_dir):
            return ports
        if not alive():
            raise TwinFailed("The sandbox ended while it started; its last words are above.")
        time.sleep(0.02)
    raise TwinFailed(f"The sandbox did not start within {within_s:.0f} s.")


def register_app(made: TwinCredentials, ports: TwinPorts, *, hub_url: str) -> str:
    """The SID of the TwiML App that agents' browsers call, made or corrected by REST as `hub twilio setup` does it."""
    apps = f"/2010-04-01/Accounts/{made.account_sid}/Applications"
    fields = {
        "FriendlyName": APP_NAME,
        "VoiceUrl": f"{hub_url}{VOICE_PATH}/client",
        "VoiceMethod": "POST",
        "StatusCallback": f"{hub_url}{VOICE_PATH}/status",
    }
    found = rest(made, ports, "GET", f"{apps}.json?{urlencode({'FriendlyName': APP_NAME})}")["applications"]
    path = f"{apps}/{found[0]['sid']}.json" if found else f"{apps}.json"
    return str(rest(made, ports, "POST", path, urlencode(fields))["sid"])


def rest(made: TwinCredentials, ports: TwinPorts, method: str, path: str, form: str | None = None) -> Any:
    """One call to the twin's REST API, by what every Python has: this process stays small."""
    login = b64encode(f"{made.account_sid}:{made.auth_token}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/x-www-form-urlencoded"}
    connection = http.client.HTTPConnection("127.0.0.1", ports.http, timeout=5)
    try:
        connection.request(method, path, body=form, headers=headers)
        response = connection.getresponse()
        text = response.read()
        if response.status not in {200, 201}:
            raise TwinFailed(f"The sandbox answered {response.status} when the hub introduced itself.")
        return json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TwinFailed(f"The sandbox does not answer ({type(error).__name__}).") from error
    finally:
        connection.close()


def environment(made: TwinCredentials, ports: TwinPorts, *, app_sid: str) -> dict[str, str]:
    """What tells the hub's processes of the twin, in the words an operator would use for the real providers."""
    user = f"{quote(MAILBOX, safe='')}:{quote(made.mailbox_password, safe='')}"
    return {
        "HUB_SANDBOX": "1",
        "HUB_TWILIO_API_BASE": f"http://127.0.0.1:{ports.http}",
        "TWILIO_ACCOUNT_SID": made.account_sid,
        "TWILIO_AUTH_TOKEN": made.auth_token,
        "TWILIO_API_KEY_SID": made.api_key_sid,
        "TWILIO_API_KEY_SECRET": made.api_key_secret,
        "TWILIO_APP_SID": app_sid,
        "HUB_SMTP_URL": f"smtp://{user}@127.0.0.1:{ports.smtp}",
        "HUB_IMAP_URL": f"imap://{user}@127.0.0.1:{ports.imap}",
    }


def write_private(path: Path, value: object) -> None:
    """JSON in a file that only this user can read; whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        json.dump(value, handle, indent=2)
    fresh.replace(path)
