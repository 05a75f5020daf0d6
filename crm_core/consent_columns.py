"""What the columns of a file may do to consent: add a grant that carries its evidence, and never anything else.

When the import is undone, what only its file proves ends again; the evidence stays in the ledger, as everything there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from crm_core import consent, events
from crm_core.addresses import Address
from crm_core.consent import ConsentAction, ConsentEvent
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.texts import Text

YES = frozenset({"yes", "y", "true", "1", "x", "ja", "si", "sí", "是"})
NO = frozenset({"", "no", "n", "false", "0", "nein", "否"})
_UNDONE = "undo:"  # source of a withdrawal that nobody asked for: the import was undone


@dataclass(frozen=True, slots=True)
class Claim:
    """What a row says about one address and channel, as written: whether, when, where, and to which words they agreed."""

    word: str
    given: str
    source: str
    wording: str


async def take(
    tx: Tx, address: Address, claim: Claim, *, channel: str, purpose: str, file_name: str, origin: str, actor: str,
    now: datetime, contact_id: str | None,
) -> tuple[bool, str]:  # fmt: skip
    """Record a grant that carries its evidence; (recorded, a remark when it does not or when they said no since)."""
    word = claim.word.strip().casefold()
    if word in NO:
        return False, ""
    if word not in YES:
        return False, Text("“%(word)s” is neither yes nor no; taken as no.", word=word[:40])
    source, wording, given = claim.source.strip(), claim.wording.strip(), instant(claim.given)
    missing = [
        name
        for name, there in ((Text("when"), given), (Text("where"), source), (Text("what they agreed to"), wording))
        if not there
    ]
    if missing or given is None:
        return False, Text(
            "Consent without proof is not recorded: the row does not say %(missing_text)s.", missing_text=missing
        )
    if given > now:
        return False, Text("The date of consent lies in the future; it is not recorded.")
    suppressed, ledger = await consent.list_for(tx, address)
    if suppressed:
        return False, Text("This address was stopped; an import cannot undo that.")
    if any(
        entry.action == ConsentAction.WITHDRAWN and entry.channel in ("*", channel) and entry.at >= given
        for entry in ledger
        if not entry.source.startswith(_UNDONE)
    ):
        return False, Text("They withdrew after that date; the consent is not recorded.")
    evidence = {"given_at": given.isoformat(), "source": source[:500], "text": wording[:2000], "file": file_name}
    await consent.grant(
        tx, address, channel=channel, purpose=purpose, source=origin, evidence=evidence, actor=actor, now=now,
        contact_id=contact_id,
    )  # fmt: skip
    return True, ""


async def take_back(
    tx: Tx, address: Address, *, channel: str, purpose: str, origin: str, actor: str, now: datetime, contact_id: str
) -> None:
    """End a grant of `origin` unless something newer was said; the same file may record it again."""
    _, ledger = await consent.list_for(tx, address)
    newest = latest(ledger, channel=channel, purpose=purpose)
    if any(entry.action == ConsentAction.WITHDRAWN or entry.source != origin for entry in newest):
        return
    ended = ConsentEvent(
        id=new_id(now), kind=address.kind, value=address.value, contact_id=contact_id, channel=channel, purpose=purpose,
        action=ConsentAction.WITHDRAWN, source=f"{_UNDONE}{origin}", evidence={"undone": origin}, actor=actor, at=now,
    )  # fmt: skip
    await tx.add(ended)
    await events.emit(tx, "consent.withdrawn", address.value, now=now, contact=contact_id)


def latest(ledger: Sequence[ConsentEvent], *, channel: str, purpose: str) -> list[ConsentEvent]:
    """Of an address's ledger, newest first, the newest entries that speak of this channel and purpose; several of one instant."""
    covering = [entry for entry in ledger if entry.channel in ("*", channel) and entry.purpose in ("*", purpose)]
    return [entry for entry in covering if entry.at == covering[0].at]


def instant(written: str) -> datetime | None:
    """A date or time in ISO form, taken as UTC where it names no zone; None for anything else, because 3/4 has two readings."""
    try:
        given = datetime.fromisoformat(written.strip())
        return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
