"""Snippets: every frame in its place, offline and streaming alike."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_fusion.data.video import Frame
from lego_fusion.errors import DataError, MissingExtraError, ParameterError
from lego_fusion.extract.base import (
    Features,
    check_row,
    iterate_snippets,
    load_package,
    sample_evenly,
    seconds_of_spans,
    snippet_spans,
)

PIXEL = np.zeros((1, 1, 3), dtype=np.uint8)


def frames_of(count: int) -> list[Frame]:
    return [Frame(index, index / 10, PIXEL) for index in range(count)]


@given(frames=st.integers(1, 70), length=st.integers(1, 20), stride=st.integers(1, 25))
def test_snippets_hold_the_frames_of_their_spans_and_the_one_before(frames: int, length: int, stride: int) -> None:
    spans = snippet_spans(frames, length, stride)
    snippets = list(iterate_snippets(frames_of(frames), length, stride))
    assert len(spans) == -(-frames // stride) == len(snippets)
    for number, (snippet, (start, end)) in enumerate(zip(snippets, spans.tolist(), strict=True)):
        assert snippet.index == number
        assert [frame.index for frame in snippet.frames] == list(range(start, end)) != []
        assert start == number * stride
        assert (snippet.before.index if snippet.before else -1) == start - 1


@given(frames=st.integers(1, 70), length=st.integers(1, 20))
def test_without_overlap_every_frame_is_in_one_snippet(frames: int, length: int) -> None:
    covered = [i for start, end in snippet_spans(frames, length, length).tolist() for i in range(start, end)]
    assert covered == list(range(frames))


@given(length=st.integers(1, 9), stride=st.integers(1, 12))
def test_a_snippet_is_handed_on_with_its_last_frame(length: int, stride: int) -> None:
    seen = 0

    def stream():
        nonlocal seen
        for frame in frames_of(60):
            seen += 1
            yield frame

    for snippet in iterate_snippets(stream(), length, stride):
        if len(snippet.frames) == length and snippet.frames[-1].index < 59:
            assert seen == snippet.frames[-1].index + 1


@pytest.mark.parametrize("bad", [{"snippet_frames": 0}, {"stride": 0}])
def test_a_grid_below_one_frame_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match=r"must be an int in \[1, inf\)"):
        snippet_spans(10, **bad)
    with pytest.raises(ParameterError, match=r"must be an int in \[1, inf\)"):
        next(iterate_snippets(frames_of(3), **bad))


def test_spans_in_seconds_follow_the_times_of_a_variable_rate() -> None:
    times = np.array([0.0, 0.1, 0.5, 0.6])
    spans = seconds_of_spans(np.array([[0, 2], [2, 4]]), times, fps=5.0)
    np.testing.assert_allclose(spans, [[0.0, 0.5], [0.5, 0.8]])


@given(length=st.integers(1, 40), count=st.integers(1, 10))
def test_sampled_frames_are_different_in_order_and_symmetric(length: int, count: int) -> None:
    picked = [frame.index for frame in sample_evenly(frames_of(length), count)]
    assert len(picked) == min(length, count)
    assert picked == sorted(set(picked))
    assert abs(picked[0] - (length - 1 - picked[-1])) <= 1


def test_a_row_that_is_not_finite_names_its_place(make_frames: Callable[..., list[Frame]]) -> None:
    with pytest.raises(DataError, match=r"not finite \(v01, row 3, column 1\): expected finite numbers, got nan"):
        check_row(np.array([0.0, np.nan]), width=2, where="v01, row 3")
    with pytest.raises(DataError, match=r"wrong shape \(v01, row 3\): expected \(3,\), got \(2,\)"):
        check_row(np.zeros(2), width=3, where="v01, row 3")
    with pytest.raises(DataError, match="not finite"), np.errstate(over="ignore"):
        check_row(np.array([1e300]), width=1, where="float32 cannot hold it")


def test_features_refuse_what_does_not_fit() -> None:
    spans = np.array([[0.0, 1.0], [1.0, 2.0]])
    with pytest.raises(DataError, match="do not fit"):
        Features(np.zeros((3, 4), dtype=np.float32), spans)
    with pytest.raises(DataError, match=r"not finite \(row 1\)"):
        Features(np.array([[0.0], [np.inf]], dtype=np.float32), spans)


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"needs the package 'no-such'.*lego-fusion\[onnx\]"):
        load_package("no-such", module="no_such_module", extra="onnx")
