"""What Twilio's own lists say about calls, rooms and recordings: the truth that is left when its callbacks were lost.

Lists are newest first and are read page by page only as far back as asked. Sources: Twilio's "Call resource: read multiple",
"Conference resource: read multiple" and "Recording resource: read multiple" as of the knowledge notes; unconfirmed by an account.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from channels.contract import RecordingReady, SeenCall, SeenRoom, SeenSeat
from channels.errors import AnswerUnreadable, Gone
from channels.twilio_api import TwilioApi

PAGE = 100
PAGES = 50  # then the rest waits for the next look


def _utc(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def _made(record: Any) -> datetime:
    made = _utc(record.date_created)
    if made is None:
        raise AnswerUnreadable("Twilio lists something without the time it was made.", code="unreadable")
    return made


async def _newest(api: TwilioApi, first: Callable[[Any], Any], *, since: datetime) -> list[Any]:
    """Records made at or after `since`, newest first."""
    found: list[Any] = []
    page = await api.call(first)
    for _ in range(PAGES):
        records = list(page)
        for record in records:
            if _made(record) >= since:
                found.append(record)
        if not records or _made(records[-1]) < since:
            break
        last = page
        page = await api.call(lambda _, last=last: last.next_page_async())  # type: ignore[misc]
        if page is None:
            break
    return found


async def list_calls(api: TwilioApi, *, since: datetime, status_of: Callable[[str], tuple[str, int]]) -> list[SeenCall]:
    """Every call made since then, newest first."""
    records = await _newest(
        api,
        lambda client: client.calls.page_async(start_time_after=since, page_size=PAGE),
        since=since,
    )
    return [seen_call(record, status_of) for record in records]


def seen_call(record: Any, status_of: Callable[[str], tuple[str, int]]) -> SeenCall:
    """One call of the list, or fetched by itself."""
    status, rank = status_of(str(record.status))
    return SeenCall(
        str(record.sid), str(record._from or ""), str(record.to or ""), status, rank, str(record.direction) == "inbound",
        _made(record), _utc(record.end_time),
    )  # fmt: skip


async def find_call(api: TwilioApi, call_id: str, status_of: Callable[[str], tuple[str, int]]) -> SeenCall | None:
    """One call; None when the provider does not know it."""
    try:
        return seen_call(await api.call(lambda client: client.calls(call_id).fetch_async()), status_of)
    except Gone:
        return None


async def list_running_rooms(api: TwilioApi) -> list[SeenRoom]:
    """Rooms that are not over, with those in them."""
    found: list[SeenRoom] = []
    for status in ("in-progress", "init"):
        records = await api.call(
            lambda client, status=status: client.conferences.list_async(  # type: ignore[misc]
                status=status, limit=1000, page_size=PAGE
            )
        )
        for record in records:
            found.append(await _with_seats(api, record))
    return found


async def find_room(api: TwilioApi, room_id: str) -> SeenRoom | None:
    """One room; None when the provider does not know it."""
    try:
        record = await api.call(lambda client: client.conferences(room_id).fetch_async())
    except Gone:
        return None
    return _room(record, ()) if str(record.status) == "completed" else await _with_seats(api, record)


async def _with_seats(api: TwilioApi, record: Any) -> SeenRoom:
    try:
        seats = await api.call(
            lambda client: client.conferences(record.sid).participants.list_async(limit=250, page_size=250)
        )
    except Gone:
        return _room(record, (), over=True)  # it ended while we looked
    return _room(
        record,
        tuple(SeenSeat(str(s.call_sid), str(s.label or ""), bool(s.hold), bool(s.muted)) for s in seats),
    )


def _room(record: Any, seats: tuple[SeenSeat, ...], *, over: bool = False) -> SeenRoom:
    created = _made(record)
    ended = over or str(record.status) == "completed"
    return SeenRoom(
        str(record.sid), str(record.friendly_name), ended, created, _utc(record.date_updated) or created, seats
    )


async def list_recordings(api: TwilioApi, *, since: datetime) -> list[RecordingReady]:
    """Recordings made since then that are not under way any more, newest first."""
    records = await _newest(
        api,
        lambda client: client.recordings.page_async(date_created_after=since, page_size=PAGE),
        since=since,
    )
    return [
        RecordingReady(
            recording_id=str(record.sid), call_id=str(record.call_sid or ""), room_id=str(record.conference_sid or ""),
            status=str(record.status), url=str(record.media_url or ""), duration_s=_whole(record.duration),
            event_key=f"{record.sid}:{record.status}", raw={"source": str(record.source or ""), "healed": "1"},
        )
        for record in records
        if str(record.status) in ("completed", "absent", "failed")
    ]  # fmt: skip


def _whole(value: Any) -> int | None:
    text = str(value or "")
    return int(text) if text.isdigit() else None
