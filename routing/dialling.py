"""Which numbers an agent may have dialled for a third party: never emergency or premium ones or our own, only countries that are
allowed: the country of our own number and those that its account names under `countries` (two letters each).
"""

from __future__ import annotations

import phonenumbers
from phonenumbers import PhoneNumberType

from crm_core import accounts
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.texts import Text

COSTLY = {
    PhoneNumberType.PREMIUM_RATE,
    PhoneNumberType.SHARED_COST,
    PhoneNumberType.PAGER,
    PhoneNumberType.UAN,
    PhoneNumberType.PERSONAL_NUMBER,
}


async def check_third(tx: Tx, number: Address, account: ChannelAccount) -> None:
    """`check`, and Invalid for a number of our own: whoever is put through to it would come in again, and again."""
    check(number, account)
    await refuse_ours(tx, number.value)


async def refuse_ours(tx: Tx, number: str) -> None:
    """Invalid for a number of our own."""
    if await accounts.is_ours(tx, number):
        raise Invalid("This is one of our own numbers: the call would come in again.")


def check(number: Address, account: ChannelAccount) -> None:
    """Invalid, with the reason, when this number is not dialled from this account."""
    parsed = phonenumbers.parse(number.value)
    region = phonenumbers.region_code_for_number(parsed) or ""
    national = str(parsed.national_number)
    if region and phonenumbers.is_emergency_number(national, region):
        raise Invalid("Emergency numbers are never dialled from the hub. Use a phone of your own.")
    if phonenumbers.number_type(parsed) in COSTLY:
        raise Invalid("Premium and shared-cost numbers are not dialled from the hub.")
    allowed = {account.country.upper(), *(str(code).upper() for code in account.settings.get("countries", ()))}
    if region not in allowed:
        raise Invalid(
            Text(
                "Numbers in %(country)s are not dialled from %(number)s.", country=region or "?", number=account.address
            )
        )
