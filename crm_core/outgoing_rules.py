"""Where calls and texts may go, how many, and at what cost: the rules an administrator sets, as plain values. Pure.

Against toll fraud: whoever gets hold of a log-in calls expensive numbers all night. So numbers of few countries are dialled,
premium ranges never, and what goes out in an hour or a day has an end. `outgoing.py` counts and stops.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers
from phonenumbers import PhoneNumberType

from crm_core.errors import Invalid
from crm_core.texts import Text

VOICE, TEXT = "voice", "sms"
CHANNELS = (VOICE, TEXT)
DESTINATION, EMERGENCY = "destination", "emergency"
# Reached without being named: what a call costs to end there is capped by law or by competition (United States, Canada; the
# European Economic Area under Delegated Regulation (EU) 2021/654; the United Kingdom; Switzerland). Fraud goes elsewhere.
_NEAR = "US CA GB CH IS LI NO AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE"
USUAL = tuple(_NEAR.split())
# Satellites and international networks and premium services have country codes of their own (ITU-T E.164, list of codes).
NEVER = ("+870", "+878", "+881", "+882", "+883", "+888", "+979", "+808")
COSTLY = frozenset(
    {
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.PAGER,
        PhoneNumberType.UAN,
        PhoneNumberType.PERSONAL_NUMBER,
    }
)
MOST = 10_000_000
UNIT = 10_000  # costs are counted in ten-thousandths of the currency


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits are numbers of calls or texts; 0 means none. Prices are of the company's currency, per minute and per part."""

    countries: list[str] = field(default_factory=lambda: list(USUAL))  # beside those of our own numbers
    prefixes: list[str] = field(default_factory=list)  # never called or texted, such as +4470
    call_hour: int = 600
    call_day: int = 5_000
    text_hour: int = 20_000
    text_day: int = 100_000
    agent_call_hour: int = 90  # one person's
    agent_call_day: int = 500
    agent_text_hour: int = 300
    agent_text_day: int = 1_500
    country_day: int = 0  # calls and texts to any one country other than our own
    night_from: int = 22  # hour of the day, in `zone`
    night_to: int = 6
    night_call_hour: int = 60
    night_text_hour: int = 2_000
    cost_hour: float = 1_000.0  # calls and texts together
    cost_day: float = 5_000.0
    call_price: float = 0.02
    text_price: float = 0.05
    far_call_price: float = 0.10  # to another country
    far_text_price: float = 0.10
    prices: dict[str, list[float]] = field(default_factory=dict)  # by country: a minute, a part of a text
    currency: str = "USD"
    zone: str = "UTC"

    def as_doc(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)

    def is_night(self, now: datetime) -> bool:
        """Whether the limits of the night hold."""
        hour = now.astimezone(ZoneInfo(self.zone)).hour
        if self.night_from <= self.night_to:
            return self.night_from <= hour < self.night_to
        return hour >= self.night_from or hour < self.night_to

    def price(self, channel: str, country: str, home: Collection[str]) -> int:
        """What a minute or a part of a text there costs, in ten-thousandths of the currency."""
        named = self.prices.get(country)
        if named is not None:
            return round(named[0 if channel == VOICE else 1] * UNIT)
        near = country in home
        if channel == VOICE:
            return round((self.call_price if near else self.far_call_price) * UNIT)
        return round((self.text_price if near else self.far_text_price) * UNIT)


def of(values: Mapping[str, Any]) -> Rules:
    """The rules as stored; those that are not named are the usual ones."""
    known = {each.name for each in fields(Rules)}
    return Rules(**{name: value for name, value in values.items() if name in known})


