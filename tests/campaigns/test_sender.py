"""Sending: the gate binds at the claim, three outcomes, brakes, pause and resume, several workers."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from campaigns import campaigns, deliveries, reconcile, sender
from campaigns.campaigns import CampaignState
from channels.errors import (
    ContentRejected,
    Misconfigured,
    OutcomeUnknown,
    RecipientInvalid,
    RecipientOptedOut,
    Throttled,
    Unavailable,
)
from crm_core import consent
from crm_core.clock import FixedClock
from crm_core.consent import Purpose, SuppressionReason
from crm_core.db import Database, Tx
from crm_core.errors import IllegalTransition
from tests.campaigns import cast
from tests.campaigns.cast import Line, mailbox, mobile

PEOPLE = [mobile(number) for number in range(12)]
# Ten in the morning in London is five in Washington: text messages are sent when it is three in the afternoon here.
NOON = timedelta(hours=6)


@pytest.fixture
def noon(clock: FixedClock) -> FixedClock:
    clock.tick(NOON.total_seconds())
    return clock


async def test_everybody_gets_it_once_and_it_finishes(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line()
    await cast.start(db, row.id, noon)
    assert await cast.run(db, row.id, cast.sending(line, ours, noon), noon) == CampaignState.FINISHED
    assert sorted(line.addresses) == sorted(person.value for person in PEOPLE)
    assert await cast.states(db, row.id) == {"accepted": 12}
    assert {message.body for message in line.sent} == {"Hello Ana, see you. Reply STOP to end."}
    keys = {message.our_key for message in line.sent}
    assert len(keys) == 12
    assert all(deliveries.id_of_key(key) for key in keys)


async def test_the_gate_binds_at_the_claim_not_at_freezing(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:3], now=noon.now(), purpose=Purpose.MARKETING)

    async def unit(tx: Tx) -> None:
        for person in PEOPLE[:2]:
            await cast.agree(tx, person, now=noon.now())
        await campaigns.prepare(tx, row.id, now=noon.now())

    await db.write(unit)
    line = Line()
    equipment = cast.sending(line, ours, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.READY
    async with db.reading() as tx:
        assert (await campaigns.progress(tx, row.id))["forecast"] == {"allowed": 2, "consent": 1}

    async def stop(tx: Tx) -> None:
        await consent.opt_out(
            tx, PEOPLE[1], channel="sms", source="sms_keyword", evidence={"text": "STOP"}, actor="them", now=noon.now()
        )
        await campaigns.start(tx, row.id, now=noon.now())

    await db.write(stop)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert line.addresses == [PEOPLE[0].value]
    found = await cast.rows(db, row.id)
    assert (found[PEOPLE[1].value].state, found[PEOPLE[1].value].rule) == ("suppressed", "opt_out")
    assert (found[PEOPLE[2].value].state, found[PEOPLE[2].value].rule) == ("suppressed", "consent")


async def test_outside_their_hours_a_text_is_held_and_goes_later(db: Database, clock: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:2], now=clock.now())  # five in the morning in Washington
    line = Line()
    equipment = cast.sending(line, ours, clock)
    await cast.start(db, row.id, clock)
    assert await cast.run(db, row.id, equipment, clock) == CampaignState.RUNNING
    assert await cast.states(db, row.id) == {"held": 2}
    due = (await cast.get(db, row.id)).due_at
    assert due is not None
    assert due > clock.now() + timedelta(hours=2)
    clock.tick((due - clock.now()).total_seconds())
    assert await cast.run(db, row.id, equipment, clock) == CampaignState.FINISHED
    assert len(line.sent) == 2


@pytest.mark.parametrize(
    ("error", "state", "suppressed"),
    [
        (RecipientInvalid("no such number", code="21211"), "bounced", SuppressionReason.DEAD),
        (RecipientOptedOut("stopped", code="21610"), "suppressed", SuppressionReason.SENDER_STOP),
        (ContentRejected("filtered", code="30007"), "failed", None),
        (Unavailable("down", code="503"), "deferred", None),
        (OutcomeUnknown("cut", code="timeout"), "unknown", None),
        (TimeoutError(), "unknown", None),
        (ValueError("a bug in an adapter"), "unknown", None),
    ],
)
async def test_each_outcome(
    db: Database, noon: FixedClock, error: BaseException, state: str, suppressed: SuppressionReason | None
) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:3], now=noon.now())
    line = Line(errors={PEOPLE[1].value: error})
    await cast.start(db, row.id, noon)
    await cast.run(db, row.id, cast.sending(line, ours, noon), noon)
    assert await cast.states(db, row.id) == {"accepted": 2, state: 1}
    async with db.reading() as tx:
        found, _ = await consent.list_for(tx, PEOPLE[1])
    assert [one.reason for one in found] == ([suppressed] if suppressed else [])
    kept = (await cast.rows(db, row.id))[PEOPLE[1].value]
    if state in ("deferred", "bounced", "failed", "suppressed"):
        async with db.reading() as tx:
            assert await consent.count_touches(tx, PEOPLE[1], purpose="service", since=noon.now() - NOON) == []
    if state == "unknown":
        assert kept.unknown_at == noon.now()


async def test_unavailable_is_tried_again_until_it_goes(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:1], now=noon.now())
    line = Line(everybody=Unavailable("down"))
    equipment = cast.sending(line, ours, noon)
    await cast.start(db, row.id, noon)
    for attempt in range(1, 4):
        assert await cast.run(db, row.id, equipment, noon) == CampaignState.RUNNING
        assert (await cast.rows(db, row.id))[PEOPLE[0].value].attempt == attempt
        noon.tick(1200)
    line.everybody = None
    noon.tick(3600)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert line.sent[0].our_key.endswith("-4")


async def test_after_all_tries_it_is_failed(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, [mailbox(1)], now=noon.now(), channel="email")
    line = Line(everybody=Unavailable("down", code="451"))
    await cast.start(db, row.id, noon)
    for _ in range(len(sender.BACKOFF_S) + 1):
        await cast.run(db, row.id, cast.sending(line, ours, noon), noon)
        noon.tick(5 * 3600)
    assert await cast.states(db, row.id) == {"failed": 1}
    assert (await cast.get(db, row.id)).state == CampaignState.FINISHED


async def test_throttled_makes_the_whole_campaign_wait(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line(errors={PEOPLE[0].value: Throttled("slow down", retry_after_s=30)})
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon, at_once=1)
    await cast.run(db, row.id, equipment, noon)
    kept = await cast.states(db, row.id)
    assert kept["deferred"] == 1
    assert kept.get("claimed", 0) == 0
    if kept.get("planned"):
        due = (await cast.get(db, row.id)).due_at
        assert due == noon.now() + timedelta(seconds=30)


async def test_a_wrong_sender_pauses_and_loses_nothing(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line(everybody=Misconfigured("The credentials are wrong."))
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon, at_once=4)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.PAUSED
    paused = await cast.get(db, row.id)
    assert (paused.reason, paused.brake) == ("The credentials are wrong.", "sender")
    assert await cast.states(db, row.id) == {"planned": 12}
    line.everybody = None
    await db.write(lambda tx: campaigns.resume(tx, row.id, now=noon.now()))
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert len(line.sent) == len(set(line.addresses)) == 12


async def test_bounces_pull_the_brake_and_resuming_counts_anew(db: Database, noon: FixedClock) -> None:
    crowd = [mobile(number) for number in range(60)]
    row, ours = await cast.campaign(db, crowd, now=noon.now())
    bad = {person.value: RecipientInvalid("gone") for person in crowd[:15]}
    line = Line(errors=dict(bad))
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon, at_once=5)
    state = await cast.run(db, row.id, equipment, noon)
    paused = await cast.get(db, row.id)
    if state == CampaignState.FINISHED:
        pytest.fail("fifteen of sixty must stop it")
    assert paused.brake == "bounces"
    assert "could not be reached" in paused.reason
    before = await cast.states(db, row.id)
    line.errors.clear()
    await db.write(lambda tx: campaigns.resume(tx, row.id, now=noon.now()))
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    after = await cast.states(db, row.id)
    assert after["bounced"] == before["bounced"]
    assert sum(after.values()) == 60


async def test_pause_lets_no_new_send_begin_and_resume_touches_only_planned(db: Database, noon: FixedClock) -> None:
    crowd = [mobile(number) for number in range(40)]
    row, ours = await cast.campaign(db, crowd, now=noon.now())
    line = Line()

    async def pause_at_tenth(_: object) -> None:
        if len(line.sent) == 10:
            await db.write(lambda tx: campaigns.pause(tx, row.id, now=noon.now(), reason="Lunch."))

    line.hook = pause_at_tenth
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon, at_once=4)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.PAUSED
    begun = len(line.sent)
    assert 10 < begun <= 10 + 4
    assert await cast.states(db, row.id) == {"accepted": begun, "planned": 40 - begun}
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.PAUSED
    assert len(line.sent) == begun
    line.hook = None
    await db.write(lambda tx: campaigns.resume(tx, row.id, now=noon.now()))
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert sorted(line.addresses) == sorted(person.value for person in crowd)


async def test_cancel_leaves_no_open_row(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line()
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon)
    await db.write(lambda tx: campaigns.get(tx, row.id))
    await cast.run(db, row.id, equipment, noon, steps=1)
    await db.write(lambda tx: campaigns.cancel(tx, row.id, now=noon.now(), reason="Wrong text."))
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.CANCELLED
    kept = await cast.states(db, row.id)
    assert set(kept) <= {"accepted", "cancelled"}
    assert (await cast.get(db, row.id)).due_at is None


async def test_several_workers_claim_disjoint_rows(db: Database, noon: FixedClock) -> None:
    crowd = [mobile(number) for number in range(150)]
    row, ours = await cast.campaign(db, crowd, now=noon.now())
    line = Line()

    async def yielding(_: object) -> None:
        await asyncio.sleep(0)

    line.hook = yielding
    await cast.start(db, row.id, noon)
    workers = [cast.sending(line, ours, noon, worker=f"w{number}", at_once=7) for number in range(4)]
    await asyncio.gather(*(cast.run(db, row.id, worker, noon) for worker in workers))
    await cast.run(db, row.id, workers[0], noon)
    assert len(line.sent) == len(set(line.addresses)) == 150
    assert await cast.states(db, row.id) == {"accepted": 150}


async def test_a_worker_that_slept_through_its_lease_sends_nothing(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line()
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon)

    async def prepare(_: campaigns.Campaign) -> sender.Sending:
        return equipment

    await cast.run(db, row.id, equipment, noon, steps=1)  # frozen
    campaign, claimed = await sender._claim(db, row.id, equipment, 12)
    assert len(claimed) == 12
    noon.tick(120)  # stopped by the system for two minutes
    assert await db.write(lambda tx: reconcile.release_expired(tx, now=noon.now())) == {row.id}
    assert await sender._submit_and_send(db, campaign, claimed, equipment) == []
    assert line.sent == []
    assert await cast.states(db, row.id) == {"planned": 12}


async def test_a_submission_whose_worker_died_is_unknown_and_never_sent_again(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:2], now=noon.now())
    line = Line()

    async def die(message: object) -> None:
        raise asyncio.CancelledError

    line.hook = die
    await cast.start(db, row.id, noon)
    equipment = cast.sending(line, ours, noon)
    with pytest.raises(asyncio.CancelledError):
        await cast.run(db, row.id, equipment, noon)
    assert await cast.states(db, row.id) == {"submitting": 2}
    line.hook = None
    noon.tick(200)
    await db.write(lambda tx: reconcile.release_expired(tx, now=noon.now()))
    assert await cast.states(db, row.id) == {"unknown": 2}
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHING
    noon.tick(1000)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert line.sent == []
    async with db.reading() as tx:
        assert {one.value for one in await deliveries.list_unknown(tx, row.id)} == {one.value for one in PEOPLE[:2]}


async def test_a_started_campaign_takes_new_content_only_when_paused(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE, now=noon.now())
    line = Line()

    async def write(tx: Tx) -> None:
        await campaigns.set_content(
            tx, row.id, subject="", body="Second text", html="", user_id="ana", now=noon.now(), fields=frozenset()
        )

    async def pause_at_third(_: object) -> None:
        if len(line.sent) == 3:
            await db.write(lambda tx: campaigns.pause(tx, row.id, now=noon.now(), reason="Typo."))

    line.hook = pause_at_third
    await cast.start(db, row.id, noon)
    await cast.run(db, row.id, cast.sending(line, ours, noon), noon, steps=1)
    with pytest.raises(IllegalTransition):
        await db.write(write)
    equipment = cast.sending(line, ours, noon, at_once=2)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.PAUSED
    line.hook = None
    await db.write(write)
    await db.write(lambda tx: campaigns.resume(tx, row.id, now=noon.now()))
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    made_from = {kept.value: kept.content_version for kept in (await cast.rows(db, row.id)).values()}
    for message in line.sent:
        assert made_from[message.to_address] == (2 if message.body == "Second text" else 1)
    assert set(made_from.values()) == {1, 2}


async def test_a_scheduled_campaign_starts_on_time_or_waits_for_a_person(db: Database, noon: FixedClock) -> None:
    row, ours = await cast.campaign(db, PEOPLE[:1], now=noon.now())
    at = noon.now() + timedelta(hours=1)
    await db.write(lambda tx: campaigns.start(tx, row.id, now=noon.now(), start_at=at))
    equipment = cast.sending(Line(), ours, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.SCHEDULED
    noon.tick(3600 + 16 * 60)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.MISSED
    later = noon.now() + timedelta(minutes=5)
    await db.write(lambda tx: campaigns.start(tx, row.id, now=noon.now(), start_at=later))
    noon.tick(301)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
