"""Who answered a call that we placed, told by the provider after the answer."""

from __future__ import annotations

from datetime import datetime

from channels import answered_by
from channels.contract import Arrival
from channels.twilio_api import read_form
from crm_core.db import Tx
from routing import answered_by as behaviour
from webhooks.intake import Deps, Kind, Post, one


async def _told(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> None:
    event = answered_by.read(read_form(post.request))
    await behaviour.told(tx, event, interaction_id=post.query.get("i", ""), now=now)


TOLD = Kind(
    "answered-by", "voice", lambda post: f"{one(post, 'CallSid')}:{one(post, 'AnsweredBy')}", _told,
    content_type="text/plain", parsed=False,
)  # fmt: skip
KINDS = (TOLD,)
