"""How a queue treats calls: recording and consent, voicemail, music. Plain values read from `Queue.voice`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from crm_core import sounds
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from routing.queues import Queue
from routing.rooms import HOLD_MUSIC

RECORDING = ("off", "announce", "ask")


@dataclass(frozen=True, slots=True)
class CallRules:
    """`record`: off; announce = callers are told and recorded; ask = told, and a key press keeps them from being recorded."""

    record: str = "off"
    pause_s: int = 60  # a pause of the recording ends by itself after this
    voicemail_closed: bool = False  # outside opening hours: a message may be left
    voicemail_overflow: bool = False  # nobody took the call within the longest wait
    voicemail_key: bool = False  # key 2 while waiting
    voicemail_max_s: int = 180
    keep_days: int = 0  # recordings are deleted here and at the provider this long after their call; 0: kept
    voicemail_keep_days: int = 0  # the same for messages, once their work is done
    music: str = ""  # a sound's id and ending, "id.wav": while waiting and on hold; empty: the hub's own

    @property
    def music_url(self) -> str:
        """What is played while a caller waits."""
        sound_id, _, ending = self.music.partition(".")
        return sounds.path_of(sound_id, ending) if ending else HOLD_MUSIC


def of(queue: Queue | None) -> CallRules:
    """The rules of a queue; those that it does not name are the usual ones."""
    given: Mapping[str, Any] = queue.voice if queue is not None else {}
    known = {each.name for each in fields(CallRules)}
    return CallRules(**{name: value for name, value in given.items() if name in known})


def spoken_in(interaction: Interaction, queue: Queue) -> str:
    """The language that the caller chose in a menu, else the queue's."""
    return str(interaction.data.get("chosen") or queue.language)


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are stored; Invalid, with a sentence for each that is impossible."""
    wrong: dict[str, str] = {}
    if values.get("record", "off") not in RECORDING:
        wrong["record"] = "Choose one of the list."
    for name, low, high in (
        ("pause_s", 5, 600),
        ("voicemail_max_s", 10, 600),
        ("keep_days", 0, 3650),
        ("voicemail_keep_days", 0, 3650),
    ):
        value = values.get(name, low)
        if not isinstance(value, int) or not low <= value <= high:
            wrong[name] = f"Between {low} and {high}."
    if wrong:
        raise Invalid("This queue cannot be set so.", fields=wrong)
    known = {each.name for each in fields(CallRules)}
    return {name: value for name, value in values.items() if name in known}
