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
from crm_core.texts import Text


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
    lines = [Line("audience", passed=True, text=Text("In the frozen audience."))]
    forecast = Text("At freezing the gate said yes.")
    if row.forecast:
        forecast = Text("At freezing the gate forecast: %(rule_text)s.", rule_text=row.forecast)
    lines.append(Line("forecast", not row.forecast, forecast))
    lines += _gate(row, campaign.purpose)
    if row.attempt:
        version = Text(
            "Attempt %(attempt)s, made from version %(version)s of the text.", attempt=row.attempt,
            version=row.content_version,
        )  # fmt: skip
        lines.append(Line("attempt", passed=True, text=version, at=row.submitted_at))
    if row.error_code or row.error:
        lines.append(Line("provider", passed=False, text=_provider(row)))
    lines.append(Line("state", _got(row.state), _sentence(row), row.updated_at))
    if row.unsubscribed_at:
        lines.append(Line("unsubscribed", None, Text("They unsubscribed by this message."), row.unsubscribed_at))
    return Why(str(row.state), _got(row.state), lines, row)


def _gate(row: Delivery, purpose: str) -> list[Line]:
    """One line per rule that the binding look asked, in the gate's order; rules behind the first failure were not asked."""
    if not row.verdict:
        return [Line("gate", None, Text("The binding look has not happened yet."))]
    asked = list(dict.fromkeys(row.verdict.get("checked", [])))  # one rule may stand for two questions
    failed = str(row.verdict.get("rule", ""))
    lines = [
        Line(
            rule,
            rule != failed,
            str(row.verdict.get("reason", ""))
            if rule == failed
            else Text("%(rule_text)s: nothing against it.", rule_text=rule),
        )
        for rule in asked
    ]
    bound = RULES[Purpose(row.verdict.get("purpose") or purpose)]
    lines += [
        Line(rule, None, Text("%(rule_text)s: not asked.", rule_text=rule))
        for rule in GATE
        if rule in bound and rule not in asked
    ]
    return lines


async def _absent(tx: Tx, campaign: campaigns.Campaign, address: Address) -> Why:
    lines = []
    if campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED, CampaignState.MISSED):
        lines.append(Line("audience", None, Text("The audience is not frozen yet.")))
        return Why("not frozen", None, lines, None)
    if campaign.state == CampaignState.MATERIALISING:
        lines.append(Line("audience", None, Text("The audience is being frozen.")))
        return Why("not frozen", None, lines, None)
    if address.kind != campaign.point_kind:
        lines.append(Line("audience", passed=False, text=Text("This campaign does not write to such addresses.")))
        return Why("not in the audience", got_it=False, lines=lines, delivery=None)
    if "import" in campaign.audience:
        found = await tx.one(
            select(Recipient).where(
                Recipient.import_id == campaign.audience["import"], Recipient.kind == address.kind,
                Recipient.value == address.value,
            )
        )  # fmt: skip
        text = Text("Not in the file, or its row could not be read.")
        if found:
            text = Text("In the file, but not frozen.")
    else:
        tag = campaign.audience.get("tag", "")
        text = Text("Nobody tagged “%(tag)s” had this address when the audience was frozen.", tag=tag)
    lines.append(Line("audience", passed=False, text=text))
    return Why("not in the audience", got_it=False, lines=lines, delivery=None)


def _got(state: DeliveryState) -> bool | None:
    if state in (DeliveryState.ACCEPTED, DeliveryState.SENT, DeliveryState.DELIVERED, DeliveryState.COMPLAINED):
        return True
    return None if state == DeliveryState.UNKNOWN else False


def _sentence(row: Delivery) -> str:
    if row.state == DeliveryState.UNKNOWN:
        if row.examined_at:
            return Text("It may or may not have gone; it is not sent again by itself. No evidence was found.")
        return Text("It may or may not have gone; it is not sent again by itself. Evidence is being looked for.")
    if row.state in (DeliveryState.HELD, DeliveryState.DEFERRED):
        return Text("Waits until %(due_at)s: %(why_text)s", due_at=row.due_at, why_text=row.reason or row.error)
    if row.state in TERMINAL and row.reason:
        return Text("It is %(state_text)s: %(why_text)s", state_text=row.state, why_text=row.reason)
    return Text("It is %(state_text)s.", state_text=row.state)


def _provider(row: Delivery) -> Text:
    if row.error_code:
        return Text("The provider said: %(code)s %(said_text)s", code=row.error_code, said_text=row.error)
    return Text("The provider said: %(said_text)s", said_text=row.error)
