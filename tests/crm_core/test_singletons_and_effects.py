"""Leases, the outbox, events, the audit chain, tallies: what other parts rely on when processes die."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from crm_core import accounts, audit, conversations, events, interactions, leases, outbox, tallies, users
from crm_core.audit import AuditEntry
from crm_core.clock import FixedClock
from crm_core.db import Database
from crm_core.errors import Conflict, IllegalTransition, Invalid
from crm_core.ids import new_id
from crm_core.interactions import ALLOWED, Interaction, InteractionState, Outcome
from crm_core.outbox import OutboxState, OutboxTask
from crm_core.touches import Direction
from crm_core.users import Role


async def test_a_lease_has_one_holder_and_a_rising_token(db: Database, clock: FixedClock) -> None:
    async def take(holder: str) -> int | None:
        return await db.write(lambda tx: leases.take(tx, "router", holder=holder, now=clock.now(), ttl_s=5))

    assert await take("a") == 1
    assert await take("b") is None
    clock.tick(4)
    assert await take("a") == 1  # renewed
    clock.tick(4)
    assert await take("b") is None
    clock.tick(2)
    assert await take("b") == 2  # a stood still too long
    assert await take("a") is None
    async with db.reading() as tx:
        assert not await leases.holds(tx, "router", token=1)
        assert await leases.holds(tx, "router", token=2)
    await db.write(lambda tx: leases.release(tx, "router", holder="b", now=clock.now()))
    assert await take("a") == 3


async def ask(db: Database, clock: FixedClock, subject: str, **more: Any) -> bool:
    more = {"lane": "control", **more}
    return await db.write(lambda tx: outbox.ask(tx, "call.end", subject, now=clock.now(), **more))


async def claim(db: Database, clock: FixedClock, **more: Any) -> tuple[list[OutboxTask], list[OutboxTask]]:
    return await db.write(lambda tx: outbox.claim(tx, lane="control", now=clock.now(), **more))


async def test_an_effect_is_claimed_by_one(db: Database, clock: FixedClock) -> None:
    for n in range(20):
        await ask(db, clock, f"s{n}")
    claims = await asyncio.gather(*(claim(db, clock, limit=7) for _ in range(6)))
    taken = [task.id for ready, _ in claims for task in ready]
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 20


async def test_a_dead_executor_leaves_a_doubtful_effect(db: Database, clock: FixedClock) -> None:
    await ask(db, clock, "s")
    (first,), _ = await claim(db, clock)
    assert await claim(db, clock) == ([], [])
    clock.tick(outbox.LEASE_S + 1)
    ready, (second,) = await claim(db, clock)
    assert ready == []
    assert second.token == first.token + 1
    assert not await db.write(lambda tx: outbox.finish(tx, first, OutboxState.DONE, now=clock.now()))
    assert await db.write(lambda tx: outbox.finish(tx, second, OutboxState.UNKNOWN, now=clock.now(), error="killed"))
    async with db.reading() as tx:
        assert [task.state for task in await outbox.list_unfinished(tx, ["s"])] == [OutboxState.UNKNOWN]


async def test_one_after_another_where_order_was_asked_for(db: Database, clock: FixedClock) -> None:
    for n in range(3):
        await ask(db, clock, f"s{n}", ordering="call-1")
        clock.tick(0.01)
    await ask(db, clock, "other", ordering="call-2")
    done = []
    for _ in range(4):
        ready, _doubtful = await claim(db, clock)
        done.append([task.subject_id for task in ready])
        for task in ready:
            await db.write(lambda tx, task=task: outbox.finish(tx, task, OutboxState.DONE, now=clock.now()))
    assert done == [["s0", "other"], ["s1"], ["s2"], []]


async def test_the_same_effect_is_asked_for_once(db: Database, clock: FixedClock) -> None:
    assert await ask(db, clock, "s", dedupe="end-CA1")
    assert not await ask(db, clock, "s", dedupe="end-CA1")
    await ask(db, clock, "later", due_at=clock.now() + timedelta(seconds=30))
    (task,), _ = await claim(db, clock)
    assert await db.write(lambda tx: outbox.retry(tx, task, due_at=clock.now() + timedelta(seconds=60), error="busy"))
    clock.tick(31)
    (later,), _ = await claim(db, clock)
    assert later.subject_id == "later"


async def test_events_are_numbered_once_without_gaps(db: Database, clock: FixedClock) -> None:
    for n in range(7):
        await db.write(lambda tx, n=n: events.emit(tx, "t.happened", str(n), now=clock.now()))
    first = await db.write(events.number_new)
    await db.write(lambda tx: events.emit(tx, "t.happened", "7", now=clock.now()))
    second = await db.write(events.number_new)
    assert [event.seq for event in (*first, *second)] == list(range(1, 9))
    assert await db.write(events.number_new) == []
    async with db.reading() as tx:
        assert [event.seq for event in await events.list_since(tx, 6)] == [7, 8]


async def test_the_audit_chain_shows_tampering(db: Database, clock: FixedClock) -> None:
    for n in range(5):
        await db.write(lambda tx, n=n: audit.record(tx, actor="u", action="a", subject=f"s:{n}", now=clock.now(), n=n))
        clock.tick(1)
    assert await db.write(audit.seal) == 5
    assert await db.write(audit.seal) == 0
    async with db.reading() as tx:
        assert await audit.verify(tx) is None
    await db.write(lambda tx: tx.run(update(AuditEntry).where(col(AuditEntry.number) == 3).values(detail={"n": 9})))
    async with db.reading() as tx:
        assert await audit.verify(tx) == 3


async def arrived(db: Database, clock: FixedClock) -> Interaction:
    account = accounts.ChannelAccount(
        id=new_id(clock.now()), channel="sms", name="n", address=new_id(clock.now()), created_at=clock.now()
    )
    await db.write(lambda tx: tx.add(account))

    async def arrive(tx: Any) -> Interaction:
        thread, _ = await conversations.open_thread(
            tx, channel="sms", account_id=account.id, thread_key="+12025550101", peer="+12025550101", now=clock.now()
        )
        row = Interaction(
            id=new_id(clock.now()), conversation_id=thread.id, channel="sms", direction=Direction.INBOUND,
            account_id=account.id, state=InteractionState.WAITING, queue_id="q", first_arrival_at=clock.now(),
            created_at=clock.now(),
        )  # fmt: skip
        return await interactions.create(tx, row, now=clock.now())

    return await db.write(arrive)


async def counts(db: Database, clock: FixedClock) -> dict[str, int]:
    async with db.reading() as tx:
        return {f"{c.queue_id}/{c.state}": c.number for c in await tallies.list_counts(tx, day=clock.now())}


async def test_counts_move_with_the_row(db: Database, clock: FixedClock) -> None:
    row = await arrived(db, clock)
    assert await counts(db, clock) == {"q/waiting": 1}
    await db.write(lambda tx: interactions.advance(tx, row, InteractionState.CONNECTED, now=clock.now()))
    await db.write(lambda tx: interactions.change(tx, row, now=clock.now(), queue_id="r"))
    assert await counts(db, clock) == {"r/connected": 1}
    clock.tick(5)
    await db.write(
        lambda tx: interactions.advance(tx, row, InteractionState.ENDED, now=clock.now(), outcome=Outcome.HANDLED)
    )
    assert await counts(db, clock) == {"r/ended:handled": 1}
    with pytest.raises(IllegalTransition):
        await db.write(lambda tx: interactions.advance(tx, row, InteractionState.WAITING, now=clock.now()))


async def test_of_two_movers_one_wins(db: Database, clock: FixedClock) -> None:
    row = await arrived(db, clock)
    copies = [row.model_copy() for _ in range(5)]
    results = await asyncio.gather(
        *(
            db.write(lambda tx, c=c: interactions.advance(tx, c, InteractionState.CONNECTED, now=clock.now()))
            for c in copies
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert all(isinstance(r, Conflict) for r in results if isinstance(r, Exception))
    assert await counts(db, clock) == {"q/connected": 1}


def test_every_state_can_end() -> None:
    assert set(ALLOWED) == set(InteractionState)
    for state, steps in ALLOWED.items():
        assert state == InteractionState.ENDED or InteractionState.ENDED in steps


async def test_delivery_status_only_rises(db: Database, clock: FixedClock) -> None:
    row = await arrived(db, clock)

    async def note(status: str) -> bool:
        return await db.write(lambda tx: interactions.note_delivery(tx, row.id, status, now=clock.now()))

    assert [await note(s) for s in ("sent", "queued", "delivered", "sent", "failed", "delivered")] == [
        True, False, True, False, False, False,
    ]  # fmt: skip


async def test_users_sessions_and_tokens(db: Database, clock: FixedClock) -> None:
    async def create(login: str, *roles: Role) -> users.User:
        return await db.write(
            lambda tx: users.create(
                tx,
                login=login,
                name="N",
                roles=roles or [Role.AGENT],
                password_hash="x",
                now=clock.now(),
                actor="system",
            )
        )

    amy = await create(" Amy ")
    assert amy.login == "amy"
    with pytest.raises(Conflict):
        await create("AMY")
    with pytest.raises(Invalid):
        await create("a b")
    await db.write(
        lambda tx: users.open_session(
            tx, amy, secret="s3cret", now=clock.now(), address="127.0.0.1", browser="b", lifetime=timedelta(hours=1)
        )
    )
    async with db.reading() as tx:
        assert await users.find_session(tx, "wrong", now=clock.now()) is None
        found = await users.find_session(tx, "s3cret", now=clock.now())
        assert found is not None
        assert found[1].login == "amy"
        assert await users.find_session(tx, "s3cret", now=clock.now() + timedelta(hours=2)) is None
        assert "s3cret" not in str(await tx.all(select(users.Session)))
    token, secret = await db.write(
        lambda tx: users.create_token(
            tx, user_id=amy.id, name="t", scopes=["contacts:read"], actor=amy.id, now=clock.now()
        )
    )
    async with db.reading() as tx:
        assert await users.find_token(tx, secret, now=clock.now()) is not None
    await db.write(lambda tx: users.revoke_token(tx, token.id, actor=amy.id, now=clock.now()))
    async with db.reading() as tx:
        assert await users.find_token(tx, secret, now=clock.now()) is None
    await db.write(lambda tx: users.change(tx, amy, actor="system", now=clock.now(), roles=["supervisor"]))
    async with db.reading() as tx:
        assert await users.find_session(tx, "s3cret", now=clock.now()) is None


async def test_wrong_passwords_make_one_wait(db: Database, clock: FixedClock) -> None:
    subjects = ["login:amy", "address:192.0.2.1"]

    async def blocked() -> float:
        async with db.reading() as tx:
            until = await users.login_blocked_until(tx, subjects, now=clock.now())
        return (until - clock.now()).total_seconds() if until else 0

    waits = []
    for _ in range(8):
        await db.write(lambda tx: users.note_login_failure(tx, subjects, now=clock.now()))
        waits.append(await blocked())
    assert waits == [0, 0, 0, 0, 0, 2, 4, 8]
    await db.write(lambda tx: users.forget_login_failures(tx, subjects))
    assert await blocked() == 0
