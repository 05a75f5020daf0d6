"""What stands above the quoted text of an answer: who wrote it and when, in the language of the mailbox that answers."""

from __future__ import annotations

from datetime import datetime

# Kept here and not among the screen's translations: it is read by customers, in the mailbox's language and not the agent's, and
# mail readers fold what follows such a line only when it is worded as they know it.
LANGUAGES = ("en", "es", "de", "zh")
DAYS = {
    "en": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    "es": ("lun", "mar", "mié", "jue", "vie", "sáb", "dom"),
    "de": ("Mo.", "Di.", "Mi.", "Do.", "Fr.", "Sa.", "So."),
}
MONTHS = {
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "es": ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sept", "oct", "nov", "dic"),
    "de": ("Jan.", "Feb.", "März", "Apr.", "Mai", "Juni", "Juli", "Aug.", "Sept.", "Okt.", "Nov.", "Dez."),
}


def wrote(at: datetime, author: str, *, language: str) -> str:
    """“On Wed, 18 Nov 2026 at 10:00 UTC, Ana <ana@example.com> wrote:” in the language, English when it is not known."""
    clock = f"{at:%H:%M} UTC"
    if language == "zh":
        return f"{at.year}年{at.month}月{at.day}日 {clock}，{author} 写道："
    known = language if language in DAYS else "en"
    day, month = DAYS[known][at.weekday()], MONTHS[known][at.month - 1]
    if known == "de":
        return f"Am {day}, {at.day}. {month} {at.year} um {clock} schrieb {author}:"
    if known == "es":
        return f"El {day}, {at.day} {month} {at.year} a las {clock}, {author} escribió:"
    return f"On {day}, {at.day:02d} {month} {at.year} at {clock}, {author} wrote:"
