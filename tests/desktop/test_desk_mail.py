"""Answering by mail on the work screen: files, copies, drafts that outlive the tab, forwarding, and what the thread shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from sqlmodel import select

from channels.contract import MailArrived, OutboundMail, SendReceipt
from crm_core import consent, drafts, interactions, signatures
from crm_core.accounts import ChannelAccount
from crm_core.addresses import email
from crm_core.consent import SuppressionReason
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.ids import new_id
from crm_core.interactions import Attachment, Interaction, Note
from crm_core.touches import Direction, Touch
from crm_core.users import Role, User
from hub.executors import executors
from hub.media import media_of
from hub.relay import Relay
from hub.runtime import Runtime
from routing import desk, entries, router
from routing.queues import Queue, QueueMember
from routing.router import StoredFile
from tests.apps import Visitor, add_user

ANA, BOX, ALIAS = "ana@example.com", "support@example.test", "help@example.test"


@dataclass
class Thread:
    """A mail from Ana in Amy's hands."""

    runtime: Runtime
    visitor: Visitor
    amy: User
    id: str
    account: ChannelAccount

    @property
    def at(self) -> str:
        return f"/desk/work/{self.id}/mail"

    async def post(self, path: str, **form: str) -> tuple[int, str]:
        status, text = await self.visitor.ask(
            "POST", self.at + path, data=form, headers={"Accept": "text/html", "HX-Request": "true"}
        )
        return status, str(text)

    async def page(self, path: str = "") -> str:
        status, text = await self.visitor.ask("GET", f"/desk/work/{self.id}{path}", headers={"Accept": "text/html"})
        assert status == 200
        return str(text)

    async def upload(self, *files: tuple[str, bytes]) -> tuple[int, str]:
        form = aiohttp.FormData(quote_fields=False)  # as browsers do
        for name, content in files:
            form.add_field("file", content, filename=name, content_type="text/html")
        status, text = await self.visitor.ask("POST", f"{self.at}/files", data=form, headers={"Accept": "text/html"})
        return status, str(text)

    async def sent(self) -> Interaction:
        """Our latest mail."""
        return next(row for row in await self.mails() if row.direction == Direction.OUTBOUND)

    async def mails(self) -> list[Interaction]:
        """Theirs and ours, newest first."""
        async with self.runtime.db.reading() as tx:
            return list(await interactions.list_timeline(tx, conversation_id=self.id))

    async def draft_files(self) -> list[str]:
        async with self.runtime.db.reading() as tx:
            return [one.name for one in await drafts.list_files(tx, user_id=self.amy.id, conversation_id=self.id)]


