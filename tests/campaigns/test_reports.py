"""Reports, bounces, complaints, unsubscribing: rank only rises, sums always equal the audience, every road stops at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import campaigns, checks, counts, deliveries, explain, pacing, reconcile, reports, sender, unsubscribe
from campaigns.campaigns import Campaign, CampaignState
from campaigns.deliveries import ALLOWED, OPEN, RANK, TERMINAL, Delivery, DeliveryState
from channels.contract import DeliveryReport
from channels.errors import OutcomeUnknown
from crm_core import consent, mail_tokens
from crm_core.accounts import ChannelAccount
from crm_core.addresses import PointKind
from crm_core.clock import FixedClock
from crm_core.consent import Purpose
from crm_core.db import Database, Tx, open_database
from tests.campaigns import cast
from tests.campaigns.cast import Line, mailbox, mobile


def report(status: str, *, key: str = "", external: str = "SM1", error: str = "", code: str = "") -> DeliveryReport:
    return DeliveryReport(
        external, status, code, error, key, f"{external}:{status}", {}, dead=error == "recipient_invalid"
    )


@pytest.fixture
def noon(clock: FixedClock) -> FixedClock:
    clock.tick(6 * 3600)
    return clock


async def sent(
    db: Database,
    noon: FixedClock,
    *,
    channel: str = "sms",
    line: Line | None = None,
    purpose: Purpose = Purpose.SERVICE,
) -> tuple[Campaign, ChannelAccount, Delivery]:
    """A campaign to one person, handed over (or what `line` makes of it)."""
    person = mobile(1) if channel == "sms" else mailbox(1)
    row, ours = await cast.campaign(db, [person], now=noon.now(), channel=channel, purpose=purpose)
    if purpose == Purpose.MARKETING:
        await db.write(lambda tx: cast.agree(tx, person, now=noon.now()))
    await cast.start(db, row.id, noon)
    await cast.run(db, row.id, cast.sending(line or Line(), ours, noon), noon)
    return row, ours, (await cast.rows(db, row.id))[person.value]


async def apply(db: Database, event: DeliveryReport, noon: FixedClock) -> bool:
    return await db.write(lambda tx: reports.apply_report(tx, event, now=noon.now()))


async def test_reports_in_every_order_end_in_the_same_state(sqlite_db: Database, noon: FixedClock) -> None:
    for order in itertools.permutations(["queued", "sent", "delivered", "delivered"]):
        row, _, kept = await sent(sqlite_db, noon)
        for status in order:
            assert await apply(sqlite_db, report(status, key=kept.our_key, external=kept.external_id), noon)
        assert await cast.states(sqlite_db, row.id) == {"delivered": 1}
        await sqlite_db.write(lambda tx: _free_account(tx))


async def _free_account(tx: Tx) -> None:
    """Each campaign of the loop makes its own sender: move the old one's address away."""
    from sqlalchemy import update
    from sqlmodel import col

    await tx.run(
        update(ChannelAccount).where(col(ChannelAccount.address) == cast.SMS_FROM).values(address=ChannelAccount.id)
    )


async def test_strangers_reports_are_not_ours(db: Database, noon: FixedClock) -> None:
    await sent(db, noon)
    assert not await apply(db, report("delivered", external="SMother"), noon)
    assert not await apply(db, report("delivered", key="not-a-key", external="SMother"), noon)
    assert not await apply(db, report("delivered", key="0" * 26 + "-1", external="SMother"), noon)


