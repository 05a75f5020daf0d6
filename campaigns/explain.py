"""Why did, or did not, this person get it? The ordered trace of one address in one campaign, from what was stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import select

from campaigns import campaigns, deliveries
from campaigns.campaigns import CampaignState
from campaigns.deliveries import TERMINAL, Delivery, DeliveryState
from campaigns.imports import Recipient
from crm_core.addresses import Address
from crm_core.consent import GATE, RULES, Purpose
from crm_core.db import Tx


@dataclass(frozen=True, slots=True)
class Line:
    """One step: which check, whether it passed (None = not asked), and a sentence."""

    check: str
    passed: bool | None
    text: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """The answer in a word (the delivery's state, or why there is none) and the steps that led to it."""

    answer: str
    got_it: bool | None  # None: nobody knows
    lines: list[Line]
    delivery: Delivery | None


async def why(tx: Tx, campaign_id: str, address: Address) -> Why:
    """The trace for this address. NotFound for an unknown campaign."""
    campaign = await campaigns.get(tx, campaign_id)
    row = await deliveries.find_by_address(tx, campaign_id, address)
    if row is None:
        return await _absent(tx, campaign, address)
    lines = [Line("audience", passed=True, text="In the frozen audience.")]
    forecast = f"At freezing the gate forecast: {row.forecast}." if row.forecast else "At freezing the gate said yes."
    lines.append(Line("forecast", not row.forecast, forecast))
    lines += _gate(row, campaign.purpose)
    if row.attempt:
        version = f"Attempt {row.attempt}, made from version {row.content_version} of the text."
        lines.append(Line("attempt", passed=True, text=version, at=row.submitted_at))
    if row.error_code or row.error:
        lines.append(Line("provider", passed=False, text=f"The provider said: {row.error_code} {row.error}".strip()))
    lines.append(Line("state", _got(row.state), _sentence(row), row.updated_at))
    if row.unsubscribed_at:
        lines.append(Line("unsubscribed", None, "They unsubscribed by this message.", row.unsubscribed_at))
    return Why(str(row.state), _got(row.state), lines, row)


def _gate(row: Delivery, purpose: str) -> list[Line]:
    """One line per rule that the binding look asked, in the gate's order; rules behind the first failure were not asked."""
    if not row.verdict:
        return [Line("gate", None, "The binding look has not happened yet.")]
    asked = list(dict.fromkeys(row.verdict.get("checked", [])))  # one rule may stand for two questions
    failed = str(row.verdict.get("rule", ""))
    lines = [
        Line(
            rule,
            rule != failed,
            str(row.verdict.get("reason", "")) if rule == failed else f"{rule}: nothing against it.",
        )
        for rule in asked
    ]
    bound = RULES[Purpose(row.verdict.get("purpose") or purpose)]
    lines += [Line(rule, None, f"{rule}: not asked.") for rule in GATE if rule in bound and rule not in asked]
    return lines


async def _absent(tx: Tx, campaign: campaigns.Campaign, address: Address) -> Why:
    lines = []
    if campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED, CampaignState.MISSED):
        lines.append(Line("audience", None, "The audience is not frozen yet."))
        return Why("not frozen", None, lines, None)
    if campaign.state == CampaignState.MATERIALISING:
        lines.append(Line("audience", None, "The audience is being frozen."))
        return Why("not frozen", None, lines, None)
    if address.kind != campaign.point_kind:
        lines.append(Line("audience", passed=False, text="This campaign does not write to such addresses."))
        return Why("not in the audience", got_it=False, lines=lines, delivery=None)
    if "import" in campaign.audience:
        found = await tx.one(
            select(Recipient).where(
                Recipient.import_id == campaign.audience["import"], Recipient.kind == address.kind,
                Recipient.value == address.value,
            )
        )  # fmt: skip
        text = "In the file, but not frozen." if found else "Not in the file, or its row could not be read."
    else:
        text = f"Nobody tagged “{campaign.audience.get('tag', '')}” had this address when the audience was frozen."
    lines.append(Line("audience", passed=False, text=text))
    return Why("not in the audience", got_it=False, lines=lines, delivery=None)


def _got(state: DeliveryState) -> bool | None:
    if state in (DeliveryState.ACCEPTED, DeliveryState.SENT, DeliveryState.DELIVERED, DeliveryState.COMPLAINED):
        return True
    return None if state == DeliveryState.UNKNOWN else False


def _sentence(row: Delivery) -> str:
    if row.state == DeliveryState.UNKNOWN:
        tail = " No evidence was found." if row.examined_at else " Evidence is being looked for."
        return "It may or may not have gone; it is not sent again by itself." + tail
    if row.state in (DeliveryState.HELD, DeliveryState.DEFERRED):
        return f"Waits until {row.due_at.isoformat(timespec='minutes')}: {row.reason or row.error}"
    if row.state in TERMINAL and row.reason:
        return f"{row.state}: {row.reason}"
    return f"{row.state}."