class Line:
    """A mail channel that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[OutboundMail] = []

    async def send(self, message: OutboundMail) -> SendReceipt:
        self.mails.append(message)
        return SendReceipt(message.message_id, "sent")


async def arrive(runtime: Runtime, account: ChannelAccount, number: int, *files: StoredFile, **more: Any) -> None:
    given: dict[str, Any] = {
        "event_key": f"mail:box:INBOX:1:{number}", "message_id": f"<m{number}@example.com>", "from_address": ANA,
        "from_name": "Ana", "to": (ALIAS, "bob@example.com"), "cc": ("Carl@example.com", BOX), "reply_to": "",
        "subject": "Invoice", "sent_at": None, "in_reply_to": "", "references": (), "text": "Where is it?", "html": "",
        "files": (), "automatic": "", "headers": {}, "raw": b"raw",
    }  # fmt: skip
    event = MailArrived(**{**given, **more})
    await runtime.db.write(
        lambda tx: router.mail_arrived(tx, event, account=account, html_key="", files=files, now=runtime.clock.now())
    )


@pytest.fixture
async def thread(runtime: Runtime, visitor: Visitor) -> Thread:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()

    async def house(tx: Tx) -> ChannelAccount:
        queue = await tx.add(Queue(id=new_id(now), name="Support"))
        await tx.add(QueueMember(queue_id=queue.id, user_id=amy.id))
        await desk.set_activity(tx, amy.id, "available", now=now)
        return await tx.add(
            ChannelAccount(
                id=new_id(now), channel="email", name="Support", address=BOX, queue_id=queue.id, created_at=now,
                settings={"aliases": [ALIAS]},
            )
        )  # fmt: skip

    account = await runtime.db.write(house)
    key = await runtime.files.put(b"%PDF", folder="mail", now=now)
    await arrive(runtime, account, 1, StoredFile("bill.pdf", "application/pdf", 4, key))

    async def take(tx: Tx) -> str:
        conversation = await tx.one(select(Conversation))
        assert conversation is not None
        entry = await entries.find_open(tx, conversation.id)
        assert entry is not None
        await entries.take(tx, entry, await entries.agents.lock(tx, amy.id), now=now)
        return conversation.id

    found = await runtime.db.write(take)
    await visitor.log_in("amy")
    return Thread(runtime, visitor, amy, found, account)


async def relayed(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> list[OutboundMail]:
    """What goes over the wire when the outbox is executed."""
    runtime, line = thread.runtime, Line()
    monkeypatch.setattr(runtime.channels, "mail", lambda account: line)
    table = executors(runtime.channels, runtime.clock, media_of(runtime), runtime.files)
    await Relay(runtime.db, runtime.clock, runtime.wakeups, runtime.metrics, table).run_once("reply")
    return line.mails


async def test_an_answer_with_files_copies_and_signature(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    now = thread.runtime.clock.now()

    async def sign(tx: Tx) -> None:
        await signatures.keep(tx, thread.amy.id, "Amy", now=now)
        await signatures.keep(tx, thread.account.id, "Support, Example Ltd", now=now)

    await thread.runtime.db.write(sign)
    assert (await thread.upload(("one.txt", b"first"), ("zwei ä.pdf", b"second")))[0] == 200
    status, _ = await thread.post(
        "",
        body="Here it is.",
        subject="Your invoice",
        cc="Bob <bob@example.com>; carl@example.com",
        bcc="boss@example.test",
    )
    assert status == 200
    sent = await thread.sent()
    assert (sent.subject, sent.body, sent.from_address, sent.to_address) == ("Your invoice", "Here it is.", ALIAS, ANA)
    assert (sent.data["cc"], sent.data["bcc"]) == (["bob@example.com", "carl@example.com"], ["boss@example.test"])
    (mail,) = await relayed(thread, monkeypatch)
    assert [(one.name, one.content_type, one.content) for one in mail.files] == [
        ("one.txt", "text/plain", b"first"), ("zwei ä.pdf", "application/pdf", b"second"),
    ]  # fmt: skip
    assert (mail.from_address, mail.cc, mail.bcc) == (
        ALIAS, ["bob@example.com", "carl@example.com"], ["boss@example.test"],
    )  # fmt: skip
    assert mail.envelope_from == BOX
    assert mail.text.startswith("Here it is.\n\n-- \nAmy\n\nSupport, Example Ltd\n\nOn Wed, 18 Nov 2026")
    assert mail.text.endswith("Ana <ana@example.com> wrote:\n> Where is it?")
    assert (await thread.sent()).delivery == "sent"
    page = await thread.page("/timeline")
    for shown in ("one.txt", "zwei ä.pdf", "boss@example.test", "Signature and quoted text"):
        assert shown in page
    async with thread.runtime.db.reading() as tx:
        touched = await tx.all(select(Touch.value).where(Touch.direction == Direction.OUTBOUND))
        assert await drafts.find(tx, user_id=thread.amy.id, conversation_id=thread.id) is None
    assert sorted(touched) == [ANA, "bob@example.com", "boss@example.test", "carl@example.com"]
    assert await thread.draft_files() == []


async def test_a_draft_outlives_the_tab_with_copies_and_files(thread: Thread) -> None:
    await thread.post("/draft", body="Half a sent", subject="Other", cc="bob@example.com", bcc="")
    await thread.upload(("plan.txt", b"x"))
    page = await thread.page()
    for kept in ("Half a sent", 'value="Other"', 'value="bob@example.com"', "plan.txt"):
        assert kept in page
    await thread.post("/draft", body="", subject="", cc="", bcc="")
    assert "plan.txt" in await thread.page(), "a file stays until it is sent or taken away"


async def test_files_have_safe_names_and_a_limit(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = await thread.upload(("..\\..\\etc/<b>pass\u202ewd.html", b"x"))
    assert status == 200
    assert await thread.draft_files() == ["bpasswd.html"]
    assert "<b>pass" not in text
    monkeypatch.setattr(drafts, "MOST_BYTES", 10)
    status, text = await thread.upload(("fits.txt", b"123456789"), ("large.txt", b"12"))
    assert status == 422
    assert "large.txt" in text
    assert await thread.draft_files() == ["bpasswd.html", "fits.txt"]
    status, _ = await thread.upload(("empty.txt", b""))
    assert status == 422
    monkeypatch.setattr(drafts, "MOST_FILES", 2)
    monkeypatch.setattr(drafts, "MOST_BYTES", 1000)
    assert (await thread.upload(("third.txt", b"x")))[0] == 422


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/etc/passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt"),
        ("..", "file"),
        ("", "file"),
        ("a\r\nBcc: x@example.com.txt", "aBcc x@example.com.txt"),
        ("in\u202efdp.exe", "infdp.exe"),
        ("nul\x00.txt", "nul.txt"),
        ("x" * 300 + ".pdf", "x" * 116 + ".pdf"),
        ("Müller & Söhne (1).pdf", "Müller & Söhne (1).pdf"),
    ],
)
def test_names_of_files(given: str, kept: str) -> None:
    assert drafts.safe_name(given) == kept


async def test_a_file_is_taken_away_again_and_only_ones_own(thread: Thread, runtime: Runtime, visitor: Visitor) -> None:
    _, text = await thread.upload(("one.txt", b"x"))
    (path,) = re.findall(r'hx-post="(/desk/work/[^"]+/remove)"', text)
    async with runtime.db.reading() as tx:
        key = (await drafts.list_files(tx, user_id=thread.amy.id, conversation_id=thread.id))[0].file_key
    await add_user(runtime, "sue", [Role.SUPERVISOR, Role.AGENT])
    await visitor.log_in("sue")
    assert (await visitor.ask("POST", path))[0] == 404
    await visitor.log_in("amy")
    assert (await visitor.ask("POST", path))[0] == 200
    assert await thread.draft_files() == []
    assert (await visitor.ask("POST", path))[0] == 404
    from hub.files import FileMissing

    with pytest.raises(FileMissing):
        await runtime.files.get(key)


async def test_nothing_typed_is_lost_when_a_copy_is_refused(thread: Thread, runtime: Runtime) -> None:
    status, text = await thread.post("", body="Here.", subject="S", cc="no address", bcc="")
    assert status == 422
    assert "no address" in text
    assert "Here." in text
    now = runtime.clock.now()
    await runtime.db.write(
        lambda tx: consent.opt_out(
            tx,
            email("bob@example.com"),
            reason=SuppressionReason.DEAD,
            source="provider",
            evidence={},
            actor="x",
            now=now,
        )
    )
    await thread.upload(("one.txt", b"x"))
    status, text = await thread.post("", body="Here.", subject="S", cc="bob@example.com", bcc="")
    assert status == 422
    assert "bob@example.com: " in text
    assert await thread.draft_files() == ["one.txt"]
    async with runtime.db.reading() as tx:
        rows = await interactions.list_timeline(tx, conversation_id=thread.id)
    assert [row.direction for row in rows] == [Direction.INBOUND], "all or nobody"


async def test_a_file_alone_is_an_answer_and_nothing_is_none(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await thread.post("", body="  ", subject="", cc="", bcc=""))[0] == 422
    await thread.upload(("one.txt", b"x"))
    assert (await thread.post("", body="", subject="", cc="", bcc=""))[0] == 200
    (mail,) = await relayed(thread, monkeypatch)
    assert [one.name for one in mail.files] == ["one.txt"]
    assert mail.subject == "Re: Invoice"


async def test_a_file_that_left_the_store_stops_the_mail(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    await thread.upload(("one.txt", b"x"))
    await thread.post("", body="See there.", subject="", cc="", bcc="")
    sent = await thread.sent()
    async with thread.runtime.db.reading() as tx:
        row = await tx.one(select(Attachment).where(Attachment.interaction_id == sent.id))
    assert row is not None
    await thread.runtime.files.delete(row.file_key)
    assert await relayed(thread, monkeypatch) == []
    sent = await thread.sent()
    assert sent.delivery == "failed"
    assert "not in the store" in sent.delivery_error


async def test_a_copy_that_was_stopped_meanwhile_holds_the_mail_back(
    thread: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    await thread.post("", body="Here.", subject="", cc="bob@example.com", bcc="")
    now = thread.runtime.clock.now()
    await thread.runtime.db.write(
        lambda tx: consent.opt_out(
            tx,
            email("bob@example.com"),
            reason=SuppressionReason.DEAD,
            source="provider",
            evidence={},
            actor="x",
            now=now,
        )
    )
    assert await relayed(thread, monkeypatch) == []
    assert (await thread.sent()).delivery == "failed"


async def test_answering_all_leaves_ourselves_out(thread: Thread) -> None:
    assert "bob@example.com, carl@example.com" in await thread.page(), "offered, not done"
    status, text = await thread.post("/all", body="Typed already", subject="", cc="dan@example.com", bcc="")
    assert status == 200
    assert 'value="dan@example.com, bob@example.com, carl@example.com"' in text
    assert "Typed already" in text


async def test_the_sender_is_one_of_the_mailboxs_addresses(thread: Thread) -> None:
    status, text = await thread.post("", body="x", subject="", cc="", bcc="", sender="boss@example.com")
    assert status == 422
    assert "cannot write from that address" in text
    assert (await thread.post("", body="x", subject="", cc="", bcc="", sender=BOX))[0] == 200
    assert (await thread.sent()).from_address == BOX


async def test_a_mail_is_sent_on_with_its_files(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    async with thread.runtime.db.reading() as tx:
        (original,) = await interactions.list_timeline(tx, conversation_id=thread.id)
    form = await thread.page(f"/mail/forward?mail={original.id}")
    assert "bill.pdf" in form
    status, text = await thread.post("/forward", mail=original.id, to="nobody", body="Look.")
    assert status == 422
    assert "Look." in text
    status, _ = await thread.post("/forward", mail=original.id, to="lee@example.com", body="Look.")
    assert status == 200
    (mail,) = await relayed(thread, monkeypatch)
    assert (mail.to_address, mail.subject) == ("lee@example.com", "Fwd: Invoice")
    assert [(one.name, one.content) for one in mail.files] == [("bill.pdf", b"%PDF")]
    assert "Look.\n\n---------- Forwarded message ----------\nFrom: Ana <ana@example.com>" in mail.text
    assert mail.text.endswith("Where is it?")
    other = await thread.visitor.ask("POST", f"{thread.at}/forward", data={"mail": "0" * 26, "to": "lee@example.com"})
    assert other[0] == 404


async def test_the_thread_folds_quotes_and_names_robots_and_bounces(thread: Thread, runtime: Runtime) -> None:
    text = "Thanks!\n\nOn Wed, Support wrote:\n> <script>alert(1)</script> earlier"
    await arrive(
        runtime,
        thread.account,
        2,
        message_id="<m2@example.com>",
        text=text,
        new_chars=7,
        in_reply_to="<m1@example.com>",
    )
    await arrive(
        runtime,
        thread.account,
        3,
        message_id="<m3@example.com>",
        automatic="auto-submitted",
        in_reply_to="<m1@example.com>",
    )
    await thread.post("", body="Bye", subject="", cc="", bcc="")
    sent = await thread.sent()
    await runtime.db.write(
        lambda tx: interactions.note_delivery(
            tx, sent.id, "bounced", now=runtime.clock.now(), error="550 5.1.1 <b>User</b> unknown"
        )
    )
    page = await thread.page("/timeline")
    assert "<p>Thanks!</p>" in page
    assert "Quoted text" in page
    assert "<script>" not in page
    assert "automatic answer" in page
    assert "bounced" in page
    assert "550 5.1.1 &lt;b&gt;User&lt;/b&gt; unknown" in page
    # The next answer goes to Ana, and below it stands what she wrote, not what her robot said.
    assert sent.to_address == ANA
    assert "> Thanks!" in sent.data["quote"]


async def test_the_administrators_page_about_mail(thread: Thread, runtime: Runtime, visitor: Visitor) -> None:
    from crm_core import accounts, blocked

    at, page = "/desk/admin/mail", {"Accept": "text/html"}
    assert (await visitor.ask("GET", at, headers=page))[0] in (403, 404)
    await add_user(runtime, "ada", [Role.ADMIN])
    await visitor.log_in("ada")
    status, text = await visitor.ask("GET", at, headers=page)
    assert status == 200
    assert ALIAS in text

    async def save(**form: str) -> tuple[int, str]:
        async with runtime.db.reading() as tx:
            version = str((await accounts.get(tx, thread.account.id)).version)
        given = {"version": version, "aliases": "", "signature": "", **form}
        status, text = await visitor.ask("POST", f"{at}/{thread.account.id}", data=given, headers=page)
        return status, str(text)

    status, text = await save(
        aliases="Info@example.test, shop@example.test", signature="Example <Ltd>", signed_return_path="1"
    )
    assert status == 303
    assert "Example &lt;Ltd&gt;" in (await visitor.ask("GET", at, headers=page))[1]
    async with runtime.db.reading() as tx:
        row = await accounts.get(tx, thread.account.id)
        assert accounts.mail_addresses(row) == (BOX, "info@example.test", "shop@example.test")
        assert row.settings["signed_return_path"] is True
        assert await signatures.find(tx, row.id) == "Example <Ltd>"
    status, text = await save(aliases="no address", signature="A longer one", copy_to_sent="1")
    assert status == 422
    for typed in ('value="no address"', "A longer one", 'name="copy_to_sent" value="1" checked'):
        assert typed in text, "what was typed stays"
    assert 'name="signed_return_path" value="1" checked' not in text
    assert (await save(version="1"))[0] == 422, "somebody changed it meanwhile"
    status, text = await visitor.ask("POST", f"{at}/block", data={"value": "@Spam.example"}, headers=page)
    assert (status, "@spam.example" in (await visitor.ask("GET", at, headers=page))[1]) == (303, True)
    status, text = await visitor.ask("POST", f"{at}/block", data={"value": "nobody"}, headers=page)
    assert (status, 'value="nobody"' in text) == (422, True)
    await visitor.ask("POST", f"{at}/unblock", data={"value": "@spam.example"}, headers=page)
    async with runtime.db.reading() as tx:
        assert await blocked.list_blocked(tx) == []


async def test_spam_is_closed_and_its_sender_blocked(thread: Thread, runtime: Runtime) -> None:
    from crm_core import blocked, conversations

    assert (await thread.post("/spam"))[0] == 200
    async with runtime.db.reading() as tx:
        assert (await conversations.get(tx, thread.id)).state == "closed"
        assert await entries.find_open(tx, thread.id) is None
        assert await blocked.is_blocked(tx, ANA)
        (first,) = await interactions.list_timeline(tx, conversation_id=thread.id)
    assert first.outcome == "spam"
    await arrive(runtime, thread.account, 2, message_id="<m2@example.com>")
    async with runtime.db.reading() as tx:
        rows = await tx.all(select(Interaction).where(Interaction.from_address == ANA).order_by(Interaction.id))
    assert [row.outcome for row in rows] == ["spam", "spam"]


async def test_ones_own_signature(thread: Thread, runtime: Runtime, visitor: Visitor) -> None:
    form = {"locale": "en", "zone": "UTC", "theme": "auto", "signature": "Kind regards\r\nAmy"}
    status, text = await visitor.ask("POST", "/desk/profile", data=form, headers={"Accept": "text/html"})
    assert status == 200
    assert "Kind regards" in text
    await thread.post("", body="Hi", subject="", cc="", bcc="")
    assert (await thread.sent()).data["signature"] == "Kind regards\nAmy"


async def test_access_by_token_is_set_on_screen_and_never_shown(
    thread: Thread, runtime: Runtime, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm_core import accounts, settings_rows
    from hub.desktop import mail_admin

    async def anywhere(*_: Any, **__: Any) -> None:
        """Names are not looked up in a test."""

    monkeypatch.setattr(mail_admin, "refuse_internal", anywhere)
    await add_user(runtime, "ada", [Role.ADMIN])
    await visitor.log_in("ada")

    async def save(**form: str) -> tuple[int, str]:
        async with runtime.db.reading() as tx:
            version = str((await accounts.get(tx, thread.account.id)).version)
        status, text = await visitor.ask(
            "POST", f"/desk/admin/mail/{thread.account.id}/tokens", data={"version": version, **form},
            headers={"Accept": "text/html"},
        )  # fmt: skip
        return status, str(text)

    async def kept() -> dict[str, str]:
        async with runtime.db.reading() as tx:
            return runtime.channels.secrets(await accounts.get(tx, thread.account.id))

    url = "https://login.example.com/token"
    given = {"token_url": url, "client_id": "hub", "client_secret": "canary-1", "refresh_token": "canary-2"}
    status, text = await save(**given)
    assert status == 422, "no servers of its own yet"
    assert f'value="{url}"' in text
    assert "canary" not in text
    sealed = runtime.channels.seal({"imap_url": "imaps://a:b@mail.example.com"})
    now = runtime.clock.now()
    await runtime.db.write(
        lambda tx: settings_rows.edit_account(
            tx, thread.account.id, version=thread.account.version, actor="ada", now=now, sealed=sealed
        )
    )
    assert (await save(**given))[0] == 303
    _, text = await visitor.ask("GET", "/desk/admin/mail", headers={"Accept": "text/html"})
    assert "canary" not in text
    assert (await kept())["oauth_refresh_token"] == "canary-2"
    assert (await kept())["imap_url"] == "imaps://a:b@mail.example.com"
    assert (await save(token_url=url, client_id="other"))[0] == 303
    assert (await kept())["oauth_refresh_token"] == "canary-2"
    assert (await save(token_url="https://evil.example.com/token", client_id="hub"))[0] == 422, "not to another place"
    assert (await save(token_url="http://login.example.com/token", client_id="a", refresh_token="b"))[0] == 422
    assert (await save(token_url=""))[0] == 303
    assert sorted(await kept()) == ["imap_url"]


async def test_pictures_inside_a_mail_are_shown_and_nothing_else_is(thread: Thread, runtime: Runtime) -> None:
    now = runtime.clock.now()
    png = b"\x89PNG\r\n\x1a\n" + b"x" * 20
    html = "<p>Look</p><img src='cid:logo@x'><img src='cid:liar@x'><img src='cid:svg@x'><img src='https://t.example/p.gif'>"
    html_key = await runtime.files.put(html.encode(), folder="html", now=now)
    given = [("logo@x", "image/png", png), ("liar@x", "image/png", b"<script>"), ("svg@x", "image/svg+xml", b"<svg/>")]
    files = [
        StoredFile("p", kind, len(content), await runtime.files.put(content, folder="mail", now=now), name)
        for name, kind, content in given
    ]
    event = MailArrived(
        "k", "<pic@example.com>", ANA, "Ana", (BOX,), (), "", "Pictures", None, "<m1@example.com>", (), "Look", html, (), "",
        {}, b"raw",
    )  # fmt: skip
    await runtime.db.write(
        lambda tx: router.mail_arrived(tx, event, account=thread.account, html_key=html_key, files=files, now=now)
    )
    async with runtime.db.reading() as tx:
        mail = next(one for one in await interactions.list_timeline(tx, conversation_id=thread.id) if one.html_key)
    status, page = await thread.visitor.ask("GET", f"/desk/mail/{mail.id}", headers={"Accept": "text/html"})
    assert status == 200
    assert "data:image/png;base64,iVBORw0KGgp4" in page
    assert str(page).count("data:") == 1
    assert "script" not in page
    assert "t.example" not in page


async def test_a_form_that_comes_twice_is_carried_out_once(thread: Thread, runtime: Runtime) -> None:
    """By a double click, or again because its answer was lost: each of the composer's forms carries a key."""
    keys = re.findall(r'name="once" value="([\w-]+)"', await thread.page())
    assert len(set(keys)) == 2, "the answer and the note"
    mail = (await thread.mails())[0].id
    forms = {
        "/mail": {"body": "Here.", "subject": "S", "cc": "", "bcc": ""},
        "/note": {"body": "Hm."},
        "/mail/forward": {"mail": mail, "to": "dan@example.com", "body": "FYI"},
    }
    for path, form in forms.items():
        for words in ("", "", " And this."):  # other words are another message, whatever key an old page carries
            sent = {**form, "body": form["body"] + words, "once": keys[0]}
            status, _ = await thread.visitor.ask("POST", f"/desk/work/{thread.id}{path}", data=sent)
            assert status == 200, path
    outbound = [one.body for one in await thread.mails() if one.direction == Direction.OUTBOUND]
    assert sorted(outbound) == ["FYI", "FYI And this.", "Here.", "Here. And this."]
    async with runtime.db.reading() as tx:
        assert sorted([note.body for note in await tx.all(select(Note))]) == ["Hm.", "Hm. And this."]


