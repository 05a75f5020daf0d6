"""`hub replay`: posts by their ids or all of a form's, one line each, and an exit that says whether any led to nothing."""

from __future__ import annotations

from argparse import Namespace

import pytest
from sqlmodel import select

from crm_core.errors import Invalid, NotFound
from crm_core.leads import Lead
from hub.__main__ import build_parser
from hub.replay_commands import replay
from tests.webhooks.conftest import Hub
from webhooks import form_posts
from webhooks.forms import HONEYPOT

POST = "/webhooks/forms/website"
FILLED = {"name": "Dana Demo", "email": "dana@example.com"}


def words(*given: str) -> Namespace:
    return build_parser().parse_args(["replay", *given])


async def test_posts_are_read_again_from_the_command_line(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for fields in ({**FILLED, HONEYPOT: "x"}, {**FILLED, "topic": "weather"}, {"name": "Nobody"}):
        async with hub.client.post(POST, json=fields) as response:
            assert response.status in (200, 422)
    async with hub.db.reading() as tx:
        (held,) = await form_posts.list_posts(tx, ["website"], only="held")
    await replay(hub.deps, words("--form", "website", "--only", "held", "--list"))
    assert capsys.readouterr().out.split("\t")[::2] == [held.id, "honeypot\n"]
    await replay(hub.deps, words(held.id))
    assert "done" in capsys.readouterr().out
    with pytest.raises(Invalid, match="led to nothing"):
        await replay(hub.deps, words("--form", "website"))
    assert sorted(line.split("\t")[1] for line in capsys.readouterr().out.splitlines()) == ["discarded", "done"]
    async with hub.db.reading() as tx:
        assert len(await tx.all(select(Lead))) == 2, "one said a topic, so they are two enquiries; none came twice"
    for wrong in ([], [held.id, "--form", "website"]):
        with pytest.raises(Invalid):
            await replay(hub.deps, words(*wrong))
    with pytest.raises(NotFound):
        await replay(hub.deps, words("--form", "nowhere"))
    with pytest.raises(Invalid):
        await replay(hub.deps, words("0" * 26))
