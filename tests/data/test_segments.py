import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_fusion.data.segments import (
    rows_to_frames,
    segment_bounds,
    segment_frames,
    segments_to_rows,
    to_segments,
)
from lego_fusion.errors import DataError, ParameterError

rows_strategy = st.integers(1, 300)
segments_strategy = st.integers(1, 64)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def spans(rows, segments):
    """The definition, written out: every segment and the snippets it is made from."""
    r = [int(x) for x in np.linspace(0, rows, segments + 1)]
    return [list(range(r[i], r[i + 1])) or [r[i]] for i in range(segments)]


def snippets_of_frame(frame, rows, snippet_frames, stride):
    shown = [t for t in range(rows) if t * stride <= frame < t * stride + snippet_frames]
    return shown or [frame // stride]


@given(rows_strategy, segments_strategy)
def test_bounds_run_from_the_first_to_the_last_snippet(rows, segments):
    bounds = segment_bounds(rows, segments)
    assert bounds.shape == (segments + 1,)
    assert (bounds[0], bounds[-1]) == (0, rows)
    widths = np.diff(bounds)
    assert widths.min() >= 0
    assert widths.max() - widths.min() <= 1


@given(rows_strategy, segments_strategy)
def test_every_snippet_is_in_a_segment(rows, segments):
    used = sorted({t for span in spans(rows, segments) for t in span})
    assert used == list(range(rows))
    # the same through the code: a segment that saw snippet t, and no other, moves with it
    seen = to_segments(np.eye(rows), segments)  # (N, T), weight of snippet t in segment i
    assert (seen.sum(axis=0) > 0).all()
    np.testing.assert_allclose(seen.sum(axis=1), 1, rtol=1e-6)


@settings(max_examples=60)
@given(rows_strategy, segments_strategy, st.sampled_from([(), (3,), (2, 3)]))
def test_to_segments_equals_the_loop(rows, segments, row_shape):
    features = random(rows, rows, *row_shape).astype(np.float32)
    loop = [features[span].astype(np.float64).sum(axis=0) / len(span) for span in spans(rows, segments)]
    result = to_segments(features, segments)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.array(loop), rtol=1e-6, atol=1e-7)


@settings(max_examples=60)
@given(rows_strategy, segments_strategy)
def test_segments_to_rows_equals_the_loop(rows, segments):
    scores = random(segments, segments)
    made_from = spans(rows, segments)
    loop = [np.mean([scores[i] for i in range(segments) if t in made_from[i]]) for t in range(rows)]
    np.testing.assert_allclose(segments_to_rows(scores, rows), loop, rtol=1e-12, atol=1e-12)


@given(rows_strategy, segments_strategy, st.floats(-100, 100, width=32))
def test_a_constant_stays_exactly_constant(rows, segments, constant):
    assert (to_segments(np.full((rows, 2), constant, dtype=np.float32), segments) == np.float32(constant)).all()
    assert (segments_to_rows(np.full(segments, constant), rows) == constant).all()


@given(st.integers(1, 20), segments_strategy)
def test_the_mean_is_preserved_when_segments_divide_the_rows(each, segments):
    features = random(each, each * segments, 2)
    np.testing.assert_allclose(to_segments(features, segments).mean(axis=0), features.mean(axis=0), atol=1e-6)


@given(rows_strategy, st.integers(1, 8))
def test_round_trip_when_rows_divide_the_segments(rows, copies):
    """Every snippet is copied to `copies` segments, so going back restores it."""
    scores = random(rows, rows).astype(np.float32)
    there = to_segments(scores, rows * copies)
    np.testing.assert_array_equal(segments_to_rows(there.astype(np.float64), rows), scores)


def test_round_trip_of_a_short_video_is_exact_for_32_segments():
    for rows in range(1, 33):
        scores = random(rows, rows).astype(np.float32)
        np.testing.assert_array_equal(segments_to_rows(to_segments(scores, 32).astype(np.float64), rows), scores)


@given(rows_strategy, segments_strategy)
def test_rising_scores_stay_rising(rows, segments):
    assert (np.diff(segments_to_rows(np.arange(float(segments)), rows)) >= 0).all()


def test_features_mapped_from_a_file_are_averaged(tmp_path):
    np.save(tmp_path / "x.npy", random(0, 50, 4).astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(to_segments(mapped, 7), to_segments(np.array(mapped), 7))


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_rows_to_frames_equals_the_loop(frames, snippet_frames, stride):
    rows = -(-frames // stride)
    scores = random(frames, rows)
    loop = [np.mean(scores[snippets_of_frame(f, rows, snippet_frames, stride)]) for f in range(frames)]
    np.testing.assert_allclose(rows_to_frames(scores, frames, snippet_frames, stride), loop, rtol=1e-12, atol=1e-12)
    assert (rows_to_frames(np.full(rows, 0.1), frames, snippet_frames, stride) == 0.1).all()


@given(st.integers(1, 400))
def test_without_overlap_scores_are_repeated_and_cut_at_the_end_of_the_video(frames):
    scores = random(frames, -(-frames // 16))
    np.testing.assert_array_equal(rows_to_frames(scores, frames), np.repeat(scores, 16)[:frames])


def test_nothing_to_average_is_an_error():
    with pytest.raises(DataError, match=r"no snippets to average.*got shape \(0, 4\)"):
        to_segments(np.zeros((0, 4)), 32)


@pytest.mark.parametrize("rows", [1, 3])
def test_scores_that_do_not_fit_the_video_are_an_error(rows):
    with pytest.raises(DataError, match=rf"does not fit the video: expected 2 scores for 20 frames.*got {rows}"):
        rows_to_frames(np.zeros(rows), frames=20)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: segment_bounds(0, 4), "rows"),
        (lambda: segment_bounds(4, 0), "segments"),
        (lambda: rows_to_frames(np.zeros(1), 0), "frames"),
        (lambda: rows_to_frames(np.zeros(1), 4, stride=0), "stride"),
    ],
)
def test_sizes_out_of_range_are_errors(call, name):
    with pytest.raises(ParameterError, match=f"The '{name}' parameter of"):
        call()


@pytest.mark.parametrize(("snippet_frames", "stride"), [(16, 16), (32, 16), (16, 32), (5, 3)])
@pytest.mark.parametrize("rows", [1, 4, 9])
def test_a_segment_shows_the_frames_of_its_snippets_however_long_they_are(rows, snippet_frames, stride):
    frames = (rows - 1) * stride + snippet_frames - 2  # the last snippet is cut
    for segments in (1, 3, 4):
        for number, snippets in enumerate(spans(rows, segments)):
            shown = [t * stride for t in snippets] + [min(frames, t * stride + snippet_frames) for t in snippets]
            found = segment_frames(number, segments, rows=rows, frames=frames, snippet_frames=snippet_frames, stride=stride)
            assert found == (min(shown), max(shown))


def test_halves_stay_halves_and_a_snippet_is_sixteen_frames_unless_told():
    halves = np.ones((4, 2), np.float16)
    assert to_segments(halves, 2).dtype == np.float16
    assert to_segments(halves.astype(np.float64), 2).dtype == np.float32
    assert segment_frames(1, 2, rows=4, frames=1000) == (32, 64)
