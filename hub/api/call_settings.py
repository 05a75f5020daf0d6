"""API: how queues and numbers treat calls, sounds that callers hear, and recordings beyond one call."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field
from sqlmodel import col, select

from crm_core import accounts, recordings, sounds
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound
from crm_core.interactions import Interaction
from crm_core.recordings import Recording, RecordingState
from crm_core.sounds import Sound
from hub import rights
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, Version, operation
from hub.api.work import READERS
from hub.web import ADMINS, SUPERVISORS
from routing import answered_by, call_rules, call_settings, queues, sound_quality
from routing import recordings as behaviour
from routing.queues import Queue

Word = Literal["accept", "press", "refuse"]
SOUND_BODY = sounds.LARGEST * 4 // 3 + 64 * 1024


class RulesShown(Shown):
    """How a queue treats calls. Days: 0 keeps recordings for ever; `music` is a sound's id and ending, or empty."""

    queue_id: str
    name: str
    version: int
    record: str
    pause_s: int
    voicemail_closed: bool
    voicemail_overflow: bool
    voicemail_key: bool
    voicemail_max_s: int
    keep_days: int
    voicemail_keep_days: int
    music: str


class RulesList(Shown):
    """By name."""

    items: list[RulesShown]


class RulesIn(Strict):
    """Fields to change; `version` is the queue's that you saw."""

    version: Version
    record: Literal["off", "announce", "ask"] | None = None
    pause_s: int | None = Field(None, ge=5, le=600)
    voicemail_closed: bool | None = None
    voicemail_overflow: bool | None = None
    voicemail_key: bool | None = None
    voicemail_max_s: int | None = Field(None, ge=10, le=600)
    keep_days: int | None = Field(None, ge=0, le=3650)
    voicemail_keep_days: int | None = Field(None, ge=0, le=3650)
    music: str | None = Field(None, max_length=60)


def _rules(queue: Queue) -> RulesShown:
    rules = call_rules.of(queue)
    known = {name: getattr(rules, name) for name in RulesShown.model_fields if hasattr(rules, name)}
    return RulesShown(queue_id=queue.id, name=queue.name, version=queue.version, **known)


@operation(
    "GET", "/api/v1/call-rules", "How queues treat calls", scope="admin:read", roles=SUPERVISORS, answer=RulesList
)
async def list_rules(call: Call[Nothing, Nothing]) -> RulesList:
    """Recording and its consent, how long it is kept, voicemail, music."""
    async with call.runtime.db.reading() as tx:
        return RulesList(items=[_rules(queue) for queue in await queues.list_all(tx)])


@operation(
    "PATCH", "/api/v1/call-rules/{queue}", "Change how a queue treats calls", scope="admin:write", roles=ADMINS,
    body=RulesIn, answer=RulesShown,
)  # fmt: skip
async def change_rules(call: Call[Nothing, RulesIn]) -> RulesShown:
    """Calls that go on keep what they were told. 409 when the queue has another version."""
    given: dict[str, Any] = call.body.model_dump(exclude={"version"}, exclude_none=True)
    return _rules(
        await call.runtime.db.write(
            lambda tx: call_settings.put_rules(
                tx, call.path["queue"], given, version=call.body.version, actor=call.user.id, now=call.now
            )
        )
    )


class ScreeningShown(Shown):
    """Whom a number takes at once, makes press a key, or refuses."""

    account_id: str
    number: str
    version: int
    withheld: str
    foreign: str
    countries: list[str]
    detect_machines: bool


class ScreeningList(Shown):
    """By name."""

    items: list[ScreeningShown]


class ScreeningIn(Strict):
    """press: connected after pressing 1, which robots do not. `countries` count as at home, beside the number's own."""

    version: Version
    withheld: Word = "accept"
    foreign: Word = "accept"
    countries: list[str] = Field(default_factory=list, max_length=call_settings.MOST_COUNTRIES)
    detect_machines: bool | None = Field(None, description="listen to calls out: did a machine answer?")


def _screening(account: ChannelAccount) -> ScreeningShown:
    rules = account.settings.get("screen") or {}
    return ScreeningShown(
        account_id=account.id, number=account.address, version=account.version,
        withheld=str(rules.get("withheld", "accept")), foreign=str(rules.get("foreign", "accept")),
        countries=[str(code) for code in account.settings.get("countries") or ()],
        detect_machines=bool(account.settings.get("detect_machines")),
    )  # fmt: skip


