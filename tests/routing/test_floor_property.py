"""A floor in the hands of chance: calls, texts, forms, callbacks, agents who vanish and return, several routers, time.

After every step the hub's own invariants must hold, and at the end of each run what came must be all that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlmodel import select

from channels.contract import CallArrived, FormArrived
from crm_core.accounts import Form
from crm_core.addresses import phone
from crm_core.consent import Purpose
from crm_core.errors import Conflict, NotAllowed, NotFound
from crm_core.interactions import Interaction
from routing import desk, engine, router
from routing.agents import FRESH, Activity, Agent
from routing.queues import EntryState, Lane, Refusal
from tests.machines import DatabaseMachine, play
from tests.routing.floor import NUMBER, Floor, caller
from tests.routing.provider import Leg, Provider

AGENTS = ("kim", "lee", "max")
who = st.sampled_from(AGENTS)
number = st.integers(0, 5)
pick = st.integers(0, 1000)


def machine(url: str) -> type[RuleBasedStateMachine]:
    """The machine over a database of its own per run."""

    class FloorMachine(DatabaseMachine):
        source = url

        def __init__(self) -> None:
            super().__init__()
            self.came = 0
            self.promises = 0

        def quietly(self, work: Coroutine[Any, Any, Any]) -> None:
            """Acts that come too late are answered with a Conflict, which is right."""

            async def go() -> None:
                with suppress(Conflict, NotAllowed, NotFound):
                    await work
                await self.obey()

            self.wait(go())

        @initialize(
            wrapup=st.sampled_from([0, 30]), offer_after=st.sampled_from([0, -1]), rings=st.sampled_from([1, 3])
        )
        def open(self, wrapup: int, offer_after: int, rings: int) -> None:
            async def go() -> None:
                await self.open_database()
                self.floor = Floor(self.db, self.clock)
                self.provider = Provider(self.db, self.clock)
                await self.floor.open(
                    *AGENTS, wrapup_s=wrapup, callback_offer_after_s=offer_after, callback_retry_s=60, ring_count=rings
                )

            self.wait(go())

        # --- the provider's side

        async def obey(self) -> None:
            """The executor: everything asked for, until nothing more is."""
            for _ in range(50):
                tasks = await self.floor.take_outbox()
                if not tasks:
                    return
                for task in tasks:
                    await self.provider.execute(task)

        @rule(order=st.sampled_from(["first", "last", "twice"]), index=pick)
        def deliver(self, order: str, index: int) -> None:
            """One event arrives: the oldest, or another before it, or twice."""
            if not self.provider.pending:
                return
            place = 0 if order != "last" else index % len(self.provider.pending)
            interaction_id, event = self.provider.pending.pop(place)

            async def go() -> None:
                for _ in range(2 if order == "twice" else 1):
                    await self.provider.deliver(event, interaction_id)
                await self.obey()

            self.wait(go())

        async def drain(self) -> None:
            for _ in range(200):
                await self.obey()
                if not self.provider.pending:
                    return
                interaction_id, event = self.provider.pending.pop(0)
                await self.provider.deliver(event, interaction_id)

        @rule()
        def deliver_all(self) -> None:
            self.wait(self.drain())

        # --- people outside

        @rule(number=number)
        def phones(self, number: int) -> None:
            async def go() -> None:
                leg = Leg(self.provider.sid("CA"), "")
                event = CallArrived(leg.call_id, caller(number), NUMBER, leg.call_id, {}, {})
                steps = await self.db.write(lambda tx: router.call_arrived(tx, event, now=self.clock.now()))
                leg.interaction_id = (await self.floor.interaction_of(leg.call_id)).id
                self.provider.legs[leg.call_id] = leg
                await self.provider.obey(leg, steps)

            self.came += 1
            self.wait(go())

        def legs(self, fits: Callable[[Leg], bool]) -> list[Leg]:
            return [leg for leg in self.provider.legs.values() if leg.alive and fits(leg)]

        @rule(index=pick)
        def customer_hangs_up(self, index: int) -> None:
            found = self.legs(
                lambda leg: not leg.label.startswith("agent-") and leg.call_id not in self.provider.ringing
            )
            if found:
                leg = found[index % len(found)]
                queued = leg.queued
                self.provider.hang_up(leg)
                if queued:
                    self.quietly(self.left(leg))

        async def left(self, leg: Leg) -> None:
            await self.provider.ask(leg, leg.wait_path.replace("step=wait", "step=left"), QueueResult="hangup")

        @rule(index=pick, key=st.sampled_from(["", "1"]))
        def waits_on(self, index: int, key: str) -> None:
            found = self.legs(lambda leg: leg.queued)
            if not found:
                return
            leg = found[index % len(found)]

            async def go() -> None:
                steps = await self.provider.ask(leg, leg.wait_path.replace("step=pressed", "step=wait"))
                await self.provider.obey(leg, steps)
                if key and leg.queued and "step=pressed" in leg.wait_path:
                    await self.provider.obey(leg, await self.provider.ask(leg, leg.wait_path, Digits=key))

            self.quietly(go())

        @rule(number=number, body=st.sampled_from(["Hello?", "And another thing", "STOP", "START"]))
        def texts(self, number: int, body: str) -> None:
            self.came += 1
            self.wait(self.floor.text(body, caller(number)))

        @rule(number=number)
        def posts(self, number: int) -> None:
            fields = {"name": "Someone", "phone": caller(number), "message": f"{self.came}"}
            event = FormArrived("contact", fields, f"form-{self.came}", "203.0.113.9")

            async def go(tx: Any) -> None:
                form = await tx.one(select(Form).where(Form.id == "form"))
                await router.form_arrived(tx, event, form=form, now=self.clock.now())

            self.came += 1
            self.wait(self.db.write(go))

        @rule(index=pick, picks_up=st.booleans())
        def phone_rings_out(self, index: int, picks_up: bool) -> None:
            calls = sorted(self.provider.ringing)
            if not calls:
                return
            call_id = calls[index % len(calls)]
            if picks_up:
                self.quietly(self.provider.answer(call_id))
            else:
                del self.provider.ringing[call_id]
                leg = self.provider.legs[call_id]
                leg.alive = False
                self.provider.tell_status(leg, "no-answer", 9)

        # --- agents

        @rule(agent=who, then=st.sampled_from(["talks", "talks", "talks", "connects", "nothing"]))
        def accepts(self, agent: str, then: str) -> None:
            async def go() -> None:
                if then == "talks":
                    await self.db.write(lambda tx: desk.set_activity(tx, agent, "available", now=self.clock.now()))
                    await self.floor.beat(agent)
                    await engine.tick(self.db, clock=self.clock, holder="router")
                live = [offer for offer in await self.floor.live_offers(agent) if offer.state == "open"]
                if not live:
                    return
                offer = await self.floor.accept(agent, live[0].id)
                if then != "nothing" and offer.state == "accepting":
                    await self.joins(agent, offer=offer.id, nonce=offer.nonce)
                if then == "talks":
                    await self.drain()

            self.quietly(go())

        async def joins(self, agent: str, **params: str) -> None:
            leg = Leg(self.provider.sid("CB"), "", f"agent-{agent}")
            _, steps = await self.floor.connect(agent, leg.call_id, **params)
            name = getattr(steps[0], "name", "")
            if name:
                leg.interaction_id = name.removeprefix("room-")
                self.provider.legs[leg.call_id] = leg
                await self.provider.obey(leg, steps)

        @rule(agent=who)
        def refuses(self, agent: str) -> None:
            async def go() -> None:
                live = await self.floor.live_offers(agent)
                if live:
                    await self.db.write(lambda tx: desk.refuse(tx, live[0].id, agent_id=agent, now=self.clock.now()))

            self.quietly(go())

        @rule(agent=who, activity=st.sampled_from(["available"] * 4 + ["paused", "offline"]))
        def changes_activity(self, agent: str, activity: str) -> None:
            self.quietly(self.db.write(lambda tx: desk.set_activity(tx, agent, activity, now=self.clock.now())))

        @rule(agent=who, ready=st.sampled_from([True, True, True, False]))
        def beats(self, agent: str, ready: bool) -> None:
            self.quietly(self.db.write(lambda tx: desk.heartbeat(tx, agent, voice_ready=ready, now=self.clock.now())))

        @rule(agent=who)
        def loses_the_line(self, agent: str) -> None:
            for leg in self.legs(lambda leg: leg.label.partition(".")[0] == f"agent-{agent}")[:1]:
                self.provider.hang_up(leg)

        @rule(agent=who)
        def reloads(self, agent: str) -> None:
            async def go() -> None:
                shown = await self.db.write(lambda tx: desk.rejoin(tx, agent_id=agent, now=self.clock.now()))
                if shown is not None:
                    await self.joins(agent, **shown["rejoin_params"])

            self.quietly(go())

        @rule(agent=who)
        def hangs_up(self, agent: str) -> None:
            async def go() -> None:
                shown = await self.db.write(lambda tx: desk.rejoin(tx, agent_id=agent, now=self.clock.now()))
                if shown is not None:
                    await self.floor.hang_up(agent, shown["interaction_id"])

            self.quietly(go())

        @rule(agent=who, index=pick, disposition=st.sampled_from(["done", "", "dnc"]))
        def finishes(self, agent: str, index: int, disposition: str) -> None:
            async def go() -> None:
                held = [
                    entry
                    for entry in await self.floor.entries()
                    if entry.agent_id == agent and entry.state in (EntryState.CONNECTED, EntryState.WRAPUP)
                ]
                if held:
                    await self.floor.finish(agent, held[index % len(held)].id, disposition)

            self.quietly(go())

        @rule(agent=who, number=number, what=st.sampled_from(["callback", "form", "anybody"]))
        def dials(self, agent: str, number: int, what: str) -> None:
            async def go() -> None:
                held = [
                    e for e in await self.floor.entries() if e.agent_id == agent and e.state == EntryState.CONNECTED
                ]
                number_e164, callback_id = caller(number), None
                for callback in await self.floor.callbacks():
                    fits = not held or held[0].callback_id == callback.id
                    if what == "callback" and callback.ended_at is None and fits:
                        number_e164, callback_id = callback.number_e164, callback.id
                call: Interaction = await self.db.write(
                    lambda tx: desk.start_call(
                        tx, agent_id=agent, address=phone(number_e164), purpose=Purpose.REQUESTED_CALLBACK,
                        account_id="acc-voice", now=self.clock.now(), callback_id=callback_id,
                    )
                )  # fmt: skip
                await self.joins(agent, call=call.id, nonce=call.data["nonce"])

            self.quietly(go())

        # --- the router, once or twice at the same time

        @rule(leaders=st.sampled_from([1, 1, 2, 3]))
        def ticks(self, leaders: int) -> None:
            async def go() -> None:
                before = {offer.id for offer in await self.floor.offers()}
                now = self.clock.now()
                there = {agent for agent in AGENTS if is_there(await self.floor.agent(agent), now)}
                await asyncio.gather(
                    *(engine.tick(self.db, clock=self.clock, holder=f"router-{each}") for each in range(leaders))
                )
                fresh = [offer for offer in await self.floor.offers() if offer.id not in before]
                assert {offer.agent_id for offer in fresh} <= there, "offered to somebody who is not there"
                await self.in_order(before)
                await self.obey()

            self.wait(go())

        async def in_order(self, before: set[str]) -> None:
            """Nobody was passed over: whoever is offered live work, no older live work waits that they could have had."""
            waiting = [
                entry
                for entry in await self.floor.entries()
                if entry.state == EntryState.WAITING and entry.lane == Lane.LIVE
                and (entry.not_before is None or entry.not_before <= self.clock.now())
            ]  # fmt: skip
            known = {entry.id: entry for entry in await self.floor.entries()}
            async with self.db.reading() as tx:
                refused = {(row.entry_id, row.agent_id) for row in await tx.all(select(Refusal))}
            for offer in await self.floor.offers():
                entry = known[offer.entry_id]
                if offer.id in before or entry.lane != Lane.LIVE or offer.state != "open":
                    continue
                passed = [
                    other.id
                    for other in waiting
                    if (other.order_at, other.id) < (entry.order_at, entry.id)
                    and (other.id, offer.agent_id) not in refused
                ]
                assert passed == [], f"{entry.id} was offered before {passed}"

        @rule(seconds=st.sampled_from([1, 1, 5, 5, 11, 21, 31, 61, 400]), silent=st.sets(who, max_size=1))
        def time_passes(self, seconds: int, silent: set[str]) -> None:
            self.clock.tick(seconds)
            for agent in sorted(set(AGENTS) - silent):
                self.wait(self.floor.beat(agent))

        # --- what must always hold

        @invariant()
        @precondition(lambda self: hasattr(self, "floor"))
        def all_is_well(self) -> None:
            self.wait(self.floor.check())

        @invariant()
        @precondition(lambda self: hasattr(self, "floor"))
        def nothing_is_lost(self) -> None:
            async def go() -> None:
                told = await self.floor.conservation()
                assert told["came"] == self.came == sum(told.values()) - told["came"]
                promises = await self.floor.callbacks()
                assert len(promises) >= self.promises
                open_ones = [(one.number_e164, one.queue_id) for one in promises if one.ended_at is None]
                assert len(open_ones) == len(set(open_ones)), "two open promises to one number"
                assert all(one.attempts <= one.max_attempts for one in promises)
                self.promises = len(promises)
                for callback in promises:
                    assert (callback.ended_at is None) == (callback.state in ("requested", "due", "claimed", "dialing"))
                    if callback.state in ("blocked", "expired"):
                        assert callback.rule

            self.wait(go())

        async def settle(self) -> None:
            """Everybody outside hangs up and the agents go home: then nothing may be left in a call."""
            await self.drain()
            for leg in list(self.provider.legs.values()):
                self.provider.ringing.pop(leg.call_id, None)
                self.provider.hang_up(leg)
            await self.drain()
            for _ in range(12):
                self.clock.tick(61)
                await engine.tick(self.db, clock=self.clock, holder="last")
                await self.drain()
            await self.floor.check()
            for entry in await self.floor.entries():
                assert entry.state in (EntryState.WAITING, EntryState.DONE, EntryState.CONNECTED), entry.state
            for interaction in await self.floor.interactions():
                if "room" in interaction.data:
                    assert interaction.state in ("ended", "promised"), (
                        f"{interaction.direction} call is {interaction.state}"
                    )
            for agent in AGENTS:
                row = await self.floor.agent(agent)
                assert (row.live_load, row.ringing, row.wrapups) == (0, 0, 0)

    return FloorMachine


def is_there(agent: Agent, now: datetime) -> bool:
    """Available, or back within this pass from a pause that ends by itself; and heard of within half a minute."""
    seen = agent.seen_at is not None and now - agent.seen_at < FRESH
    return seen and agent.activity in (Activity.AVAILABLE, Activity.NOT_RESPONDING)


@pytest.mark.timeout(600)
def test_chance_breaks_nothing_on_sqlite(sqlite_url: str) -> None:
    play(machine(sqlite_url), examples=12, steps=40)


@pytest.mark.timeout(600)
def test_chance_breaks_nothing_on_postgresql(pg_url: str) -> None:
    play(machine(pg_url), examples=8, steps=25)
