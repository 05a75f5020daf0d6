"""Endpoints of calls. Those that steer a call always answer TwiML that somebody can hear, whatever goes wrong.

When the effects of a step fail, the caller hears that they are held and comes back after a few seconds with the same key,
so that the very same effects are tried again; after a minute they are told to call later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from channels import twiml
from channels.contract import Arrival, CallArrived, CallProgress, RecordingReady, RoomEvent
from channels.steps import Hangup, Pause, Redirect, Say, Step
from channels.twilio_api import read_form
from crm_core.db import Tx
from crm_core.errors import NotFound
from routing import router
from webhooks import intake
from webhooks.intake import Deps, Kind, Post, one

BASE = "/webhooks/twilio/voice"
STEP = f"{BASE}/step"
FALLBACK = "fallback"
PATIENCE = 10  # times a held caller comes back
HOLD_S = 4
HOLD_TEXT = "Please hold the line."
SORRY_TEXT = "We are sorry, we cannot take your call just now. Please call again in a few minutes."
NOT_OURS_TEXT = "This number is not in service."


def rendered(deps: Deps, steps: Sequence[Step]) -> str:
    """TwiML of these steps."""
    return twiml.render(steps, base=deps.public_url)


def _hold(deps: Deps, post: Post, path: str) -> str:
    """Safe TwiML: hold the line, come back to `path` and count how often."""
    tried = post.query.get("r", "0")
    times = int(tried) + 1 if tried.isascii() and tried.isdigit() else 1
    if times > PATIENCE:
        return rendered(deps, [Say(SORRY_TEXT), Hangup()])
    spoken: list[Step] = [Say(HOLD_TEXT)] if times == 1 else []
    return rendered(deps, [*spoken, Pause(HOLD_S), Redirect(f"{path}&r={times}")])


def _hold_arrival(deps: Deps, post: Post) -> str:
    return _hold(deps, post, f"{STEP}?step={FALLBACK}&n=0")


def _hold_step(deps: Deps, post: Post) -> str:
    # The token travels along: the retry is the same delivery, although the provider counts it as another request.
    kept = [(name, value) for name, value in parse_qsl(urlsplit(post.request.url).query) if name not in ("r", "t")]
    return _hold(deps, post, f"{STEP}?{urlencode([*kept, ('t', _token(post))])}")


def _sorry(deps: Deps, post: Post) -> str:
    return rendered(deps, [Say(SORRY_TEXT), Hangup()])


def _not_ours(deps: Deps, post: Post) -> str:
    return rendered(deps, [Say(NOT_OURS_TEXT), Hangup()])


def _token(post: Post) -> str:
    return post.query.get("t", post.token)


def _first(arrivals: list[Arrival], kind: type[Arrival]) -> Arrival:
    for arrival in arrivals:
        if isinstance(arrival, kind):
            return arrival
    raise NotFound("There was nothing in it that the hub knows.")


async def _arrived(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> str:
    event = _first(arrivals, CallArrived)
    assert isinstance(event, CallArrived)
    return rendered(deps, await router.call_arrived(tx, event, now=now))


async def _client(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> str:
    event = _first(arrivals, CallArrived)
    assert isinstance(event, CallArrived)
    return rendered(deps, await router.client_connected(tx, event, now=now))


async def _step(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> str:
    number = post.query.get("n", "0")
    if not (number.isascii() and number.isdigit() and len(number) <= 6):
        raise intake.Unreadable("n must be a number.")
    steps = await router.call_step(
        tx,
        interaction_id=post.query.get("i", ""),
        step=post.query.get("step", ""),
        number=int(number),
        params=read_form(post.request),
        now=now,
    )
    return rendered(deps, steps)


async def _progressed(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    for event in arrivals:
        if isinstance(event, CallProgress):
            await router.call_progressed(tx, event, now=now)


async def _room(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    for event in arrivals:
        if isinstance(event, RoomEvent):
            await router.room_changed(tx, event, interaction_id=post.query.get("i", ""), now=now)


async def _recording(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    event = _first(arrivals, RecordingReady)
    assert isinstance(event, RecordingReady)
    await router.recording_reported(tx, event, interaction_id=post.query.get("i", ""), now=now)


def _step_key(post: Post) -> str:
    """(CallSid, step, number, retry token): menus and wait loops repeat rightly, so only a retry is a repeat."""
    place = ":".join(quote(post.query.get(name, ""), safe="") for name in ("i", "step", "n"))
    return f"{one(post, 'CallSid')}:{place}:{quote(_token(post), safe='')}"


def _status_key(post: Post) -> str:
    sequence = post.fields.get("SequenceNumber") or post.fields.get("CallbackSource") or "-"
    return f"{one(post, 'CallSid')}:{one(post, 'CallStatus')}:{sequence[:40]}"


def _room_key(post: Post) -> str:
    tail = post.fields.get("SequenceNumber", "")[:20] + ":" + post.fields.get("CallSid", "")[:40]
    return f"{one(post, 'ConferenceSid')}:{one(post, 'StatusCallbackEvent')}:{tail}"


PLAIN = "text/plain"
ARRIVED = Kind(
    "voice", "voice", lambda post: one(post, "CallSid"), _arrived, safe=_hold_arrival, unknown=_not_ours,
    appends=True,
)  # fmt: skip
CLIENT = Kind("client", "voice", lambda post: one(post, "CallSid"), _client, safe=_sorry, unknown=_sorry)
STEPPED = Kind("step", "voice", _step_key, _step, safe=_hold_step, unknown=_sorry, parsed=False)
STATUS = Kind("status", "voice", _status_key, _progressed, content_type=PLAIN)
ROOM = Kind("room", "voice", _room_key, _room, content_type=PLAIN)
RECORDING = Kind(
    "recording",
    "voice",
    lambda post: f"{one(post, 'RecordingSid')}:{one(post, 'RecordingStatus')}",
    _recording,
    content_type=PLAIN,
)
KINDS = (ARRIVED, CLIENT, STEPPED, STATUS, ROOM, RECORDING)
