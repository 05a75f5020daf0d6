"""Refusals of the API in the language that the request accepts; in English for those who say nothing."""

from __future__ import annotations

import pytest

from tests.api.conftest import House


@pytest.mark.parametrize(
    ("accept", "title", "detail"),
    [
        ("", "Not found", "There is no such contact."),
        ("de-AT, en;q=0.5", "Nicht gefunden", "Diesen Kontakt gibt es nicht."),
        ("fr", "Not found", "There is no such contact."),
    ],
)
async def test_title_and_detail(house: House, accept: str, title: str, detail: str) -> None:
    headers = {"Accept-Language": accept} if accept else {}
    status, told = await house.ada.ask("GET", "/contacts/" + "0" * 26, headers=headers)
    assert status == 404
    assert (told["type"], told["title"], told["detail"]) == ("urn:hub:NotFound", title, detail)


async def test_a_sentence_with_what_was_typed(house: House) -> None:
    body = {"name": "Ana", "points": [{"kind": "email", "value": "nobody"}]}
    status, told = await house.ada.ask("POST", "/contacts", body, headers={"Accept-Language": "es"})
    assert status == 422
    assert told["title"] == "Esto no se puede usar"
    assert told["detail"].startswith("«nobody» no es una dirección de correo")
    assert house.ada.last_headers["Content-Language"] == "es"
