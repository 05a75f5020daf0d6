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
    N_("not yet due"), N_("waits for the preferred agent"), N_("not looked at yet"), N_("caller left"),
    N_("connection lost"), N_("room ended"), N_("hung up"), N_("they called us"), N_("not responding"),
    N_("somebody else was quicker"), N_("rings at the same time"), N_("behind in order"), N_("moved by a supervisor"),
    N_("caller leaves a message"),
)  # fmt: skip
# Words that sentences hold as parameters: states, purposes, channels, rules, where something came from.
STATES = (
    N_("draft"), N_("building"), N_("active"), N_("closed"), N_("scheduled"), N_("materialising"), N_("ready"),
    N_("running"), N_("pausing"), N_("finishing"), N_("finished"), N_("missed"), N_("locked"), N_("called"),
    N_("callback"), N_("done"), N_("blocked"), N_("planned"), N_("held"), N_("deferred"), N_("claimed"),
    N_("submitting"), N_("unknown"), N_("accepted"), N_("suppressed"), N_("skipped"), N_("cancelled"), N_("bounced"),
    N_("complained"), N_("undelivered"), N_("menu"), N_("waiting"), N_("offered"), N_("connected"), N_("wrapup"),
    N_("promised"), N_("ended"), N_("requested"), N_("due"), N_("dialing"), N_("reached"), N_("refused"), N_("open"),
    N_("accepting"), N_("won"), N_("withdrawn"), N_("available"), N_("not_responding"), N_("not frozen"),
    N_("not in the audience"),
)  # fmt: skip
PARAMETERS = (
    N_("reply"), N_("requested_callback"), N_("transactional"), N_("service"), N_("marketing"), N_("telemarketing"),
    N_("confirmation"), N_("system"), N_("voice"), N_("sms"), N_("email"), N_("webform"), N_("number"), N_("address"),
    N_("a check"), N_("erased"), N_("dead"), N_("sender_stop"), N_("opt_out"), N_("do_not_call"), N_("complaint"),
    N_("consent"), N_("window"), N_("hours"), N_("frequency"), N_("gate"), N_("attempts"), N_("attempts_per_day"),
    N_("country"), N_("emergency"), N_("budget"), N_("unknown source"), N_("an agent"), N_("call"), N_("mail_reply"),
    N_("provider"), N_("sms_keyword"), N_("api"), N_("unsubscribe"), N_("import"), N_("form"), N_("list"),
    N_("calls"), N_("attributes"), N_("items"), N_("loops"), N_("macros"), N_("assignments"), N_("includes"),
    N_("imports"), N_("extends"), N_("blocks"), N_("filter blocks"), N_("file name"), N_("content id"), N_("subject"),
)  # fmt: skip
DEFAULTS = (
    N_("Something went wrong in the hub."), N_("There is no such record."),
    N_("Somebody else changed this first; look again."), N_("You may not do this."),
    N_("This step is not possible from the present state."), N_("A rule forbids this touch."),
    N_("Log in first."), N_("Too many tries. Wait a little."), N_("The provider refused or did not answer."),
    N_("Your role may not do this."), N_("This token is not valid."), N_("There is no such page."),
    N_("This address does not take that method."), N_("What was sent is too large."),
)  # fmt: skip
STORED = (
    N_("An agent said who it is."), N_("Switched off by an administrator."), N_("Deleted by an administrator."),
    N_("It took more than 2 s to look into it."), N_("It took too long to look into it."),
    N_("It ended the process that looked into it."), N_("It cannot be read (the parser's answer makes no sense)."),
    N_("The line to the agent was lost."), N_("The file of recipients was never read."),
    N_("Nobody is in the audience."), N_("The campaign was cancelled."),
    N_("There is no plain text part; some readers see nothing."),
    N_("This address was stopped; an import cannot undo that."),
    N_("They withdrew after that date; the consent is not recorded."),
    N_("The worker ended between handing over and the answer."), N_("The file has bytes that are no text."),
    N_("Nobody began to read it within a week, and the file was deleted. Upload it again."),
    N_("The form was not taken"), N_("The call was not placed."),
    N_("The provider shows no such message after ten minutes: it was not sent."), N_("settled meanwhile"),
    N_("its process ended in the middle of the call"), N_("The body took too long to arrive."), N_("At most 64 KiB."),
    N_("The hub cannot store this now; send it again."), N_("Send the body without Content-Encoding."),
    N_("Agents' phones need the API key and the TwiML App of the provider account."),
    N_("The sandbox talks to this machine only."),
    N_("This server is inside the hub's own network; HUB_INTERNAL_HOSTS does not name it."),
)  # fmt: skip
HEALTH = (
    N_("settings"), N_("data folder"), N_("database"), N_("tables"), N_("redis"), N_("files"), N_("public address"), N_("backup"),
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
    N_("A call list is telemarketing, service or transactional."), N_("Choose an outcome."),
    N_("Choose a file or a tag."), N_("Choose a later time."), N_("Choose the column with the address."),
    N_("Choose a longer password."), N_("Choose another sender."), N_("Choose one of their addresses."),
    N_("Choose a time to come."), N_("Choose another password."),
)  # fmt: skip
