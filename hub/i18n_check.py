"""Whether every text that a person sees is translated: `python -m hub.i18n_check`, part of `run.py check`.

Compares what stands in the code and the templates now with `hub/locale/<language>/LC_MESSAGES/messages.po`. A text that
is absent, empty, marked fuzzy or that lost a placeholder is a fault. `--update` adds new texts and drops unused ones.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.pofile import read_po, write_po

from hub.i18n import LOCALES, SOURCE
from hub.i18n_known import FOLDER

ROOT = Path(__file__).parent.parent
PACKAGES = ("hub", "webhooks", "routing", "campaigns", "channels", "crm_core")
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w*\}|%%")
TAG = re.compile(r"</?[a-zA-Z][^>]*>")
SHOWN = 60
# The domain's refusals are written where they are raised, and translated where they are shown.
REFUSALS = (
    "Conflict", "HubError", "IllegalTransition", "Invalid", "NotAllowed", "NotFound", "Refused", "ContentError",
    "NotLoggedIn", "TooManyRequests", "Misconfigured", "Unavailable", "Throttled", "OutcomeUnknown", "RecipientInvalid",
    "RecipientOptedOut", "ContentRejected", "Gone", "ParseFailed", "FilesUnavailable",
)  # fmt: skip
KEYWORDS = {**DEFAULT_KEYWORDS, **dict.fromkeys(REFUSALS), "Text": None, "N_": None, "Rejected": (2,)}
# Babel writes the moment of extraction into each file; a fixed one keeps two runs equal.
UNDATED = datetime(2026, 1, 1, tzinfo=UTC)


def main(argv: Sequence[str]) -> int:
    """0 when every language is complete; else one line for each fault, at most sixty."""
    template = extract()
    languages = [language for language in LOCALES if language != SOURCE]
    if "--update" in argv:
        for language in languages:
            update(path_of(language), language, template)
    faults = [fault for language in languages for fault in compare(path_of(language), language, template)]
    for fault in faults[:SHOWN]:
        sys.stdout.write(f"{fault}\n")
    if len(faults) > SHOWN:
        sys.stdout.write(f"… and {len(faults) - SHOWN} more\n")
    count = sum(1 for message in template if message.id)
    sys.stdout.write(f"{count} texts in {len(languages)} languages: {len(faults)} faults\n")
    return 1 if faults else 0


def path_of(language: str) -> Path:
    return FOLDER / language / "LC_MESSAGES" / "messages.po"


def extract(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> Catalog:
    """Every marked text of the code and the templates, as a template catalogue."""
    with (ROOT / "babel.cfg").open() as settings:
        methods, options = parse_mapping_cfg(settings)  # type: ignore[no-untyped-call]
    template = Catalog(project="hub", charset="utf-8", fuzzy=False)
    for package in packages:
        found = extract_from_dir(root / package, methods, options, KEYWORDS, ("Translators:",))
        for file, line, text, comments, context in found:
            if text == "C":  # a collation: the column type is called Text, too
                continue
            template.add(text, None, [(f"{package}/{file}", line)], auto_comments=comments, context=context)
    return template


def compare(path: Path, language: str, template: Catalog) -> Iterator[str]:
    """One sentence for each text that a reader of this language would see wrongly or in English."""
    if not path.exists():
        yield f"{language}: there is no catalogue"
        return
    with path.open("rb") as handle:
        catalog = read_po(handle, locale=language)
    for message in template:
        if not message.id:
            continue
        for trouble in troubles(message, catalog.get(message.id, message.context)):
            place = "{}:{}".format(*message.locations[0])
            yield f"{language}: {place}: {trouble}: {singular(message)[:80]!r}"


def troubles(message: Message, found: Message | None) -> Iterator[str]:
    """What is wrong with one translation."""
    if found is None or not found.string:
        yield "not translated"
        return
    if found.fuzzy:
        yield "marked fuzzy"
    sources = list(message.id) if isinstance(message.id, tuple | list) else [message.id]
    strings = list(found.string) if isinstance(found.string, tuple | list) else [found.string]
    if not all(strings):
        yield "not every plural form is translated"
        return
    wanted = {frozenset(PLACEHOLDER.findall(source)) for source in sources}
    if any(frozenset(PLACEHOLDER.findall(string)) not in wanted for string in strings):
        yield "placeholders differ"
    tags = {tuple(sorted(TAG.findall(source))) for source in sources}
    if any(tuple(sorted(TAG.findall(string))) not in tags for string in strings):
        yield "HTML tags differ"


def singular(message: Message) -> str:
    return str(message.id[0] if isinstance(message.id, tuple | list) else message.id)


def update(path: Path, language: str, template: Catalog) -> None:
    """Bring a catalogue's list of texts up to date; translations stay, nothing is guessed."""
    if path.exists():
        with path.open("rb") as handle:
            catalog = read_po(handle, locale=language)
    else:
        catalog = Catalog(locale=language)
    catalog.update(template, no_fuzzy_matching=True, keep_user_comments=True)
    catalog.obsolete.clear()
    catalog.header_comment = f"# The hub's texts in {LOCALES[language]}."
    catalog.project, catalog.version = "hub", "1"
    catalog.creation_date = catalog.revision_date = UNDATED
    catalog.msgid_bugs_address = catalog.last_translator = catalog.language_team = ""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        write_po(out, catalog, no_location=True, sort_output=True, width=0, omit_header=False)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
