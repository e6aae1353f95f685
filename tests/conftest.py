"""Shape annotations are checked while the tests run; shared data is found once, or its absence is said."""

from pathlib import Path

import jaxtyping
import pytest
from jaxtyping import install_import_hook

install_import_hook("lego_fusion", "beartype.beartype")

pytest_plugins = ["detection_data"]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that ask for it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data folder at {SHARED}")
    return SHARED


@pytest.fixture
def unchecked_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotations are not checked, so that the package's own checks answer, as they do for a user."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
