"""What the tests of explanations share."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotations are not checked, so that the package's own checks answer."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
