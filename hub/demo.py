"""The demo company of the sandbox: people who work here, 200 contacts, yesterday and this morning, and something to do.

Made once, in an empty database, and only in the sandbox. Everything goes through the same functions as real traffic.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import select

from crm_core import accounts, consent, contacts, conversations, interactions, leads, touches, users
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import Address, email, phone
from crm_core.calls import record_event, refold
from crm_core.contacts import Contact
from crm_core.db import Database, Tx
from crm_core.ids import new_id
from crm_core.interactions import Disposition, Interaction, InteractionState, Note, Outcome
from crm_core.touches import Direction
from crm_core.users import Role, Team, User
from hub.demo_today import seed_today
from hub.passwords import hash_password
from hub.settings import Settings
from hub.twin import FORM_KEY, LOGINS_FILE, MAILBOX, NUMBERS, write_private
from routing import agents
from routing.agents import AgentSkill
from routing.queues import Queue, QueueMember

PASSWORD = "welcome to the hub"  # noqa: S105 - the demo's own, on a hub that only this machine can reach
CONTACTS = 200


@dataclass(frozen=True)
class Person:
    """One of the demo's staff."""

    login: str
    name: str
    roles: tuple[Role, ...]
    queues: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    locale: str = "en"


STAFF = (
    Person("amy", "Amy Archer", (Role.AGENT,), ("Support", "Sales")),
    Person("ben", "Ben Bishop", (Role.AGENT,), ("Support",), ("spanish",)),
    Person("chen", "Chen Li", (Role.AGENT,), ("Support", "Sales"), ("chinese",)),
    Person("tina", "Tina Tell", (Role.TELEMARKETER,), ("Sales",)),
    Person("tom", "Tom Torres", (Role.TELEMARKETER,), ("Sales",)),
    Person("mara", "Mara Moss", (Role.MARKETER,)),
    Person("sam", "Sam Super", (Role.SUPERVISOR,), ("Support", "Sales")),
    Person("ada", "Ada Admin", (Role.ADMIN, Role.SUPERVISOR)),
)
SHOWN_ROLE = {"amy": "agent", "ben": "agent, second browser", "tina": "telemarketer", "tom": "telemarketer",
              "mara": "marketer", "sam": "supervisor", "ada": "administrator"}  # fmt: skip
QUEUES = (("Support", 120, 30), ("Sales", 60, 20))  # name, wrap-up seconds, callback offered after seconds

# key, label, scope, flags
DISPOSITIONS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("resolved", "Resolved", "queue", {"reached": True}),
    ("follow_up", "Follow-up needed", "queue", {"reached": True}),
    ("complaint", "Complaint", "queue", {"reached": True}),
    ("interested", "Interested", "list", {"reached": True, "lead": True}),
    ("sale", "Sale", "list", {"reached": True, "sale": True}),
    ("not_interested", "Not interested", "list", {"reached": True}),
    ("callback", "Call back later", "list", {"callback": True}),
    ("no_answer", "No answer", "list", {"retry_after_s": 4 * 3600}),
    ("busy", "Busy", "list", {"retry_after_s": 900}),
    ("voicemail", "Voicemail", "list", {"retry_after_s": 24 * 3600, "machine": True}),
    ("wrong_number", "Wrong number", "", {"wrong_number": True}),
    ("do_not_call", "Never call again", "", {"do_not_call": True}),
)