async def test_a_callback_with_our_key_settles_a_doubtful_one(db: Database, noon: FixedClock) -> None:
    row, ours, kept = await sent(db, noon, line=Line(everybody=OutcomeUnknown("cut")))
    assert kept.state == "unknown"
    assert await apply(db, report("sent", key=kept.our_key, external="SM77"), noon)
    assert await cast.states(db, row.id) == {"sent": 1}
    assert (await cast.rows(db, row.id))[kept.value].external_id == "SM77"
    equipment = cast.sending(Line(), ours, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED


async def test_a_report_about_an_attempt_that_seemed_refused_stops_the_next(db: Database, noon: FixedClock) -> None:
    from channels.errors import Unavailable

    line = Line(everybody=Unavailable("503"))
    row, ours, kept = await sent(db, noon, line=line)
    assert kept.state == "deferred"
    assert await apply(db, report("delivered", key=kept.our_key, external="SM9"), noon)
    line.everybody = None
    noon.tick(3600)
    assert await cast.run(db, row.id, cast.sending(line, ours, noon), noon) == CampaignState.FINISHED
    assert line.sent == []
    assert await cast.states(db, row.id) == {"delivered": 1}


async def test_provider_evidence_settles_or_it_stays_unknown_by_name(db: Database, noon: FixedClock) -> None:
    class Searchable(Line):
        async def find_sent(self, message: object, *, limit: int = 50) -> list[tuple[str, str]]:
            return [("SM5", "delivered")] if message.to_address == mobile(1).value else []  # type: ignore[attr-defined]

    row, ours = await cast.campaign(db, [mobile(1), mobile(2)], now=noon.now())
    line = Searchable(everybody=OutcomeUnknown("cut"))
    equipment = cast.sending(line, ours, noon)
    await cast.start(db, row.id, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHING
    noon.tick(60)
    await cast.run(db, row.id, equipment, noon)
    assert await cast.states(db, row.id) == {"delivered": 1, "unknown": 1}
    assert (await cast.get(db, row.id)).state == CampaignState.FINISHING
    noon.tick(600)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    async with db.reading() as tx:
        named = await deliveries.list_unknown(tx, row.id)
        told = await explain.why(tx, row.id, mobile(2))
    assert [one.value for one in named] == [mobile(2).value]
    assert told.got_it is None
    assert "not sent again" in told.lines[-1].text
    assert await db.write(lambda tx: reconcile.decide(tx, named[0].id, went=True, user_id="ana", now=noon.now()))
    assert await cast.states(db, row.id) == {"accepted": 1, "delivered": 1}


async def test_a_person_settles_a_doubtful_one(db: Database, noon: FixedClock) -> None:
    line = Line(everybody=OutcomeUnknown("cut"))
    row, ours, kept = await sent(db, noon, line=line)
    line.everybody = None
    assert await db.write(lambda tx: reconcile.decide(tx, kept.id, went=False, user_id="ana", now=noon.now()))
    equipment = cast.sending(line, ours, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert line.addresses == [kept.value]
    assert await cast.states(db, row.id) == {"accepted": 1}


async def test_after_the_end_a_doubtful_one_is_not_opened_again(db: Database, noon: FixedClock) -> None:
    row, ours, kept = await sent(db, noon, line=Line(everybody=OutcomeUnknown("cut")))
    noon.tick(1000)
    equipment = cast.sending(Line(), ours, noon)
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED
    assert await db.write(lambda tx: reconcile.decide(tx, kept.id, went=False, user_id="ana", now=noon.now()))
    assert await cast.states(db, row.id) == {"failed": 1}
    assert await cast.run(db, row.id, equipment, noon) == CampaignState.FINISHED


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        ("recipient_invalid", "undelivered", "dead"),
        ("recipient_opted_out", "failed", "sender_stop"),
        ("content_rejected", "failed", ""),
    ],
)
async def test_what_a_failed_report_teaches(
    db: Database, noon: FixedClock, error: str, state: str, reason: str
) -> None:
    row, _, kept = await sent(db, noon)
    assert await apply(
        db, report("failed", key=kept.our_key, external=kept.external_id, error=error, code="30005"), noon
    )
    assert await cast.states(db, row.id) == {state: 1}
    async with db.reading() as tx:
        found, _ = await consent.list_for(tx, mobile(1))
    assert [one.reason for one in found] == ([reason] if reason else [])


async def test_bounces_and_complaints_by_proof(db: Database, noon: FixedClock) -> None:
    row, ours, kept = await sent(db, noon, channel="email")
    mark = mail_tokens.read(sender.message_id(kept, ours, cast.SECRET))
    assert mark is not None
    assert reports.proven(mark, secret=cast.SECRET) == kept.id
    assert reports.proven(mark, secret="another secret") == ""
    assert reports.proven(mark, secret="") == ""
    assert reports.proven(replace(mark, kind="m"), secret=cast.SECRET) == ""
    assert reports.proven(replace(mark, proof="a" * 16), secret=cast.SECRET) == ""

    async def bounce(tx: Tx, code: str, *, failed: bool = True, told: str = "") -> bool:
        return await reports.apply_bounce(
            tx, kept.id, code=code, text="no such user", failed=failed, dead=failed and code == "5.1.1",
            addresses=(told, ""), now=noon.now(),
        )  # fmt: skip

    async def rule() -> str:
        async with db.reading() as tx:
            return (
                await consent.may_contact(
                    tx, purpose=Purpose.REPLY, channel="email", address=mailbox(1), now=noon.now()
                )
            ).rule

    assert await db.write(lambda tx: bounce(tx, "4.2.2", failed=False))
    assert await cast.states(db, row.id) == {"accepted": 1}
    # Tried for days, then given up: this mail bounced, the address may live.
    assert await db.write(lambda tx: bounce(tx, "4.4.1"))
    assert await cast.states(db, row.id) == {"bounced": 1}
    assert await db.write(lambda tx: bounce(tx, "5.1.1", told="somebody.behind@example.com"))
    assert await rule() == "", "an address behind ours is dead, not the one we wrote to"
    assert await db.write(lambda tx: bounce(tx, "5.1.1", told=mailbox(1).value))
    assert await db.write(lambda tx: bounce(tx, "5.1.1"))
    assert await rule() == "dead"
    assert await db.write(lambda tx: reports.apply_complaint(tx, kept.id, text="spam", now=noon.now()))
    assert await cast.states(db, row.id) == {"complained": 1}
    assert not await db.write(lambda tx: reports.apply_complaint(tx, "0" * 26, text="spam", now=noon.now()))


async def test_a_delay_proves_that_a_doubtful_mail_went(db: Database, noon: FixedClock) -> None:
    row, _, kept = await sent(db, noon, channel="email", line=Line(everybody=OutcomeUnknown("?")))
    assert await cast.states(db, row.id) == {"unknown": 1}
    delayed = lambda tx: reports.apply_bounce(  # noqa: E731 - said twice
        tx, kept.id, code="4.4.1", text="", failed=False, dead=False, now=noon.now()
    )
    assert await db.write(delayed)
    assert await db.write(delayed)
    assert await cast.states(db, row.id) == {"accepted": 1}


async def test_a_stop_within_a_week_counts_for_the_latest_campaign_of_that_sender(
    db: Database, noon: FixedClock
) -> None:
    row, ours, kept = await sent(db, noon)

    async def stop(account_id: str, value: str = mobile(1).value) -> bool:
        address = cast.Address(PointKind.PHONE, value, value)
        return await db.write(lambda tx: reports.note_opt_out(tx, address, account_id=account_id, now=noon.now()))

    assert not await stop("another number of ours")
    assert not await stop(ours.id, mobile(2).value)
    noon.tick(6 * 86_400)
    assert await stop(ours.id)
    assert not await stop(ours.id), "the same person twice is one opt-out"
    async with db.reading() as tx:
        assert (await campaigns.progress(tx, row.id))["event"] == {"unsubscribed": 1}
    assert (await cast.rows(db, row.id))[kept.value].unsubscribed_at == noon.now()


async def test_a_stop_after_the_window_is_nobodys(db: Database, noon: FixedClock) -> None:
    row, ours, _ = await sent(db, noon)
    noon.tick(8 * 86_400)
    assert not await db.write(lambda tx: reports.note_opt_out(tx, mobile(1), account_id=ours.id, now=noon.now()))
    async with db.reading() as tx:
        assert (await campaigns.progress(tx, row.id))["event"] == {}


class Some:
    """RateTokens that grant so many and no more."""

    def __init__(self, left: int) -> None:
        self.left = left

    async def take(self, bucket: str, *, rate_per_s: float, burst: float, want: int, now: datetime) -> int:
        given = min(want, self.left)
        self.left -= given
        return given


async def test_stops_by_text_pull_the_brake(sqlite_db: Database, noon: FixedClock) -> None:
    people = [mobile(n) for n in range(1, 61)]
    row, ours = await cast.campaign(sqlite_db, people, now=noon.now())
    await cast.start(sqlite_db, row.id, noon)
    line = Line()
    await cast.run(sqlite_db, row.id, cast.sending(line, ours, noon, tokens=Some(40)), noon)
    assert len(line.sent) == 40
    assert (await cast.get(sqlite_db, row.id)).state == CampaignState.RUNNING
    for number, sent_to in enumerate(line.addresses[:10], 1):
        address = cast.Address(PointKind.PHONE, sent_to, sent_to)
        await sqlite_db.write(
            lambda tx, address=address: reports.note_opt_out(tx, address, account_id=ours.id, now=noon.now())
        )
        paused = (await cast.get(sqlite_db, row.id)).state == CampaignState.PAUSED
        assert paused == (number == 10)


async def test_one_click_unsubscribe_is_idempotent_and_stops_every_campaign(db: Database, noon: FixedClock) -> None:
    line = Line()
    row, _, kept = await sent(db, noon, channel="email", line=line, purpose=Purpose.MARKETING)
    headers = line.sent[0].headers
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = headers["List-Unsubscribe"].strip("<>")
    assert url in line.sent[0].text
    token = url.rsplit("/", 1)[1]
    assert unsubscribe.read(cast.SECRET, token) == kept.id
    assert await db.write(lambda tx: unsubscribe.unsubscribe(tx, kept.id, now=noon.now(), remote="192.0.2.1"))
    assert not await db.write(lambda tx: unsubscribe.unsubscribe(tx, kept.id, now=noon.now()))
    assert not await db.write(lambda tx: unsubscribe.unsubscribe(tx, "0" * 26, now=noon.now()))
    assert not await db.write(lambda tx: unsubscribe.unsubscribe(tx, None, now=noon.now()))
    async with db.reading() as tx:
        suppressions, ledger = await consent.list_for(tx, mailbox(1))
        assert (await campaigns.progress(tx, row.id))["event"] == {"unsubscribed": 1}
    assert len(suppressions) == 1
    assert [entry.action for entry in ledger] == ["withdrawn", "granted"]
    assert ledger[0].evidence["remote"] == "192.0.2.1"
    assert (await cast.rows(db, row.id))[kept.value].state == "accepted"


@pytest.mark.parametrize("broken", ["", ".", "x", "a.b", "é.x", "x" * 200, "0" * 26 + ".", "0" * 26 + "." + "A" * 27])
def test_a_token_we_did_not_sign_names_nobody(broken: str) -> None:
    assert unsubscribe.read(cast.SECRET, broken) is None


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_no_text_is_a_token(written: str) -> None:
    assert unsubscribe.read(cast.SECRET, written) is None


def test_the_table_of_moves_keeps_its_promises() -> None:
    for state, targets in ALLOWED.items():
        for to in targets:
            # Back below the network only after a definite refusal, a decision, or before anything was sent.
            if RANK[to] < RANK[state]:
                assert state in (DeliveryState.SUBMITTING, DeliveryState.UNKNOWN)
            if state in TERMINAL:
                assert RANK[to] > RANK[state]
        assert state not in targets or state in deliveries.WAITING
    assert set() == OPEN & TERMINAL
    assert OPEN | TERMINAL | {DeliveryState.UNKNOWN} == set(DeliveryState)


STATUSES = st.sampled_from(["queued", "sent", "delivered", "undelivered", "failed", "read"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("report"), st.integers(0, 4), STATUSES),
        st.tuples(st.just("old report"), st.integers(0, 4), STATUSES),
        st.tuples(st.just("step"), st.integers(0, 4), st.just("")),
        st.tuples(st.just("fail"), st.integers(0, 4), st.sampled_from(["unknown", "unavailable", "invalid", "fine"])),
        st.tuples(st.just("time"), st.sampled_from([1, 100, 700, 4000]), st.just("")),
        st.tuples(st.just("pause"), st.just(0), st.just("")),
        st.tuples(st.just("resume"), st.just(0), st.just("")),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just("")),
    ),
    max_size=30,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_whatever_happens_the_sums_equal_the_audience_and_rank_only_rises(
    steps: list[tuple[str, int, str]], sqlite_template: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    from channels.errors import ChannelError, RecipientInvalid, Unavailable
    from crm_core.errors import Conflict

    path = tmp_path_factory.mktemp("story") / "hub.db"
    shutil.copy(str(sqlite_template), path)
    db = await open_database(f"sqlite:///{path}")
    clock = FixedClock(cast.NOON)
    try:
        people = [mobile(number) for number in range(5)]
        row, ours = await cast.campaign(db, people, now=clock.now())
        line = Line()
        equipment = cast.sending(line, ours, clock, at_once=2)
        await cast.start(db, row.id, clock)
        errors: dict[str, type[ChannelError]] = {
            "unknown": OutcomeUnknown, "unavailable": Unavailable, "invalid": RecipientInvalid,
        }  # fmt: skip
        ranks: dict[str, tuple[int, str]] = {}
        for what, number, how in steps:
            found = await cast.rows(db, row.id)
            kept = found.get(people[number % 5].value)
            try:
                if what == "step":
                    await cast.run(db, row.id, equipment, clock, steps=number + 1)
                elif what == "fail":
                    line.errors.pop(people[number].value, None)
                    if how in errors:
                        line.errors[people[number].value] = errors[how]("as told")
                elif what == "time":
                    clock.tick(number)
                elif what == "pause":
                    await db.write(lambda tx: campaigns.pause(tx, row.id, now=clock.now(), reason="x"))
                elif what == "resume":
                    await db.write(lambda tx: campaigns.resume(tx, row.id, now=clock.now()))
                elif what == "cancel" and number == 0:
                    await db.write(lambda tx: campaigns.cancel(tx, row.id, now=clock.now()))
                elif kept is not None and kept.our_key and what in ("report", "old report"):
                    key = kept.our_key if what == "report" else f"{kept.id}-1"
                    await apply(db, report(how, key=key, external=kept.external_id or "SMx"), clock)
            except Conflict:
                pass  # a move that the present state does not allow is refused, never half done
            if found:
                total = await cast.states(db, row.id)
                assert sum(total.values()) == len(await cast.rows(db, row.id))
            for value, now in (await cast.rows(db, row.id)).items():
                before = ranks.get(value, (0, ""))
                if before[0] >= RANK[DeliveryState.ACCEPTED]:
                    assert RANK[now.state] >= before[0], f"{value} fell from {before[1]} to {now.state}"
                ranks[value] = (RANK[now.state], str(now.state))
        went = [message.to_address for message in line.sent]
        assert len(went) == len(set(went)), "somebody got it twice"
        state = (await cast.get(db, row.id)).state
        if state == CampaignState.FINISHED:
            assert not set(await cast.states(db, row.id)) & {str(one) for one in OPEN}
    finally:
        await db.close()


@given(rate=st.floats(0.1, 100), asks=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=50))
def test_a_bucket_never_grants_more_than_its_rate(rate: float, asks: list[tuple[float, int]]) -> None:
    now = cast.NOON
    bucket = pacing.Bucket.empty(now)
    granted, passed = 0, 0.0
    for wait, want in asks:
        now += timedelta(seconds=wait)
        passed += wait
        bucket, got, again = pacing.take(bucket, rate_per_s=rate, burst=pacing.burst_of(rate), want=want, now=now)
        granted += got
        assert 0 <= got <= want
        assert again >= 0
    assert granted <= rate * passed + 1e-6


