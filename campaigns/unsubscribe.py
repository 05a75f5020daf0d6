"""One-click unsubscribe (RFC 8058): a signed token per delivery. GET shows, POST acts, both answer alike for
unknown tokens. The URL path is `/u/{token}`; the routes are hub's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime

from campaigns import deliveries, reports
from crm_core import consent
from crm_core.consent import Purpose
from crm_core.db import Tx

_LABEL = b"hub unsubscribe v1:"
_SIGNATURE_BYTES = 20  # 160 bits


def _sign(secret: str, delivery_id: str) -> str:
    digest = hmac.digest(secret.encode(), _LABEL + delivery_id.encode(), hashlib.sha256)[:_SIGNATURE_BYTES]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def token(secret: str, delivery_id: str) -> str:
    """The token of one recipient of one campaign."""
    return f"{delivery_id}.{_sign(secret, delivery_id)}"


def read(secret: str, written: str) -> str | None:
    """The delivery a token names; None when we did not sign it. Constant time in the signature."""
    delivery_id, dot, signature = written.partition(".")
    if not dot or len(written) > 100 or not written.isascii():
        return None
    return delivery_id if hmac.compare_digest(_sign(secret, delivery_id), signature) else None


def link(public_url: str, secret: str, delivery_id: str) -> str:
    """The address that unsubscribes this recipient."""
    return f"{public_url.rstrip('/')}/u/{token(secret, delivery_id)}"


def headers(url: str) -> dict[str, str]:
    """The two headers of RFC 8058, section 3.1."""
    return {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


async def unsubscribe(
    tx: Tx, delivery_id: str | None, *, now: datetime, remote: str = "", browser: str = "", source: str = "one_click"
) -> bool:
    """For POST: no more marketing to this address, by any campaign, at once. True the first time; repeats change nothing."""
    row = await deliveries.find(tx, delivery_id) if delivery_id else None
    if row is None:
        return False
    if not await reports.count_opt_out(tx, row, now=now):
        return False
    evidence = {"campaign": row.campaign_id, "delivery": row.id, "remote": remote[:100], "browser": browser[:200]}
    await consent.opt_out(
        tx, row.address, purpose=Purpose.MARKETING, source=source, evidence=evidence, actor="recipient", now=now,
        contact_id=row.contact_id,
    )  # fmt: skip
    return True