FIRST = [
    "Ana",
    "Bo",
    "Carla",
    "Dev",
    "Elif",
    "Farid",
    "Gina",
    "Hugo",
    "Ines",
    "Jonas",
    "Kira",
    "Leo",
    "Mina",
    "Nils",
    "Olga",
    "Pavel",
    "Quinn",
    "Rosa",
    "Sven",
    "Tara",
    "Umar",
    "Vera",
    "Wim",
    "Xenia",
    "Yara",
    "Zoe",
    "Anton",
    "Bella",
    "Cem",
    "Dana",
]
LAST = [
    "Example",
    "Sample",
    "Muster",
    "Rivera",
    "Novak",
    "Okafor",
    "Petrov",
    "Quist",
    "Rossi",
    "Silva",
    "Tanaka",
    "Ueda",
    "Varga",
    "Weiss",
    "Young",
    "Zander",
    "Alami",
    "Berg",
    "Costa",
    "Dubois",
]
FIRMS = ("Northwind Bikes", "Blue Harbour", "Cedar & Sons", "Delta Tools", "Elm Street Bakery", "Fjord Travel")
TOPICS = (
    ("Where is my order?", "I ordered two weeks ago and heard nothing. Could you look it up, please?"),
    ("Invoice question", "The invoice shows a different address than ours. Can you correct it?"),
    ("Change of plan", "We would like to move to the larger plan from next month."),
    ("Cannot log in", "The page says my password is wrong, but I am sure it is right."),
    ("Thank you", "The repair went very well. Thank you, and greetings to the workshop!"),
    ("Appointment", "Could the technician come on Thursday instead of Wednesday?"),
)


def demo_logins(settings: Settings) -> list[tuple[str, str, str]]:
    """Login, password and role of the demo's staff for the log-in page; nobody outside the sandbox."""
    if not settings.sandbox:
        return []
    return [(login, PASSWORD, role) for login, role in SHOWN_ROLE.items()]


async def seed_demo(db: Database, settings: Settings, *, now: datetime) -> bool:
    """Make the demo company unless somebody works here already; True when it was made."""
    async with db.reading() as tx:
        if await tx.one(select(User.id).limit(1)) is not None:
            return False
    password_hash = await hash_password(PASSWORD)
    company = _Company(random.Random(20261121), now, password_hash)  # noqa: S311 - the same company every time
    await db.write(company.everything)
    told = [{"login": login, "password": PASSWORD, "role": role} for login, role in SHOWN_ROLE.items()]
    write_private(settings.data_dir / LOGINS_FILE, told)
    return True


