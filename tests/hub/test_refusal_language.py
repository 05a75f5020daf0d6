"""Refusals before any handler, told in the asker's language: no token, a scope that is absent, another site, a wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, update

from crm_core import users
from crm_core.users import Role, User
from hub.i18n import Reader
from hub.middleware import retry_sentence
from hub.runtime import Runtime
from tests.apps import Visitor, add_user


async def test_without_a_token(visitor: Visitor) -> None:
    status, told = await visitor.ask("GET", "/api/v1/contacts", headers={"Accept-Language": "de"})
    assert (status, told["type"]) == (401, "urn:hub:NotLoggedIn")
    assert (told["title"], told["detail"]) == ("Nicht angemeldet", "Melden Sie sich erst an.")
    status, told = await visitor.ask("GET", "/api/v1/contacts")
    assert (status, told["title"], told["detail"]) == (401, "Not logged in", "Log in first.")


@pytest.mark.parametrize(
    ("path", "english", "german"),
    [
        (
            "/api/v1/contacts",
            "This token lacks the scope contacts:read.",
            "Diesem Token fehlt der Bereich contacts:read.",
        ),
        (
            "/desk/profile",
            "A token may not do this; it takes a person who has logged in.",
            "Ein Token darf das nicht; dafür muss sich eine Person anmelden.",
        ),
    ],
)
async def test_what_a_token_may_not_do(
    runtime: Runtime, visitor: Visitor, path: str, english: str, german: str
) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])
    now = runtime.clock.now()
    _, secret = await runtime.db.write(
        lambda tx: users.create_token(tx, user_id=amy.id, name="t", scopes=["leads:read"], actor="test", now=now)
    )
    bearer = {"Authorization": f"Bearer {secret}"}
    status, told = await visitor.ask("GET", path, headers=bearer)
    assert (status, told["title"], told["detail"]) == (403, "Not allowed", english)
    status, told = await visitor.ask("GET", path, headers={**bearer, "Accept-Language": "de"})
    assert (status, told["title"], told["detail"]) == (403, "Nicht erlaubt", german)


async def test_a_page_is_told_in_its_users_language(runtime: Runtime, visitor: Visitor) -> None:
    amy = await add_user(runtime, "amy", [Role.AGENT])

    async def speak_spanish(tx: Any) -> None:
        await tx.run(update(User).where(col(User.id) == amy.id).values(locale="es"))

    await runtime.db.write(speak_spanish)
    assert await visitor.log_in("amy") == 303
    visitor.csrf = "stale"
    status, told = await visitor.ask("POST", "/logout", headers={"Accept-Language": "de"})
    assert (status, told["title"]) == (403, "No permitido")
    assert told["detail"] == "Esta página está anticuada; cárguela de nuevo y repita lo que hizo."


async def test_addresses_that_are_not_there_keep_their_status(visitor: Visitor) -> None:
    status, told = await visitor.ask("DELETE", "/api/v1/contacts", headers={"Accept-Language": "de"})
    assert (status, told["status"]) == (405, 405)
    assert told["detail"] == "Diese Adresse nimmt diese Methode nicht an."


async def test_how_long_to_wait_after_wrong_passwords(runtime: Runtime, visitor: Visitor) -> None:
    now = runtime.clock.now()
    sentence = retry_sentence(now + timedelta(seconds=90), now)
    assert sentence == "Too many wrong passwords. Try again in 90 seconds."
    assert retry_sentence(now, now) == "Too many wrong passwords. Try again in 1 seconds."
    german = "Zu viele falsche Passwörter. Versuchen Sie es in 90 Sekunden wieder."
    assert Reader("de", "UTC", now).tell(sentence) == german
    # As the log-in page tells it.
    for _ in range(20):
        async with visitor.http.post(
            visitor.url + "/login", data={"login": "amy", "password": "no"}, headers={"Accept-Language": "de"}
        ) as answer:
            status, page = answer.status, await answer.text()
        if status == 429:
            break
    assert status == 429
    assert "Zu viele falsche Passwörter. Versuchen Sie es in" in page