@operation(
    "GET", "/api/v1/screening", "Screening of callers", scope="admin:read", roles=SUPERVISORS, answer=ScreeningList
)
async def list_screening(call: Call[Nothing, Nothing]) -> ScreeningList:
    """Of each phone number; blocked callers are a list of their own."""
    async with call.runtime.db.reading() as tx:
        return ScreeningList(items=[_screening(each) for each in await accounts.list_channel(tx, "voice")])


@operation(
    "PUT", "/api/v1/screening/{account}", "Change the screening of a number", scope="admin:write", roles=ADMINS,
    body=ScreeningIn, answer=ScreeningShown,
)  # fmt: skip
async def put_screening(call: Call[Nothing, ScreeningIn]) -> ScreeningShown:
    """From the next call on."""
    body = call.body
    rules: dict[str, str] = {"withheld": body.withheld, "foreign": body.foreign}
    return _screening(
        await call.runtime.db.write(
            lambda tx: call_settings.put_screening(
                tx, call.path["account"], rules, countries=body.countries, actor=call.user.id, now=call.now,
                version=body.version, detect_machines=body.detect_machines,
            )
        )
    )  # fmt: skip


class SoundShown(Shown):
    """A sound. `music` is what a queue's rules and flows name it by."""

    id: str
    name: str
    content_type: str
    size: int
    music: str
    url: str
    created_at: datetime


class SoundList(Shown):
    """By name."""

    items: list[SoundShown]


class SoundIn(Strict):
    """WAV or MP3, at most 10 MB, told by its bytes."""

    model_config = ConfigDict(extra="forbid", str_max_length=SOUND_BODY)

    name: str = Field(min_length=1, max_length=100)
    content: str = Field(min_length=4, max_length=SOUND_BODY, description="the file, in base64")


def _sound(row: Sound) -> SoundShown:
    return SoundShown(
        id=row.id, name=row.name, content_type=row.content_type, size=row.size, music=f"{row.id}.{row.ending}",
        url=sounds.url_of(row), created_at=row.created_at,
    )  # fmt: skip


@operation("GET", "/api/v1/sounds", "Sounds", scope="admin:read", roles=SUPERVISORS, answer=SoundList)
async def list_sounds(call: Call[Nothing, Nothing]) -> SoundList:
    """Prompts and music in use."""
    async with call.runtime.db.reading() as tx:
        return SoundList(items=[_sound(row) for row in await sounds.list_all(tx)])


@operation(
    "POST", "/api/v1/sounds", "Add a sound", scope="admin:write", roles=ADMINS, body=SoundIn, answer=SoundShown,
    status=201, body_limit=SOUND_BODY,
)  # fmt: skip
async def add_sound(call: Call[Nothing, SoundIn]) -> SoundShown:
    """A new upload is a new sound: a running call keeps what it began with."""
    try:
        content = base64.b64decode(call.body.content, validate=True)
    except ValueError as error:  # not base64, or not even ASCII
        raise Invalid("This is not base64.", fields={"content": "Send the file in base64."}) from error
    content_type, ending = sounds.kind_of(content)
    key = await call.runtime.files.put(content, folder="sounds", now=call.now)
    return _sound(
        await call.runtime.db.write(
            lambda tx: sounds.add(
                tx, name=call.body.name, file_key=key, content_type=content_type, ending=ending, size=len(content),
                actor=call.user.id, now=call.now,
            )
        )
    )  # fmt: skip


@operation("DELETE", "/api/v1/sounds/{id}", "Retire a sound", scope="admin:write", roles=ADMINS, answer=None)
async def retire_sound(call: Call[Nothing, Nothing]) -> None:
    """Flows that play it go on playing it; 409 while a queue does."""
    await call.runtime.db.write(
        lambda tx: call_settings.retire_sound(tx, call.path["id"], actor=call.user.id, now=call.now)
    )


class TapesIn(Strict):
    """A page of recordings."""

    kind: Literal["", "call", "voicemail"] = ""
    queue: str = Field("", max_length=40)
    before: str = Field("", max_length=40)
    limit: int = Field(50, ge=1, le=200)


class TapeShown(Shown):
    """A recording or a message. `media` is there once `state` is kept; it answers range requests."""

    id: str
    call_id: str
    queue_id: str | None
    kind: str
    state: str
    consent: str
    duration_s: int | None
    size: int
    started_at: datetime
    media: str


