"""Which machines the hub may connect to because somebody typed their name: public ones, and those the deployment names.

Looked at twice: when a name is given, for a clear sentence, and again with the address really connected, because a name can
point somewhere else a second later.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from crm_core.errors import Invalid
from hub.settings import Settings

HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_-]{1,63})*)?\.?|[0-9a-fA-F:.]{2,45}")
LOOK_UP_S = 5.0
NAT64, SIX_TO_FOUR = ip_network("64:ff9b::/96"), ip_network("2002::/16")


def is_public(address: str) -> bool:
    """True for an address of the open internet; those that hide an inner IPv4 address are judged by that one."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in NAT64:
            found = IPv4Address(int(found) & 0xFFFFFFFF)
        elif found in SIX_TO_FOUR:
            found = IPv4Address((int(found) >> 80) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast and not found.is_reserved


def peer_rule(settings: Settings, host: str) -> Callable[[str], bool] | None:
    """What may stand at the other end of a connection to `host`; None = anything, because the deployment names the host."""
    if host.lower().rstrip(".") in settings.internal_hosts:
        return None
    if settings.sandbox:
        return _is_loopback  # the sandbox talks to this machine and to nobody else
    return is_public


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


async def refuse_internal(settings: Settings, host: str, *, field: str) -> None:
    """Invalid, at `field`, when the name is none, is not found, or leads where this hub may not go."""
    if not HOST.fullmatch(host):
        raise Invalid(
            "This is not a server's name.", fields={field: "Write the server's name, such as mail.example.com."}
        )
    rule = peer_rule(settings, host)
    if rule is None:
        return
    try:
        async with asyncio.timeout(LOOK_UP_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise Invalid("This server is not found.", fields={field: "There is no server of this name."}) from error
    if not found or not all(rule(str(entry[4][0])) for entry in found):
        told = (
            "The sandbox talks to this machine only."
            if settings.sandbox
            else "This server is inside the hub's own network; HUB_INTERNAL_HOSTS does not name it."
        )
        raise Invalid("This server may not be used.", fields={field: told})
