"""The reader's language: translations by gettext, and numbers, times and durations written as the reader writes them.

Decides which language a request gets and how values read in it. English is the source; catalogues are `hub/locale/<language>/
LC_MESSAGES/messages.po`, compiled in memory when first wanted, so that no compiled file can be older than its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale
from babel.dates import format_date, format_datetime, format_time, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent

from crm_core.texts import Text, fill, plain
from hub.i18n_known import FOLDER, recognised

SOURCE = "en"
LOCALES = {"en": "English", "es": "Español", "de": "Deutsch", "zh": "中文"}
PSEUDO = "pseudo"  # not offered to anybody: marks every translated text, so that a test finds what is not


class PseudoTranslations(NullTranslations):
    """Every text in brackets and a third longer: what stands on a page without brackets was never marked."""

    def gettext(self, message: str) -> str:
        """The text, marked."""
        return f"⟦{message}{'·' * (len(message) // 3)}⟧" if message else ""

    def ngettext(self, msgid1: str, msgid2: str, n: int) -> str:
        """The plural form, marked."""
        return self.gettext(msgid1 if n == 1 else msgid2)


@lru_cache(maxsize=16)
def translations(locale: str) -> NullTranslations:
    """The catalogue of a language; the source text where there is none."""
    if locale == PSEUDO:
        return PseudoTranslations()
    path = FOLDER / locale / "LC_MESSAGES" / "messages.po"
    if locale not in LOCALES or not path.exists():
        return NullTranslations()
    compiled = BytesIO()
    with path.open("rb") as source:
        write_mo(compiled, read_po(source, locale=locale))
    compiled.seek(0)
    return GNUTranslations(compiled)


def negotiate(wanted: str, accepted: str) -> str:
    """A language that the hub speaks: the user's own, else the first of an Accept-Language header, else English."""
    if wanted in LOCALES or wanted == PSEUDO:
        return wanted
    ranked: list[tuple[float, str]] = []
    for part in accepted.split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((float(quality or 1), tag.split("-")[0].lower()))
        except ValueError:
            continue
    for _, language in sorted(ranked, key=lambda pair: -pair[0]):
        if language in LOCALES:
            return language
    return SOURCE


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: their language, their time zone, and the instant the page is made."""

    locale: str
    zone: str
    now: datetime

    @property
    def babel(self) -> Locale:
        """Babel's idea of the language."""
        return Locale.parse("zh_Hans" if self.locale == "zh" else "en" if self.locale == PSEUDO else self.locale)

    @property
    def tag(self) -> str:
        """The BCP 47 tag for `lang`."""
        return "zh-Hans" if self.locale == "zh" else "en" if self.locale == PSEUDO else self.locale

    def gettext(self, message: str) -> str:
        """The text in the reader's language."""
        return translations(self.locale).gettext(message) if message else ""

    def ngettext(self, one: str, many: str, n: int) -> str:
        """The plural form for `n`, with `%(num)s` filled in."""
        return translations(self.locale).ngettext(one, many, n) % {"num": self.number(n)}

    def tell(self, sentence: str) -> str:
        """A sentence of the domain in the reader's language: a `Text`, or one that was stored. Others' words stay as they are."""
        text = sentence if isinstance(sentence, Text) else recognised(str(sentence))
        return str(sentence) if text is None else fill(self.gettext(text.source), text.params, self._written)

    def _written(self, name: str, value: Any) -> str:
        if isinstance(value, datetime):
            return self.moment(value) if value.tzinfo else plain(value)
        if isinstance(value, date):  # within a sentence: “on today” is none
            return format_date(value, "medium", locale=self.babel)
        if isinstance(value, list | tuple | set | frozenset):
            return self.sentence([self._written(name, one) for one in value])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.number(value)
        if not name.endswith("_text"):
            return plain(value)
        # A word of the rows (sms_keyword) is translated by the catalogues; English has none.
        return self.tell(value) if isinstance(value, Text) else self.tell(str(value)).replace("_", " ")

    def language(self, tag: str) -> str:
        """A language by its name in the reader's own; what is no language stays as it is."""
        known = self.babel.languages.get(tag.partition("-")[0].lower())
        return str(known) if known else tag

    def local(self, instant: datetime) -> datetime:
        """The instant in the reader's zone."""
        return instant.astimezone(_zone(self.zone))

    def time(self, instant: datetime) -> str:
        """14:30, with the day when it is not today."""
        local = self.local(instant)
        if local.date() == self.local(self.now).date():
            return format_time(local, "short", tzinfo=_zone(self.zone), locale=self.babel)
        return self.moment(instant)

    def moment(self, instant: datetime) -> str:
        """Day and time, short."""
        pattern = "MMMd" if self.local(instant).year == self.local(self.now).year else "yMMMd"
        day = _skeleton(self.local(instant), pattern, self.babel)
        return f"{day}, {format_time(self.local(instant), 'short', tzinfo=_zone(self.zone), locale=self.babel)}"

    def slot(self, instant: datetime) -> str:
        """Weekday, day, time and zone: an hour to choose."""
        local = self.local(instant)
        time = format_time(local, "short", tzinfo=_zone(self.zone), locale=self.babel)
        return f"{_skeleton(local, 'MMMEd', self.babel)}, {time} ({local.tzname()})"

    def full(self, instant: datetime) -> str:
        """Day, time with seconds, zone: for titles."""
        return format_datetime(self.local(instant), "full", tzinfo=_zone(self.zone), locale=self.babel)

    def day(self, day: date | datetime) -> str:
        """The day: today and yesterday by name, else the date."""
        on = self.local(day).date() if isinstance(day, datetime) else day
        today = self.local(self.now).date()
        if on == today:
            return self.gettext("Today")
        if on == today - timedelta(days=1):
            return self.gettext("Yesterday")
        return format_date(on, "medium", locale=self.babel)

    def ago(self, instant: datetime) -> str:
        """How long ago, or until, in words."""
        return format_timedelta(instant - self.now, add_direction=True, threshold=1.2, locale=self.babel)

    def number(self, value: float) -> str:
        """A number with the reader's separators."""
        return str(format_decimal(value, locale=self.babel))

    def percent(self, share: float | None) -> str:
        """A share of one as a percentage; a dash when there is nothing to divide by."""
        return "–" if share is None else str(format_percent(share, locale=self.babel))

    def sentence(self, items: Sequence[str]) -> str:
        """Items joined as the language joins them."""
        return self.gettext(", ").join(items)


def _skeleton(local: datetime, pattern: str, locale: Locale) -> str:
    from babel.dates import format_skeleton

    return format_skeleton(pattern, local, locale=locale)


def clock(seconds: float) -> str:
    """A duration as m:ss, or h:mm:ss from an hour on. The same in every language."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
