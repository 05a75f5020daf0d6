"""What an API token may hold: each scope and what it opens."""

from __future__ import annotations

SCOPES = {
    "contacts:read": "contacts, their addresses and timeline",
    "contacts:write": "create and change contacts and their addresses",
    "consent:read": "opt-outs and the consent ledger",
    "consent:write": "record opt-outs and consent",
    "conversations:read": "conversations and what was said in them",
    "conversations:write": "reply, add notes, close, snooze",
    "work:read": "the agent's own session and offers; queues",
    "work:write": "change activity, accept and refuse offers, end wrap-up",
    "calls:read": "call detail records",
    "calls:write": "start a call, hold it, hang up",
    "callbacks:read": "promised callbacks",
    "callbacks:write": "promise a callback",
    "leads:read": "leads",
    "leads:write": "change a lead's stage and score",
    "campaigns:read": "campaigns, their counts and recipients",
    "campaigns:write": "create and prepare campaigns",
    "campaigns:send": "start, pause, resume and cancel campaigns",
    "lists:read": "call lists and why a number can (not) be called",
    "lists:write": "create call lists",
    "lists:work": "take a number, give it back, say what became of it",
    "events:read": "the event stream",
    "admin:read": "users, tokens, numbers, mailboxes, forms, hours, the audit log",
    "admin:write": "create and change users, tokens, numbers, mailboxes, forms, hours",
}
