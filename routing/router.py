"""The one door for everything that comes in: each arrival of any channel, and what became of what we sent.

Each function takes part in the caller's transaction and is safe against a repeat of the same event.
"""

from __future__ import annotations

from routing.calls_agent import client_connected
from routing.calls_in import call_arrived, call_step
from routing.forms import form_arrived
from routing.legs import call_placed, call_progressed, room_changed
from routing.mails import StoredFile, mail_arrived
from routing.mails import look_up as look_up_mails
from routing.messages import delivery_reported, message_arrived
from routing.recordings import reported as recording_reported

__all__ = [
    "StoredFile",
    "call_arrived",
    "call_placed",
    "call_progressed",
    "call_step",
    "client_connected",
    "delivery_reported",
    "form_arrived",
    "look_up_mails",
    "mail_arrived",
    "message_arrived",
    "recording_reported",
    "room_changed",
]
