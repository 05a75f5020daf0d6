"""The channel adapters of this process, built from the settings and from the accounts' rows when first asked for.

The provider account is a row (channel "provider") when an administrator has entered one, else what the environment names.
`adopt` takes over a changed row: while a token is replaced, webhooks signed with the one before are genuine too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from channels import registry
from channels.contract import AccountConfig, Vault
from channels.errors import Misconfigured
from channels.mail_pool import MailPool
from crm_core.accounts import ChannelAccount
from hub.log import get_logger
from hub.outgoing_hosts import peer_rule
from hub.sealing import Sealer, Unsealable
from hub.settings import Settings, TwilioAccount

log = get_logger(__name__)

ACCOUNT_SECRETS = "channel-account"
PROVIDER = "provider"  # the channel of the provider's row
PROVIDER_KINDS = ("voice", "sms")


class ChannelSet:
    """One adapter per kind, and one per mailbox. Misconfigured, with the reason, for a channel that is off."""

    def __init__(self, settings: Settings, sealer: Sealer) -> None:
        self._settings = settings
        self.sealer = sealer
        self._built: dict[str, Any] = {}
        self._mail_pool: MailPool | None = None
        self.vault_of: Callable[[str], Vault] | None = None  # where a mailbox's replaced secrets go; set by the runtime
        self._old: list[
            Any
        ] = []  # adapters of a provider account that has changed: calls in progress may still use them
        self._provider_row: tuple[str, int] | None = None
        self._previous_token = ""
        self.twilio: TwilioAccount | None = settings.twilio

    @property
    def public_url(self) -> str:
        """The hub's outside address."""
        return self._settings.public_url

    @property
    def provider_from_row(self) -> bool:
        """True when an administrator's row is used, and not the environment."""
        return self._provider_row is not None

    def adopt(self, row: ChannelAccount | None) -> bool:
        """Use this provider row from now on, or the environment when there is none; True when that changes something."""
        usable = row if row is not None and row.enabled and row.deleted_at is None else None
        known = (usable.id, usable.version) if usable is not None else None
        if known == self._provider_row:
            return False
        twilio, previous = self._settings.twilio, ""
        if usable is not None:
            try:
                secrets = self.secrets(usable)
            except Unsealable:
                log.error("provider: sealed under another key, so it cannot be used", account=usable.id)
                return False
            previous = secrets.get("previous_auth_token", "")
            base = self._settings.twilio.api_base if self._settings.twilio is not None else None
            twilio = TwilioAccount(
                account_sid=usable.address,
                auth_token=secrets.get("auth_token", ""),
                api_key_sid=str(usable.settings.get("api_key_sid", "")),
                api_key_secret=secrets.get("api_key_secret", ""),
                app_sid=str(usable.settings.get("app_sid", "")) or None,
                messaging_service_sid=str(usable.settings.get("messaging_service_sid", "")) or None,
                api_base=base,
            )
        self._provider_row, self._previous_token, self.twilio = known, previous, twilio
        self._old += [self._built.pop(kind) for kind in PROVIDER_KINDS if kind in self._built]
        return True

    def off(self) -> dict[str, str]:
        """Channels that are off, and why; a provider account entered on screen switches calls and texts on."""
        reasons = dict(self._settings.channels_off)
        if self.provider_from_row:
            for kind in PROVIDER_KINDS:
                reasons.pop(kind, None)
            if self.twilio is not None and not (self.twilio.api_key_sid and self.twilio.app_sid):
                reasons["voice"] = "Agents' phones need the API key and the TwiML App of the provider account."
        return reasons

    def voice(self) -> Any:
        """Calls: webhooks in, call control out."""
        return self._shared("voice")

    def sms(self) -> Any:
        """Text messages: webhooks in, messages out."""
        return self._shared("sms")

    def webform(self) -> Any:
        """Web forms in."""
        return self._shared("webform")

    def mail(self, account: ChannelAccount) -> Any:
        """One mailbox: polled in, sent out. Built anew when its row has changed. A row without servers of its own uses
        those of the environment."""
        name = f"email:{account.id}:{account.version}"
        if name not in self._built:
            secrets = self.secrets(account)
            if not secrets and not account.settings.get("imap_url") and not account.settings.get("smtp_url"):
                secrets = {"imap_url": self._settings.imap_url or "", "smtp_url": self._settings.smtp_url or ""}
            self._built[name] = registry.build(
                AccountConfig(
                    "email", account.address, account.settings, secrets, self._settings.public_url,
                    peer_allowed=self._peer_allowed, vault=self.vault_of(account.id) if self.vault_of else None,
                )
            )  # fmt: skip
            self._built[name].share(self.mail_pool)
        return self._built[name]

    @property
    def mail_pool(self) -> MailPool:
        """The child processes that look into mails: one pool for all mailboxes of this process, started when first needed."""
        if self._mail_pool is None:
            self._mail_pool = MailPool()
        return self._mail_pool

    def _peer_allowed(self, host: str, address: str) -> bool:
        rule = peer_rule(self._settings, host)
        return rule is None or rule(address)

    def can_send(self, account: ChannelAccount) -> bool:
        """True when the mailbox has a server to send by."""
        own = self.secrets(account) or {
            name: str(account.settings.get(name) or "") for name in ("imap_url", "smtp_url")
        }
        return bool(own.get("smtp_url") if any(own.values()) else self._settings.smtp_url)

    def secrets(self, account: ChannelAccount) -> dict[str, str]:
        """What is sealed in an account's row; Unsealable under another key."""
        if account.sealed is None:
            return {}
        opened: dict[str, str] = json.loads(self.sealer.unseal(account.sealed, purpose=ACCOUNT_SECRETS))
        return opened

    def seal(self, secrets: Mapping[str, str]) -> str:
        """For an account's row."""
        return self.sealer.seal(json.dumps(dict(secrets)), purpose=ACCOUNT_SECRETS)

    def _shared(self, kind: str) -> Any:
        if kind not in self._built:
            off = self._settings.channels_off.get(kind)
            if off and not (self.provider_from_row and kind in PROVIDER_KINDS):
                raise Misconfigured(off)
            self._built[kind] = registry.build(self._provider(kind))
        return self._built[kind]

    def _provider(self, kind: str) -> AccountConfig:
        twilio = self.twilio
        if kind == "webform":
            return AccountConfig(kind, "", public_url=self._settings.public_url)
        if twilio is None:
            raise Misconfigured("Twilio is not configured.")
        open_settings = {
            "account_sid": twilio.account_sid,
            "api_key_sid": twilio.api_key_sid,
            "app_sid": twilio.app_sid or "",
            "messaging_service_sid": twilio.messaging_service_sid or "",
        }
        if twilio.api_base:
            open_settings["api_base"] = twilio.api_base
        secrets = {
            "auth_token": twilio.auth_token,
            "previous_auth_token": self._previous_token,
            "api_key_secret": twilio.api_key_secret,
        }
        return AccountConfig(
            kind, "", open_settings, secrets, self._settings.public_url, peer_allowed=self._peer_allowed
        )

    async def close(self) -> None:
        """Close what adapters keep open."""
        for adapter in [*self._built.values(), *self._old]:
            close = getattr(adapter, "close", None)
            if close is not None:
                await close()
        pool, self._mail_pool = self._mail_pool, None
        if pool is not None:
            await pool.close()
