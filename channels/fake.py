"""A channel in memory, for unit tests of what stands above the adapters: every protocol, and failures on command."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from channels.contract import (
    Arrival,
    DeliveryReport,
    MessageArrived,
    OutboundCall,
    RawRequest,
    SendReceipt,
)
from channels.errors import AnswerUnreadable, ChannelError, Gone


class FakeChannel:
    """Receives, Sends, PlacesCalls and Polls. `kind` is what it stands for."""

    def __init__(self, kind: str = "fake", *, secret: str = "fake-secret-value") -> None:  # noqa: S107 - a test's own
        self.kind = kind
        self._secret = secret
        self.sent: list[Any] = []
        self.calls: list[OutboundCall] = []
        self.commands: list[tuple[str, str, str]] = []  # (what, which, how)
        self.live_calls: set[str] = set()
        self.live_rooms: set[str] = set()
        self.confirmed: list[Mapping[str, Any]] = []
        self._failures: deque[ChannelError | None] = deque()
        self._mail: deque[tuple[Arrival, Mapping[str, Any]]] = deque()
        self._more = asyncio.Event()
        self._count = 0

    @property
    def secrets(self) -> Sequence[str]:
        """Values that must never be logged."""
        return (self._secret,)

    async def close(self) -> None:
        """Nothing is held open."""

    # --- what a test says ---

    def fail(self, *errors: ChannelError | None) -> None:
        """The next requests end so, one each; None lets one pass."""
        self._failures.extend(errors)

    def deliver(self, arrival: Arrival, cursor: Mapping[str, Any]) -> None:
        """`poll` gives this next."""
        self._mail.append((arrival, cursor))
        self._more.set()

    # --- Receives ---

    def verify(self, request: RawRequest) -> bool:
        """True when the header x-fake-signature is our secret."""
        return hmac.compare_digest(request.headers.get("x-fake-signature", "").encode(), self._secret.encode())

    def parse(self, request: RawRequest) -> list[Arrival]:
        """A JSON object with `id` and either `status` (a report) or `from`, `to`, `body`."""
        try:
            found = json.loads(request.body)
            if "status" in found:
                if found["status"] not in {"queued", "sent", "delivered", "undelivered", "failed", "read"}:
                    raise AnswerUnreadable("A status that we do not know.", code="unknown_status")
                status, key = str(found["status"]), f"{found['id']}:{found['status']}"
                return [DeliveryReport(found["id"], status, "", "", str(found.get("key", "")), key, {})]
            opt_out = str(found.get("opt_out", ""))
            return [
                MessageArrived(found["id"], found["from"], found["to"], found["body"], (), opt_out, found["id"], {})
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise AnswerUnreadable("Not a fake message.", code="bad_form") from error

    # --- Sends, PlacesCalls ---

    def _next_id(self, prefix: str) -> str:
        if self._failures and (error := self._failures.popleft()) is not None:
            raise error
        self._count += 1
        return f"{prefix}{self._count}"

    async def send(self, message: Any) -> SendReceipt:
        """Keeps it in `sent`."""
        external_id = self._next_id("fake-message-")
        self.sent.append(message)
        return SendReceipt(external_id, "queued")

    async def place_call(self, call: OutboundCall) -> SendReceipt:
        """Keeps it in `calls`; call and room live until they are ended."""
        call_id = self._next_id("fake-call-")
        self.calls.append(call)
        self.live_calls.add(call_id)
        self.live_rooms.add(call.room)
        return SendReceipt(call_id, "initiated", {"room_id": call.room})

    async def move_call(self, call_id: str, url: str) -> None:
        """Gone unless it lives."""
        self._next_id("")
        if call_id not in self.live_calls:
            raise Gone
        self.commands.append(("move", call_id, url))

    async def end_call(self, call_id: str) -> None:
        """Already gone is success."""
        self._next_id("")
        self.live_calls.discard(call_id)
        self.commands.append(("end", call_id, ""))

    async def hold(self, room_id: str, call_id: str, *, on: bool, music_url: str) -> None:
        """Gone unless the room lives."""
        self._next_id("")
        if room_id not in self.live_rooms:
            raise Gone
        self.commands.append(("hold" if on else "unhold", call_id, music_url))

    async def end_room(self, room_id: str) -> None:
        """Already over is success."""
        self._next_id("")
        self.live_rooms.discard(room_id)
        self.commands.append(("end_room", room_id, ""))

    # --- Polls ---

    async def poll(self, cursor: Mapping[str, Any]) -> AsyncIterator[tuple[Arrival, Mapping[str, Any]]]:
        """What `deliver` was given; asking on confirms (see `confirmed`)."""
        while True:
            while self._mail:
                arrival, after = self._mail.popleft()
                yield arrival, after
                self.confirmed.append(after)
            self._more.clear()
            await self._more.wait()