async def test_why_names_each_step(db: Database, noon: FixedClock) -> None:
    row, _, _ = await sent(db, noon)
    async with db.reading() as tx:
        told = await explain.why(tx, row.id, mobile(1))
        absent = await explain.why(tx, row.id, mobile(3))
    assert (told.answer, told.got_it) == ("accepted", True)
    assert [line.check for line in told.lines[:4]] == ["audience", "forecast", "erased", "dead"]
    assert absent.got_it is False
    assert "Not in the file" in absent.lines[0].text


async def test_the_minutes_check_names_what_is_wrong(db: Database, noon: FixedClock) -> None:
    row, _, _ = await sent(db, noon)

    async def spoil(tx: Tx) -> list[str]:
        delta = counts.Delta(row.id)
        delta.move("accepted", "planned")
        await delta.write(tx)
        return await checks.check_invariants(tx, now=noon.now())

    wrong = await db.write(spoil)
    assert any("is finished with rows planned" in one for one in wrong)
    assert any("its rows are" in one for one in wrong)


async def test_counts_are_read_as_sums_of_shards(db: Database) -> None:
    async def unit(tx: Tx) -> None:
        for _ in range(40):
            delta = counts.Delta("c")
            delta.add("planned", 2)
            delta.move("planned", "sent")
            await delta.write(tx)

    await db.write(unit)
    async with db.reading() as tx:
        assert await counts.read(tx, "c") == {"planned": 40, "sent": 40}
