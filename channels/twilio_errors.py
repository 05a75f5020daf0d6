"""What Twilio's errors mean: one table from its codes to our ChannelErrors, and one rule for what happens on the wire.

Sources: Twilio's error pages; 30022, 30410 and 63038 (copies seen 2026-11-21), the rest as of the knowledge notes,
unconfirmed. Twilio splits codes over the years (its changelog of 2024-07-10: parts of 21211, 21212, 21606 and 21614 got
codes of their own), so a number that is not listed falls into the default class of its HTTP status.
"""

from __future__ import annotations

from channels.errors import (
    AnswerUnreadable,
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

API_ORIGIN = "https://api.twilio.com"

ERROR_CODES: dict[int, type[ChannelError]] = {
    20003: Misconfigured,  # authentication failed
    20005: Misconfigured,  # account suspended
    20008: Misconfigured,  # test credentials
    20404: Gone,  # no such resource
    20429: Throttled,
    20500: OutcomeUnknown,  # "internal server error", may have been done
    21201: RecipientInvalid,  # no To
    21205: Misconfigured,  # a URL of ours is invalid
    21210: Misconfigured,  # From is not ours
    21211: RecipientInvalid,  # invalid To
    21212: Misconfigured,  # invalid From
    21214: RecipientInvalid,  # To cannot be reached
    21215: Misconfigured,  # geographic permission for calls
    21216: RecipientInvalid,  # not allowed to call this number
    21217: RecipientInvalid,
    21220: Gone,  # call not in progress: it cannot be changed any more
    21264: Misconfigured,
    21408: Misconfigured,  # region not switched on for messages
    21601: Misconfigured,  # From cannot send messages
    21602: ContentRejected,  # no body
    21603: Misconfigured,  # no From
    21604: RecipientInvalid,  # no To
    21605: ContentRejected,  # body too long
    21606: Misconfigured,  # From is not ours or cannot send
    21610: RecipientOptedOut,
    21611: Throttled,  # the sender's queue is over ten hours long
    21612: RecipientInvalid,  # no route from this From to this To
    21614: RecipientInvalid,  # not a mobile number
    21617: ContentRejected,  # over 1,600 characters
    21620: ContentRejected,  # media
    21623: ContentRejected,  # too many media
    21703: Misconfigured,  # the messaging service has no sender
    21704: Misconfigured,
    30001: Throttled,  # queue overflow of a messaging service
    30002: Misconfigured,  # account suspended
    30003: RecipientInvalid,  # unreachable handset
    30004: RecipientOptedOut,  # blocked by the recipient or the carrier
    30005: RecipientInvalid,  # unknown handset
    30006: RecipientInvalid,  # landline or unreachable carrier
    30007: ContentRejected,  # filtered as unwanted
    30008: Unavailable,  # unknown error of the carrier
    30009: ContentRejected,  # a segment is missing
    30010: Misconfigured,  # over the price we set
    30017: Unavailable,  # carrier congestion
    30022: Throttled,  # 10DLC rate
    30023: Throttled,  # 10DLC daily cap
    30032: Misconfigured,  # toll-free number not verified
    30034: Misconfigured,  # 10DLC number not registered
    30035: Misconfigured,
    30410: Unavailable,  # provider timed out
    30450: RecipientInvalid,  # pumping protection blocked it
    30453: RecipientInvalid,
    30610: Unavailable,  # quiet hours at the recipient: later
    30640: RecipientOptedOut,  # on a litigator list
    63017: Throttled,  # account and subaccounts over 2,000 a second
    63038: Throttled,  # daily limit of the account
}
CLASS_WORDS: dict[type[ChannelError], str] = {
    RecipientInvalid: "recipient_invalid",
    RecipientOptedOut: "recipient_opted_out",
    ContentRejected: "content_rejected",
    Unavailable: "unavailable",
    Throttled: "throttled",
    Misconfigured: "misconfigured",
    Gone: "misconfigured",
    OutcomeUnknown: "unavailable",
}


def error_class(code: str) -> str:
    """The class word of a delivery report's error code; an unlisted code counts as unavailable. Empty for none."""
    if not code or code == "0":
        return ""
    return CLASS_WORDS[ERROR_CODES.get(int(code), Unavailable) if code.isdigit() else Unavailable]


class HttpFailed(Exception):
    """Between our HTTP client and `TwilioApi.call`: what happened on the wire, before it is known what it means."""

    def __init__(
        self, *, status: int = 0, code: int = 0, retry_after_s: float | None = None, sent: bool = True, what: str = ""
    ) -> None:
        super().__init__(what)
        self.status, self.code, self.retry_after_s, self.sent, self.what = status, code, retry_after_s, sent, what


def meaning(failed: HttpFailed, *, creates: bool) -> ChannelError:
    """The error the sender gets. `creates`: repeating it could do it twice, so an unclear end is OutcomeUnknown.

    Twilio's own text is left out: it quotes numbers.
    """
    code = str(failed.code or failed.status or "")
    if not failed.sent:
        return Unavailable(Text("Twilio cannot be reached."), code="unreachable")
    if not failed.status:
        sentence = Text("Twilio did not answer (%(detail)s).", detail=failed.what)
        return OutcomeUnknown(sentence, code="no_answer") if creates else Unavailable(sentence, code="no_answer")
    said = Text("Twilio answered with error %(code)s (HTTP %(status)s).", code=code, status=str(failed.status))
    if failed.status == 429 or failed.code == 20429:
        return Throttled(said, code=code, retry_after_s=failed.retry_after_s)
    if failed.status >= 500:
        return OutcomeUnknown(said, code=code) if creates else Unavailable(said, code=code)
    if failed.status in (401, 403) and failed.code not in ERROR_CODES:
        return Misconfigured(said, code=code)
    if failed.status == 404 and failed.code not in ERROR_CODES:
        return Gone(said, code=code)
    kind: type[ChannelError] = ERROR_CODES.get(
        failed.code, Misconfigured if 400 <= failed.status < 500 else AnswerUnreadable
    )
    if kind is Gone and creates:  # nothing of ours was named but the account itself
        kind = Misconfigured
    return kind(said, code=code, retry_after_s=failed.retry_after_s)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header given as a number; None otherwise. At most an hour is believed."""
    try:
        return min(max(float(value), 0.0), 3600.0) if value else None
    except ValueError:
        return None
