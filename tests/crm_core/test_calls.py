"""Call records folded from pasted tables of events: the parts add up to the call, in any order of arrival."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from crm_core.calls import CallEvent, CallRecord, fold, record_event, refold
from crm_core.db import Database, Tx

START = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)

# seconds | kind | leg | role | user | more
ANSWERED = """
 0    arrived    C  customer  .
 2    queued     .  .         .
 5    offered    .  .         kim
 7    accepted   .  .         kim
 8    join       A  agent     kim
 9.5  join       C  customer  .
 30   hold       C  customer  .
 42   unhold     C  customer  .
 60   leave      C  customer  .
 60   leave      A  agent     kim
 60.1 end        .  .         .
 60.2 completed  C  customer  .
 60.3 completed  A  agent     kim
 60.4 wrapup     .  .         kim
 75   disposed   .  .         kim    sale
"""
ABANDONED = """
 0    arrived    C  customer  .
 1    queued     .  .         .
 31   completed  C  customer  .
"""
LEFT_WHILE_ACCEPTED = """
 0    arrived    C  customer  .
 1    queued     .  .         .
 10   accepted   .  .         kim
 11   join       A  agent     kim
 12   completed  C  customer  .
 12.5 leave      A  agent     kim
"""
FAILED_ACCEPT = """
 0    arrived    C  customer  .
 0    queued     .  .         .
 10   accepted   .  .         kim
 30   queued     .  .         .
 40   accepted   .  .         lee
 41   join       A  agent     lee
 42   join       C  customer  .
 50   leave      C  customer  .
 50   completed  C  customer  .
 55   disposed   .  .         lee    done
"""
RESCUED = """
 0    arrived    C  customer  .
 0    queued     .  .         .
 3    accepted   .  .         kim
 4    join       A  agent     kim
 5    join       C  customer  .
 20   leave      A  agent     kim
 21   hold       C  customer  .
 50   queued     .  .         .
 51   leave      C  customer  .
 51   unhold     C  customer  .
 60   accepted   .  .         lee
 61   join       B  agent     lee
 63   join       C  customer  .
 80   leave      C  customer  .
 80   completed  C  customer  .
 90   disposed   .  .         lee    done
"""
RELOADED = """
 0    arrived    C  customer  .
 0    queued     .  .         .
 3    accepted   .  .         kim
 4    join       A  agent     kim
 5    join       C  customer  .
 20   leave      A  agent     kim
 24   join       B  agent     kim
 40   hangup     .  agent     kim
 40.2 leave      C  customer  .
 40.3 leave      B  agent     kim
 40.4 completed  C  customer  .
 50   disposed   .  .         kim    done
"""
CALLED_BACK = """
 0    arrived    C  customer  .
 0    queued     .  .         .
 25   callback   .  .         .
 33   completed  C  customer  .
"""
OUT = """
 0    arrived    .  .         kim    outbound
 1    join       A  agent     kim
 2    initiated  C  customer  .
 3    ringing    C  customer  .
 9    answered   C  customer  .
 9    join       C  customer  .
 29   leave      C  customer  .
 29   completed  C  customer  .
 34   disposed   .  .         kim    done
"""
OUT_BUSY = """
 0    arrived    .  .         kim    outbound
 1    join       A  agent     kim
 2    initiated  C  customer  .
 6    busy       C  customer  .
 6    leave      A  agent     kim
 9    disposed   .  .         kim    none
"""
LOST_REPORTS = """
 0    arrived    C  customer  .
 0    queued     .  .         .
 3    accepted   .  .         kim
 4    join       A  agent     kim
 5    join       C  customer  .
 20   hangup     .  agent     kim
 20   wrapup     .  .         kim
 29   disposed   .  .         kim    done
