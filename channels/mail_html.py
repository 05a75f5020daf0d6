"""A stranger's HTML made safe to show inside a sandboxed frame: nothing runs, nothing loads, nothing covers.

The frame itself (sandbox without scripts and same-origin, own CSP) is the desktop's; this is the first of two walls.
"""

from __future__ import annotations

import html as html_escapes
import re

import nh3

MAX_SIZE = 512 * 1024
MAX_DEPTH = 100
MAX_AMPERSANDS = 20_000  # the parser's time grows with their square: half a million take five seconds
SCHEMES = {"http", "https", "mailto", "tel", "cid"}
TAGS = {
    *("a", "abbr", "address", "b", "blockquote", "br", "caption", "center", "cite", "code", "col", "colgroup", "dd"),
    *("del", "div", "dl", "dt", "em", "font", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins", "kbd", "li"),
    *("ol", "p", "pre", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "table", "tbody", "td"),
    *("tfoot", "th", "thead", "tr", "tt", "u", "ul", "var", "wbr"),
}
DROPPED_WITH_CONTENT = {
    "script",
    "style",
    "title",
    "head",
    "template",
    "noscript",
    "iframe",
    "object",
    "embed",
    "svg",
    "math",
}
CELL = {"align", "valign", "bgcolor", "width", "height", "colspan", "rowspan", "nowrap"}
ATTRIBUTES = {
    "*": {"style", "dir", "lang", "title", "align"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height", "border"},
    "font": {"color", "face", "size"},
    "table": {"border", "cellpadding", "cellspacing", "width", "bgcolor", "align"},
    "td": CELL,
    "th": CELL,
    "tr": {"align", "valign", "bgcolor"},
    "ol": {"start", "type"},
    "ul": {"type"},
    "col": {"width", "span"},
}
# No position, z-index, float, background images, content or behaviour: only what makes text look right.
STYLES = {
    *("color", "background-color", "font", "font-family", "font-size", "font-style", "font-weight", "line-height"),
    *("text-align", "text-decoration", "text-transform", "vertical-align", "white-space", "list-style-type"),
    *("padding", "padding-top", "padding-right", "padding-bottom", "padding-left", "border", "border-top"),
    *(
        "border-right",
        "border-bottom",
        "border-left",
        "border-collapse",
        "border-color",
        "border-style",
        "border-width",
    ),
    *("width", "max-width", "direction", "word-break"),
}
VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})
# The parser closes these by itself when the next one opens, so that leaving out the end tag does not nest them.
SELF_CLOSING = frozenset({"p", "li", "td", "th", "tr", "dt", "dd", "option", "tbody", "thead", "tfoot", "colgroup"})
TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9:-]{0,40})")
URL_IN_STYLE = re.compile(r"url\s*\(|expression|@import|\\", re.IGNORECASE)
WORDS = re.compile(r"<[^<>]*>")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def sanitise(html: str, *, remote_images: bool = False) -> str:
    """Safe HTML. Images inside the mail (cid:) stay; those elsewhere only with `remote_images`. Never raises.

    What is too large or too deeply nested to clean in good time comes back as its plain words.
    """
    if len(html) > MAX_SIZE or html.count("&") > MAX_AMPERSANDS or depth(html) > MAX_DEPTH:
        return plain(html)

    def allowed(tag: str, name: str, value: str) -> str | None:
        if tag == "img" and name == "src":
            where = value.strip().lower()
            return value if where.startswith("cid:") or (remote_images and where.startswith("https://")) else None
        if name == "style":
            return None if URL_IN_STYLE.search(value) else value
        return value

    return nh3.clean(
        CONTROL.sub("", html),
        tags=TAGS,
        clean_content_tags=DROPPED_WITH_CONTENT,
        attributes=ATTRIBUTES,
        attribute_filter=allowed,
        url_schemes=SCHEMES,
        url_relative="deny",
        filter_style_properties=STYLES,
        strip_comments=True,
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def has_remote_images(html: str) -> bool:
    """True when the mail would load pictures from elsewhere: the desktop then offers to show them."""
    return bool(re.search(r"<img\b[^>]{0,2000}\bsrc\s*=\s*[\"']?\s*https?:", html[:MAX_SIZE], re.IGNORECASE))


def depth(html: str) -> int:
    """At least as deep as the parser would nest it, in one pass: per tag, opened less closed."""
    opened: dict[str, int] = {}
    now = deepest = 0
    for closing, name in TAG.findall(html):
        tag = name.lower()
        if tag in VOID or tag in SELF_CLOSING:
            continue
        if not closing:
            opened[tag] = opened.get(tag, 0) + 1
            now += 1
            deepest = max(deepest, now)
        elif opened.get(tag):
            opened[tag] -= 1
            now -= 1
    return deepest


def plain(html: str) -> str:
    """The words of the first half megabyte, escaped, in a block that keeps their lines."""
    words = html_escapes.unescape(WORDS.sub(" ", CONTROL.sub("", html[:MAX_SIZE])))
    words = re.sub(r"[ \t]+", " ", words).strip()
    return f"<pre>{html_escapes.escape(words)}</pre>"
