"""A bounce or complaint that came by mail, brought to the mail of ours it speaks of: an agent's reply or a campaign's delivery.

What is taken as proof that we sent it: the signed mark in the Message-ID of the returned copy (or in what the report answers to),
or in the address that the report came back to. Without it the report is kept like any automatic mail, and changes nothing.
"""

from __future__ import annotations

from datetime import datetime

from campaigns import reports, unsubscribe
from channels.contract import MailArrived, MailReport
from crm_core import mail_tokens
from crm_core.db import Tx
from crm_core.interactions import Interaction
from crm_core.mail_tokens import MailMark
from routing import bounces, keywords

MAX_MARKS = 10
MOST_WORDS = 100  # characters of an answer that says nothing but a word


def marks(report: MailReport) -> list[MailMark]:
    """The marks a report carries, likeliest first; not yet proven."""
    found = (mail_tokens.read(text) for text in [*report.about, *report.returned_to])
    return list(dict.fromkeys(mark for mark in found if mark is not None))[:MAX_MARKS]


async def apply(tx: Tx, report: MailReport, *, secret: str, now: datetime) -> Interaction | str:
    """Write the report at the mail it proves to speak of: that interaction, or "campaign"; empty when nothing is proven."""
    for mark in marks(report):
        sent = await bounces.find_sent(tx, mark)
        if sent is not None:
            await bounces.apply(tx, sent, report, now=now)
            return sent
        delivery_id = reports.proven(mark, secret=secret)
        if delivery_id and await _campaign(tx, delivery_id, report, now=now):
            return "campaign"
    return ""


async def _campaign(tx: Tx, delivery_id: str, report: MailReport, *, now: datetime) -> bool:
    if report.kind == "complaint":
        return await reports.apply_complaint(tx, delivery_id, text=report.text, now=now)
    # A campaign's mail has one recipient: what fails is what happened to it, whoever stands behind the address.
    one = next((one for one in report.recipients if one.failed), next(iter(report.recipients), None))
    if one is None:
        return False
    return await reports.apply_bounce(
        tx, delivery_id, code=one.code, text=one.text, failed=one.failed, dead=one.dead,
        addresses=(one.address, one.original), now=now,
    )  # fmt: skip


async def stopped(tx: Tx, mail: MailArrived, *, secret: str, now: datetime) -> bool:
    """Somebody answered a campaign's mail with nothing but a word such as “unsubscribe”: done at once, and counted for it."""
    said = (mail.new_text or mail.text).strip().strip(".!¡\"'").casefold()
    if len(said) > MOST_WORDS:
        return False
    found = keywords.find(said)
    if (found is None or found.word != "STOP") and said not in {"remove me", "darme de baja"}:
        return False
    for cited in (mail.in_reply_to, *reversed(mail.references[-10:])):
        mark = mail_tokens.read(cited)
        delivery_id = reports.proven(mark, secret=secret) if mark is not None else ""
        if delivery_id:
            await unsubscribe.unsubscribe(tx, delivery_id, now=now, source="mail_reply")
            return True
    return False
