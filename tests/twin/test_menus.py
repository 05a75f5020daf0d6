"""Menus: keys and words, several levels, languages, how often they are said, and everything a choice may lead to."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col, select

from crm_core import outgoing
from crm_core.accounts import ChannelAccount
from crm_core.db import Tx
from crm_core.errors import Invalid
from crm_core.interactions import Interaction
from crm_core.touches import Touch
from routing import flows
from routing.callbacks import Callback
from tests.twin.stage import BEN, SALES, Stage

SPANISH = {"en-GB": "For sales, press 1.", "es-ES": "Para ventas, pulse 1."}
FLOW: list[dict[str, Any]] = [
    {
        "do": "menu",
        "texts": {"en-GB": "For English, press 1. For Spanish, press 2."},
        "keys": {
            "1": [{"do": "enqueue", "queue": "q"}],
            "2": [
                {"do": "language", "language": "es-ES"},
                {
                    "do": "menu",
                    "texts": SPANISH,
                    "speech": True,
                    "words": {"1": ["ventas", "comprar"], "2": ["mensaje"]},
                    "tries": 3,
                    "keys": {
                        "1": [{"do": "enqueue", "queue": "sales"}],
                        "2": [{"do": "voicemail", "queue": "q"}],
                        "3": [{"do": "callback", "queue": "q"}],
                        "4": [{"do": "number", "number": "+12025550195"}],
                        "5": [{"do": "say", "texts": {"es-ES": "Hasta luego."}}, {"do": "hangup"}],
                    },
                    "otherwise": [{"do": "enqueue", "queue": "q"}],
                },
            ],
        },
        "otherwise": [{"do": "hangup"}],
    }
]


async def open_with(stage: Stage, steps: list[dict[str, Any]], *agent_ids: str) -> None:
    await stage.open(*agent_ids)

    async def unit(tx: Tx) -> None:
        flow = await flows.create(tx, name="main", steps=steps, language="en-GB", actor="test", now=stage.now)
        await tx.run(update(ChannelAccount).where(col(ChannelAccount.id) == "acc-q").values(flow_id=flow.id))

    await stage.do(unit)


async def in_spanish(stage: Stage) -> str:
    sid = await stage.call()
    await stage.hears(sid, "For Spanish, press 2")
    await stage.press(sid, "2")
    await stage.hears(sid, "Para ventas, pulse 1")
    return sid


async def test_two_levels_and_the_language_goes_along_into_the_queue(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await in_spanish(stage)
    await stage.press(sid, "1")
    found = await stage.state_of(sid, "waiting")
    assert (found.queue_id, found.data["chosen"]) == ("sales", "es-ES")
    await stage.hears(sid, "Es la siguiente persona")
    await stage.check()


async def test_a_word_is_as_good_as_a_key(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await in_spanish(stage)
    await stage.outside("POST", f"/outside/calls/{sid}/speech", text="Quisiera comprar algo.")
    assert (await stage.state_of(sid, "waiting")).queue_id == "sales"
    await stage.check()


async def test_a_menu_is_said_as_often_as_it_says_and_then_goes_on(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await in_spanish(stage)
    for _ in range(3):
        await stage.press(sid, "9")
        await stage.turn()
    assert (await stage.state_of(sid, "waiting")).queue_id == "q"
    heard = await stage.heard(sid)
    assert heard.count("Para ventas, pulse 1") == 3
    assert heard.count("Esa no es una de las opciones") == 2
    await stage.check()


async def test_silence_ends_where_the_flow_says(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await stage.call()
    found = await stage.state_of(sid, "ended")
    assert found.outcome == "automated"
    assert (await stage.heard(sid)).count("For English") == 2
    await stage.check()


async def test_a_message_a_promise_and_a_number(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await in_spanish(stage)
    await stage.outside("POST", f"/outside/calls/{sid}/speech", text="mensaje")
    await stage.hears(sid, "Deje su mensaje")
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")

    sid = await in_spanish(stage)
    await stage.press(sid, "3")
    await stage.hears(sid, "Le llamaremos al")
    (promise,) = await stage.all_of(select(Callback))
    assert (promise.origin, promise.number_e164) == ("menu", "+12025550101")

    sid = await in_spanish(stage)
    await stage.press(sid, "4")
    found = await stage.state_of(sid, "ended")
    assert (found.outcome, found.data["away"]["to"]) == ("automated", "+12025550195")
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    told = select(Touch).where(Touch.interaction_id == found.id, Touch.direction == "outbound")
    assert [touch.verdict["allowed"] for touch in await stage.all_of(told)] == [True]

    # Calls out are stopped: nobody is dialled, and whoever called waits for somebody here.
    await stage.do(lambda tx: outgoing.stop(tx, "voice", reason="Fraud", actor="test", now=stage.now))
    sid = await in_spanish(stage)
    await stage.press(sid, "4")
    assert (await stage.state_of(sid, "waiting")).queue_id == "q"
    await stage.outside("POST", f"/outside/calls/{sid}/hangup")
    await stage.do(lambda tx: outgoing.release(tx, "voice", actor="test", now=stage.now))

    sid = await in_spanish(stage)
    await stage.press(sid, "5")
    await stage.hears(sid, "Hasta luego")
    assert (await stage.state_of(sid, "ended")).outcome == "automated"
    await stage.check()


async def test_a_running_call_keeps_the_version_it_began_with(stage: Stage) -> None:
    await open_with(stage, FLOW)
    sid = await in_spanish(stage)
    (account,) = await stage.all_of(select(ChannelAccount).where(ChannelAccount.id == "acc-q"))
    fresh: list[dict[str, Any]] = [{"do": "say", "text": "We have moved."}, {"do": "hangup"}]
    round_and_round = [
        {"do": "menu", "text": "1?", "keys": {"1": [{"do": "number", "number": SALES}]}, "otherwise": fresh}
    ]
    with pytest.raises(Invalid, match="our own numbers"):
        await stage.do(
            lambda tx: flows.save_version(tx, account.flow_id, steps=round_and_round, actor="test", now=stage.now)
        )
    no_language = [{"do": "language", "language": "Deutsch"}, *fresh]
    with pytest.raises(Invalid, match="not a language"):
        await stage.do(
            lambda tx: flows.save_version(tx, account.flow_id, steps=no_language, actor="test", now=stage.now)
        )
    await stage.do(lambda tx: flows.save_version(tx, account.flow_id, steps=fresh, actor="test", now=stage.now))
    await stage.press(sid, "1")
    assert (await stage.state_of(sid, "waiting")).queue_id == "sales"
    other = await stage.call(BEN)
    await stage.hears(other, "We have moved")
    assert len(await stage.all_of(select(Interaction))) == 2
    await stage.check()


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([{"do": "menu", "text": "?", "keys": {"x": FLOW}, "otherwise": FLOW}], "is not a key"),
        ([{"do": "menu", "text": "?", "keys": {"1": FLOW}, "otherwise": FLOW, "tries": 9}], "one to five"),
        ([{"do": "menu", "text": "?", "keys": {"1": FLOW}, "words": {"2": ["a"]}, "otherwise": FLOW}], "words lead"),
        ([{"do": "number"}], "needs number"),
        ([{"do": "language"}, {"do": "hangup"}], "needs language"),
        ([{"do": "voicemail"}, {"do": "hangup"}], "nothing can follow"),
    ],
)
def test_flows_that_would_leave_somebody_in_silence(steps: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        flows.check(steps)


def test_words_are_whole_words() -> None:
    menu = {"keys": {"1": [], "2": []}, "words": {"1": ["art"], "2": ["账单"]}}
    assert flows.chosen(menu, "", "Something about art, please") == "1"
    assert flows.chosen(menu, "", "I want to start") is None
    assert flows.chosen(menu, "", "我要查账单") == "2"
    assert flows.chosen(menu, "", "2.") == "2"
    assert flows.chosen(menu, "7", "") is None
