"""The examples of docs/interpretation.md run as they stand and print what the page says."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interpretation.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_print_what_the_page_says(number: int) -> None:
    told: list[str] = []
    example = doctest.DocTestParser().get_doctest(BLOCKS[number], {}, f"example {number}", str(PAGE), 0)
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert example.examples
    assert not told, "".join(told)


def test_the_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("https://"):
            continue
        name, _, place = target.partition("#")
        page = PAGE.parent / name if name else PAGE
        assert page.exists(), target
        assert not place or place in headings(page.read_text(encoding="utf-8")), target


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as a web page of it would have them."""
    lines = (line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#"))
    return {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in lines}
