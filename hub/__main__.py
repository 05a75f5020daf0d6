"""The command line. One table of verbs; what a verb needs is imported when it runs, so that `hub --help` is instant.

Decides how a process starts: settings first (all faults together), then logs, then the leash that ends it with its
supervisor. Leaves the work to the function that the table names.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.settings import Settings

Arguments = argparse.Namespace
Parser = argparse.ArgumentParser


def nothing(parser: Parser) -> None:
    """A verb without arguments."""


def work_arguments(parser: Parser) -> None:
    parser.add_argument("queue", choices=["interactive", "bulk"], help="interactive never waits behind bulk")


def sandbox_arguments(parser: Parser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON, see docs/sandbox.md")


def twilio_arguments(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="twilio_verb", required=True, metavar="VERB")
    setup = verbs.add_parser("setup", help="create the TwiML App, point the numbers here, print a fallback TwiML Bin")
    setup.add_argument("--dry-run", action="store_true", help="say what would be changed, change nothing")


def user_arguments(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="user_verb", required=True, metavar="VERB")
    add = verbs.add_parser("add", help="a new user; asks for the password, or reads it from standard input")
    add.add_argument("login")
    add.add_argument("--role", action="append", required=True, choices=ROLES, help="may be given several times")
    add.add_argument("--name", default="", help="how colleagues see them")
    add.add_argument("--email", default="")
    add.add_argument("--language", default="en", choices=["en", "es", "de", "zh"])
    add.add_argument("--zone", default="UTC", help="time zone, such as Europe/Berlin")
    add.add_argument("--generate", action="store_true", help="make a password up and print it")
    verbs.add_parser("list", help="everybody, one a line, separated by tabs")
    password = verbs.add_parser("password", help="a new password; logs the user out everywhere")
    password.add_argument("login")
    password.add_argument("--generate", action="store_true", help="make a password up and print it")
    for name, what in (("disable", "may not log in any more"), ("enable", "may log in again")):
        verbs.add_parser(name, help=what).add_argument("login")


def replay_arguments(parser: Parser) -> None:
    parser.add_argument("post", metavar="ID", nargs="*", help="a stored post of a web form")
    parser.add_argument("--form", metavar="KEY", default="", help="instead: posts to this form, newest fifty")
    parser.add_argument("--only", choices=["held", "refused"], default="refused", help="which of the form's posts")
    parser.add_argument("--list", action="store_true", help="say which, read none of them again")


def export_arguments(parser: Parser) -> None:
    nouns = parser.add_subparsers(dest="noun", required=True, metavar="NOUN")
    rows = nouns.add_parser("contacts", help="people with their addresses and consents, as CSV")
    rows.add_argument("file", metavar="FILE", help="a new file, or - for standard output")
    rows.add_argument("--search", default="", metavar="WORDS", help="only whom the list finds by this")
    rows.add_argument("--tag", default="", help="only who has this tag")
    rows.add_argument("--owner", default="", metavar="LOGIN", help="only whom this colleague looks after")


def import_arguments(parser: Parser) -> None:
    nouns = parser.add_subparsers(dest="noun", required=True, metavar="NOUN")
    rows = nouns.add_parser("contacts", help="people out of a CSV file; the same file twice makes nobody twice")
    what = rows.add_mutually_exclusive_group(required=True)
    what.add_argument("file", metavar="FILE", nargs="?", default="", help="the file, or - for standard input")
    what.add_argument("--undo", default="", metavar="ID", help="take back what the import with this id did")
    rows.add_argument("--country", default="", help="reads national phone numbers, such as GB")
    rows.add_argument(
        "--overwrite", action="store_true", help="the file's values win; else only what is empty is filled"
    )
    rows.add_argument("--dry-run", action="store_true", help="say what would happen, change nothing")
    rows.add_argument("--refused", default="", metavar="FILE", help="write lines that were refused, with the reason")


def token_arguments(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="token_verb", required=True, metavar="VERB")
    add = verbs.add_parser("add", help="a new token for the JSON API; prints its secret once")
    add.add_argument("login", help="the user it acts as")
    add.add_argument("--name", required=True, help="what it is for")
    add.add_argument(
        "--scope", action="append", required=True, help="such as contacts:read; may be given several times"
    )
    add.add_argument("--days", type=int, help="ends after so many days")
    verbs.add_parser("list", help="all tokens, one a line, separated by tabs")
    verbs.add_parser("revoke", help="end a token at once").add_argument("token", metavar="ID")


def check_arguments(parser: Parser) -> None:
    parser.add_argument("--live", action="store_true", help="log in at the provider and at every mailbox, too")


def backup_arguments(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", help="where to; hub-TIME.zip in this folder when not said")
    parser.add_argument("--without-files", action="store_true", help="leave attachments and recordings out")
    parser.add_argument("--with-secrets", action="store_true", help="put HUB_SECRET_KEY and providers' secrets in")


def restore_arguments(parser: Parser) -> None:
    parser.add_argument("file", help="what `hub backup` wrote")
    parser.add_argument("--check", action="store_true", help="verify every byte, change nothing")
    parser.add_argument("--force", action="store_true", help="SQLite: give a database that is there another name first")
    parser.add_argument("--other-key", action="store_true", help="go on although HUB_SECRET_KEY is another one")
    parser.add_argument("--with-secrets", action="store_true", help="take HUB_SECRET_KEY from the backup as well")


ROLES = ["agent", "telemarketer", "marketer", "supervisor", "admin", "partner"]


@dataclass(frozen=True)
class Verb:
    """One verb: where its function is, and how the parsed arguments become that function's."""

    help: str
    target: str  # module:function
    call: Callable[[Callable[..., Any], Settings, Arguments], Any]
    arguments: Callable[[Parser], None] = nothing
    quiet: bool = False  # its own output is the answer; log lines only from WARNING up


