"""A form that is sent again by an impatient hand, or because its answer was lost on the way, is carried out once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from crm_core.db import Tx
from crm_core.ids import new_secret
from hub.api import replays
from hub.web import now_of, user_of

KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


def key_of(given: str = "") -> str:
    """The key that a form carries in its field `once`: the one given, or a new one when that is none."""
    return given if KEY.fullmatch(given) else new_secret(128)


async def carry_out(request: web.Request, tx: Tx, work: Callable[[Tx], Awaitable[str]]) -> str:
    """What `work` answered the first time that this user sent this form with these words. Without a key it always works.

    The words count too: a page from the browser's history may carry a used key and words that were never sent.
    """
    form = await request.post()
    typed = sorted((name, value) for name, value in form.items() if isinstance(value, str))
    if not KEY.fullmatch(dict(typed).get("once", "")):
        return await work(tx)
    told = json.dumps([user_of(request).id, request.path, typed])
    return await replays.once(tx, hashlib.sha256(told.encode()).hexdigest(), lambda: work(tx), now=now_of(request))
