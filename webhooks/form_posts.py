"""Forms as the posts to them name them, and what was posted: to be looked at, and to be made to count again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from sqlalchemy import update
from sqlmodel import col, select

from channels.contract import RawRequest
from crm_core import accounts, audit
from crm_core.accounts import ChannelAccount, Form, FormVersion
from crm_core.db import Tx
from crm_core.errors import NotFound
from webhooks import intake, receipts
from webhooks.form_guard import HELD
from webhooks.intake import Answer, Deps, Kind, Unreadable
from webhooks.receipts import ReceiptState, WebhookReceipt

PROVIDER = "form"
REPLAYED_BY = "x-hub-replayed-by"  # of a stored post that is read again: who wants it
REPLAYS = "x-hub-replays"  # of a stored post: who had it read again and when


async def find_form(tx: Tx, slug: str) -> tuple[Form, ChannelAccount] | None:
    """An open form and its account."""
    form = await tx.one(select(Form).where(Form.slug == slug))
    if form is None:
        return None
    account = await tx.one(select(ChannelAccount).where(ChannelAccount.id == form.account_id))
    return (form, account) if account is not None and account.enabled else None


async def find_kept_form(tx: Tx, slug: str) -> Form | None:
    """The form of a stored post: open or not, by its key of then, which may have been replaced since."""
    form: Form | None = await tx.one(select(Form).where(Form.slug == slug))
    if form is not None:
        return form
    for gone in (False, True):
        for account in await accounts.list_channel(tx, "webform", deleted=gone):
            if slug in account.settings.get("former_keys", ()):
                return cast(Form | None, await tx.one(select(Form).where(Form.account_id == account.id)))
    return None


async def as_seen(tx: Tx, form: Form, version: str) -> Form:
    """The form as it was in the version that the person saw; as it is now when they named none that there was."""
    if not version.isascii() or not version.isdigit() or len(version) > 6 or int(version) == form.version:
        return form
    then = await tx.one(select(FormVersion).where(FormVersion.form_id == form.id, FormVersion.number == int(version)))
    if then is None:
        return form
    return Form(
        id=form.id, slug=form.slug, account_id=form.account_id, title=then.title, fields=then.fields,
        consent_text=then.consent_text, consent_version=then.consent_version, thanks=then.thanks,
        created_at=form.created_at, version=then.number,
    )  # fmt: skip


async def as_read_now(tx: Tx, form: Form, version: str) -> Form:
    """The form of today, to read an old post with, but with the consent text that the person saw."""
    seen = await as_seen(tx, form, version)
    return Form(
        id=form.id, slug=form.slug, account_id=form.account_id, title=form.title, fields=form.fields,
        consent_text=seen.consent_text, consent_version=seen.consent_version, thanks=form.thanks,
        created_at=form.created_at, version=form.version,
    )  # fmt: skip


async def list_posts(tx: Tx, keys: Sequence[str], *, limit: int = 50, only: str = "") -> list[WebhookReceipt]:
    """Posts of a form under any of its keys, newest first. `only`: held (as spam), refused (what was typed is wrong), taken."""
    found: list[WebhookReceipt] = []
    for key in keys:
        begins = col(WebhookReceipt.event_key).between(f"{key}:", f"{key}:\x7f")
        statement = select(WebhookReceipt).where(WebhookReceipt.provider == PROVIDER, begins)
        if only == "taken":
            statement = statement.where(WebhookReceipt.state == ReceiptState.DONE)
        elif only in ("held", "refused"):
            held = col(WebhookReceipt.error).in_(HELD)
            discarded = WebhookReceipt.state == ReceiptState.DISCARDED
            statement = statement.where(discarded, held if only == "held" else ~held)
        found += await tx.all(statement.order_by(col(WebhookReceipt.id).desc()).limit(limit))
    return sorted(found, key=lambda receipt: receipt.id, reverse=True)[:limit]


async def replay(deps: Deps, kinds: Mapping[str, Kind], receipt_id: str, *, actor: str) -> WebhookReceipt:
    """Read a stored post again with the form as it is now; the receipt as it is then. NotFound.

    One that led to a lead fills the same lead in anew; one that was held back or refused counts as if it had passed. The lead,
    the receipt and the audit log say that it is a replay.
    """
    now = deps.clock.now()

    async def unit(tx: Tx, turn: int) -> Answer:
        receipt = await receipts.get(tx, receipt_id)
        if receipt is None or receipt.provider != PROVIDER:
            raise NotFound("There is no such post.")
        done = {"by": actor, "at": now.isoformat()}
        headers = {**receipt.headers, REPLAYS: [*receipt.headers.get(REPLAYS, ()), done][-20:]}
        mine = update(WebhookReceipt).where(col(WebhookReceipt.id) == receipt_id)
        await tx.run(mine.values(headers=headers))  # holds the row: two who press at once come one after the other
        await audit.record(tx, actor=actor, action="form.replayed", subject=f"receipt:{receipt_id}", now=now)
        kind = kinds[receipt.kind]
        known = {name: value for name, value in receipt.headers.items() if isinstance(value, str)}
        request = RawRequest(receipt.url, "POST", {**known, REPLAYED_BY: actor}, receipt.body, receipt.received_at)
        try:
            post = (kind.read or intake.read)(request)
        except Unreadable as error:
            await receipts.discard(tx, receipt_id, reason=str(error), now=now)
            return Answer(400, "unreadable", str(error))
        ending = await intake.effects(deps, kind, tx, post, last=turn == intake.LAST)
        if ending.state is ReceiptState.DONE:
            await receipts.close(tx, receipt_id, now=now, answer=ending.replay)
        elif receipt.state != ReceiptState.DONE:  # what led to a lead once has done so, whatever the form says now
            await receipts.discard(tx, receipt_id, reason=ending.error, now=now, answer=receipt.answer)
        return ending.answer

    answer = await intake.run(deps, unit)
    deps.count("webform", f"replayed_{answer.outcome}")
    async with deps.db.reading() as tx:
        found = await receipts.get(tx, receipt_id)
    assert found is not None
    return found