class TapePage(Shown):
    """Newest first."""

    items: list[TapeShown]
    next: str | None


class DeleteTapeIn(Strict):
    """Why."""

    reason: str = Field("", max_length=200)


def _tape(row: Recording, queue_id: str | None) -> TapeShown:
    return TapeShown(
        id=row.id, call_id=row.interaction_id, queue_id=queue_id, kind=row.kind, state=str(row.state),
        consent=row.consent, duration_s=row.duration_s, size=row.size, started_at=row.started_at,
        media=f"/desk/recordings/{row.id}" if row.state == RecordingState.KEPT else "",
    )  # fmt: skip


@operation(
    "GET", "/api/v1/recordings", "Recordings and messages", scope="calls:read", roles=SUPERVISORS, query=TapesIn,
    answer=TapePage,
)  # fmt: skip
async def list_tapes(call: Call[TapesIn, Nothing]) -> TapePage:
    """Of all calls; those of one call are at /calls/{id}/recordings."""
    query = call.query
    statement = (
        select(Recording, Interaction.queue_id)
        .join(Interaction, col(Interaction.id) == col(Recording.interaction_id))
        .order_by(col(Recording.id).desc())
        .limit(query.limit)
    )
    if query.kind:
        statement = statement.where(Recording.kind == query.kind)
    if query.queue:
        statement = statement.where(Interaction.queue_id == query.queue)
    if query.before:
        statement = statement.where(col(Recording.id) < query.before)
    async with call.runtime.db.reading(slow=True) as tx:
        rows = await tx.all(statement)
    items = [_tape(row, queue_id) for row, queue_id in rows]
    return TapePage(items=items, next=items[-1].id if len(items) == query.limit else None)


@operation("GET", "/api/v1/recordings/{id}", "A recording", scope="calls:read", roles=READERS, answer=TapeShown)
async def get_tape(call: Call[Nothing, Nothing]) -> TapeShown:
    """Of a call that you may see."""
    async with call.runtime.db.reading() as tx:
        row = await recordings.get(tx, call.path["id"])
        try:
            of = await rights.interaction(tx, call.user, row.interaction_id)
        except NotFound:
            raise NotFound("There is no such recording.") from None
    return _tape(row, of.queue_id)


@operation(
    "POST", "/api/v1/recordings/{id}/delete", "Delete a recording", scope="admin:write", roles=ADMINS, body=DeleteTapeIn,
    answer=TapeShown,
)  # fmt: skip
async def delete_tape(call: Call[Nothing, DeleteTapeIn]) -> TapeShown:
    """For good, here and at the provider; the call's record stays, and the audit log says who and why."""

    async def unit(tx: Tx) -> TapeShown:
        row = await behaviour.delete(
            tx, call.path["id"], actor=call.user.id, reason=call.body.reason or "deleted by hand", now=call.now
        )
        return _tape(row, None)

    return await call.runtime.db.write(unit)


class QualityShown(Shown):
    """How a call sounded at the agents' end: lowest mean opinion score, longest round trip, most loss, over its legs."""

    told: bool
    poor: bool
    mos: float | None
    rtt_ms: float | None
    loss_percent: float | None
    lost: int
    warnings: dict[str, int]
    answered_by: str


@operation(
    "GET", "/api/v1/calls/{id}/quality", "How a call sounded", scope="calls:read", roles=READERS, answer=QualityShown
)
async def get_quality(call: Call[Nothing, Nothing]) -> QualityShown:
    """As the agents' browsers reported it; `answered_by` says whether a person or a machine took a call of ours."""
    async with call.runtime.db.reading() as tx:
        row = await rights.interaction(tx, call.user, call.path["id"])
    found = sound_quality.of(row)
    return QualityShown(
        told=found is not None, poor=found is not None and found.poor, mos=found.mos if found else None,
        rtt_ms=found.rtt_ms if found else None, loss_percent=found.loss_percent if found else None,
        lost=found.lost if found else 0, warnings=found.warnings if found else {}, answered_by=answered_by.of(row),
    )  # fmt: skip


OPERATIONS: list[Operation] = [
    get_quality,
    list_rules,
    change_rules,
    list_screening,
    put_screening,
    list_sounds,
    add_sound,
    retire_sound,
    list_tapes,
    get_tape,
    delete_tape,
]
