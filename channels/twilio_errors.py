"""What Twilio's errors mean on the wire: from HTTP status and code (channels/twilio_codes.py) to ChannelErrors, by a rule."""

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
from channels.twilio_codes import CODES
from crm_core.texts import Text

API_ORIGIN = "https://api.twilio.com"

ERROR_CODES: dict[int, type[ChannelError]] = {code: told.kind for code, told in CODES.items()}
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
    known = CODES.get(failed.code)
    said: str = Text("Twilio answered with error %(code)s (HTTP %(status)s).", code=code, status=str(failed.status))
    if known is not None:
        said = known.sentence
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
    return kind(said, code=code, retry_after_s=failed.retry_after_s, dead=known is not None and known.dead)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header given as a number; None otherwise. At most an hour is believed."""
    try:
        return min(max(float(value), 0.0), 3600.0) if value else None
    except ValueError:
        return None
