"""The object store on a folder: random names, nothing half written, nothing outside the folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crm_core.clock import FixedClock
from hub.files import FileMissing, Files, FilesUnavailable


async def test_bytes_come_back_whole_and_in_pieces(tmp_path: Path, clock: FixedClock) -> None:
    files = Files(f"file://{tmp_path}/files")
    content = bytes(range(256)) * 4000
    key = await files.put(content, folder="mail", now=clock.now())
    assert key.startswith("mail/2026/11/18/")
    assert await files.get(key) == content
    assert b"".join([piece async for piece in files.stream(key)]) == content
    assert [path.name for path in tmp_path.rglob("*.part")] == []
    await files.delete(key)
    await files.delete(key)
    with pytest.raises(FileMissing):
        await files.get(key)


@pytest.mark.parametrize("key", ["../secret", "mail/../../etc/passwd", "", "mail/2026/11/18/short", "/etc/passwd"])
async def test_a_key_that_is_not_ours_finds_nothing(tmp_path: Path, key: str) -> None:
    with pytest.raises(FileMissing):
        await Files(f"file://{tmp_path}").get(key)


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, clock: FixedClock) -> None:
    (tmp_path / "files").write_text("a file where a folder should be")
    with pytest.raises(FilesUnavailable):
        await Files(f"file://{tmp_path}/files").put(b"x", folder="mail", now=clock.now())


async def test_what_comes_in_pieces_is_kept_whole_or_not_at_all(tmp_path: Path, clock: FixedClock) -> None:
    files = Files(f"file://{tmp_path}/files")

    async def pieces(*, fails: bool) -> AsyncIterator[bytes]:
        for number in range(5):
            yield bytes([number]) * 1000
        if fails:
            raise ConnectionError("cut short")

    key, size = await files.receive(pieces(fails=False), folder="recordings", now=clock.now())
    assert (size, len(await files.get(key))) == (5000, 5000)
    # An OSError of the source looks like one of the store; either way nothing is kept.
    with pytest.raises(FilesUnavailable):
        await files.receive(pieces(fails=True), folder="recordings", now=clock.now())
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


async def test_what_comes_together_is_flushed_file_by_file_and_its_folders_too(
    tmp_path: Path, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files = Files(f"file://{tmp_path}/files")
    contents = [("html" if number % 3 else "mail", b"%d" % number) for number in range(40)]
    keys = await files.put_all(contents, now=clock.now())
    assert [await files.get(key) for key in keys] == [content for _, content in contents]
    assert sorted(name for name in flushed if name.endswith(".part")) == sorted(
        f"/files/{key[:16]}.{key[16:]}.part" for key in keys
    )
    last = max(number for number, name in enumerate(flushed) if name.endswith(".part"))
    assert set(flushed[last + 1 :]) == {"/files/mail/2026/11/18", "/files/html/2026/11/18"}, (
        "the names, after the bytes"
    )
    assert {"/files", "/files/mail/2026/11"} <= set(flushed), "and the names of the folders made for them"
    with pytest.raises(ValueError, match="not a folder"):
        await files.put_all([("mail", b"x"), ("../etc", b"x")], now=clock.now())
