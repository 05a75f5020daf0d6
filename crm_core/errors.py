"""The root of every error the hub raises on purpose; each class's docstring is its default message.

A message that names something holds `%(name)s` and gets the value as data: `Conflict("The login “%(login)s” is taken.",
login=login)`. So it can be told in the reader's language where it is shown (`crm_core/texts.py`).
"""

from __future__ import annotations

from typing import Any

from crm_core.texts import Text


class HubError(Exception):
    """Something went wrong in the hub."""

    def __init__(self, message: str = "", **data: Any) -> None:
        self.message = message if isinstance(message, Text) else Text(message or (self.__doc__ or "").strip(), **data)
        self.data = data
        super().__init__(self.message)


class NotFound(HubError):
    """There is no such record."""


class Conflict(HubError):
    """Somebody else changed this first; look again."""


class NotAllowed(HubError):
    """You may not do this."""


class Invalid(HubError):
    """What was given cannot be used as it is. `fields` maps a field to its sentence."""

    def __init__(self, message: str = "", *, fields: dict[str, str] | None = None, **data: Any) -> None:
        self.fields = fields or {}
        super().__init__(message, **data)


class IllegalTransition(Conflict):
    """This step is not possible from the present state."""


class Refused(HubError):
    """A rule forbids this touch. `rule` is its id, `reason` a sentence for people."""

    def __init__(self, message: str = "", *, rule: str, **data: Any) -> None:
        self.rule = rule
        super().__init__(message, **data)
