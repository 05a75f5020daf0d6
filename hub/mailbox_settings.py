"""A mailbox's settings beside its servers, for the screen and the API alike: aliases, the return address, the copy in the folder
for sent mail, the language of what stands above quoted text, and access by token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from crm_core import accounts, addresses, settings_rows
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.texts import Text
from hub.channel_set import ChannelSet
from routing.quoting import LANGUAGES

MOST_ALIASES = 20
CONTROL = re.compile("[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class MailInput:
    """What is entered of a mailbox. `sent_folder` empty: the one that the server names, or Sent."""

    aliases: Sequence[str] = ()
    signed_return_path: bool = False
    copy_to_sent: bool = False
    sent_folder: str = ""
    language: str = ""  # empty: English


@dataclass(frozen=True, slots=True)
class TokensInput:
    """Access by token (XOAUTH2); an empty address switches it off, an empty secret keeps the stored one."""

    token_url: str = ""
    client_id: str = ""
    scope: str = ""
    client_secret: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


TOKEN_FIELDS = tuple(TokensInput.__dataclass_fields__)


async def change(
    tx: Tx, account_id: str, given: MailInput, *, version: int, actor: str, now: datetime
) -> ChannelAccount:
    """Change them. Invalid, or Conflict when another mailbox has an alias or somebody was first."""
    account = await mailbox(tx, account_id)
    aliases = [addresses.email(one).value for one in given.aliases if one]
    if len(aliases) > MOST_ALIASES:
        raise Invalid("A mailbox has at most %(count)s aliases.", count=MOST_ALIASES)
    for other in await accounts.list_channel(tx, "email"):
        taken = set(aliases) & set(accounts.mail_addresses(other))
        if other.id != account.id and taken:
            raise Conflict("%(address)s belongs to another mailbox.", address=sorted(taken)[0])
    folder = given.sent_folder.strip()
    if CONTROL.search(folder) or len(folder) > 200:
        raise Invalid("Leave out control characters.", fields={"sent_folder": "Leave out control characters."})
    if given.language and given.language not in LANGUAGES:
        raise Invalid("Choose one of the list.", fields={"language": "Choose one of the list."})
    settings: dict[str, Any] = {
        **account.settings, "aliases": aliases, "signed_return_path": given.signed_return_path,
        "copy_to_sent": given.copy_to_sent, "sent_folder": folder, "language": given.language,
    }  # fmt: skip
    return await settings_rows.edit_account(tx, account.id, version=version, actor=actor, now=now, settings=settings)


async def change_tokens(
    tx: Tx, channels: ChannelSet, account_id: str, given: TokensInput, *, version: int, actor: str, now: datetime
) -> ChannelAccount:
    """Where tokens are bought and with what; without an address it is switched off.

    A stored secret goes to the address it was typed for and to no other: whoever changes that types the secrets again.
    """
    account = await mailbox(tx, account_id)
    known = channels.secrets(account)
    rest = {name: value for name, value in known.items() if not name.startswith("oauth_")}
    if not rest:
        raise Invalid("Give the mailbox its own servers first.")
    fresh = token_secrets(given, known=known)
    if not fresh and any(urlsplit(url).username and not urlsplit(url).password for url in rest.values()):
        raise Invalid("Type the servers' passwords first: without token and password nobody could log in.")
    sealed = channels.seal({**rest, **fresh})
    return await settings_rows.edit_account(tx, account.id, version=version, actor=actor, now=now, sealed=sealed)


def token_secrets(given: TokensInput, *, known: Mapping[str, str]) -> dict[str, str]:
    """What is sealed of them; empty when no address is given. Invalid when something is missing."""
    if not given.token_url:
        return {}
    same = known.get("oauth_token_url") == given.token_url
    fresh = {
        "oauth_token_url": given.token_url, "oauth_client_id": given.client_id, "oauth_scope": given.scope,
        "oauth_client_secret": given.client_secret or (known.get("oauth_client_secret", "") if same else ""),
        "oauth_refresh_token": given.refresh_token or (known.get("oauth_refresh_token", "") if same else ""),
    }  # fmt: skip
    if not (given.token_url.startswith("https://") and fresh["oauth_client_id"] and fresh["oauth_refresh_token"]):
        told = Text("Access by token needs an https address, the client and the refresh token.")
        raise Invalid(told, fields={"token_url": told})
    return fresh


async def mailbox(tx: Tx, account_id: str) -> ChannelAccount:
    """The mailbox; NotFound, or Invalid for what is none."""
    account = await accounts.get(tx, account_id)
    if account.channel != "email":
        raise Invalid("This is no mailbox.")
    return account