def check(values: Mapping[str, Any]) -> Rules:
    """Rules from what somebody gave; Invalid with a sentence for each that is impossible."""
    usual, made = Rules(), dict[str, Any]()
    wrong: dict[str, str] = {}
    for each in fields(Rules):
        value, like = values.get(each.name, getattr(usual, each.name)), getattr(usual, each.name)
        if isinstance(like, bool | str):
            made[each.name] = str(value).strip()
        elif isinstance(like, int):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
                wrong[each.name] = Text("A whole number; 0 for no limit.")
            made[each.name] = value
        elif isinstance(like, float):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MOST:
                wrong[each.name] = Text("An amount of money; 0 for no limit.")
            made[each.name] = value
        else:
            made[each.name] = value
    made["countries"] = sorted({str(code).strip().upper() for code in made["countries"] if str(code).strip()})
    made["prices"] = {str(code).strip().upper(): list(both) for code, both in made["prices"].items()}
    if any(code not in phonenumbers.SUPPORTED_REGIONS for code in made["countries"]):
        wrong["countries"] = Text("Countries are written with two letters each, such as GB or US.")
    if any(
        code not in phonenumbers.SUPPORTED_REGIONS
        or len(both) != 2
        or not all(isinstance(one, int | float) and 0 <= one <= 1_000 for one in both)
        for code, both in made["prices"].items()
    ):
        wrong["prices"] = Text("One country a line: two letters, the price of a minute, the price of a text.")
    made["prefixes"] = sorted({"+" + _digits(str(one)) for one in made["prefixes"] if str(one).strip()})
    if any(not 3 <= len(one) <= 16 for one in made["prefixes"]) or len(made["prefixes"]) > 500:
        wrong["prefixes"] = Text("Beginnings of numbers with their country code, such as +4470.")
    for name in ("night_from", "night_to"):
        if name not in wrong and made[name] > 23:
            wrong[name] = Text("An hour from 0 to 23.")
    try:
        ZoneInfo(made["zone"])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wrong["zone"] = Text("A time zone, such as Europe/London.")
    if not (made["currency"].isalpha() and len(made["currency"]) == 3):
        wrong["currency"] = Text("Three letters, such as USD.")
    made["currency"] = made["currency"].upper()
    if wrong:
        raise Invalid("These limits cannot be set so.", fields=wrong)
    return Rules(**made)


def _digits(typed: str) -> str:
    return "".join(one for one in typed if one in "0123456789")


@lru_cache(maxsize=10_000)
def _kind(e164: str) -> tuple[str, bool, bool]:
    """Country, whether it is an emergency number there, whether it is dear."""
    try:
        parsed = phonenumbers.parse(e164)
    except phonenumbers.NumberParseException:
        return "", False, False
    # Of a range that our tables do not know (yet), the country that its code belongs to first.
    country = phonenumbers.region_code_for_number(parsed) or phonenumbers.region_code_for_country_code(
        parsed.country_code or 0
    )
    country = country if country in phonenumbers.SUPPORTED_REGIONS else ""
    national = str(parsed.national_number)
    regions = [country] if country else list(phonenumbers.region_codes_for_country_code(parsed.country_code or 0))
    urgent = len(national) <= 6 and any(phonenumbers.is_emergency_number(national, each) for each in regions)
    return country, urgent, phonenumbers.number_type(parsed) in COSTLY


def country_of(e164: str) -> str:
    """Two letters, or empty for a number of no country."""
    return _kind(e164)[0]


def destination(rules: Rules, e164: str, home: Collection[str]) -> tuple[str, Text] | None:
    """(rule, sentence) when this number is never called or texted; `home`: countries of our own numbers."""
    country, urgent, dear = _kind(e164)
    if urgent:
        return EMERGENCY, EMERGENCY_TEXT
    if dear or e164.startswith(NEVER):
        return DESTINATION, Text("Premium, shared-cost and satellite numbers are not called or texted from the hub.")
    prefix = next((one for one in rules.prefixes if e164.startswith(one)), "")
    if prefix:
        return DESTINATION, Text(
            "Numbers that begin with %(prefix)s are blocked (Administration, Spending).", prefix=prefix
        )
    if country not in home and country not in rules.countries:
        return DESTINATION, Text(
            "Numbers in %(country)s are not called or texted from the hub. An administrator can allow the country "
            "(Administration, Spending).",
            country=country or e164[:4],
        )
    return None


EMERGENCY_TEXT = Text(
    "Emergency numbers are never dialled from the hub: it cannot tell the rescuers where you are. "
    "Use another telephone, now."
)
