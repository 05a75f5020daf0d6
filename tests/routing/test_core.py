"""The pure core by tables: who may have what, who comes first, what a trace says. No database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.agents import Activity
from routing.core import Memory, Ring, Rules, Snapshot, Timer, Work, Worker, decide, fire, needed, obstacle
from routing.queues import Lane

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def work(key: str = "w1", *, waited: float = 10, **more: object) -> Work:
    fields: dict[str, object] = {"queue_id": "q", "lane": Lane.LIVE, "weight": 1, "order_at": ago(waited), **more}
    return Work(id=key, entered_at=ago(waited), **fields)  # type: ignore[arg-type]


def worker(key: str = "kim", **more: object) -> Worker:
    fields: dict[str, object] = {"activity": Activity.AVAILABLE, "idle_since": ago(60), "seen_at": ago(5), **more}
    return Worker(user_id=key, **fields)  # type: ignore[arg-type]


def floor(works: list[Work], workers: list[Worker], **more: object) -> Snapshot:
    rules = Rules("q", members={each.user_id: 0 for each in workers})
    fields: dict[str, object] = {"queues": {"q": rules}, **more}
    return Snapshot(works, {each.user_id: each for each in workers}, **fields)  # type: ignore[arg-type]


TEXT = {"lane": Lane.TEXT, "weight": 25}


@pytest.mark.parametrize(
    ("agent", "piece", "why"),
    [
        ({}, {}, ""),
        ({"activity": Activity.PAUSED}, {}, "paused"),
        ({"activity": Activity.NOT_RESPONDING}, {}, "not responding"),
        ({"activity": Activity.OFFLINE}, {}, "offline"),
        ({"leaving": True}, {}, "stops after the present work"),
        ({"seen_at": ago(31)}, {}, "no heartbeat"),
        ({"seen_at": ago(30)}, {}, ""),
        ({"seen_at": None}, TEXT, "no heartbeat"),
        ({"voice_ready": False}, {}, "phone not registered"),
        ({"voice_ready": False}, TEXT, ""),
        ({"wrapups": 1}, {}, "in wrap-up"),
        ({"wrapups": 1}, TEXT, ""),
        ({"live_load": 1}, {}, "busy with live work"),
        ({"live_load": 1}, TEXT, "busy with live work"),
        ({"live_load": 1, "live_capacity": 2}, {}, ""),
        ({"text_load": 100}, {}, ""),  # written work never blocks live work
        ({"text_load": 75}, TEXT, ""),
        ({"text_load": 80}, TEXT, "written work full (80 of 100)"),
        ({"skills": {"es": 3}}, {"skills": {"es": 4}}, "skill es: 3 of 4"),
        ({"skills": {"es": 4}}, {"skills": {"es": 4}}, ""),
    ],
)
def test_who_may_have_what(agent: dict[str, object], piece: dict[str, object], why: str) -> None:
    wanted, _, _ = needed(Rules("q"), work(**piece), NOW)  # type: ignore[arg-type]
    assert obstacle(worker(**agent), work(**piece), wanted, NOW) == why  # type: ignore[arg-type]


def test_the_oldest_work_comes_first_whatever_its_kind() -> None:
    works = [work("call", waited=10), work("callback", waited=300), work("text", waited=400, **TEXT)]
    decided = decide(floor(works, [worker("kim"), worker("lee", idle_since=ago(50))]), NOW)
    assert [(offer.entry_id, offer.agent_id) for offer in decided.offers] == [
        ("text", "kim"), ("callback", "kim"), ("call", "lee"),
    ]  # fmt: skip


def test_after_live_work_is_offered_no_written_work_follows() -> None:
    works = [work("call", waited=20), work("text", waited=10, **TEXT)]
    decided = decide(floor(works, [worker()]), NOW)
    assert [offer.entry_id for offer in decided.offers] == ["call"]
    assert decided.kept[0].agents["by_agent"] == {"kim": "busy with live work"}


def test_longest_idle_then_the_seed_breaks_ties_the_same_way_each_time() -> None:
    same = [worker(name, idle_since=ago(60)) for name in ("a", "b", "c", "d")]
    seeds = {decide(floor([work()], same, seed=seed), NOW).offers[0].agent_id for seed in range(20)}
    assert len(seeds) > 1
    assert decide(floor([work()], same, seed=3), NOW) == decide(floor([work()], same, seed=3), NOW)
    longest = [*same, worker("z", idle_since=ago(61))]
    assert {decide(floor([work()], longest, seed=seed), NOW).offers[0].agent_id for seed in range(20)} == {"z"}


def test_rank_comes_before_idleness_and_preference_before_rank() -> None:
    rules = Rules("q", members={"kim": 0, "lee": 1})
    both = [worker("kim", idle_since=ago(1)), worker("lee", idle_since=ago(900))]
    assert decide(floor([work()], both, queues={"q": rules}), NOW).offers[0].agent_id == "kim"
    preferred = decide(floor([work(preferred_agent_id="lee")], both, queues={"q": rules}), NOW).offers[0]
    assert (preferred.agent_id, preferred.trace["why"]) == ("lee", "preferred")


def test_work_waits_for_its_preferred_agent_only_as_long_as_the_queue_says() -> None:
    rules = Rules("q", members={"kim": 0, "lee": 0}, preferred_wait_s=30)
    both = [worker("kim"), worker("lee", live_load=1)]
    early = decide(floor([work(preferred_agent_id="lee", waited=10)], both, queues={"q": rules}), NOW)
    assert early.offers == []
    assert early.kept[0].trace["why"] == "waits for the preferred agent"
    assert early.next_at == NOW + timedelta(seconds=20)
    late = decide(floor([work(preferred_agent_id="lee", waited=31)], both, queues={"q": rules}), NOW)
    assert late.offers[0].agent_id == "kim"


def test_refusal_memory() -> None:
    both = [worker("kim", idle_since=ago(900)), worker("lee")]
    cooling = {("w1", "kim"): Memory(NOW + timedelta(seconds=40))}
    decided = decide(floor([work()], both, refusals=cooling), NOW)
    assert decided.offers[0].agent_id == "lee"
    assert decided.offers[0].trace["agents"]["by_agent"]["kim"] == "refused or missed it just now"
    alone = decide(floor([work()], both[:1], refusals=cooling), NOW)
    assert alone.offers == []
    assert alone.next_at == NOW + timedelta(seconds=40)
    cooled = {("w1", "kim"): Memory(ago(1))}
    assert decide(floor([work()], both, refusals=cooled), NOW).offers[0].agent_id == "lee"
    assert decide(floor([work()], both[:1], refusals=cooled), NOW).offers[0].agent_id == "kim"
    other = decide(floor([work("w2")], both, refusals=cooling), NOW)
    assert other.offers[0].agent_id == "kim"


def test_rings_relax_skills_with_time() -> None:
    rules = Rules(
        "q", skills={"es": 4, "tax": 2}, rings=[Ring(60, lower={"es": 2}), Ring(120, drop=frozenset({"tax"}))]
    )
    assert needed(rules, work(waited=59), NOW) == ({"es": 4, "tax": 2}, 0, NOW + timedelta(seconds=1))
    assert needed(rules, work(waited=60), NOW) == ({"es": 2, "tax": 2}, 1, NOW + timedelta(seconds=60))
    assert needed(rules, work(waited=500), NOW) == ({"es": 2}, 2, None)
    kim = worker(skills={"es": 2})
    members = replace(rules, members={"kim": 0})
    early = decide(floor([work(waited=100)], [kim], queues={"q": members}), NOW)
    assert early.kept[0].agents["by_agent"] == {"kim": "skill tax: 0 of 2"}
    assert early.next_at == NOW + timedelta(seconds=20)
    assert decide(floor([work(waited=120)], [kim], queues={"q": members}), NOW).offers[0].trace["ring"] == 2


def test_a_trace_says_everything_that_was_weighed() -> None:
    three = [worker("kim"), worker("lee", idle_since=ago(30)), worker("max", activity=Activity.PAUSED)]
    (offer,) = decide(floor([work()], three), NOW).offers
    assert offer.trace == {
        "position": 1, "ring": 0, "skills": {}, "agent": "kim", "why": "longest idle", "candidates": ["kim", "lee"],
        "agents": {
            "by_agent": {"lee": "behind in order (2)", "max": "paused"},
            "by_reason": {"behind in order": 1, "paused": 1},
        },
    }  # fmt: skip


def test_why_nobody() -> None:
    assert decide(floor([work()], []), NOW).kept[0].trace["why"] == "nobody serves this queue"
    logged_off = Snapshot([work()], {}, {"q": Rules("q", members={"kim": 0})})
    assert decide(logged_off, NOW).kept[0].trace["why"] == "nobody who serves this queue has logged in"
    later = work(not_before=NOW + timedelta(seconds=20))
    decided = decide(floor([later], [worker()]), NOW)
    assert (decided.offers, decided.kept[0].trace["why"], decided.next_at) == ([], "not yet due", later.not_before)


def test_versions_count_on_with_each_offer_of_one_pass() -> None:
    works = [work(f"t{number}", waited=100 - number, **TEXT) for number in range(6)]
    decided = decide(floor(works, [worker(version=7)]), NOW)
    assert [offer.agent_version for offer in decided.offers] == [7, 8, 9, 10]
    assert [each.entry_id for each in decided.kept] == ["t4", "t5"]


def test_timers_fire_in_order_and_tell_the_next() -> None:
    timers = [
        Timer("offer", "b", ago(1)),
        Timer("wrapup", "a", ago(5)),
        Timer("callback", "c", NOW + timedelta(hours=1)),
    ]
    fired, next_at = fire(timers, NOW)
    assert [timer.id for timer in fired] == ["a", "b"]
    assert next_at == NOW + timedelta(hours=1)


lanes = st.sampled_from([(Lane.LIVE, 1), (Lane.TEXT, 25), (Lane.TEXT, 20)])


@given(
    pieces=st.lists(st.tuples(lanes, st.integers(0, 600)), max_size=30),
    idle=st.lists(st.integers(0, 600), min_size=1, max_size=6),
    seed=st.integers(),
)
def test_no_pass_overfills_anybody_or_passes_anyone_over(
    pieces: list[tuple[tuple[Lane, int], int]], idle: list[int], seed: int
) -> None:
    works = [
        work(f"w{number}", waited=waited, lane=lane, weight=weight)
        for number, ((lane, weight), waited) in enumerate(pieces)
    ]
    workers = [worker(f"a{number}", idle_since=ago(seconds)) for number, seconds in enumerate(idle)]
    decided = decide(floor(works, workers, seed=seed), NOW)
    assert len(decided.offers) + len(decided.kept) == len(works)
    by_id = {each.id: each for each in works}
    for agent in workers:
        mine = [by_id[offer.entry_id] for offer in decided.offers if offer.agent_id == agent.user_id]
        assert sum(each.weight for each in mine if each.lane == Lane.LIVE) <= 1
        assert sum(each.weight for each in mine if each.lane == Lane.TEXT) <= 100
    for lane in Lane:
        kept = [by_id[each.entry_id].order_at for each in decided.kept if by_id[each.entry_id].lane == lane]
        given_live = [by_id[offer.entry_id].order_at for offer in decided.offers if by_id[offer.entry_id].lane == lane]
        if lane == Lane.LIVE and kept and given_live:
            assert max(given_live) <= min(kept)
