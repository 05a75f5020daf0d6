"""What an administrator pastes into the company's site: the script tag in its three ways, a frame, or a plain form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from crm_core.accounts import ChannelAccount, Form
from webhooks.forms import HONEYPOT, VERSION_FIELD


@dataclass(frozen=True, slots=True)
class Snippets:
    """HTML for another site, and what its policy must allow for each."""

    script: str  # in a frame that takes its size from the form
    inline: str  # in the page's own style
    button: str  # a button that opens it
    frame: str
    plain: str
    origin: str


def snippets(form: Form, account: ChannelAccount, *, origin: str) -> Snippets:
    """All of them, for one form."""
    words = ' data-text="Call me back"' if account.settings.get("calls") else f' data-text="{escape(form.title)}"'
    return Snippets(
        script=_script(form, origin), inline=_script(form, origin, ' data-mode="inline"'),
        button=_script(form, origin, f' data-mode="button"{words}'), frame=frame_snippet(form, origin=origin),
        plain=snippet(form, origin=origin), origin=origin,
    )  # fmt: skip


def _script(form: Form, origin: str, more: str = "") -> str:
    return f'<script src="{origin}/embed/form.js" data-form="{form.slug}"{more} async></script>'


def snippet(form: Form, *, origin: str) -> str:
    """HTML for another site: a plain form without script or style, so that it works under any policy whose `form-action`
    names this hub. It says which version it is, so the consent that it asks for is the consent that is kept."""
    lines = [f'<form action="{origin}/forms/{form.slug}" method="post" enctype="multipart/form-data">']
    lines.append(f'  <input type="hidden" name="{VERSION_FIELD}" value="{form.version}">')
    lines.append(
        f'  <p hidden><label>Leave this empty <input name="{HONEYPOT}" tabindex="-1" autocomplete="off"></label></p>'
    )
    for one in form.fields:
        lines += ["  " + line for line in _field_html(one)]
    if form.consent_text:
        lines.append(
            f'  <p><label><input type="checkbox" name="consent" value="yes"> {escape(form.consent_text)}</label></p>'
        )
    return "\n".join([*lines, "  <p><button>Send</button></p>", "</form>"])


INPUTS = {"email": "email", "phone": "tel", "number": "number", "date": "date", "file": "file"}


def _field_html(one: Mapping[str, Any]) -> list[str]:
    name, kind = escape(str(one["name"])), one.get("kind", "text")
    label, must = (
        escape(str(one.get("label") or one["name"])),
        " required" if one.get("required") and not one.get("show_if") else "",
    )
    if kind == "hidden":
        return [f'<input type="hidden" name="{name}" value="{escape(str(one.get("value", "")))}">']
    if kind == "checkbox":
        return [f'<p><label><input type="checkbox" name="{name}" value="yes"{must}> {label}</label></p>']
    if kind == "textarea":
        inner = f'<textarea name="{name}" rows="5"{must}></textarea>'
    elif kind == "select":
        options = "".join(f"<option>{escape(str(option))}</option>" for option in one.get("options", []))
        inner = f'<select name="{name}"{must}><option value=""></option>{options}</select>'
    else:
        inner = f'<input type="{INPUTS.get(kind, "text")}" name="{name}"{must}>'
    return [f"<p><label>{label}<br>{inner}</label></p>"]


def frame_snippet(form: Form, *, origin: str) -> str:
    """HTML that shows the hosted page in a frame; the site must be among those that may."""
    return f'<iframe src="{origin}/forms/{form.slug}" title="{escape(form.title)}" width="100%" height="700"></iframe>'
