"""The phone's sounds are our own, complete and small."""

from __future__ import annotations

import io
import re
import wave

from hub.desktop.ring_tones import FOLDER, files, hold_music, sounds
from tests.browser.phone_rig import PHONE


def test_the_committed_files_are_what_the_synthesis_makes() -> None:
    assert {path.stem: path.read_bytes() for path in FOLDER.glob("*.wav")} == files()


def test_every_sound_that_the_sdk_would_fetch_has_a_file_of_ours() -> None:
    listed = re.search(r"const SOUNDS = \[(.*?)\]", (PHONE / "twilio_line.js").read_text(), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r'"(\w+)"', listed[1])) == set(sounds())


def test_they_are_under_100_kilobytes_together_and_never_clip() -> None:
    assert sum(map(len, sounds().values())) < 100_000
    assert len(hold_music()) < 130_000
    for data in files().values():
        with wave.open(io.BytesIO(data)) as file:
            frames = memoryview(file.readframes(file.getnframes())).cast("h")
        assert max(map(abs, frames)) < 32767
        assert abs(frames[0]) < 400
        assert abs(frames[-1]) < 400
