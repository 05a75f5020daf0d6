"""Reading a mailbox: order, confirmation, and every way in which a server may let us down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from channels.contract import AccountConfig, MailArrived, MailUnreadable
from channels.email import EmailChannel, EmailSettings, batches, build
from channels.errors import AnswerUnreadable, ChannelError, Misconfigured, Unavailable
from channels.imap import ImapSettings, Mailbox, folder_name
from channels.mail_pool import MailPool
from hub.tasks import end_tasks
from tests.channels import wire
from tests.channels.wire import letter

PASSWORD = "canary-mailbox-password"


def channel(server: wire.ImapWire, *, step_s: float = 20.0, idle_s: float = 20.0, **more) -> EmailChannel:
    imap = ImapSettings(
        "127.0.0.1", server.port, "support@example.test", PASSWORD, "none", step_s=step_s, idle_s=idle_s
    )
    return EmailChannel(EmailSettings("support@example.test", imap=imap, **more), pool=MailPool(size=1))


async def drained(mailbox: EmailChannel, cursor=None) -> list:
    found = [one async for one in mailbox.drain(cursor or {})]
    await mailbox.close()
    return found


async def test_mails_in_order_each_with_its_cursor():
    async with wire.imap_wire(*(letter(f"n{n}") for n in range(1, 8))) as server:
        found = await drained(channel(server))
        assert [mail.subject for mail, _ in found] == [f"n{n}" for n in range(1, 8)]
        assert [cursor for _, cursor in found] == [{"uidvalidity": 7, "last_uid": n} for n in range(1, 8)]
        assert found[0][0].event_key == "mail:support@example.test:INBOX:7:1"
        assert found[0][0].raw == letter("n1")
        assert server.seen == set(range(1, 8))
        assert not any("BODY[" in line and "PEEK" not in line for line in server.lines), "reading marks nothing"


async def test_the_cursor_goes_on_where_it_was():
    async with wire.imap_wire(letter("a"), letter("b")) as server:
        assert [mail.subject for mail, _ in await drained(channel(server), {"uidvalidity": 7, "last_uid": 1})] == ["b"]
        assert await drained(channel(server), {"uidvalidity": 7, "last_uid": 2}) == []
        assert server.seen == {2}


async def test_of_a_new_mailbox_only_the_last_days_are_work():
    async with wire.imap_wire(*(letter(f"n{n}") for n in range(1, 6))) as server:
        server.old = {1, 2, 3}
        assert [mail.subject for mail, _ in await drained(channel(server, backlog_days=7))] == ["n4", "n5"]
        assert any("SINCE" in line for line in server.lines)
        server.old = {1, 2, 3, 4, 5}
        assert await drained(channel(server, backlog_days=7)) == []
        # Once read, the cursor alone counts, and a change of UIDVALIDITY asks for all: what is known is told by its hash.
        known = await drained(channel(server, backlog_days=7), {"uidvalidity": 7, "last_uid": 4})
        assert [mail.subject for mail, _ in known] == ["n5"]
        assert len(await drained(channel(server, backlog_days=7), {"uidvalidity": 6, "last_uid": 99})) == 5
        assert len(await drained(channel(server))) == 5


@pytest.mark.parametrize("old", [set(), {1, 2}])
async def test_a_mail_that_comes_during_the_first_look_is_not_taken_for_an_old_one(old):
    async with wire.imap_wire(*(letter(f"n{uid}") for uid in old)) as server:
        server.old, server.between = old, [letter("new")]
        assert [mail.subject for mail, _ in await drained(channel(server, backlog_days=7))] == ["new"]


async def test_the_place_behind_which_reading_begins_is_told_before_the_first_mail_comes():
    places = []

    async def begun(place):
        places.append(dict(place))

    async with wire.imap_wire(letter("a"), letter("b")) as server:
        server.old = {1, 2}
        for cursor, last, portions_here in (({}, 2, 0), ({"uidvalidity": 7, "last_uid": 1}, 1, 1)):
            mailbox = channel(server, backlog_days=0)
            async with contextlib.aclosing(mailbox.portions(cursor, stay=False, begun=begun)) as portions:
                assert len([portion async for portion in portions]) == portions_here
            await mailbox.close()
            assert places == [{"uidvalidity": 7, "last_uid": last}]
            places.clear()


@pytest.mark.parametrize(("given", "days"), [({}, 7), ({"backlog_days": 0}, 0), ({"backlog_days": "all"}, None)])
def test_how_far_back_a_new_mailbox_is_read(given, days):
    config = AccountConfig("email", "a@example.test", given, {"imap_url": "imaps://a:b@mail.example.com"})
    assert build(config).settings.backlog_days == days
    for wrong in ("soon", -1, True, 1.5):
        with pytest.raises(Misconfigured):
            build(AccountConfig("email", "a@example.test", {"backlog_days": wrong}, config.secrets))


async def test_a_new_uidvalidity_starts_again_under_new_keys():
    async with wire.imap_wire(letter("a")) as server:
        [(mail, cursor)] = await drained(channel(server), {"uidvalidity": 6, "last_uid": 99})
        assert mail.event_key.endswith(":7:1")
        assert cursor == {"uidvalidity": 7, "last_uid": 1}


async def test_what_was_not_committed_is_not_marked_and_comes_again():
    async with wire.imap_wire(letter("a"), letter("b"), letter("c")) as server:
        mailbox = channel(server)
        async with contextlib.aclosing(mailbox.drain({})) as mails:
            _, committed = await anext(mails)
            await anext(mails)  # and now the commit of the second one fails
        await mailbox.close()
        assert server.seen == set()
        assert [mail.subject for mail, _ in await drained(channel(server), committed)] == ["b", "c"]


async def test_poison_is_handed_on_and_the_rest_follows():
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (n, n) for n in range(1000))
    async with wire.imap_wire(letter("a"), nested, b"", letter("b")) as server:
        found = [mail for mail, _ in await drained(channel(server))]
        assert [type(one) for one in found] == [MailArrived, MailUnreadable, MailArrived, MailArrived]
        assert found[1].raw == nested
        assert found[3].subject == "b"


async def test_a_mail_over_the_limit_is_not_fetched():
    async with wire.imap_wire(letter("a"), b"X-Huge: 1\r\n\r\n" + b"x" * 100_000, letter("b")) as server:
        found = [mail for mail, _ in await drained(channel(server))]
        assert [type(one) for one in found] == [MailArrived, MailUnreadable, MailArrived]
        assert found[1].size > 25 * 2**20
        assert len(found[1].raw) == 65536
        assert "25 MiB" in found[1].reason
        assert not any(uid == 2 and "<0." not in what for uid, what in server.fetched)


async def test_mail_of_our_own_is_never_answered_by_itself():
    async with wire.imap_wire(
        letter("a", From="support@example.test"), letter("b", From="Sales@example.test")
    ) as server:
        mailbox = channel(server, own_addresses=frozenset({"sales@example.test"}))
        assert [mail.automatic for mail, _ in await drained(mailbox)] == ["own", "own"]


async def test_a_long_backlog_comes_in_bounded_portions():
    async with wire.imap_wire(*(letter(f"n{n}") for n in range(450))) as server:
        found = await drained(channel(server, step_s=10))
        assert len(found) == 450
        fetches = [line for line in server.lines if line.startswith("UID FETCH")]
        assert max(line.split()[2].count(",") + 1 for line in fetches if "SIZE" in line) <= 200
        assert max(line.split()[2].count(",") + 1 for line in fetches if "BODY" in line) <= 50


def test_batches():
    mib = 2**20
    assert batches({}) == []
    assert batches({3: 1, 1: 1}) == [{1: 1, 3: 1}]
    assert [list(one) for one in batches({1: 3 * mib, 2: 2 * mib, 3: 30 * mib, 4: 1})] == [[1], [2], [3], [4]]


async def test_new_mail_is_pushed_during_idle():
    async with wire.imap_wire(letter("a")) as server:
        mailbox = channel(server, step_s=5)
        mails = mailbox.poll({})
        assert (await anext(mails))[0].subject == "a"
        waiting = asyncio.ensure_future(anext(mails))
        await asyncio.wait_for(server.idling.wait(), 20)
        assert server.seen == {1}, "asking for the next one confirms"
        server.deliver(letter("b"))
        started = time.monotonic()
        assert (await asyncio.wait_for(waiting, 20))[0].subject == "b"
        assert time.monotonic() - started < 15
        await mails.aclose()
        await mailbox.close()


async def test_a_push_that_never_comes_is_made_up_for_by_looking():
    async with wire.imap_wire() as server:
        mailbox = channel(server, step_s=3, idle_s=0.3)
        mails = mailbox.poll({})
        waiting = asyncio.ensure_future(anext(mails))
        await asyncio.wait_for(server.idling.wait(), 20)
        server.mails[1] = letter("silent")  # no EXISTS is sent
        assert (await asyncio.wait_for(waiting, 10))[0].subject == "silent"
        await mails.aclose()
        await mailbox.close()


@pytest.mark.parametrize("tells", ["in the answer", "at idle", "never"])
async def test_a_mail_that_slips_in_between_the_last_look_and_idle_does_not_wait(tells):
    """The next look by the clock is an hour away: only the ways meant for the gap can find it."""
    async with wire.imap_wire(letter("first")) as server:
        mailbox = channel(server, step_s=30, idle_s=3600)
        mails = mailbox.poll({})
        assert (await anext(mails))[0].subject == "first"
        server.tells, server.between = tells, [letter("gap 1"), letter("gap 2")]
        async with asyncio.timeout(60):
            assert [(await anext(mails))[0].subject for _ in range(2)] == ["gap 1", "gap 2"]
        if tells == "in the answer":
            assert "IDLE" not in server.lines, "what was told is not waited for"
        await mails.aclose()
        await mailbox.close()


async def test_a_server_that_tells_of_mails_in_every_answer_does_not_keep_us_running():
    async with wire.imap_wire(letter("a")) as server:
        server.faults.add("always exists")
        mailbox = channel(server, step_s=30, idle_s=3600)
        mails = mailbox.poll({})
        await anext(mails)
        waiting = asyncio.ensure_future(anext(mails))
        async with asyncio.timeout(60):
            await server.idling.wait()
        assert sum("SEARCH" in line for line in server.lines) <= 4
        await end_tasks([waiting])
        await mailbox.close()


async def test_a_server_without_idle_is_asked_again_and_again():
    async with wire.imap_wire() as server:
        server.faults.add("no idle")
        mailbox = channel(server, idle_s=0.1)
        mails = mailbox.poll({})
        waiting = asyncio.ensure_future(anext(mails))
        server.mails[1] = letter("late")
        assert (await asyncio.wait_for(waiting, 20))[0].subject == "late"
        await mails.aclose()
        await mailbox.close()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("no greeting", Unavailable),
        ("login", Misconfigured),
        ("folder", Misconfigured),
        ("hang in search", Unavailable),
        ("cut in fetch", Unavailable),
        ("bye at idle", Unavailable),
        ("cut at idle", Unavailable),
        ("cut in idle", Unavailable),
        ("flood", None),
    ],
)
async def test_whatever_the_server_does_it_ends_in_time(fault, error, caplog):
    caplog.set_level(logging.DEBUG)
    async with wire.imap_wire(letter("canary-subject", "canary-body")) as server:
        server.faults.add(fault)
        hangs = fault in ("no greeting", "hang in search", "bye at idle", "flood")
        mailbox = channel(server, step_s=1.0 if hangs else 20.0, idle_s=1.0)
        started = time.monotonic()

        async def read_on() -> None:
            async for _ in mailbox.poll({}):
                pass

        with pytest.raises((ChannelError, TimeoutError)) as caught:
            await asyncio.wait_for(read_on(), 25)
        assert time.monotonic() - started < 24
        if error is not None:
            assert type(caught.value) is error
        server.faults.clear()
        assert [mail.subject for mail, _ in await drained(channel(server))] == ["canary-subject"]
        await mailbox.close()
    words = caplog.text + repr(caught.value) + repr(mailbox.settings)
    for secret in (PASSWORD, "canary-body", "canary-subject"):
        assert secret not in words


async def test_nobody_listens():
    async with wire.imap_wire() as server:
        port = server.port
    mailbox = Mailbox(ImapSettings("127.0.0.1", port, "u", "p", "none", step_s=2))
    with pytest.raises(Unavailable):
        await mailbox.open()
    await mailbox.close()


async def test_a_server_that_numbers_nothing():
    async with wire.imap_wire() as server:
        server.uidvalidity = ""  # type: ignore[assignment]
        with pytest.raises(AnswerUnreadable):
            await drained(channel(server))


async def test_a_password_does_not_travel_in_the_clear():
    with pytest.raises(Misconfigured):
        await Mailbox(ImapSettings("mail.example.test", 143, "u", "p", "none")).open()
    for user, password in (("u\r\nx", "p"), ("u", "p\x00")):
        with pytest.raises(Misconfigured):
            await Mailbox(ImapSettings("127.0.0.1", 1, user, password, "none")).open()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("INBOX", '"INBOX"'),
        ("Sent Mail", '"Sent Mail"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("R&D", '"R&-D"'),
        ("Entwürfe", '"Entw&APw-rfe"'),
        ("台北", '"&U,BTFw-"'),
    ],
)
def test_folder_names(name, sent):
    assert folder_name(name) == sent


@pytest.mark.parametrize("name", ["", "a\r\nA1 LOGOUT", "a\x00"])
def test_folder_names_that_are_refused(name):
    with pytest.raises(Misconfigured):
        folder_name(name)
