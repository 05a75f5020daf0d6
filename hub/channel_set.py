"""The channel adapters of this process, built from the settings and from the accounts' rows when first asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from channels import registry
from channels.contract import AccountConfig
from channels.errors import Misconfigured
from crm_core.accounts import ChannelAccount
from hub.sealing import Sealer
from hub.settings import Settings

ACCOUNT_SECRETS = "channel-account"


class ChannelSet:
    """One adapter per kind, and one per mailbox. Misconfigured, with the reason, for a channel that is off."""

    def __init__(self, settings: Settings, sealer: Sealer) -> None:
        self._settings = settings
        self._sealer = sealer
        self._built: dict[str, Any] = {}

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
                AccountConfig("email", account.address, account.settings, secrets, self._settings.public_url)
            )
        return self._built[name]

    def secrets(self, account: ChannelAccount) -> dict[str, str]:
        """What is sealed in an account's row; Unsealable under another key."""
        if account.sealed is None:
            return {}
        opened: dict[str, str] = json.loads(self._sealer.unseal(account.sealed, purpose=ACCOUNT_SECRETS))
        return opened

    def seal(self, secrets: Mapping[str, str]) -> str:
        """For an account's row."""
        return self._sealer.seal(json.dumps(dict(secrets)), purpose=ACCOUNT_SECRETS)

    def _shared(self, kind: str) -> Any:
        if kind not in self._built:
            off = self._settings.channels_off.get(kind)
            if off:
                raise Misconfigured(off)
            self._built[kind] = registry.build(self._provider(kind))
        return self._built[kind]

    def _provider(self, kind: str) -> AccountConfig:
        twilio = self._settings.twilio
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
        secrets = {"auth_token": twilio.auth_token, "api_key_secret": twilio.api_key_secret}
        return AccountConfig(kind, "", open_settings, secrets, self._settings.public_url)

    async def close(self) -> None:
        """Close what adapters keep open."""
        for adapter in self._built.values():
            close = getattr(adapter, "close", None)
            if close is not None:
                await close()