"""
LATE_CHOICE = ANSWERED.replace("sale", "none") + " 200 disposed . . kim sale\n"
TABLES = {
    "answered": ANSWERED, "abandoned": ABANDONED, "left while accepted": LEFT_WHILE_ACCEPTED, "failed accept": FAILED_ACCEPT,
    "rescued": RESCUED, "reloaded": RELOADED, "called back": CALLED_BACK, "out": OUT, "out busy": OUT_BUSY,
    "lost reports": LOST_REPORTS, "late choice": LATE_CHOICE,
}  # fmt: skip


def read(table: str) -> list[CallEvent]:
    events = []
    for number, line in enumerate(table.strip().splitlines()):
        second, kind, leg, role, user, *more = line.split()
        raw = {}
        if kind == "arrived":
            raw = {"direction": more[0] if more else "inbound", "from": "+12025550101", "to": "+442079460000"}
        elif kind == "disposed":
            raw = {"disposition": more[0]}
        moment = START + timedelta(seconds=float(second))
        events.append(
            CallEvent(
                id=f"{number:03d}", interaction_id="i", leg_id=leg.strip("."), role=role.strip("."), user_id=user.strip("."),
                kind=kind, sequence=0, event_key=f"k{number}", raw=raw, happened_at=moment, received_at=moment,
            )
        )  # fmt: skip
    return events


def times(record: CallRecord) -> tuple[float, ...]:
    spent = (record.menu_ms, record.wait_ms, record.ring_ms, record.talk_ms, record.hold_ms, record.wrap_ms)
    return tuple(each / 1000 for each in spent)


@pytest.mark.parametrize(
    ("name", "spent", "ended", "by", "reason", "agents"),
    [
        ("answered", (2, 5, 2.5, 38.5, 12, 15), 60, "customer", "completed", ["kim"]),
        ("abandoned", (1, 30, 0, 0, 0, 0), 31, "customer", "abandoned", []),
        ("left while accepted", (1, 9, 2, 0, 0, 0), 12, "customer", "abandoned", ["kim"]),
        ("failed accept", (0, 20, 22, 8, 0, 5), 50, "customer", "completed", ["lee"]),
        ("rescued", (0, 43, 5, 32, 0, 10), 80, "customer", "completed", ["kim", "lee"]),
        ("reloaded", (0, 7, 2, 31.2, 0, 9.8), 40.2, "agent", "completed", ["kim"]),
        ("called back", (0, 33, 0, 0, 0, 0), 33, "customer", "callback", []),
        ("out", (0, 0, 9, 20, 0, 5), 29, "customer", "completed", ["kim"]),
        ("out busy", (0, 0, 6, 0, 0, 0), 6, "customer", "busy", ["kim"]),
        ("lost reports", (0, 3, 2, 15, 0, 9), 20, "agent", "completed", ["kim"]),
        ("late choice", (2, 5, 2.5, 38.5, 12, 15), 60, "customer", "completed", ["kim"]),
    ],
)
def test_what_a_call_was(
    name: str, spent: tuple[float, ...], ended: float, by: str, reason: str, agents: list[str]
) -> None:
    record = fold("i", read(TABLES[name]))
    assert times(record) == spent
    assert record.ended_at == START + timedelta(seconds=ended)
    assert (record.hung_up_by, record.end_reason, record.agents) == (by, reason, agents)


@pytest.mark.parametrize("name", TABLES)
def test_the_parts_add_up_to_the_call(name: str) -> None:
    events = read(TABLES[name])
    record = fold("i", events)
    assert record.started_at == START
    first_disposal = next((event.happened_at for event in events if event.kind == "disposed"), None)
    last = first_disposal if first_disposal and record.answered_at else record.ended_at
    assert last is not None
    assert sum(times(record)) == pytest.approx((last - START).total_seconds())


@pytest.mark.parametrize("name", TABLES)
def test_the_order_of_arrival_changes_nothing(name: str) -> None:
    events = read(TABLES[name])
    expected = fold("i", events).model_dump()
    chance = random.Random(7)
    shuffles = itertools.islice(itertools.permutations(events), 720) if len(events) <= 6 else (
        chance.sample(events, len(events)) for _ in range(200)
    )  # fmt: skip
    assert all(fold("i", shuffled).model_dump() == expected for shuffled in shuffles)


def test_the_disposition_is_the_last_one_chosen() -> None:
    assert fold("i", read(ANSWERED)).disposition == "sale"
    assert fold("i", read(LATE_CHOICE)).disposition == "sale"
    assert fold("i", read(ANSWERED)).holds == 1


def test_nothing_known_is_nothing_claimed() -> None:
    record = fold("i", [])
    assert (times(record), record.end_reason, record.started_at) == ((0,) * 6, "", None)


async def test_the_same_event_twice_is_one_and_folding_again_gives_the_same(db: Database) -> None:
    async def store(tx: Tx) -> list[bool]:
        told = []
        for event in (*read(ANSWERED), *read(ANSWERED)):
            told.append(
                await record_event(
                    tx, interaction_id="i", kind=event.kind, event_key=event.event_key, happened_at=event.happened_at,
                    now=START, leg_id=event.leg_id, role=event.role, user_id=event.user_id, raw=event.raw,
                )
            )  # fmt: skip
        return told

    told = await db.write(store)
    assert told == [True] * 15 + [False] * 15
    first = await db.write(lambda tx: refold(tx, "i"))
    second = await db.write(lambda tx: refold(tx, "i"))
    assert first.model_dump() == second.model_dump()
    assert first.talk_ms == 38500


def test_a_stamp_of_whole_seconds_before_our_own_leaves_no_gap() -> None:
    """The provider says 10:00:00 for what reached us at 10:00:00.457: the call is as long as its parts."""
    stamped = ANSWERED.replace(" 0    arrived    C", " 0    ringing    C  customer  .\n 0.457 arrived    C", 1)
    record = fold("i", read(stamped))
    assert (record.started_at, record.ended_at) == (START, START + timedelta(seconds=60))
    parts = record.menu_ms + record.wait_ms + record.ring_ms + record.talk_ms + record.hold_ms
    assert parts == 60_000
    assert record.menu_ms == 2000
