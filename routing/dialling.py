"""Which numbers an agent may have dialled for a third party: never emergency or premium ones, only countries that are allowed.

Allowed are the country of our own number and those that its account names under `countries` (two letters each). Pure.
"""

from __future__ import annotations

import phonenumbers
from phonenumbers import PhoneNumberType

from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.errors import Invalid
from crm_core.texts import Text

COSTLY = {
    PhoneNumberType.PREMIUM_RATE,
    PhoneNumberType.SHARED_COST,
    PhoneNumberType.PAGER,
    PhoneNumberType.UAN,
    PhoneNumberType.PERSONAL_NUMBER,
}


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
