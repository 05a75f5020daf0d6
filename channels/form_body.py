"""A posted form taken apart, once: the signature, the receipt's key and the fields all want the same pairs."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

MAX_FIELDS = 500

Pairs = tuple[tuple[str, str], ...]


@lru_cache(maxsize=64)
def split_form(body: bytes) -> tuple[Pairs, bool]:
    """Names and values in their order, and whether every piece had both. ValueError: not UTF-8, or over 500 fields.

    The same as `urllib.parse.parse_qsl` with blank values kept. Bodies of the requests in progress are remembered, because
    each is read three times on its way.
    """
    text = body.decode("utf-8")
    if not text:
        return (), True
    pieces = text.split("&")
    if len(pieces) > MAX_FIELDS:
        raise ValueError("too many fields")
    whole = True
    pairs = []
    for piece in pieces:
        name, equals, value = piece.partition("=")
        whole = whole and bool(equals)
        if piece:
            pairs.append((_plain(name), _plain(value)))
    return tuple(pairs), whole


def _plain(text: str) -> str:
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="strict") if "%" in text else text
