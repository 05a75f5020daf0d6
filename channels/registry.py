"""The one table of channels: kind -> build function. A new channel is a line here and a file beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from channels import email, sms, voice, webform
from channels.contract import AccountConfig, Channel
from channels.errors import Misconfigured

BUILDERS: Mapping[str, Callable[[AccountConfig], Channel]] = {
    "voice": voice.build,
    "sms": sms.build,
    "email": email.build,
    "webform": webform.build,
}


def build(config: AccountConfig) -> Channel:
    """The adapter of an account row. Misconfigured when the kind is unknown or the row lacks something."""
    maker = BUILDERS.get(config.kind)
    if maker is None:
        raise Misconfigured("There is no channel of this kind.", code="unknown_kind")
    return maker(config)
