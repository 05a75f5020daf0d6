"""What mail systems report about agents' mails: a bounce stands at the message it speaks of, and is nobody's work.

Proof before effect: the report must carry the mark of that very mail (crm_core/mail_tokens.py), which only those who held it
know. Where a mail went to several people each of them knows it, so no address is declared dead on such a report.
"""

from __future__ import annotations

from datetime import datetime

from channels.contract import MailReport
from crm_core import addresses, consent, interactions, mail_tokens
from crm_core.consent import SuppressionReason
from crm_core.db import Tx
from crm_core.errors import NotFound
from crm_core.interactions import Interaction
from crm_core.mail_tokens import MailMark
from crm_core.touches import Direction


async def find_sent(tx: Tx, mark: MailMark) -> Interaction | None:
    """The mail of ours that this mark proves, or None."""
    if mark.kind != mail_tokens.MESSAGE:
        return None
    try:
        sent = await interactions.get(tx, mark.subject_id)
    except NotFound:
        return None
    own = mail_tokens.read(sent.external_id)
    right = own is not None and sent.direction == Direction.OUTBOUND and mail_tokens.same(own.proof, mark.proof)
    return sent if right else None


async def apply(tx: Tx, sent: Interaction, report: MailReport, *, now: datetime) -> None:
    """Write at our mail what became of it. `sent` is from `find_sent`."""
    if report.kind == "complaint":
        await _complained(tx, sent, report, now=now)
        return
    failed = [one for one in report.recipients if one.failed]
    if not failed:
        if sent.delivery == "unknown":  # it is being tried or has arrived, so it did go
            await interactions.note_delivery(tx, sent.id, "sent", now=now)
        return
    several = len(recipients_of(sent)) > 1
    told = "; ".join(
        _sentence(one.code, one.text, one.original or one.address if several else "") for one in failed[:5]
    )
    await interactions.note_delivery(tx, sent.id, "bounced", now=now, error=told[:500])
    if several:
        return
    worst = next((one for one in failed if one.dead), None)
    address = addresses.find_email(sent.to_address)
    if worst is None or address is None:
        return
    named = {one for one in (worst.address, worst.original) if one}
    if not named or address.value in named:
        await consent.opt_out(
            tx, address, reason=SuppressionReason.DEAD, source="provider", actor="provider", now=now,
            evidence={"interaction": sent.id, "code": worst.code, "text": worst.text[:500]}, contact_id=sent.contact_id,
        )  # fmt: skip


async def _complained(tx: Tx, sent: Interaction, report: MailReport, *, now: datetime) -> None:
    await interactions.note_delivery(tx, sent.id, "complained", now=now, error=report.text[:500])
    address = addresses.find_email(sent.to_address)
    if address is not None and len(recipients_of(sent)) == 1:
        await consent.opt_out(
            tx, address, reason=SuppressionReason.COMPLAINT, source="complaint", actor="provider", now=now,
            evidence={"interaction": sent.id, "text": report.text[:500]}, contact_id=sent.contact_id,
        )  # fmt: skip


def recipients_of(sent: Interaction) -> list[str]:
    """Everybody this mail went to: to, copies, hidden copies."""
    return [sent.to_address, *map(str, sent.data.get("cc", ())), *map(str, sent.data.get("bcc", ()))]


def _sentence(code: str, text: str, who: str) -> str:
    said = text if code and code in text else f"{code} {text}".strip()
    return f"{who}: {said}" if who else said
