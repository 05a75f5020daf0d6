"""Who is this? Pure: the owners of an address → a level, a certainty and the reason, as stored on the interaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from crm_core.addresses import Address
from crm_core.contacts import Contact, ContactLink
from crm_core.texts import Text

Level = Literal["exact", "shared", "unknown", "withheld"]
KIND = {"phone": "number", "email": "address"}


@dataclass(frozen=True, slots=True)
class Match:
    """The conclusion. `contact_id` only when exactly one person owns the address; nobody is guessed into a record."""

    level: Level
    certainty: int  # percent
    reason: str
    contact_id: str | None = None
    candidates: list[str] = field(default_factory=list)

    def as_doc(self) -> dict[str, Any]:
        """JSON for `Interaction.match`."""
        return {
            "level": self.level, "certainty": self.certainty, "reason": self.reason, "candidates": self.candidates,
        }  # fmt: skip


def match(address: Address | None, owners: Sequence[tuple[Contact, ContactLink]]) -> Match:
    """The conclusion for an address (None = withheld or unreadable) and everyone it belongs to now."""
    if address is None:
        return Match("withheld", 0, Text("The caller hides the number."))
    what = KIND[address.kind]
    if not owners:
        return Match("unknown", 0, Text("Nobody we know has this %(what_text)s.", what_text=what))
    if len(owners) == 1:
        contact, link = owners[0]
        if link.verified_at is not None:
            proof = link.verified_by or "a check"
            told = Text(
                "This %(what_text)s is theirs alone, proven by %(proof_text)s.", what_text=what, proof_text=proof
            )
            return Match("exact", 98, told, contact.id, [contact.id])
        told = Text("This %(what_text)s is theirs alone; nobody has proven it yet.", what_text=what)
        return Match("exact", 90, told, contact.id, [contact.id])
    verified = [contact.id for contact, link in owners if link.verified_at is not None]
    ordered = verified + [contact.id for contact, _ in owners if contact.id not in verified]
    certainty = 75 if len(verified) == 1 else 100 // len(ordered)
    told = Text("%(people)s people share this %(what_text)s; ask who is speaking.", people=len(ordered), what_text=what)
    return Match("shared", certainty, told, None, ordered)
