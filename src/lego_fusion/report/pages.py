"""Pages through Jinja2: every text escaped, nothing fetched from elsewhere, and no script but those of the page itself."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from .words import frames_text, logit_text, number_text, percent_text, place_text, score_text, term_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@functools.cache
def environment() -> Environment:
    """Templates of this package, which write numbers in words by filters; a value that nobody gave is an error."""
    made = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=select_autoescape(disabled_extensions=("txt",), default=True),  # Markdown is no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number_text, "percent": percent_text, "logit": logit_text, "score": score_text}
    made.filters |= {"frames": frames_text, "place": place_text, "term": term_text}
    return made


def render(template: str, title: str, *, scripts: Sequence[str] = (), **values: Any) -> str:
    """A whole page in one file, under a policy by which nothing is fetched from elsewhere and no other script runs.

    Args:
        template: Name of a file in ``templates/``.
        title: Of the page.
        scripts: JavaScript that runs at its end, in this order.
        values: What the template shows; texts are escaped.
    """
    scripts = [script.replace("\r\n", "\n") for script in scripts]  # as a browser reads it, for the hash
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = f"{POLICY}; script-src {hashes}" if scripts else POLICY
    ours = [Markup(script) for script in scripts]  # noqa: S704 - files of this package and Plotly's
    return environment().get_template(template).render(title=title, policy=policy, scripts=ours, **values)


def data_block(name: str, value: Any) -> Markup:
    r"""JSON that a script finds by its id; no text in it can end the block.

    Example:
        >>> data_block("data", "</script>")
        Markup('<script type="application/json" id="data">"\\u003c/script\\u003e"</script>')
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup('<script type="application/json" id="{}">{}</script>').format(name, Markup(text))  # noqa: S704 - escaped above


def script(name: str) -> str:
    """The text of a script of this package."""
    return environment().get_template(name).render()


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 2) -> dict[str, Any]:
    """A table for the macro of that name; columns from ``words`` on hold numbers."""
    return {"head": head, "rows": rows, "words": words}


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
