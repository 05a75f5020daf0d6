"""Whose calls are taken at once, who must press a key first, and whose are refused: blocked, withheld and foreign callers.

A number's account says under `screen` what becomes of callers who hide their number (`withheld`) and of those from other
countries (`foreign`): accept, press (they are connected after pressing 1, which robots do not), refuse. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import phonenumbers

from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.blocked_callers import BlockedCaller
from crm_core.errors import Invalid

ACCEPT, PRESS, REFUSE, BLOCKED = "accept", "press", "refuse", "blocked"
CHOICES = (ACCEPT, PRESS, REFUSE)


def verdict(account: ChannelAccount, caller: Address | None, blocked: BlockedCaller | None, now: datetime) -> str:
    """accept, press, refuse, or blocked."""
    if blocked is not None and (blocked.until_at is None or blocked.until_at > now):
        return BLOCKED
    rules: Mapping[str, Any] = account.settings.get("screen") or {}
    if not rules:
        return ACCEPT
    if caller is None:
        return _known(rules.get("withheld"))
    return _known(rules.get("foreign")) if _foreign(account, caller) else ACCEPT


def _known(word: object) -> str:
    return str(word) if word in CHOICES else ACCEPT


def _foreign(account: ChannelAccount, caller: Address) -> bool:
    region = phonenumbers.region_code_for_number(phonenumbers.parse(caller.value)) or ""
    home = {account.country.upper(), *(str(code).upper() for code in account.settings.get("countries", ()))}
    return bool(account.country) and region not in home


def check(values: Mapping[str, str]) -> dict[str, str]:
    """The rules as they are stored; Invalid for a word that is none of them."""
    if any(word not in CHOICES for word in values.values()):
        raise Invalid("Choose one of the list.")
    return {name: values[name] for name in ("withheld", "foreign") if name in values}
