"""Structured logs for every process, with personal data and secrets removed before a line is written.

Decides what a line looks like and what must not be in it. Callers log ids (call, conversation, interaction, delivery),
never addresses, names or texts; what slips through all the same is removed here, from our lines and every library's.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import structlog
from structlog.contextvars import bound_contextvars as log_context
from structlog.typing import EventDict, Processor

from crm_core.clock import SystemClock

__all__ = ["Redactor", "configure_logging", "get_logger", "log_context"]

# Values under these keys are somebody's words, name or secret, whatever they look like.
PRIVATE_WORDS = """
    body bodies text html subject content contents message_body transcript speech snippet note notes raw payload data
    form fields params parameters query_string caller_name display_name full_name first_name last_name person
    password passwd secret token auth authorization cookie cookies set_cookie signature api_key auth_token credentials
    from to sender recipient recipients address addresses phone phones number numbers email emails e164 cc bcc reply_to
"""
PRIVATE_KEYS = frozenset(PRIVATE_WORDS.split())
KEPT_KEYS = frozenset({"timestamp", "level", "logger", "process", "exception_type"})

URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
EMAIL = re.compile(r"[\w.+%-]+(?:@|%40)[\w-]+(?:\.[\w-]+)+", re.ASCII | re.IGNORECASE)
UNICODE_EMAIL = re.compile(r"[^\s@<>\"',;:()\[\]]+@[^\s@<>\"',;:()\[\]]+\.[^\s@<>\"',;:()\[\]]+")
PHONE = re.compile(
    r"(?:\+|%2[bB]|\b00)[\s.(]{0,2}\d(?:[\s().\-/]{0,3}\d){6,16}"  # +44 20 7946 0000, 0044…
    r"|(?<![\w.:-])\(?\d{2,5}\)?[\s.\-/]{1,2}\d{3,4}[\s.\-/]{1,2}\d{3,4}(?![\w.:-])"  # 020 7946 0000, (202) 555-0100
    r"|(?<![\w.:-])\d{9,15}(?![\w.:-])"  # 442079460000
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
OWN_PACKAGES = ("hub", "webhooks", "routing", "campaigns", "channels", "crm_core")
# Errors whose text is about the program or the machine; any other library's text may quote what a stranger wrote.
PLAIN_ERRORS = (OSError, ImportError, AttributeError, NameError, NotImplementedError, RecursionError, MemoryError)
# Libraries that write bodies, parameters or addresses at the levels named; and what is just noise.
LIBRARY_LEVELS = {
    "aioimaplib": logging.INFO,  # DEBUG prints every mail
    "aiohttp.access": logging.WARNING,  # paths with query strings; hub/middleware.py writes its own line
    "asyncio": logging.WARNING,
    "twilio": logging.WARNING,  # INFO prints request bodies
    "sqlalchemy": logging.WARNING,  # INFO prints parameters
    "mail": logging.WARNING,  # aiosmtpd
    "pymap": logging.WARNING,
    "urllib3": logging.WARNING,
    "botocore": logging.WARNING,
    "rq": logging.WARNING,
    "alembic": logging.WARNING,
}
MAX_TEXT = 2000


class Redactor:
    """Removes what must not be in a log. One per process; secrets learnt later are added with `learn`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Never show these values again, plain or percent-encoded. Under four characters they would match anything."""
        for value in secrets:
            if len(value) >= 4:
                self._secrets |= {value, quote(value, safe="")}
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, value: str) -> str:
        """The text without secrets, addresses and phone numbers."""
        if self._pattern is not None:
            value = self._pattern.sub("[secret]", value)
        value = BEARER.sub(r"\1 [secret]", URL_USER.sub("[secret]@", value))
        if "@" in value or "%40" in value:
            value = UNICODE_EMAIL.sub("[email]", EMAIL.sub("[email]", value))
        return PHONE.sub("[phone]", value)

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """Any logged value, safe to render: strings cleaned, containers followed, the rest by its cleaned repr."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return escape(self.text(value[:MAX_TEXT]))
        if depth > 4:
            return "…"
        if isinstance(value, Mapping):
            return {str(k): self.entry(str(k), v, depth=depth + 1) for k, v in list(value.items())[:50]}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, depth=depth + 1) for item in list(value)[:50]]
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        if isinstance(value, BaseException):
            return escape(self.error(value))
        return escape(self.text(repr(value)[:MAX_TEXT]))

    def entry(self, key: str, value: Any, *, depth: int = 0) -> Any:
        """A value under its key: private keys keep only the size."""
        if value is not None and not isinstance(value, bool) and key.lower().replace("-", "_") in PRIVATE_KEYS:
            return (
                f"[removed, {len(value)} long]" if isinstance(value, str | bytes | list | dict | tuple) else "[removed]"
            )
        return self.value(value, depth=depth)

    def error(self, error: BaseException) -> str:
        """One line: the type, and the text where it is known to quote nobody."""
        name = type(error).__qualname__
        own = type(error).__module__.partition(".")[0] in OWN_PACKAGES
        text = str(error) if own or isinstance(error, PLAIN_ERRORS) else ""
        return f"{name}: {self.text(text[:MAX_TEXT])}" if text else name

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        """The structlog processor: the last one before the line is rendered."""
        trace = _trace(event.pop("exc_info", None), self)
        clean = {k: v if k in KEPT_KEYS else self.entry(k, v) for k, v in event.items() if not k.startswith("_")}
        if trace:
            clean["exception"] = trace
        return clean


