"""Random scored videos with ties, of uneven length, built without the code under test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lego_fusion.measure.detection import ScoredVideo

Make = Callable[..., list[ScoredVideo]]


@pytest.fixture(scope="session")
def make_videos() -> Make:
    """``make_videos(count, runs, seed)``: every third video normal, scores with ties and a signal."""

    def make(count: int = 9, runs: int = 8, seed: int = 0, signal: float = 1.0) -> list[ScoredVideo]:
        generator = np.random.default_rng(seed)
        videos = []
        for number in range(count):
            labels = generator.random(runs) < 0.5
            labels[:2] = (False, True)
            if number % 3 == 0:
                labels[:] = False
            scores = np.round(generator.normal(size=runs) + signal * labels, 1)
            weights = generator.integers(1, 9, size=runs).astype(float)
            videos.append(ScoredVideo(f"v{number:03}", scores, labels, weights))
        return videos

    return make
