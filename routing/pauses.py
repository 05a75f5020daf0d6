"""Why agents pause: the reasons to choose from, in the company's own words. Without rows of its own the usual five hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlmodel import col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.tables import Table, key, text
from crm_core.texts import Text

USUAL = ("break", "lunch", "meeting", "training", "paperwork")
MOST, LONGEST = 20, 40
WORD = re.compile(r"[^\x00-\x1f\x7f]+")


class PauseReason(Table, table=True):
    """A reason to pause. `id` is what the time ledger keeps, so a reason that is taken away stays readable there."""

    __tablename__ = "pause_reasons"

    id: str = key()  # the word itself
    position: int = 0
    created_by: str = text()


async def list_all(tx: Tx) -> list[str]:
    """The reasons in their order; the usual five when none are set up."""
    rows = await tx.all(select(PauseReason.id).order_by(col(PauseReason.position), col(PauseReason.id)).limit(MOST))
    return list(rows) or list(USUAL)


def check(reasons: Sequence[str]) -> list[str]:
    """Trimmed, each once, in order. Invalid at `reasons`."""
    found = list(dict.fromkeys(filter(None, (one.strip() for one in reasons))))
    if len(found) > MOST:
        raise Invalid("There are too many reasons.", fields={"reasons": Text("At most %(number)s.", number=MOST)})
    for one in found:
        if len(one) > LONGEST or not WORD.fullmatch(one):
            raise Invalid(
                "This reason cannot be used.", fields={"reasons": Text("At most %(number)s letters.", number=LONGEST)}
            )
    return found


async def set_all(tx: Tx, reasons: Sequence[str], *, actor: str, now: datetime) -> list[str]:
    """Exactly these from now on; none gives the usual five back. What the ledger holds already stays."""
    found = check(reasons)
    before = await list_all(tx)
    await tx.run(delete(PauseReason))
    for place, one in enumerate(found):
        await tx.add(PauseReason(id=one, position=place, created_by=actor))
    after = found or list(USUAL)
    if after != before:
        await audit.record(
            tx, actor=actor, action="pauses.changed", subject="pauses", now=now, before=before, after=after
        )
    return after


async def checked(tx: Tx, reason: str) -> str:
    """One of the reasons there are. Invalid at `reason` for another; empty stays empty."""
    wanted = reason.strip()
    if wanted and wanted not in await list_all(tx):
        raise Invalid("There is no such reason.", fields={"reason": Text("Choose one of the list.")})
    return wanted
