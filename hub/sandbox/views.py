"""What the outside world is shown: calls, texts, callbacks and settings as plain JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hub.sandbox.calls import Leg
from hub.sandbox.state import Call, CallbackEntry, Message
from hub.sandbox.world import MAGIC, World


def call_view(call: Call, leg: Leg | None) -> dict[str, Any]:
    return {
        "sid": call.sid,
        "from": call.from_,
        "to": call.to,
        "direction": call.direction,
        "status": call.status,
        "parent": call.parent_sid,
        "name": call.caller_name,
        "doing": call.doing,
        "listening": bool(leg and leg.listening.is_set()),
        "heard": call.heard[-40:],
        "company": [{"call": other.call.sid, "address": other.device()} for other in leg.company()] if leg else [],
        "created_at": call.created_at.isoformat(),
        "answered_at": call.started_at.isoformat() if call.started_at else None,
        "ended_at": call.ended_at.isoformat() if call.ended_at else None,
        "duration_s": call.duration_s() if call.over else None,
    }


def message_view(message: Message) -> dict[str, Any]:
    return {
        "sid": message.sid,
        "from": message.from_,
        "to": message.to,
        "body": message.body,
        "direction": message.direction,
        "status": message.status,
        "error_code": message.error_code,
        "segments": message.num_segments,
        "media": [
            {"url": f"/outside/media/{media.sid}", "content_type": media.content_type, "size": len(media.content)}
            for media in message.media
        ],
        "at": message.created_at.isoformat(),
    }


def callback_view(entry: CallbackEntry) -> dict[str, Any]:
    return {**asdict(entry), "at": entry.at.isoformat()}


def settings_view(world: World) -> dict[str, Any]:
    config = world.config
    return {
        "numbers": [
            {"number": number.number, "label": number.friendly_name, "voice_url": number.voice_url}
            for number in world.numbers.values()
        ],
        "people": [asdict(person) for person in world.people.values()],
        "mailbox": config.mailbox.address,
        "form_url": config.hub_form_url,
        "speech_scale": config.speech_scale,
        "time_scale": config.time_scale,
        "magic": MAGIC,
    }