VERBS: dict[str, Verb] = {
    "serve": Verb(
        "start everything on this machine and watch over it",
        "hub.supervisor:serve",
        lambda run, settings, _: run(settings),
    ),
    "web": Verb("the web process", "hub.app:run_web", lambda run, settings, _: run(settings)),
    "work": Verb(
        "a worker for one queue",
        "hub.jobs:run_worker",
        lambda run, settings, arguments: run(settings, arguments.queue),
        work_arguments,
    ),
    "poll": Verb(
        "mailboxes and everything that is due by time",
        "hub.pollers:run_poll",
        lambda run, settings, _: run(settings),
    ),
    "migrate": Verb(
        "bring the database up to date",
        "hub.migrate:run_migrate",
        lambda run, settings, _: run(settings),
        quiet=True,
    ),
    "check": Verb(
        "look at configuration, stores, providers, clock and DNS",
        "hub.doctor:run_check",
        lambda run, settings, arguments: run(settings, live=arguments.live),
        check_arguments,
        quiet=True,
    ),
    "backup": Verb(
        "database, files and settings into one archive, while the hub runs",
        "hub.backup:run_backup",
        lambda run, settings, arguments: run(
            settings,
            Path(arguments.file) if arguments.file else None,
            with_files=not arguments.without_files,
            with_secrets=arguments.with_secrets,
        ),
        backup_arguments,
        quiet=True,
    ),
    "restore": Verb(
        "a backup into an empty place",
        "hub.restore:run_restore",
        lambda run, settings, arguments: run(
            settings,
            Path(arguments.file),
            check_only=arguments.check,
            force=arguments.force,
            other_key=arguments.other_key,
            with_secrets=arguments.with_secrets,
        ),
        restore_arguments,
        quiet=True,
    ),
    "twilio": Verb(
        "set the Twilio account up for this hub",
        "hub.twilio_setup:setup",
        lambda run, settings, arguments: run(settings, dry_run=arguments.dry_run),
        twilio_arguments,
        quiet=True,
    ),
    "user": Verb(
        "people who log in",
        "hub.user_commands:run_user",
        lambda run, settings, arguments: run(settings, arguments),
        user_arguments,
        quiet=True,
    ),
    "token": Verb(
        "tokens for the JSON API",
        "hub.user_commands:run_token",
        lambda run, settings, arguments: run(settings, arguments),
        token_arguments,
        quiet=True,
    ),
    "replay": Verb(
        "read stored posts of web forms again, with the forms as they are now",
        "hub.replay_commands:run_replay",
        lambda run, settings, arguments: run(settings, arguments),
        replay_arguments,
        quiet=True,
    ),
    "export": Verb(
        "contacts into a CSV file",
        "hub.contact_commands:run_export",
        lambda run, settings, arguments: run(settings, arguments),
        export_arguments,
        quiet=True,
    ),
    "import": Verb(
        "contacts out of a CSV file",
        "hub.contact_commands:run_import",
        lambda run, settings, arguments: run(settings, arguments),
        import_arguments,
        quiet=True,
    ),
    "sandbox": Verb(
        "the local twin of the outside world (started by serve)",
        "hub.sandbox.__main__:main",
        lambda run, _, arguments: run(["--config", arguments.config]),
        sandbox_arguments,
    ),
}


def build_parser() -> Parser:
    """The command line's parser, from the table."""
    parser = Parser(prog="hub", description="One hub for calls, SMS, e-mail and web forms.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb.arguments(verbs.add_parser(name, help=verb.help, description=verb.help))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. Wrong settings are told on stderr, all together, with code 2."""
    arguments = build_parser().parse_args(argv)
    verb = VERBS[arguments.verb]

    os.umask(0o077)  # whatever the hub writes holds people's data: for this user alone
    from hub.settings import SettingsFault, read_settings

    try:
        settings = read_settings()
    except SettingsFault as fault:
        sys.stderr.write("".join(f"{sentence}\n" for sentence in fault.faults))
        return 2

    # structlog would load rich, 0.1 s and 5 MiB, for pretty tracebacks that hub/log.py does not use.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from hub.children import hold_leash
    from hub.log import configure_logging

    hold_leash(os.environ)
    name = getattr(arguments, "queue", arguments.verb)
    level = "WARNING" if verb.quiet and settings.log_level == "INFO" else settings.log_level
    configure_logging(process=name, level=level, form=settings.log_format, secrets=settings.secrets)
    if arguments.verb in {"serve", "check"}:
        for sentence in settings.warnings:
            sys.stderr.write(f"Note: {sentence}\n")
    module, _, function = verb.target.partition(":")
    result = verb.call(getattr(importlib.import_module(module), function), settings, arguments)
    if inspect.iscoroutine(result):
        result = run_coroutine(result)
    return int(result or 0)


def run_coroutine(coroutine: Any) -> Any:
    """Its result, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


if __name__ == "__main__":
    raise SystemExit(main())
