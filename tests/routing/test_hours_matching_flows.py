"""The pure rules beside the core: opening hours over clock changes, who owns an address, the walk through a call flow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from channels.steps import Gather, Hangup, Redirect, Say
from crm_core.addresses import email, phone
from crm_core.contacts import Contact, ContactLink
from crm_core.errors import Invalid
from routing import flows, prompts
from routing.hours import Hours, is_open, next_open
from routing.mails import thread_address, token_in
from routing.matching import match

OFFICE = Hours(
    id="h", name="Office", zone="Europe/London",
    week={**{str(day): [["09:00", "12:30"], ["13:30", "17:00"]] for day in range(5)}, "5": [["22:00", "24:00"]]},
    days={"2026-12-25": [], "2026-12-26": [["10:00", "11:00"]]},
)  # fmt: skip


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "is_it", "opens"),
    [
        ("2026-11-18 08:59:59", False, "2026-11-18 09:00"),
        ("2026-11-18 09:00", True, "2026-11-18 09:00"),
        ("2026-11-18 12:30", False, "2026-11-18 13:30"),
        ("2026-11-18 17:00", False, "2026-11-19 09:00"),
        ("2026-11-20 17:00", False, "2026-11-21 22:00"),
        ("2026-11-21 23:59:59", True, "2026-11-21 23:59:59"),
        ("2026-11-22 00:00", False, "2026-11-23 09:00"),
        ("2026-12-25 10:00", False, "2026-12-26 10:00"),
        ("2026-12-26 22:30", False, "2026-12-28 09:00"),
        ("2026-03-30 07:59", False, "2026-03-30 08:00"),  # Monday after the clocks went forward: 09:00 is 08:00 UTC
        ("2026-03-27 08:30", False, "2026-03-27 09:00"),  # Friday before
    ],
)
def test_opening_hours(moment: str, is_it: bool, opens: str) -> None:
    assert is_open(OFFICE, at(moment)) is is_it
    assert next_open(OFFICE, at(moment)) == at(opens)


def test_a_block_around_the_clock_change_is_as_long_as_the_night_was() -> None:
    night = Hours(id="n", name="Night", zone="Europe/London", week={"6": [["00:00", "24:00"]]})
    spring = [at("2026-03-29 00:00"), at("2026-03-29 22:59:59")]
    autumn = [at("2026-10-24 23:00"), at("2026-10-25 23:59:59")]
    assert all(is_open(night, moment) for moment in (*spring, *autumn))
    assert not is_open(night, at("2026-03-29 23:00"))
    assert not is_open(night, at("2026-10-24 22:59:59"))
    repeated = Hours(id="r", name="Hour", zone="Europe/London", week={"6": [["00:30", "01:30"]]})
    assert is_open(repeated, at("2026-10-25 01:15")), "01:15 comes twice; nobody is turned away the second time"


def test_no_hours_is_always_open_and_never_open_is_said() -> None:
    assert is_open(None, at("2026-01-01 00:00"))
    assert next_open(Hours(id="x", name="Never", week={}), at("2026-01-01 00:00")) is None


def owner(key: str, *, verified: bool = False) -> tuple[Contact, ContactLink]:
    now = at("2026-01-01 00:00")
    contact = Contact(id=key, name=key, created_at=now, updated_at=now)
    link = ContactLink(
        id=key, point_id="p", contact_id=key, valid_from=now, verified_at=now if verified else None,
        verified_by="a code by SMS" if verified else "",
    )  # fmt: skip
    return contact, link


@pytest.mark.parametrize(
    ("owners", "level", "certainty", "contact", "candidates"),
    [
        ([], "unknown", 0, None, []),
        ([owner("a")], "exact", 90, "a", ["a"]),
        ([owner("a", verified=True)], "exact", 98, "a", ["a"]),
        ([owner("a"), owner("b")], "shared", 50, None, ["a", "b"]),
        ([owner("a"), owner("b", verified=True)], "shared", 75, None, ["b", "a"]),
    ],
)
def test_who_is_this(owners: Any, level: str, certainty: int, contact: str | None, candidates: list[str]) -> None:
    found = match(phone("+12025550101"), owners)
    assert (found.level, found.certainty, found.contact_id, found.candidates) == (level, certainty, contact, candidates)
    assert found.reason.endswith(".") or found.reason.endswith("speaking.")


def test_a_hidden_number_is_withheld() -> None:
    assert match(None, []).level == "withheld"
    assert "address" in match(email("a@example.test"), []).reason


MENU: list[dict[str, Any]] = [
    {"do": "say", "text": "Welcome."},
    {
        "do": "menu", "text": "Press 1 for sales, 2 for help.",
        "keys": {
            "1": [{"do": "enqueue", "queue": "sales"}],
            "2": [
                {"do": "menu", "text": "1 or 2?", "keys": {"1": [{"do": "enqueue", "queue": "one"}]},
                 "otherwise": [{"do": "hangup"}]},
            ],
        },
        "otherwise": [{"do": "enqueue", "queue": "any"}],
    },
]  # fmt: skip


def walk(at: str = "", pressed: str = "", number: int = 0) -> flows.Walked:
    return flows.walk(MENU, at=at, interaction_id="i", language="en-GB", number=number, pressed=pressed)


def test_a_flow_asks_again_once_and_then_goes_otherwise() -> None:
    first = walk()
    assert isinstance(first.steps[1], Gather)
    action = "/webhooks/twilio/voice/step?i=i&step=menu-1-0&n=1"
    assert first.steps == [
        Say("Welcome.", "en-GB"),
        Gather(action, [Say("Press 1 for sales, 2 for help.", "en-GB")], digits=1, timeout_s=5),
        Redirect(action),
    ]
    again = walk("1-0", "9", 1)
    assert isinstance(again.steps[0], Say)
    assert again.steps[-1] == Redirect("/webhooks/twilio/voice/step?i=i&step=menu-1-1&n=2")
    assert walk("1-1", "", 2).queue_id == "any"
    assert walk("1-0", "1", 1).queue_id == "sales"


def test_a_menu_within_a_menu() -> None:
    inner = walk("1-0", "2", 1)
    assert inner.steps[-1] == Redirect("/webhooks/twilio/voice/step?i=i&step=menu-1-2-0-0&n=2")
    assert walk("1-2-0-0", "1", 2).queue_id == "one"
    last = walk("1-2-0-1", "", 3)
    assert (last.steps, last.ended) == ([Hangup()], True)


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([], "there must be something to do"),
        ([{"do": "sing"}, {"do": "hangup"}], "Step 1: “sing” is not something"),
        ([{"do": "say"}, {"do": "hangup"}], "say needs text"),
        ([{"do": "say", "text": "x"}], "must end in a queue"),
        ([{"do": "hangup"}, {"do": "say", "text": "x"}], "nothing can follow"),
        (
            [{"do": "menu", "text": "x", "keys": {"11": [{"do": "hangup"}]}, "otherwise": [{"do": "hangup"}]}],
            "not a key",
        ),
        ([{"do": "menu", "text": "x", "keys": {"1": [{"do": "hangup"}]}}], "Step 1.otherwise."),
    ],
)
def test_a_flow_that_could_leave_somebody_in_silence_is_refused(steps: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        flows.check(steps)


def test_every_language_says_everything() -> None:
    for language, table in prompts.TEXTS.items():
        assert table.keys() == prompts.TEXTS["en"].keys(), language
        for key, text in table.items():
            holes = {part.split("}")[0] for part in text.split("{")[1:]}
            assert holes == {part.split("}")[0] for part in prompts.TEXTS["en"][key].split("{")[1:]}, (language, key)
    assert prompts.spoken("+442079460000", "en-GB") == "plus 4 4 2 0 7 9 4 6 0 0 0 0"
    assert prompts.say("bye", "fr-FR").language == "en-GB"


def test_thread_addresses_survive_folding_and_nothing_else_is_one() -> None:
    address = thread_address("support@example.test", "Ab-_9zQx0123456789kLmN")
    assert token_in(address.lower()) == "Ab-_9zQx0123456789kLmN"
    for other in (
        "support@example.test",
        "support+news@example.test",
        "support+@example.test",
        "+@x",
        "",
        "a+" + "a" * 40 + "@x",
    ):
        assert token_in(other) == ""