async def test_what_is_written_before_a_forwarded_mail_outlives_the_tab(thread: Thread) -> None:
    mail = (await thread.mails())[0].id
    form = await thread.page(f"/mail/forward?mail={mail}")
    for name, place in (("to", f"forward {mail} to"), ("body", f"forward {mail}")):
        assert re.search(rf'name="{name}"[^>]* data-kept="{place}"', form), name


async def test_the_chosen_sender_stays_chosen(thread: Thread) -> None:
    for path, cc in (("", "no address"), ("/all", "")):
        _, text = await thread.post(path, body="Here.", subject="S", cc=cc, bcc="", sender=BOX)
        assert f'<option value="{BOX}" selected>' in text, path


async def test_a_stranger_is_named_as_they_name_themselves(thread: Thread) -> None:
    page = await thread.page()
    assert "Ana &lt;ana@example.com&gt;" in page
    assert 'name="name" value="Ana"' in page
    status, text = await thread.visitor.ask(
        "POST", f"/desk/work/{thread.id}/new-contact",
        data={"name": "Anna", "organisation": "Firm", "more": "no number"},
        headers={"Accept": "text/html"},
    )  # fmt: skip
    assert status == 422
    for typed in ("Anna", "Firm", "no number"):
        assert f'value="{typed}"' in text, "what was typed stays"
