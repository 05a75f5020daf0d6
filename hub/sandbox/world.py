"""The provider's account: configuration, records, faults found in the product, and who watches. It starts nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import phonenumbers

from hub.sandbox.callbacks import Callbacks
from hub.sandbox.clock import Clock
from hub.sandbox.config import Person, SandboxConfig
from hub.sandbox.faults import Faults
from hub.sandbox.state import (
    Application,
    Call,
    CallbackEntry,
    Media,
    Message,
    PhoneNumber,
    Recording,
    TwinFault,
    stable_sid,
)

# Numbers with a fixed behaviour (docs/sandbox.md): all from +1 202 555 01xx, which nobody owns.
MAGIC = {
    "+12025550190": "unreachable",  # text: undelivered 30003; call: failed
    "+12025550191": "no-answer",
    "+12025550192": "busy",
    "+12025550193": "landline",  # text: undelivered 30006
    "+12025550194": "machine",  # call: an answering machine takes it
    "+12025550195": "answers",  # call: picked up at once by a person who says nothing
    "+12025550196": "silent",  # text: stays `sent`, no delivery receipt ever comes
    "+12025550197": "filtered",  # text: undelivered 30007
}


def is_e164(text: str) -> bool:
    """A number that could exist, written with its plus sign."""
    if not text.startswith("+") or not text[1:].isdigit():
        return False
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text))
    except phonenumbers.NumberParseException:
        return False


def country_of(text: str) -> str:
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(text)) or ""
    except phonenumbers.NumberParseException:
        return ""


class World:
    """What exists. Watchers are told of each change by kind; they decide what to look at."""

    def __init__(self, config: SandboxConfig, *, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.faults = Faults(seed=config.seed)
        self.callbacks = Callbacks(
            clock=clock, faults=self.faults, auth_token=config.auth_token, note=self._callback_done
        )
        self.started_at = clock.now()
        self.numbers: dict[str, PhoneNumber] = {}
        self.applications: dict[str, Application] = {}
        self.calls: dict[str, Call] = {}
        self.messages: dict[str, Message] = {}
        self.media: dict[str, Media] = {}
        self.recordings: dict[str, Recording] = {}
        self.twin_faults: list[TwinFault] = []
        self.opted_out: set[tuple[str, str]] = set()
        self.base_url = ""
        self.people: dict[str, Person] = {}
        self._watchers: list[Callable[[str, dict[str, Any]], None]] = []
        for person in config.people:
            self.people[person.number] = person
        self._load()

    def watch(self, watcher: Callable[[str, dict[str, Any]], None]) -> None:
        self._watchers.append(watcher)

    def tell(self, kind: str, **data: Any) -> None:
        """Say that something changed: `call`, `message`, `mail`, `callback`, `fault`, `signal`, `people`."""
        for watcher in self._watchers:
            watcher(kind, data)

    def _callback_done(self, entry: CallbackEntry) -> None:
        self.tell("callback", number=entry.number)

    def fault(self, code: int, message: str, *, where: str = "", call_sid: str = "") -> None:
        """Record what Twilio's debugger would show, or what the twin cannot play: loud on the page and in tests."""
        self.twin_faults.append(TwinFault(code, message, where, call_sid, self.clock.now()))
        self.tell("fault", code=code, message=message)

    async def wait(self, seconds: float) -> None:
        """Pass time as configured; even a scale of 0 lets others run."""
        await self.clock.sleep(max(0.0, seconds) * self.config.time_scale)

    # --- what survives a restart: number and application set-up, opt-outs -------------------------------------------

    def _load(self) -> None:
        now = self.clock.now()
        for entry in self.config.numbers:
            sid = stable_sid("PN", entry.number)
            self.numbers[sid] = PhoneNumber(
                sid,
                entry.number,
                entry.label or entry.number,
                now,
                now,
                voice_url=entry.voice_url,
                status_callback=entry.status_callback,
                sms_url=entry.sms_url,
            )
        try:
            saved = json.loads((self.config.data / "twilio.json").read_text("utf-8"))
        except (OSError, ValueError):
            return
        for raw in saved.get("applications", []):
            raw["created_at"] = datetime.fromisoformat(raw["created_at"])
            raw["updated_at"] = datetime.fromisoformat(raw["updated_at"])
            self.applications[raw["sid"]] = Application(**raw)
        for sid, urls in saved.get("numbers", {}).items():
            if sid in self.numbers:
                given = asdict(self.numbers[sid])
                for key, value in urls.items():
                    if not (key.endswith(("_url", "_callback")) and given.get(key)):  # the configuration is newer
                        setattr(self.numbers[sid], key, value)
        self.opted_out = {(sender, to) for sender, to in saved.get("opted_out", [])}

    def save(self) -> None:
        """Write the set-up to the data folder, whole or not at all."""
        urls = ("voice_", "sms_", "status_", "friendly_name")
        saved = {
            "applications": [
                {key: value.isoformat() if isinstance(value, datetime) else value for key, value in asdict(app).items()}
                for app in self.applications.values()
            ],
            "numbers": {
                number.sid: {key: value for key, value in asdict(number).items() if key.startswith(urls)}
                for number in self.numbers.values()
            },
            "opted_out": sorted(self.opted_out),
        }
        folder = self.config.data
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "twilio.json.part"
        part.write_text(json.dumps(saved, indent=1), "utf-8")
        os.replace(part, folder / "twilio.json")

    def number_of(self, text: str) -> PhoneNumber | None:
        """The account's own number with this text, if it is one."""
        return next((number for number in self.numbers.values() if number.number == text), None)
