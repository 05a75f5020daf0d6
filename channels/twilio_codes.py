"""What each of Twilio's error codes means: for our sender (what kind of failure), for the number (is it dead for texts), and
for the person who reads why a message did not go.

Sources: Twilio, "Error and Warning Dictionary", one page per code. Read (copies seen 2026-11): 20404, 21601, 21603, 21606,
21635, 30002, 30003, 30022, 30036, 30110, 30410, 63038. The others stand as in the knowledge notes, unconfirmed. Twilio adds
and splits codes (its changelog of 2024-07-10: parts of 21211, 21212, 21606 and 21614 got codes of their own), so a number
that is not listed falls into the default class of its HTTP status.
"""

from __future__ import annotations

from dataclasses import dataclass

from channels.errors import (
    ChannelError,
    ContentRejected,
    Gone,
    Misconfigured,
    OutcomeUnknown,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from crm_core.texts import Text


@dataclass(frozen=True, slots=True)
class Meaning:
    """`kind` says whether another try makes sense (`kind.retryable`); `dead`: this number never gets a text, from nobody."""

    kind: type[ChannelError]
    sentence: str
    dead: bool = False


NOT_OURS = Text("The sender is not a number of our provider account that can send texts.")
NO_NUMBER = Text("This is not a number that exists.")
LANDLINE = Text("This is a landline, or a network that takes no texts.")
NO_ROUTE = Text("The provider has no way from our sender to this number.")
SUSPENDED = Text("Our provider account is suspended.")
LOGIN = Text("The provider does not accept our login.")
TOO_FAST = Text("Too many messages in a short time; it is tried again by itself.")
FILTERED = Text("The network took the text for unwanted advertising and dropped it.")
UNREGISTERED = Text("Our sender is not registered for texts in this country.")
STOPPED = Text("They told the network or the provider to stop messages from this sender.")
LATER = Text("The network could not deliver it now.")
FRAUD = Text("The provider holds this number for one that is used in fraud.")
PICTURES = Text("The pictures of this message cannot be sent.")
TOO_LONG = Text("The text is too long.")
EMPTY = Text("The text is empty.")
REGION = Text("Texts to this country are not switched on at the provider.")
SERVICE = Text("Our messaging service at the provider lacks this sender.")

CODES: dict[int, Meaning] = {
    11200: Meaning(ContentRejected, PICTURES),  # the provider could not fetch a file
    11751: Meaning(ContentRejected, PICTURES),  # larger than the network takes
    12300: Meaning(ContentRejected, PICTURES),  # of a type that is not what it says
    20003: Meaning(Misconfigured, LOGIN),
    20005: Meaning(Misconfigured, SUSPENDED),
    20008: Meaning(Misconfigured, LOGIN),  # test credentials
    20404: Meaning(Gone, Text("The provider knows no such thing any more.")),
    20429: Meaning(Throttled, TOO_FAST),
    20500: Meaning(OutcomeUnknown, Text("The provider had a fault; it may have been sent.")),
    21201: Meaning(RecipientInvalid, NO_NUMBER),  # no To
    21205: Meaning(Misconfigured, Text("The provider does not accept the hub's address.")),
    21210: Meaning(Misconfigured, NOT_OURS),
    21211: Meaning(RecipientInvalid, NO_NUMBER, dead=True),
    21212: Meaning(Misconfigured, NOT_OURS),
    21214: Meaning(RecipientInvalid, NO_ROUTE),
    21215: Meaning(Misconfigured, Text("Calls to this country are not switched on at the provider.")),
    21216: Meaning(RecipientInvalid, FRAUD),
    21217: Meaning(RecipientInvalid, NO_NUMBER, dead=True),
    21220: Meaning(Gone, Text("The call is over.")),
    21264: Meaning(Misconfigured, NOT_OURS),
    21266: Meaning(RecipientInvalid, Text("This is our own sender.")),
    21408: Meaning(Misconfigured, REGION),
    21601: Meaning(Misconfigured, NOT_OURS),
    21602: Meaning(ContentRejected, EMPTY),
    21603: Meaning(Misconfigured, NOT_OURS),  # no From and no service
    21604: Meaning(RecipientInvalid, NO_NUMBER),  # no To
    21605: Meaning(ContentRejected, TOO_LONG),
    21606: Meaning(Misconfigured, NOT_OURS),
    21608: Meaning(Misconfigured, Text("A trial account of the provider writes to confirmed numbers only.")),
    21609: Meaning(Misconfigured, Text("The provider does not accept the hub's address.")),
    21610: Meaning(RecipientOptedOut, STOPPED),
    21611: Meaning(Throttled, TOO_FAST),  # the sender's queue is over ten hours long
    21612: Meaning(RecipientInvalid, NO_ROUTE),
    21614: Meaning(RecipientInvalid, LANDLINE, dead=True),
    21617: Meaning(ContentRejected, TOO_LONG),
    21620: Meaning(ContentRejected, PICTURES),
    21623: Meaning(ContentRejected, PICTURES),
    21635: Meaning(RecipientInvalid, LANDLINE, dead=True),
    21660: Meaning(Misconfigured, NOT_OURS),
    21703: Meaning(Misconfigured, SERVICE),
    21704: Meaning(Misconfigured, SERVICE),
    21705: Meaning(Misconfigured, SERVICE),
    21712: Meaning(Misconfigured, SERVICE),
    30001: Meaning(Throttled, TOO_FAST),
    30002: Meaning(Misconfigured, SUSPENDED),
    30003: Meaning(Unavailable, Text("The phone is switched off, without signal, or takes no texts.")),
    30004: Meaning(RecipientOptedOut, STOPPED),
    30005: Meaning(RecipientInvalid, Text("The number is unknown or no longer in use."), dead=True),
    30006: Meaning(RecipientInvalid, LANDLINE, dead=True),
    30007: Meaning(ContentRejected, FILTERED),
    30008: Meaning(Unavailable, LATER),
    30009: Meaning(ContentRejected, Text("A part of the text was lost on the way.")),
    30010: Meaning(Misconfigured, Text("It would cost more than we allowed.")),
    30011: Meaning(ContentRejected, Text("Pictures cannot be sent to this number.")),
    30017: Meaning(Unavailable, LATER),
    30019: Meaning(ContentRejected, PICTURES),
    30022: Meaning(Throttled, TOO_FAST),
    30023: Meaning(Throttled, Text("The day's allowance of our sender is used up.")),
    30032: Meaning(Misconfigured, UNREGISTERED),
    30034: Meaning(Misconfigured, UNREGISTERED),
    30035: Meaning(Misconfigured, UNREGISTERED),
    30036: Meaning(Unavailable, Text("It waited too long at the provider and was given up.")),
    30110: Meaning(ContentRejected, Text("A link in the text leads to a blocked place.")),
    30111: Meaning(ContentRejected, Text("A link in the text leads to a blocked place.")),
    30410: Meaning(Unavailable, LATER),
    30450: Meaning(RecipientInvalid, FRAUD),
    30453: Meaning(RecipientInvalid, FRAUD),
    30610: Meaning(Unavailable, Text("It is quiet time where they are.")),
    30640: Meaning(RecipientOptedOut, Text("This number is on a list of people who must not be written to.")),
    63017: Meaning(Throttled, TOO_FAST),
    63038: Meaning(Throttled, Text("The day's allowance of our provider account is used up.")),
}


def meaning_of(code: str) -> Meaning | None:
    """What a code means; None for one that is not listed."""
    return CODES.get(int(code)) if code.isdigit() and len(code) < 9 else None


def is_dead(code: str) -> bool:
    """True when this code proves that the number gets no texts."""
    found = meaning_of(code)
    return found is not None and found.dead


def explained(code: str) -> str:
    """The sentence for a person with the code behind it, for the provider's support; the bare code when it is not listed."""
    found = meaning_of(code)
    if found is None:
        return Text("The provider reports error %(code)s.", code=code) if code.isdigit() else code
    return Text("%(why_text)s (error %(code)s)", why_text=found.sentence, code=code)
