"""Working call lists: one holder per number over all lists, the gate at claim and dial, dispositions, promises kept."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from campaigns import call_lists, checks, counts, lists
from campaigns.call_lists import CallList, EntryState, ListEntry
from crm_core import consent
from crm_core.addresses import Address
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.db import Database, Tx
from crm_core.errors import Conflict, Invalid, NotAllowed, Refused
from crm_core.interactions import Disposition
from tests.campaigns import cast
from tests.campaigns.cast import mobile

DISPOSITIONS = {
    "interested": {"reached": True},
    "sale": {"reached": True, "sale": True},
    "callback": {"callback": True},
    "no_answer": {"retry_after_s": 3600},
    "wrong_number": {"wrong_number": True},
    "do_not_call": {"do_not_call": True},
}


@pytest.fixture
def noon(clock: FixedClock) -> FixedClock:
    clock.tick(6 * 3600)
    return clock


async def a_list(
    db: Database,
    numbers: list[Address],
    noon: FixedClock,
    *,
    name: str = "Spring calls",
    agreed: bool = True,
    **rules: int,
) -> CallList:
    """An active list of these numbers, with consent to telemarketing unless said otherwise."""

    async def unit(tx: Tx) -> CallList:
        from crm_core import accounts

        ours = await accounts.find(tx, "voice", cast.VOICE_FROM)
        ours = ours or await cast.account(tx, "voice", cast.VOICE_FROM, now=noon.now())
        for key, flags in DISPOSITIONS.items():
            row = Disposition(key=key, label=key, scope="list", flags=flags)
            await tx.add_new(row, unique=["key"])
        row = await call_lists.create(
            tx, name=name, account_id=ours.id, user_id="lena", now=noon.now(), script="Hello {{ first_name }} {{ plan }}!",
            **rules,
        )  # fmt: skip
        delta = counts.Delta(row.id)
        for position, number in enumerate(numbers):
            if agreed:
                await cast.agree(tx, number, now=noon.now(), channel="voice", purpose=Purpose.TELEMARKETING)
            await call_lists.add_entry(tx, row, number, now=noon.now(), delta=delta, name=f"Ana {position}")
        await delta.write(tx)
        return await call_lists.set_active(tx, row.id, active=True, now=noon.now())

    return await db.write(unit)


async def claim(db: Database, row: CallList, user: str, noon: FixedClock) -> ListEntry | None:
    return await db.write(lambda tx: lists.claim_next(tx, row.id, user_id=user, now=noon.now()))


async def call(
    db: Database, entry: ListEntry, user: str, noon: FixedClock, disposition: str, **more: object
) -> ListEntry:
    """Dial and dispose."""

    async def dial(tx: Tx) -> None:
        await lists.before_dial(tx, entry.id, user_id=user, now=noon.now())
        await lists.dial_started(tx, entry.id, user_id=user, interaction_id="i-1", now=noon.now())

    await db.write(dial)
    return await db.write(
        lambda tx: lists.dispose(tx, entry.id, user_id=user, disposition=disposition, now=noon.now(), **more)  # type: ignore[arg-type]
    )


async def balanced(db: Database, row: CallList) -> dict[str, int]:
    async with db.reading() as tx:
        kept, true = await call_lists.progress(tx, row.id), await call_lists.count_entries(tx, row.id)
        assert await checks.check_invariants(tx, now=cast.NOON) == []
    assert kept == true
    return kept


async def test_two_people_work_one_list_and_never_meet(db: Database, noon: FixedClock) -> None:
    numbers = [mobile(number) for number in range(30)]
    row = await a_list(db, numbers, noon)
    rung: list[str] = []

    async def telemarketer(user: str) -> None:
        while (entry := await claim(db, row, user, noon)) is not None:
            rung.append(entry.value)
            await call(db, entry, user, noon, "interested")

    await asyncio.gather(telemarketer("lena"), telemarketer("tom"), telemarketer("uma"))
    assert sorted(rung) == sorted(number.value for number in numbers)
    assert await balanced(db, row) == {"done": 30}


async def test_one_number_on_two_lists_has_one_holder(db: Database, noon: FixedClock) -> None:
    shared = mobile(1)
    first, second = await a_list(db, [shared], noon), await a_list(db, [shared], noon, name="Autumn calls")
    held = await claim(db, first, "lena", noon)
    assert held is not None
    assert await claim(db, second, "tom", noon) is None
    await db.write(lambda tx: lists.release(tx, held.id, user_id="lena", now=noon.now()))
    other = await claim(db, second, "tom", noon)
    assert other is not None
    assert other.value == shared.value
    assert await claim(db, first, "lena", noon) is None


async def test_asking_again_gives_the_same_and_another_list_is_refused(db: Database, noon: FixedClock) -> None:
    row, other = await a_list(db, [mobile(1), mobile(2)], noon), await a_list(db, [mobile(3)], noon, name="Other")
    first, again = await claim(db, row, "lena", noon), await claim(db, row, "lena", noon)
    assert first is not None
    assert again is not None
    assert first.id == again.id
    with pytest.raises(Conflict):
        await claim(db, other, "lena", noon)


async def test_a_lease_that_ran_out_frees_the_number(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon)
    held = await claim(db, row, "lena", noon)
    assert held is not None
    noon.tick(lists.LEASE_S + 1)
    assert await db.write(lambda tx: lists.release_expired(tx, now=noon.now())) == 1
    taken = await claim(db, row, "tom", noon)
    assert taken is not None
    with pytest.raises(NotAllowed):
        await call(db, held, "lena", noon, "interested")
    assert await balanced(db, row) == {"locked": 1}


async def test_an_agent_lost_in_a_call_leaves_a_counted_attempt(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon)
    held = await claim(db, row, "lena", noon)
    assert held is not None
    await db.write(lambda tx: lists.dial_started(tx, held.id, user_id="lena", interaction_id="i", now=noon.now()))
    noon.tick(lists.LEASE_S + 1)
    assert await db.write(lambda tx: lists.release_expired(tx, now=noon.now())) == 0
    noon.tick(lists.CALL_S)
    assert await db.write(lambda tx: lists.release_expired(tx, now=noon.now())) == 1
    async with db.reading() as tx:
        entry = await call_lists.get_entry(tx, held.id)
    assert (entry.state, entry.attempts, entry.due_at) == ("called", 1, noon.now() + timedelta(seconds=row.retry_s))


async def test_without_consent_nobody_is_called_and_the_rule_is_kept(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1), mobile(2)], noon, agreed=False)
    assert await claim(db, row, "lena", noon) is None
    assert await balanced(db, row) == {"blocked": 2}
    async with db.reading() as tx:
        entry = (await call_lists.list_entries(tx, row.id))[0]
        told = await lists.explain_entry(tx, entry.id, now=noon.now())
    assert entry.rule == "consent"
    assert not told.callable_now
    assert ("consent", False, entry.reason) in told.lines


async def test_outside_the_hours_an_entry_waits_for_the_morning(db: Database, clock: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], clock)  # five in the morning there
    assert await claim(db, row, "lena", clock) is None
    async with db.reading() as tx:
        entry = (await call_lists.list_entries(tx, row.id))[0]
    assert (entry.state, entry.rule) == ("ready", "hours")
    assert entry.due_at > clock.now()
    clock.tick((entry.due_at - clock.now()).total_seconds())
    assert await claim(db, row, "lena", clock) is not None


async def test_not_reached_comes_back_by_rule_until_the_attempts_are_used_up(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon, max_attempts=2, max_per_day=5)
    entry = await claim(db, row, "lena", noon)
    assert entry is not None
    entry = await call(db, entry, "lena", noon, "no_answer")
    assert (entry.state, entry.due_at) == ("called", noon.now() + timedelta(hours=1))
    assert await claim(db, row, "tom", noon) is None
    noon.tick(3600)
    entry = await claim(db, row, "tom", noon)
    assert entry is not None
    entry = await call(db, entry, "tom", noon, "no_answer")
    assert (entry.state, entry.rule) == ("done", "attempts")
    assert await balanced(db, row) == {"done": 1}


async def test_attempts_a_day_count_over_all_lists(db: Database, noon: FixedClock) -> None:
    first = await a_list(db, [mobile(1)], noon, max_per_day=1)
    second = await a_list(db, [mobile(1)], noon, name="Other", max_per_day=1)
    entry = await claim(db, first, "lena", noon)
    assert entry is not None
    await call(db, entry, "lena", noon, "no_answer")
    assert await claim(db, second, "tom", noon) is None
    async with db.reading() as tx:
        waiting = (await call_lists.list_entries(tx, second.id))[0]
    assert (waiting.rule, waiting.due_at) == ("attempts_per_day", noon.now() + timedelta(hours=24))


async def test_a_promise_is_kept_by_its_owner_first(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon)
    entry = await claim(db, row, "lena", noon)
    assert entry is not None
    with pytest.raises(Invalid):
        await call(db, entry, "lena", noon, "callback")
    promised = noon.now() + timedelta(hours=2)
    entry = await db.write(
        lambda tx: lists.dispose(
            tx,
            entry.id,
            user_id="lena",
            disposition="callback",
            now=noon.now(),
            callback_at=promised,
            notes="after two",
        )
    )
    assert (entry.state, entry.user_id, entry.due_at) == (EntryState.CALLBACK, "lena", promised)
    noon.tick(2 * 3600 - 1)
    assert await claim(db, row, "lena", noon) is None
    noon.tick(1)
    assert await claim(db, row, "tom", noon) is None  # hers for a quarter of an hour
    mine = await claim(db, row, "lena", noon)
    assert mine is not None
    assert mine.notes == "after two"
    await db.write(lambda tx: lists.release(tx, mine.id, user_id="lena", now=noon.now()))
    noon.tick(15 * 60)
    assert await claim(db, row, "tom", noon) is not None


async def test_never_call_again_holds_everywhere_at_once(db: Database, noon: FixedClock) -> None:
    asked = mobile(1)
    first = await a_list(db, [asked, mobile(2)], noon)
    second = await a_list(db, [asked], noon, name="Autumn calls")
    entry = await claim(db, first, "lena", noon)
    while entry is not None and entry.value != asked.value:
        await call(db, entry, "lena", noon, "interested")
        entry = await claim(db, first, "lena", noon)
    assert entry is not None
    await call(db, entry, "lena", noon, "do_not_call", notes="angry")
    async with db.reading() as tx:
        other = (await call_lists.list_entries(tx, second.id))[0]
        verdict = await consent.may_contact(
            tx, purpose=Purpose.TELEMARKETING, channel="voice", address=asked, now=noon.now()
        )
    assert (other.state, other.rule) == ("blocked", "do_not_call")
    assert (verdict.allowed, verdict.rule) == (False, "do_not_call")
    third = await a_list(db, [asked], noon, name="A new list next year")
    noon.tick(200 * 86_400)
    assert await claim(db, third, "tom", noon) is None
    async with db.reading() as tx:
        assert (await call_lists.list_entries(tx, third.id))[0].rule == "do_not_call"


async def test_opting_out_between_claim_and_dial_is_refused_at_the_dial(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon)
    entry = await claim(db, row, "lena", noon)
    assert entry is not None
    await db.write(
        lambda tx: consent.opt_out(tx, mobile(1), source="form", evidence={"f": "1"}, actor="them", now=noon.now())
    )
    with pytest.raises(Refused) as refusal:
        await db.write(lambda tx: lists.before_dial(tx, entry.id, user_id="lena", now=noon.now()))
    rule, reason = refusal.value.rule, refusal.value.message
    await db.write(
        lambda tx: lists.refused(
            tx, entry.id, user_id="lena", rule=rule, reason=reason, until=refusal.value.data["until"], now=noon.now()
        )
    )
    assert rule == "opt_out"
    assert await balanced(db, row) == {"blocked": 1}
    assert await claim(db, row, "lena", noon) is None


async def test_a_wrong_number_is_dead_for_calls(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1)], noon)
    entry = await claim(db, row, "lena", noon)
    assert entry is not None
    done = await call(db, entry, "lena", noon, "wrong_number")
    assert done.state == "done"
    async with db.reading() as tx:
        verdict = await consent.may_contact(
            tx, purpose=Purpose.REQUESTED_CALLBACK, channel="voice", address=mobile(1), now=noon.now()
        )
    assert verdict.rule == "dead"


async def test_disposing_twice_changes_nothing_and_figures_add_up(db: Database, noon: FixedClock) -> None:
    row = await a_list(db, [mobile(1), mobile(2)], noon)
    for disposition in ("sale", "no_answer"):
        entry = await claim(db, row, "lena", noon)
        assert entry is not None
        first = await call(db, entry, "lena", noon, disposition)
        again = await db.write(
            lambda tx, entry=entry, disposition=disposition: lists.dispose(  # type: ignore[misc]
                tx, entry.id, user_id="lena", disposition=disposition, now=noon.now()
            )
        )
        assert again.version == first.version
    async with db.reading() as tx:
        told = await lists.figures(tx, user_id="lena", since=noon.now() - timedelta(hours=1))
        script = await lists.script_of(tx, first.id)
    assert (told.attempts, told.reached, told.sales) == (2, 1, 1)
    assert told.by_disposition == {"sale": 1, "no_answer": 1}
    assert script.startswith("Hello Ana")
