"""Log lines are structured, and no canary planted anywhere comes out of them."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from crm_core.errors import HubError
from hub.log import Redactor, configure_logging, get_logger, log_context

SECRET = "canary/secret+value"
BODY = "canary body: my dog ate the invoice"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("aioimaplib", "twilio", "sqlalchemy", "rq", "mail")}
    out = io.StringIO()
    configure_logging(process="test", level="DEBUG", secrets=[SECRET], stream=out)
    yield out
    root.handlers[:], root.level = kept, level
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_what_where_and_for_which_call(stream: io.StringIO) -> None:
    log = get_logger("routing.offers")
    with log_context(call="CA1", conversation="c-9", request="r-3"):
        log.info("offer won", offer="o-7", waited_s=4.2)
    log.debug("after")
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "offer won",
        "level": "info",
        "logger": "routing.offers",
        "process": "test",
        "offer": "o-7",
        "waited_s": 4.2,
        "call": "CA1",
        "conversation": "c-9",
        "request": "r-3",
    }
    assert "call" not in second


@pytest.mark.parametrize(
    "text",
    [
        "+442079460123",
        "+44 20 7946 0123",
        "+44 (0)20-7946-0123",
        "%2B442079460123",
        "00442079460123",
        "442079460123",
        "020 7946 0123",
        "(202) 555-0123",
        "202-555-0123",
        "tel:+12025550123;ext=5",
        "ana.garcia+crm@mail.example.com",
        "ana%40example.com",
        "añá@example.com",
        SECRET,
        "canary%2Fsecret%2Bvalue",
        "redis://user:canary@127.0.0.1/0",
        "postgresql://hub:canary@127.0.0.1/hub",
        "Authorization: Bearer canary.token-value",
        "Basic Y2FuYXJ5OmNhbmFyeQ==",
    ],
)
def test_no_address_number_or_secret_comes_out_wherever_it_stands(stream: io.StringIO, text: str) -> None:
    log = get_logger("x")
    log.info(f"sent to {text}, done", plain=f"<{text}>", deep={"a": [("x", text)]}, thing=SimpleRepr(text))
    logging.getLogger("some.library").warning("cannot reach %s", text)
    with log_context(request=text):
        log.warning("again")
    out = stream.getvalue()
    for canary in ("canary", "7946", "0123", "ana", "añá", "example.com", "Y2Fu"):
        assert canary not in out, out
    assert len(lines(stream)) == 3


class SimpleRepr:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Thing({self.text})"


@pytest.mark.parametrize(
    "key", ["body", "text", "html", "subject", "payload", "caller_name", "password", "token", "to"]
)
def test_words_under_private_keys_keep_only_their_size(stream: io.StringIO, key: str) -> None:
    get_logger("x").info("stored", **{key: BODY}, deep={key.upper(): BODY}, raw=BODY.encode())
    assert "canary" not in stream.getvalue()
    assert lines(stream)[0][key] == f"[removed, {len(BODY)} long]"


def test_what_is_not_personal_stays(stream: io.StringIO) -> None:
    facts = {
        "on": "2026-11-21",
        "at": "2026-11-21T18:25:36.123Z",
        "ip": "127.0.0.1:8080",
        "sid": "CA" + "0123456789abcdef" * 2,
        "uuid": "0192f3a4-5b6c-7d8e-9f01-23456789abcd",
        "count": 1234567890123,
        "path": "/webhooks/twilio/voice",
        "version": "1.2.3",
        "delivery": "delivery-42",
    }
    get_logger("x").info("facts", **facts)
    assert {key: lines(stream)[0][key] for key in facts} == facts


def test_an_error_tells_its_place_but_not_what_a_stranger_wrote(stream: io.StringIO) -> None:
    def fails() -> None:
        try:
            int(BODY)
        except ValueError as error:
            raise RuntimeError(f"cannot use {BODY}") from error

    try:
        fails()
    except RuntimeError:
        get_logger("x").exception("unit failed", delivery="d-1")
        logging.getLogger("aiohttp.server").exception("Error handling request")
    assert "canary" not in stream.getvalue()
    for line in lines(stream):
        assert line["exception"].startswith("RuntimeError\n")
        assert "\nValueError\n" in line["exception"]
        assert "test_log.py" in line["exception"]
        assert "in fails" in line["exception"]


def test_database_errors_do_not_quote_the_row(stream: io.StringIO) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"SELECT '{BODY}' FROM canary_table")
    except sqlite3.Error:
        get_logger("x").exception("query failed")
    connection.close()
    assert "canary" not in stream.getvalue()
    assert "OperationalError" in lines(stream)[0]["exception"]


def test_our_own_errors_keep_their_sentence(stream: io.StringIO) -> None:
    class Full(HubError):
        """The queue is full."""

    Full.__module__ = "routing.queues"
    try:
        raise Full("The queue is full; +442079460123 waits.")
    except Full:
        get_logger("x").exception("refused")
    assert "The queue is full; [phone] waits." in lines(stream)[0]["exception"]


@pytest.mark.parametrize("text", ["a\nFAKE LINE", "a\r\n{}", "\x1b[31mred", "a\u2028b", "\x00"])
def test_no_value_can_forge_a_line(stream: io.StringIO, text: str) -> None:
    get_logger("x").info(text, value=text)
    logging.getLogger("lib").warning("said %r and %s", text, text)
    out = stream.getvalue()
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out


def test_libraries_that_print_bodies_stay_quiet_even_at_debug(stream: io.StringIO) -> None:
    logging.getLogger("aioimaplib.aioimaplib").debug("Received : %s", BODY)
    logging.getLogger("twilio.http_client").info("Data: %s", BODY)
    logging.getLogger("sqlalchemy.engine.Engine").info("[raw sql] (%s)", BODY)
    logging.getLogger("aiohttp.access").info('"GET /find?q=canary HTTP/1.1"')
    assert stream.getvalue() == ""


def test_asyncio_does_not_repeat_a_failed_tasks_words(stream: io.StringIO) -> None:
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=%r>", ValueError(BODY)
    )
    assert lines(stream)[0]["event"] == "Task exception was never retrieved"


def test_a_secret_learnt_later_is_hidden_too() -> None:
    redactor = Redactor()
    assert redactor.text("canary-later") == "canary-later"
    redactor.learn(["canary-later", "ab"])
    assert redactor.text("x canary-later y ab") == "x [secret] y ab"


def test_a_console_line_is_for_people() -> None:
    out = io.StringIO()
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        configure_logging(process="web", form="console", stream=out)
        get_logger("x").warning("slow", took_s=3, to="+442079460123")
    finally:
        root.handlers[:], root.level = kept, level
        logging.captureWarnings(False)
        structlog.reset_defaults()
    assert out.getvalue()[8:].split() == ["web", "warning", "slow", "took_s=3", "to=[removed,", "13", "long]"]


@given(st.integers(10**9, 10**12).map(lambda n: f"+{n}"), st.sampled_from([" ", "-", ".", ""]), st.integers(3, 6))
def test_numbers_in_any_grouping_are_found(number: str, separator: str, every: int) -> None:
    grouped = separator.join(number[i : i + every] for i in range(0, len(number), every))
    assert number[-4:] not in Redactor().text(f"call {grouped} now").replace(" ", "")


@given(st.text(max_size=300))
def test_any_text_can_be_logged(text: str) -> None:
    clean = Redactor([SECRET]).value({"k": text, "e": ValueError(text), "b": text.encode("utf-8", "replace")})
    json.dumps(clean)
