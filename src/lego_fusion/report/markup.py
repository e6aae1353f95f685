"""HTML from nested calls: every text and attribute is escaped unless it is markup already."""

from __future__ import annotations

from html import escape

VOID = ("img", "meta", "br", "hr", "rect", "path", "line")


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
        return Html(f"<{name}{inside}>" if name in VOID[:4] else f"<{name}{inside}/>")
    return Html(f"<{name}{inside}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Several pieces one after the other, texts escaped."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content))


def document(title: str, style: str, *body: str) -> str:
    """A whole page in one file: no script, and a policy under which nothing is fetched from elsewhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    return "<!doctype html>\n" + element("html", head, element("body", *body), lang="en") + "\n"
