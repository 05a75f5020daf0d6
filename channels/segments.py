"""How many text messages a text costs: GSM-7 or UCS-2, units and parts. Shown before sending, and counted by campaigns.

Sources: 3GPP TS 23.038 (alphabet and extension table), TS 23.040 (concatenation header of 6 octets); Twilio, "What the
heck is a segment?", copy seen 2026-11-21.
"""

from __future__ import annotations

from dataclasses import dataclass

GSM7_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM7_EXTENSION = frozenset("\f^{}\\[~]|€")  # escape and character: two units
SINGLE = {"GSM-7": 160, "UCS-2": 70}
PART = {"GSM-7": 153, "UCS-2": 67}


@dataclass(frozen=True, slots=True)
class Segments:
    """`units` are septets (GSM-7) or UTF-16 code units (UCS-2); `per_part` fit into each of `parts`."""

    encoding: str
    units: int
    parts: int
    per_part: int


def segments(text: str) -> Segments:
    """What this text costs. A character that takes two units never straddles two parts, so parts may not be full."""
    gsm = all(char in GSM7_BASIC or char in GSM7_EXTENSION for char in text)
    encoding = "GSM-7" if gsm else "UCS-2"
    sizes = [2 if (char in GSM7_EXTENSION if gsm else ord(char) > 0xFFFF) else 1 for char in text]
    units = sum(sizes)
    if units <= SINGLE[encoding]:
        return Segments(encoding, units, 1 if text else 0, SINGLE[encoding])
    per_part, parts, filled = PART[encoding], 1, 0
    for size in sizes:
        if filled + size > per_part:
            parts, filled = parts + 1, 0
        filled += size
    return Segments(encoding, units, parts, per_part)


# Typographic characters, and what says the same in GSM-7: one of them makes a text more than twice as dear. The composer's
# static/segments.js has the same table; tests/fixtures/segments.json holds both to it.
PLAIN = {
    **dict.fromkeys("‘’‚‛′`´‹›", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    "…": "...", "•": "*", "·": ".", "×": "x", "⁄": "/", "™": "(TM)", "®": "(R)", "©": "(C)",
    **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\t", " "),
    **dict.fromkeys("\u200b\u200c\u2060\ufeff\u00ad", ""),
}  # fmt: skip
_PLAIN = str.maketrans(PLAIN)


def plain(text: str) -> str:
    """The text with typographic characters replaced by those of the cheap alphabet; letters and emoji stay as they are."""
    return text.translate(_PLAIN)
