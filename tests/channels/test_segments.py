"""Segment counting by table."""

from __future__ import annotations

import pytest

from channels.segments import segments


@pytest.mark.parametrize(
    ("text", "encoding", "units", "parts"),
    [
        ("", "GSM-7", 0, 0),
        ("a", "GSM-7", 1, 1),
        ("a" * 160, "GSM-7", 160, 1),
        ("a" * 161, "GSM-7", 161, 2),
        ("a" * 306, "GSM-7", 306, 2),
        ("a" * 307, "GSM-7", 307, 3),
        ("€" * 80, "GSM-7", 160, 1),
        ("€" * 81, "GSM-7", 162, 2),
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3),  # the pair does not straddle: 152, then 2 + 151, then 1
        ("[{~|^}]\\", "GSM-7", 16, 1),
        ("Grüße Ñandú", "UCS-2", 11, 1),  # ú is not in GSM-7
        ("ñäöüàÇ", "GSM-7", 6, 1),
        ("ç", "UCS-2", 1, 1),
        ("你" * 70, "UCS-2", 70, 1),
        ("你" * 71, "UCS-2", 71, 2),
        ("🎉" * 35, "UCS-2", 70, 1),
        ("🎉" * 36, "UCS-2", 72, 2),
        ("你" * 66 + "🎉" + "你" * 66, "UCS-2", 134, 3),  # the surrogate pair moves to the second part
        ("a" * 69 + "“", "UCS-2", 70, 1),
    ],
)
def test_counts(text, encoding, units, parts):
    found = segments(text)
    assert (found.encoding, found.units, found.parts) == (encoding, units, parts)


def test_per_part():
    assert segments("a").per_part == 160
    assert segments("a" * 200).per_part == 153
    assert segments("你").per_part == 70
    assert segments("你" * 100).per_part == 67
