"""What somebody wrote, and what they quoted. Runs in the child that looks into mails, so it imports nothing of the hub."""

from __future__ import annotations

import re
import signal
from types import FrameType
from typing import Any

MAX_SPLIT = 64 * 1024
LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pl", "sv", "zh", "ja")
QUOTE_LINE = re.compile(r"^\s*>")
WROTE_LINE = re.compile(r"[@\d].*[:：]\s*$")
# The library tries the headers of every language it is given, a quarter of a millisecond each. Without one of these words no
# header of that language (mailparser_reply 1.x, constants.py) can match; English is always tried.
HINTS = {
    "de": ("schrieb", "von:", "gesendet:", "an:", "betreff:", "datum:", "cc:", "organisation:"),
    "es": ("escribió", "de:", "enviado:", "para:", "asunto:", "fecha:", "cc:", "organización:"),
    "fr": ("écrit", " :"),
    "it": ("ha scritto", "da:", "inviato:", "a:", "oggetto:", "data:", "cc:"),
    "nl": ("schreef", "van:", "verzonden:", "aan:", "onderwerp:", "datum:", "cc:"),
    "pl": ("dnia", "od:", "wysłano:", "do:", "temat:", "data:", "dw:"),
    "sv": ("skrev", "från:", "skickat:", "till:", "ämne:", "datum:", "kopia:"),
    "zh": ("写道", "发件人", "发送", "收件人", "主题", "抄送", "组织"),
    "ja": ("年",),
}


class TooSlow(Exception):
    """The helper library got lost in this text."""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def split_reply(text: str) -> tuple[str, str]:
    """(what they wrote, what they quoted). Both together are always the whole text; without a mark, all is new."""
    if len(text) > MAX_SPLIT:
        return _split_by_marks(text)
    previous = signal.signal(signal.SIGVTALRM, _too_slow) if _in_main_thread() else None
    try:
        if previous is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)
        new = _latest_reply(text)
    except (TooSlow, RecursionError, ValueError, IndexError, AttributeError, TypeError, ImportError):
        return _split_by_marks(text)
    finally:
        if previous is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, previous)
    start = text.find(new.strip()[:200]) if new.strip() else -1
    if start < 0:
        return _split_by_marks(text)
    end = start + len(new.strip())
    if text[start:end] != new.strip():
        return _split_by_marks(text)
    # The library knows ten languages' headers, but not every client's: what it left may still end in quoted lines.
    kept, more = _split_by_marks(text[:end])
    return kept.strip("\n"), (more + text[end:]).strip("\n")


def _latest_reply(text: str) -> str:
    """What stands above the first header that the library finds."""
    from mailparser_reply import EmailMessage

    message: Any = EmailMessage(text=text, languages=languages_in(text))
    # Two thirds of its time would go into signatures and disclaimers, which do not change where the reply ends.
    message._process_signatures_disclaimers = lambda part: ([], "")
    return message.read().latest_reply or ""


def languages_in(text: str) -> list[str]:
    """The languages whose headers could match anything in this text, in the library's order."""
    # Folded as far as the library's patterns fold: to them a dotless and a dotted i are an i.
    folded = text.casefold().replace("ı", "i").replace("i\u0307", "i")
    return [one for one in LANGUAGES if one not in HINTS or any(word in folded for word in HINTS[one])]


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _split_by_marks(text: str) -> tuple[str, str]:
    """Cut before the quoted lines that run to the end, and before the line that says who wrote them."""
    lines = text.split("\n")
    at = len(lines)
    while at and (QUOTE_LINE.match(lines[at - 1]) or not lines[at - 1].strip()):
        at -= 1
    if not any(QUOTE_LINE.match(line) for line in lines[at:]):
        return text, ""
    if at and WROTE_LINE.search(lines[at - 1]):
        at -= 1
    return "\n".join(lines[:at]).rstrip(), "\n".join(lines[at:])
