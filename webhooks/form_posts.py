"""Forms as the posts to them name them, and what was posted: to be looked at, and to be made to count again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from sqlalchemy import update
from sqlmodel import col, select

from crm_core import accounts, audit
from crm_core.accounts import ChannelAccount, Form, FormVersion
from crm_core.db import Tx
from crm_core.errors import NotFound
from webhooks import intake, receipts
from webhooks.intake import Deps, Kind
from webhooks.receipts import ReceiptState, WebhookReceipt

PROVIDER = "form"


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


async def list_posts(tx: Tx, keys: Sequence[str], *, limit: int = 50) -> list[WebhookReceipt]:
    """Posts of a form under any of its keys, newest first."""
    found: list[WebhookReceipt] = []
    for key in keys:
        begins = col(WebhookReceipt.event_key).between(f"{key}:", f"{key}:\x7f")
        statement = select(WebhookReceipt).where(WebhookReceipt.provider == PROVIDER, begins)
        found += await tx.all(statement.order_by(col(WebhookReceipt.id).desc()).limit(limit))
    return sorted(found, key=lambda receipt: receipt.id, reverse=True)[:limit]


async def replay(deps: Deps, kinds: Mapping[str, Kind], receipt_id: str, *, actor: str) -> WebhookReceipt:
    """Make the effects of a stored post again; the receipt as it is then. One that led to a lead leads to the same one.

    A refused one counts as if it had passed. NotFound.
    """
    now = deps.clock.now()

    async def unit(tx: Tx) -> None:
        receipt = await receipts.get(tx, receipt_id)
        if receipt is None or receipt.provider != PROVIDER:
            raise NotFound("There is no such post.")
        reopened = update(WebhookReceipt).where(col(WebhookReceipt.id) == receipt_id)
        await tx.run(reopened.values(state=ReceiptState.FAILED, attempts=0, error="", done_at=None))
        await audit.record(tx, actor=actor, action="form.replayed", subject=f"receipt:{receipt_id}", now=now)

    await deps.db.write(unit)
    await intake.sweep(deps, kinds)
    async with deps.db.reading() as tx:
        found = await receipts.get(tx, receipt_id)
    assert found is not None
    return found
