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
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-") for line in TEXT.splitlines() if line[:3] == "## "
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or target.lstrip("#") in headings or (PAGE.parent / target).exists(), target
