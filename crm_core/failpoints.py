"""Named places where a test kills the process with SIGKILL, to prove that nothing acknowledged is lost.

Unarmed (always, in production) a failpoint is one dictionary look-up in an empty dictionary.
"""

from __future__ import annotations

import os
import signal

# Every place, before and after each commit and each thing that leaves the house: a test holds this list against the code.
PLACES = {
    "db.before_commit": "a unit of work is done and not committed",
    "db.after_commit": "it is committed, and nobody has been told yet",
    "relay.before_call": "an outbox task is claimed; its call (message, call control, file) has not begun",
    "relay.after_call": "the provider has answered; nothing is written of it",
    "sender.before_claim": "a campaign's chunk has its tokens and no rows",
    "sender.after_claim": "its rows are claimed",
    "sender.before_call": "one message is marked as going, and has not gone",
    "sender.after_call": "it has gone; nothing is written of it",
    "sender.before_record": "a batch has gone; nothing is written of it",
    "files.before_write": "bytes are to be kept in the file store",
    "files.after_write": "they are kept, and no row names them yet",
    "mailbox.fetched": "a mail is here; nothing of it is stored",
    "mailbox.stored": "it is stored with the cursor; the server has not been told",
    "reconcile.before_lists": "the provider's lists of calls are to be asked for",
    "reconcile.after_lists": "they are here; nothing is healed yet",
    "publisher.before_copy": "events are numbered and not in the stream",
    "publisher.after_copy": "they are in the stream",
    "jobs.before_offer": "rows need a worker and none has been told",
    "jobs.after_offer": "a worker has been told",
    "jobs.claimed": "a worker has taken the job out of the queue; nothing of it is done",
    "jobs.before_end": "its slice is done; the queue has not been told",
    "backup.after_database": "a backup holds the rows and no files yet",
    "backup.file": "one file is to be copied into it",
    "backup.before_finish": "it is whole and not yet under its name",
    "restore.file": "one file is to be put back out of a backup",
    "restore.after_files": "the files are back; the rows are the old ones",
    "restore.before_rename": "the rows are written beside; the old ones are in place",
}

_armed: dict[str, int] = {}  # how many passages are left
_given: dict[str, int] = {}  # how many there were


def arm(spec: str) -> None:
    """Arm from text such as `writer.before_commit:3,sender.after_call:1`: die at the third and the first passage.

    Raises ValueError for a place that is not there: a kill that never comes would prove nothing.
    """
    for part in filter(None, spec.split(",")):
        name, _, count = part.strip().partition(":")
        if name not in PLACES:
            raise ValueError(f"There is no failpoint {name!r}.")
        _armed[name] = _given[name] = int(count or "1")


def disarm() -> set[str]:
    """Every place is passed unharmed again; those armed ones that nobody came by."""
    missed = {name for name, count in _armed.items() if count == _given[name]}
    _armed.clear()
    return missed


def failpoint(name: str) -> None:
    """Die here, at once and without clean-up, if this passage is the armed one."""
    if name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