class _Company:
    """Remembers ids between the steps."""

    def __init__(self, chance: random.Random, now: datetime, password_hash: str) -> None:
        self.chance = chance
        self.now = now
        self.password_hash = password_hash
        self.users: dict[str, User] = {}
        self.queues: dict[str, Queue] = {}
        self.accounts: dict[str, ChannelAccount] = {}
        self.contacts: list[tuple[Contact, Address, Address]] = []

    async def everything(self, tx: Tx) -> None:
        """All of it or nothing: a start that is killed half-way makes the company anew."""
        await self.staff(tx)
        await self.doors(tx)
        await self.people(tx)
        for start in _hours(self.now):
            await self.hour(tx, start=start)
        await self.today(tx)

    async def staff(self, tx: Tx) -> None:
        """Team, queues, users, agents, dispositions."""
        before = self.now - timedelta(days=30)
        team = await tx.add(Team(id=new_id(before), name="Customer care"))
        for name, wrapup_s, offer_s in QUEUES:
            self.queues[name] = await tx.add(
                Queue(id=new_id(before), name=name, wrapup_s=wrapup_s, callback_offer_after_s=offer_s)
            )
        for person in STAFF:
            user = await users.create(
                tx, login=person.login, name=person.name, roles=person.roles, password_hash=self.password_hash,
                now=before, actor="system", team_id=team.id, locale=person.locale, zone="Europe/London",
                email=f"{person.login}@hub.example.test",
            )  # fmt: skip
            self.users[person.login] = user
            if person.queues:
                await agents.ensure(tx, user.id, now=self.now)
            for queue in person.queues:
                await tx.add(QueueMember(queue_id=self.queues[queue].id, user_id=user.id))
            for skill in person.skills:
                await tx.add(AgentSkill(user_id=user.id, skill=skill, level=4))
        for position, (name, label, scope, flags) in enumerate(DISPOSITIONS):
            await tx.add_new(
                Disposition(key=name, label=label, scope=scope, flags=flags, position=position), unique=["key"]
            )

    async def doors(self, tx: Tx) -> None:
        """The numbers, the mailbox and the web form, each with its queue. Those of the environment may be there already."""
        support, sales = self.queues["Support"], self.queues["Sales"]
        wanted = (
            ("voice", "Support line", NUMBERS[0], support),
            ("sms", "Support texts", NUMBERS[0], support),
            ("voice", "Sales line", NUMBERS[1], sales),
            ("sms", "Sales texts", NUMBERS[1], sales),
            ("email", "Support mailbox", MAILBOX, support),
            ("webform", "Website", FORM_KEY, sales),
        )
        for channel, name, address, queue in wanted:
            account = ChannelAccount(
                id=new_id(self.now), channel=channel, name=name, address=address, country="GB", queue_id=queue.id,
                created_at=self.now,
            )  # fmt: skip
            await tx.put(account, unique=["channel", "address"], update=["name", "queue_id", "country"])
            found = await accounts.find(tx, channel, address)
            if found is None:
                raise LookupError(address)
            self.accounts[f"{channel}:{address}"] = found
        fields = [
            {"name": "name", "label": "Your name", "kind": "text", "required": True},
            {"name": "email", "label": "E-mail", "kind": "email", "required": False},
            {"name": "phone", "label": "Phone", "kind": "phone", "required": False},
            {"name": "topic", "label": "What is it about?", "kind": "select", "required": True,
             "options": ["A new bicycle", "A repair", "Something else"]},
            {"name": "message", "label": "Your message", "kind": "textarea", "required": False},
        ]  # fmt: skip
        await tx.add_new(
            Form(
                id=new_id(self.now), slug=FORM_KEY, account_id=self.accounts[f"webform:{FORM_KEY}"].id,
                title="Ask us anything", fields=fields, consent_version="2026-11",
                consent_text="Yes, tell me about offers by e-mail and text message. I can stop this at any time.",
                thanks="Thank you. We will be in touch shortly.", created_at=self.now,
            ),
            unique=["slug"],
        )  # fmt: skip

    async def people(self, tx: Tx) -> None:
        """Contacts with a number and a mailbox each; two thirds agreed to marketing, with proof."""
        since = self.now - timedelta(days=20)
        for n in range(CONTACTS):
            name = f"{FIRST[n % len(FIRST)]} {LAST[(n * 7 + n // len(FIRST)) % len(LAST)]}"
            number = phone(f"+12025550{100 + n}" if n < 100 else f"+4420794604{n % 100:02d}")
            mail = email(f"{_slug(name)}{n or ''}@example.com")
            if n < 3:  # the outside people that the sandbox offers
                name = ("Ana Example", "Bo Sample", "Carla Muster")[n]
                number, mail = phone(f"+1202555010{n + 1}"), email(f"{name.split()[0].lower()}@example.com")
            elif n < 100:
                number = phone(f"+1202555{100 + n:04d}") if n != 99 else phone("+442079460399")
            firm = await contacts.get_organisation(tx, FIRMS[n % len(FIRMS)], now=since) if n % 3 == 0 else None
            made = since + timedelta(minutes=37 * n)
            contact = await contacts.create(
                tx, name=name, now=made, source="import:demo", points=[number, mail],
                organisation_id=firm.id if firm else None, tags=_tags(n), vip=n % 40 == 0,
                zone="America/New_York" if n < 100 else "Europe/London", country="US" if n < 100 else "GB",
                language="es" if n % 11 == 0 else "en",
            )  # fmt: skip
            self.contacts.append((contact, number, mail))
            if n % 3 != 2:
                evidence = {"form": FORM_KEY, "text_version": "2026-11", "ip": "192.0.2.10"}
                for channel, address in (("sms", number), ("email", mail), ("voice", number)):
                    purpose = "telemarketing" if channel == "voice" else "marketing"
                    await consent.grant(
                        tx, address, channel=channel, purpose=purpose, source=f"form:{FORM_KEY}", evidence=evidence,
                        actor="system", now=made, contact_id=contact.id,
                    )  # fmt: skip

    async def hour(self, tx: Tx, *, start: datetime) -> None:
        """One hour: calls, texts, mails, forms, each to its end."""
        for when in _minutes(self.chance, start, 14):
            contact, number, mail = self.chance.choice(self.contacts[:120])
            kind = self.chance.choices(("voice", "sms", "email", "webform"), (7, 3, 3, 1))[0]
            agent = self.users[self.chance.choice(("amy", "ben", "chen"))]
            if kind == "voice":
                await self._call(tx, contact, number, agent, when)
            elif kind == "webform":
                await self._form(tx, contact, mail, agent, when)
            else:
                address = number if kind == "sms" else mail
                await self._message(tx, kind, contact, address, agent, when)

    async def today(self, tx: Tx) -> None:
        """What is to be done."""
        await seed_today(
            tx, contacts=self.contacts, users=self.users, queues=self.queues, now=self.now,
            voice=self.accounts[f"voice:{NUMBERS[1]}"], mailbox=self.accounts[f"email:{MAILBOX}"],
        )  # fmt: skip

    async def _thread(
        self, tx: Tx, channel: str, contact: Contact, peer: Address, when: datetime, subject: str = ""
    ) -> tuple[conversations.Conversation, ChannelAccount]:
        address = {"email": MAILBOX, "webform": FORM_KEY}.get(channel, NUMBERS[0])
        account = self.accounts[f"{channel}:{address}"]
        thread_key = f"<{new_id(when)}@example.com>" if channel == "email" else peer.value
        thread, _ = await conversations.open_thread(
            tx, channel=channel, account_id=account.id, thread_key=thread_key, peer=peer.value, now=when,
            contact_id=contact.id, subject=subject, queue_id=account.queue_id,
        )  # fmt: skip
        return thread, account

    async def _arrive(
        self, tx: Tx, channel: str, contact: Contact, peer: Address, when: datetime, subject: str = "", body: str = ""
    ) -> tuple[Interaction, conversations.Conversation]:
        thread, account = await self._thread(tx, channel, contact, peer, when, subject)
        match = {"level": "exact", "reason": "demo", "certainty": 95, "candidates": [contact.id]}
        arrived = Interaction(
            id=new_id(when), conversation_id=thread.id, contact_id=contact.id, channel=channel,
            direction=Direction.INBOUND, account_id=account.id, external_id=f"demo-{new_id(when)}",
            from_address=peer.value, to_address=account.address, state=InteractionState.WAITING,
            queue_id=account.queue_id, subject=subject, body=body, match=match, first_arrival_at=when, created_at=when,
        )  # fmt: skip
        await interactions.create(tx, arrived, now=when)
        await touches.record(
            tx, peer, direction=Direction.INBOUND, channel=channel, now=when, contact_id=contact.id,
            interaction_id=arrived.id,
        )  # fmt: skip
        return arrived, thread

    async def _end(
        self, tx: Tx, row: Interaction, thread: conversations.Conversation, agent: User, when: datetime, after_s: int
    ) -> None:
        connected = when + timedelta(seconds=self.chance.randint(4, 90))
        await interactions.advance(
            tx, row, InteractionState.CONNECTED, now=connected, agent_id=agent.id, connected_at=connected
        )
        done = connected + timedelta(seconds=after_s)
        disposition = self.chance.choice(("resolved", "resolved", "resolved", "follow_up", "complaint"))
        await interactions.advance(
            tx, row, InteractionState.ENDED, now=done, outcome=Outcome.HANDLED, disposition=disposition
        )
        await conversations.change(
            tx,
            thread,
            now=done,
            event="conversation.closed",
            state=conversations.ConversationState.CLOSED,
            last_at=done,
        )

    async def _call(self, tx: Tx, contact: Contact, number: Address, agent: User, when: datetime) -> None:
        row, thread = await self._arrive(tx, "voice", contact, number, when)
        wait, ring = self.chance.choice((3, 4, 5, 6, 8, 9, 11, 13, 25, 48)), self.chance.randint(2, 6)
        talk, hold, wrap = self.chance.randint(40, 600), self.chance.choice((0, 0, 25)), self.chance.randint(8, 60)

        async def note(kind: str, after_s: int, role: str = "", **raw: str) -> None:
            await record_event(
                tx, interaction_id=row.id, kind=kind, event_key=f"{row.id}:{kind}:{after_s}:{role}",
                happened_at=when + timedelta(seconds=after_s), now=self.now, role=role, leg_id=role,
                user_id=agent.id if role == "agent" else "", raw=raw,
            )  # fmt: skip

        await note("arrived", 0, direction="inbound", **{"from": number.value, "to": NUMBERS[0]})
        await note("queued", 2)
        if self.chance.random() < 0.08:
            await note("completed", wait, "customer")
            gone = when + timedelta(seconds=wait)
            await interactions.advance(
                tx, row, InteractionState.ENDED, now=gone, outcome=Outcome.ABANDONED, left_at=gone
            )
            closed = conversations.ConversationState.CLOSED
            await conversations.change(tx, thread, now=gone, event="conversation.closed", state=closed)
            await refold(tx, row.id)
            return
        answered = wait + ring
        await note("accepted", wait)
        await note("join", answered - 1, "agent")
        await note("join", answered, "customer")
        if hold:
            await note("hold", answered + 20, "customer")
            await note("unhold", answered + 20 + hold, "customer")
        await note("leave", answered + talk + hold, "customer")
        await note("disposed", answered + talk + hold + wrap, disposition="resolved")
        await self._end(tx, row, thread, agent, when, talk + hold + wrap)
        await refold(tx, row.id)

    async def _message(
        self, tx: Tx, channel: str, contact: Contact, address: Address, agent: User, when: datetime
    ) -> None:
        subject, body = self.chance.choice(TOPICS)
        row, thread = await self._arrive(
            tx, channel, contact, address, when, subject if channel == "email" else "", body
        )
        answer = when + timedelta(minutes=self.chance.randint(3, 40))
        first = contact.name.split()[0]
        reply = Interaction(
            id=new_id(answer), conversation_id=thread.id, contact_id=contact.id, channel=channel,
            direction=Direction.OUTBOUND, account_id=row.account_id, external_id=f"demo-{new_id(answer)}",
            from_address=row.to_address, to_address=address.value, state=InteractionState.ENDED, outcome=Outcome.SENT,
            agent_id=agent.id, subject=f"Re: {subject}" if channel == "email" else "",
            body=f"Hello {first}, thank you for writing. I have looked into it and all is in order now. {agent.name}",
            delivery="delivered", delivery_rank=interactions.DELIVERY_RANK["delivered"], first_arrival_at=answer,
            ended_at=answer, created_at=answer,
        )  # fmt: skip
        await interactions.create(tx, reply, now=answer)
        if self.chance.random() < 0.2:
            note = "Asked the workshop; they call back if the part is late."
            await tx.add(
                Note(id=new_id(answer), conversation_id=thread.id, contact_id=contact.id, user_id=agent.id, body=note,
                     created_at=answer)
            )  # fmt: skip
        await self._end(tx, row, thread, agent, when, int((answer - when).total_seconds()) + 30)

    async def _form(self, tx: Tx, contact: Contact, mail: Address, agent: User, when: datetime) -> None:
        row, thread = await self._arrive(tx, "webform", contact, mail, when, "A new bicycle", "Please call me back.")
        fields = {"name": contact.name, "topic": "A new bicycle", "message": "Please call me back."}
        lead = await leads.create(
            tx, contact_id=contact.id, source=f"form:{FORM_KEY}", fields=fields, now=when, interaction_id=row.id
        )
        await self._end(tx, row, thread, agent, when, 240)
        stage = self.chance.choice(list(leads.LeadStage)[1:])
        await leads.change(
            tx, lead, now=when + timedelta(minutes=9), stage=stage, owner_id=agent.id,
            first_touch_at=when + timedelta(minutes=2),
        )  # fmt: skip


def _hours(now: datetime) -> list[datetime]:
    """Yesterday's working hours, and those of today that are over."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    yesterday = (hour - timedelta(days=1)).replace(hour=8)
    today = [hour - timedelta(hours=back) for back in range(5, 1, -1)]
    return [*(yesterday + timedelta(hours=n) for n in range(9)), *(start for start in today if start.day == now.day)]


def _minutes(chance: random.Random, start: datetime, most: int) -> Iterator[datetime]:
    for minute in sorted(chance.sample(range(60), chance.randint(most // 2, most))):
        yield start + timedelta(minutes=minute, seconds=chance.randrange(60))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _tags(n: int) -> list[str]:
    return [tag for tag, every in (("newsletter", 2), ("workshop", 5), ("wholesale", 9)) if n % every == 0]
