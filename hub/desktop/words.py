"""Texts that reach a screen as data, marked here so that they are translated: reasons of the router, words of the demo."""

from __future__ import annotations


def N_(text: str) -> str:
    """Marks a text; it is translated where it is shown."""
    return text


ROUTER = (
    N_("longest idle"), N_("the only one free"), N_("preferred"), N_("lowest rank, then longest idle"),
    N_("nobody serves this queue"), N_("nobody who serves this queue has logged in"), N_("nobody is free for it"),
    N_("stops after the present work"), N_("no heartbeat"), N_("phone not registered"), N_("in wrap-up"),
    N_("busy with live work"), N_("refused or missed it just now"), N_("paused"), N_("offline"), N_("not responding"),
    N_("caller asked for a callback"), N_("not answered in time"), N_("the agent hung up"),
    N_("the agent's line was lost"), N_("the agent's tab does not answer"),
    N_("the connection did not come about in time"), N_("expired"), N_("failed"),
)  # fmt: skip
HEALTH = (
    N_("settings"), N_("data folder"), N_("database"), N_("tables"), N_("redis"), N_("files"), N_("public address"),
    N_("channels"),
)  # fmt: skip
DEMO = (
    N_("agent"), N_("agent, second browser"), N_("telemarketer"), N_("marketer"), N_("supervisor"), N_("administrator"),
    N_("Resolved"), N_("Follow-up needed"), N_("Complaint"), N_("Interested"), N_("Sale"), N_("Not interested"),
    N_("Call back later"), N_("No answer"), N_("Busy"), N_("Voicemail"), N_("Wrong number"), N_("Never call again"),
)  # fmt: skip
BOUNDS = (
    N_("Between 0 and 3600."), N_("Between 1 and 20."), N_("Between 1 and 86400."), N_("Between 0 and 86400."),
    N_("Between 5 and 120."), N_("Between 5 and 300."), N_("Between -1 and 3600."), N_("Between 60 and 86400."),
    N_("Between 60 and 604800."),
)  # fmt: skip
FIELD_SENTENCES = (
    N_("Choose one of the list."), N_("Too long."), N_("Choose a role."), N_("Give a name."), N_("Change the login."),
    N_("Give a whole number."), N_("At least ten characters."), N_("Choose another file."),
    N_("No column holds the address."), N_("Give a tag, or choose a file."), N_("Choose one of the three."),
    N_("Choose an SMS number or a mailbox."), N_("Choose a number for calls."), N_("Between 1 and 50."),
    N_("Between 1 and 10."), N_("Between a minute and 90 days."), N_("Please fill this in."),
    N_("This is not an e-mail address."), N_("This is not a phone number; begin with + and the country code."),
    N_("Please choose one of the list."), N_("Change the key."), N_("Give it a label."), N_("Say when to call."),
    N_("The callback would be offered after the longest wait."), N_("Write it as spanish 4, chinese 2."),
    N_("The login or the password is wrong."), N_("Choose one of the values offered."),
    N_("A call list is telemarketing, service or transactional."),
)  # fmt: skip
