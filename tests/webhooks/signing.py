"""Signs requests as Twilio does, on its own: it shares no code with channels/."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

from channels.contract import RawRequest

ACCOUNT = "AC" + "0" * 32
TOKEN = "x" * 32
ORIGIN = "https://hub.example.test"


def call_id(number: int) -> str:
    """A CallSid."""
    return f"CA{number:032x}"


def signature(url: str, fields: Mapping[str, str], token: str = TOKEN) -> str:
    """X-Twilio-Signature of a form."""
    text = url + "".join(name + fields[name] for name in sorted(fields))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def signed_headers(path: str, fields: Mapping[str, str], **extra: str) -> dict[str, str]:
    """Headers of a signed form to `path`."""
    return {
        "content-type": "application/x-www-form-urlencoded",
        "x-twilio-signature": signature(ORIGIN + path, fields),
        **{name.replace("_", "-"): value for name, value in extra.items()},
    }


def signed(path: str, fields: Mapping[str, str], now: datetime, **extra: str) -> RawRequest:
    """A signed request."""
    headers = signed_headers(path, fields, **extra)
    return RawRequest(ORIGIN + path, "POST", headers, urlencode(fields).encode(), now)


def call_fields(number: int, *, caller: str = "+12025550101", to: str = "+442079460000", **more: str) -> dict[str, str]:
    """What Twilio says when a call comes in."""
    return {
        "CallSid": call_id(number), "AccountSid": ACCOUNT, "From": caller, "Caller": caller, "To": to, "Called": to,
        "CallStatus": "ringing", "Direction": "inbound", "ApiVersion": "2010-04-01", "CallerCountry": "US",
        "FromCity": "", "FromState": "DC", "FromZip": "", "FromCountry": "US", "ToCity": "", "ToState": "London",
        "ToZip": "", "ToCountry": "GB", **more,
    }  # fmt: skip
