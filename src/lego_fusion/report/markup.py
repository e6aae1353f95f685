"""HTML from nested calls: every text and attribute is escaped unless it is markup already."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from typing import Any

VOID = ("img", "meta", "br", "hr", "input", "rect", "path", "line")


class Html(str):
    """Markup, as opposed to text that is still to be escaped."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: object) -> Html:
    """One element; ``class_`` stands for ``class``, other underscores for hyphens; an attribute that is None is left out.

    Example:
        >>> element("p", "a < b", class_="note")
        '<p class="note">a &lt; b</p>'
    """
    named = {"class" if key == "class_" else key.replace("_", "-"): value for key, value in attributes.items()}
    inside = "".join(f' {key}="{escape(str(value))}"' for key, value in named.items() if value is not None)
    if name in VOID:
        return Html(f"<{name}{inside}>" if name in VOID[:5] else f"<{name}{inside}/>")
    return Html(f"<{name}{inside}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Several pieces one after the other, texts escaped."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content))


def document(title: str, style: str, *body: str, scripts: Sequence[str] = ()) -> str:
    """A whole page in one file, and a policy under which nothing is fetched from elsewhere and no other script runs.

    Args:
        title: Of the page.
        style: Its style sheet.
        body: What it shows.
        scripts: JavaScript that runs at its end, in this order.
    """
    scripts = [script.replace("\r\n", "\n") for script in scripts]  # as a browser reads it, for the hash
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if scripts:
        policy += "; script-src " + " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    run = [element("script", Html(script)) for script in scripts]
    return "<!doctype html>\n" + element("html", head, element("body", *body, *run), lang="en") + "\n"


def data_block(name: str, value: Any) -> Html:
    r"""JSON that a script finds by its id; no text in it can end the block.

    Example:
        >>> data_block("data", "</script>")
        '<script type="application/json" id="data">"\\u003c/script\\u003e"</script>'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Html(text), type="application/json", id=name)


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
