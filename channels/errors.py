"""What can go wrong with a provider, as data: the sender alone decides on retry, status and alarm."""

from __future__ import annotations

from typing import Any

from crm_core.errors import HubError


class ChannelError(HubError):
    """The provider refused or did not answer."""

    retryable = False

    def __init__(
        self, message: str = "", *, code: str = "", retry_after_s: float | None = None, dead: bool = False
    ) -> None:
        self.code = code
        self.dead = dead  # the address itself is proven not to work, for whoever writes
        self.retry_after_s = retry_after_s
        super().__init__(message, code=code, retry_after_s=retry_after_s)


class Misconfigured(ChannelError):
    """The account, key or sender is wrong: stop and tell an administrator."""


class Unavailable(ChannelError):
    """The provider is down and certainly did not take it: try again later."""

    retryable = True


class Throttled(ChannelError):
    """Too fast: try again after `retry_after_s`."""

    retryable = True


class OutcomeUnknown(ChannelError):
    """It may or may not have happened: examine, never repeat blindly."""


class RecipientInvalid(ChannelError):
    """This address cannot be reached, now or ever."""

    def __init__(self, message: str = "", *, dead: bool = True, **more: Any) -> None:
        super().__init__(message, dead=dead, **more)


class RecipientOptedOut(ChannelError):
    """The provider knows that they do not want this."""


class ContentRejected(ChannelError):
    """The provider refuses this content."""


class Gone(ChannelError):
    """This call or room is already over."""


class AnswerUnreadable(ChannelError):
    """The provider said something we do not understand.

    `code` says why: too_large (answer 413), unknown_status (genuine, answer 200 and count it), or anything else (400).
    """
