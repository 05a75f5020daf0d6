"""The phone's sounds, synthesised: ring, dial tone, hang-up, the twelve keys and what callers hear on hold, as WAV files.

The Voice JS SDK fetches fifteen sounds from Twilio's servers unless each has an address of ours, and the content
security policy lets the desktop reach nothing foreign. `python -m hub.desktop.ring_tones` writes them again.
"""

from __future__ import annotations

import io
import math
import sys
import wave
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "static" / "phone" / "sounds"
RATE_HZ = 8000
_RAMP_S = 0.008  # fades each tone in and out: a tone that starts at full height clicks

# ITU-T Q.23: each key is the sum of its row's and its column's tone.
_ROWS_HZ = (697, 770, 852, 941)
_COLUMNS_HZ = (1209, 1336, 1477)
_KEYS = ("123", "456", "789", "s0h")

Tone = tuple[float, tuple[float, ...], float]
"""Length in seconds, frequencies in hertz sounding together (none: silence), loudness from 0 to 1."""


def samples(tones: Iterable[Tone]) -> Iterator[int]:
    """The tones one after another, as signed 16-bit samples at `RATE_HZ`."""
    for length_s, frequencies, loudness in tones:
        count = round(length_s * RATE_HZ)
        for index in range(count):
            ramp = min(1.0, index / (_RAMP_S * RATE_HZ), (count - 1 - index) / (_RAMP_S * RATE_HZ))
            waves = sum(math.sin(math.tau * frequency * index / RATE_HZ) for frequency in frequencies)
            yield round(32767 * loudness * ramp * waves / max(1, len(frequencies)))


def wav(tones: Iterable[Tone]) -> bytes:
    """The tones as a mono WAV file."""
    data = array("h", samples(tones))
    if sys.byteorder == "big":
        data.byteswap()
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(data.tobytes())
    return out.getvalue()


def sounds() -> dict[str, bytes]:
    """All fifteen sounds by the SDK's name for them."""
    ring: list[Tone] = [
        (0.16, (660.0,), 0.5),
        (0.16, (880.0,), 0.5),
        (0.16, (660.0,), 0.5),
        (0.16, (880.0,), 0.5),
        (1.36, (), 0.0),
    ]
    made = {
        "incoming": wav(ring),
        "outgoing": wav([(0.8, (425.0,), 0.25)]),
        "disconnect": wav([(0.1, (480.0,), 0.3), (0.1, (360.0,), 0.3)]),
    }
    for row_hz, keys in zip(_ROWS_HZ, _KEYS, strict=True):
        for column_hz, key in zip(_COLUMNS_HZ, keys, strict=True):
            made[f"dtmf{key}"] = wav([(0.12, (float(row_hz), float(column_hz)), 0.4)])
    return made


def hold_music() -> bytes:
    """Eight quiet seconds of broken chords. Nobody's work, so nobody's licence; the waiting loop plays it again."""
    chords = ((261.6, 329.6, 392.0, 523.3), (220.0, 261.6, 329.6, 440.0), (174.6, 220.0, 261.6, 349.2),
              (196.0, 246.9, 293.7, 392.0))  # fmt: skip
    steps = (0, 1, 2, 3, 2, 1, 2, 1)
    return wav([(0.25, (chord[0] / 2, chord[step]), 0.18) for chord in chords for step in steps])


def files() -> dict[str, bytes]:
    """Every file by its name without the ending: the browser's sounds, and `hold` for the provider to play to callers."""
    return {**sounds(), "hold": hold_music()}


def main() -> None:
    """Writes the files into the desktop's static folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in files().items():
        (FOLDER / f"{name}.wav").write_bytes(data)


if __name__ == "__main__":
    main()
