"""`hub replay`: stored posts of web forms read again after a form was mended, by the same function as on screen."""

from __future__ import annotations

import sys
from argparse import Namespace

from crm_core.clock import Clock, SystemClock
from crm_core.db import Database
from crm_core.errors import HubError, Invalid, NotFound
from hub import form_admin
from hub.settings import Settings
from hub.user_commands import ACTOR, with_database
from webhooks import form_posts
from webhooks.intake import Deps
from webhooks.receipts import ReceiptState
from webhooks.routes import KINDS


async def run_replay(settings: Settings, arguments: Namespace, *, clock: Clock | None = None) -> int:
    """`hub replay ID …`, `hub replay --form KEY [--only held|refused] [--list]`; 1 with one sentence when it cannot."""

    async def work(db: Database, given: Namespace, at: Clock) -> None:
        # Posts of forms need no channel: what they say is in the receipt.
        await replay(Deps(db=db, clock=at, channels={}, public_url=settings.public_url), given)

    return await with_database(settings, work, arguments, clock or SystemClock())


async def replay(deps: Deps, given: Namespace) -> None:
    """One line for each post: its id, what became of it and why. Invalid when one of them led to nothing again."""
    if bool(given.post) == bool(given.form):
        raise Invalid("Give the ids of posts, or a form's key.")
    named = list(given.post)
    if given.form:
        async with deps.db.reading() as tx:
            form = await form_posts.find_kept_form(tx, given.form)
            if form is None:
                raise NotFound("There is no such form.")
            keys = form_admin.keys_of(*await form_admin.get_form(tx, form.id))
            found = await form_posts.list_posts(tx, keys, only=given.only)
        named = [receipt.id for receipt in reversed(found)]
        if given.list:
            for receipt in found:
                sys.stdout.write(f"{receipt.id}\t{receipt.received_at.isoformat()}\t{receipt.error}\n")
            return
    left = 0
    for receipt_id in named:
        try:
            receipt = await form_posts.replay(deps, KINDS, receipt_id, actor=ACTOR)
        except HubError as error:
            sys.stdout.write(f"{receipt_id}\tfailed\t{error.message}\n")
            left += 1
            continue
        left += receipt.state != ReceiptState.DONE
        sys.stdout.write(f"{receipt.id}\t{receipt.state}\t{receipt.answer or receipt.error}\n")
    if left:
        raise Invalid("Posts that led to nothing again: %(number)s.", number=left)