def escape(value: str) -> str:
    """Line breaks, terminal codes and other control characters made visible, so that no value can forge a line."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] != "\n" else "\\n", value)


def _trace(exc_info: Any, redactor: Redactor) -> str:
    """The stack of an error and of its causes: places only, and one clean line for each error."""
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if error is True:
        error = sys.exc_info()[1]
    lines: list[str] = []
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        lines.append(escape(redactor.error(error)))
        lines.extend(_places(error.__traceback__))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _places(trace: TracebackType | None) -> list[str]:
    return [f"  {f.filename}:{f.lineno} in {f.name}" for f in traceback.extract_tb(trace)[-30:]]


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger: `log.info("offer won", offer=offer.id)`. The event is a fixed phrase, the facts are keyword values."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure_logging(
    *, process: str, level: str = "INFO", form: str = "json", secrets: Iterable[str] = (), stream: IO[str] | None = None
) -> Redactor:
    """Send every log line of this process, ours and the libraries', to `stream` (stderr), redacted.

    `form` is "json" (one object a line) or "console". Give the returned redactor secrets that are read later.
    """
    redactor = Redactor(secrets)
    clock = SystemClock()

    def stamp(logger: Any, method: str, event: EventDict) -> EventDict:
        event["timestamp"] = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event["process"] = process
        return event

    def first_line(logger: Any, method: str, event: EventDict) -> EventDict:
        """Libraries put reprs of what failed below their sentence (asyncio: the task's exception, with its text)."""
        event["event"] = str(event["event"]).partition("\n")[0]
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        stamp,
    ]
    render: Processor = _console if form == "console" else structlog.processors.JSONRenderer(ensure_ascii=False)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[*shared, first_line], processors=[redactor, render])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(least, logging.getLevelName(level)))
    logging.captureWarnings(True)  # noqa: FBT003 - the standard library's own signature
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return redactor


def _console(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """A line for a person: time, process, level, event, facts; a stack below it."""
    time = str(event.pop("timestamp", ""))[11:19]
    level, process = str(event.pop("level", "")), str(event.pop("process", ""))
    event.pop("logger", None)
    trace = event.pop("exception", None)
    what = event.pop("event", "")
    facts = " ".join(f"{key}={value}" for key, value in event.items())
    line = f"{time} {process:<11} {level if level not in {'info', 'debug'} else '':<8} {what} {facts}".rstrip()
    return f"{line}\n{trace}" if trace else line
