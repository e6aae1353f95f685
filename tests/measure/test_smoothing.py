"""Smoothing on the clock: against loops, by identities and metamorphic relations, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from lego_fusion.errors import ParameterError
from lego_fusion.measure.result import Result, load_results
from lego_fusion.measure.smoothing import CausalSmoother, check_smoothing, frame_step, smooth, smooth_frames

RANDOM = np.random.default_rng(0)


def by_loop(values: np.ndarray, step: float, seconds: float, causal: bool) -> list[float]:
    """Every pair of values, weighed by how far they are apart."""
    smoothed = []
    for i in range(len(values)):
        weights = [
            0.0 if abs(i - j) * step > 4 * seconds or (causal and j > i) else np.exp(-(((i - j) * step / seconds) ** 2) / 2)
            for j in range(len(values))
        ]
        smoothed.append(sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights))
    return smoothed


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "step", "seconds"), [(1, 0.1, 0.5), (2, 0.3, 9.0), (40, 0.11, 0.5), (200, 1.6, 2.0)])
def test_it_is_the_loop_over_pairs(length: int, step: float, seconds: float, causal: bool) -> None:
    values = RANDOM.normal(size=length)
    np.testing.assert_allclose(smooth(values, step, seconds, causal=causal), by_loop(values, step, seconds, causal), atol=1e-12)


def test_far_from_the_ends_it_is_scipy_s_gaussian() -> None:
    values = RANDOM.normal(size=400)
    expected = gaussian_filter1d(values, 5.0, truncate=4.0)
    np.testing.assert_allclose(smooth(values, 0.1, 0.5)[20:-20], expected[20:-20], atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 1e-12, 0.01, 0.5, 60.0])
def test_a_constant_stays_that_constant(seconds: float, causal: bool) -> None:
    assert (smooth(np.full(33, 0.1), 0.04, seconds, causal=causal) == 0.1).all()
    assert (smooth_frames(np.full(33, 0.1), 25.0, seconds, constant=16) == 0.1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_linear_and_between_the_extremes(causal: bool) -> None:
    a, b = RANDOM.normal(size=(2, 70))
    both = smooth(2 * a - 3 * b, 0.2, 0.7, causal=causal)
    np.testing.assert_allclose(
        both, 2 * smooth(a, 0.2, 0.7, causal=causal) - 3 * smooth(b, 0.2, 0.7, causal=causal), atol=1e-12
    )
    assert a.min() < smooth(a, 0.2, 0.7, causal=causal).min() < smooth(a, 0.2, 0.7, causal=causal).max() < a.max()


def test_the_sum_of_what_happens_inside_is_kept() -> None:
    values = np.zeros(200)
    values[80:120] = RANDOM.random(40)
    assert smooth(values, 0.1, 0.5).sum() == pytest.approx(values.sum(), rel=1e-12)


def test_turned_in_time_it_is_the_same_turned_but_not_where_only_the_past_counts() -> None:
    values = RANDOM.normal(size=50)
    np.testing.assert_allclose(smooth(values[::-1], 0.2, 0.5)[::-1], smooth(values, 0.2, 0.5), atol=1e-12)
    assert np.abs(smooth(values[::-1], 0.2, 0.5, causal=True)[::-1] - smooth(values, 0.2, 0.5, causal=True)).max() > 0.1


def test_what_comes_later_changes_nothing_where_only_the_past_counts() -> None:
    values = RANDOM.normal(size=60)
    other = np.append(values[:25], 100 * RANDOM.normal(size=10))
    np.testing.assert_array_equal(smooth(values, 0.2, 0.9, causal=True)[:25], smooth(values[:25], 0.2, 0.9, causal=True))
    np.testing.assert_allclose(
        smooth(other, 0.2, 0.9, causal=True)[:25], smooth(values, 0.2, 0.9, causal=True)[:25], atol=1e-12
    )


def test_what_is_more_than_four_deviations_away_changes_nothing() -> None:
    values = RANDOM.normal(size=101)
    other = values.copy()
    other[50 + 21 :] += 1e3  # 2.1 s away
    np.testing.assert_allclose(smooth(other, 0.1, 0.5)[:51], smooth(values, 0.1, 0.5)[:51], atol=1e-9)


def test_it_goes_by_the_clock_and_not_by_rows() -> None:
    """A slow wave, sampled at 10 and at 50 values a second, is the same at the same time."""
    slow, fast = (smooth(np.sin(np.arange(0.0, 20.0, step)), step, 0.5) for step in (0.1, 0.02))
    np.testing.assert_allclose(slow[30:-30], fast[::5][30:-30], atol=1e-3)
    frames = [smooth_frames(np.repeat(np.sin(np.arange(0.0, 20.0, 0.4)), n), 2.5 * n, 0.5, constant=n) for n in (4, 20)]
    np.testing.assert_allclose(frames[0].reshape(-1, 4).mean(1)[5:-5], frames[1].reshape(-1, 20).mean(1)[5:-5], atol=2e-2)


@pytest.mark.parametrize(("length", "fps", "seconds"), [(1, 10.0, 0.5), (170, 10.0, 0.5), (500, 25.0, 0.5), (77, 30.0, 2.0)])
def test_steps_of_frames_are_as_good_as_frames(length: int, fps: float, seconds: float) -> None:
    frames = np.repeat(np.cumsum(RANDOM.normal(size=-(-length // 16))), 16)[:length]
    coarse, fine = smooth_frames(frames, fps, seconds, constant=16), smooth(frames, 1 / fps, seconds)
    assert coarse.shape == fine.shape
    assert np.abs(coarse - fine).max() <= 0.25 * np.ptp(frames)
    assert 16 % frame_step(fps, seconds, 16) == 0 and frame_step(fps, seconds, 16) / fps <= seconds / 2
    np.testing.assert_array_equal(smooth_frames(frames, fps, seconds, constant=1), fine)


def test_rows_of_a_matrix_are_smoothed_each_by_itself() -> None:
    table = RANDOM.normal(size=(3, 40))
    np.testing.assert_allclose(smooth(table, 0.1, 0.3), [smooth(row, 0.1, 0.3) for row in table], atol=1e-15)


@pytest.mark.parametrize(("step", "seconds"), [(0.4, 0.0), (0.4, 0.5), (0.1, 2.0), (1.6, 0.5)])
def test_one_value_at_a_time_gives_the_same(step: float, seconds: float) -> None:
    values = RANDOM.normal(size=90)
    smoother = CausalSmoother(step, seconds)
    np.testing.assert_allclose(
        [smoother.push(place, value) for place, value in enumerate(values)],
        smooth(values, step, seconds, causal=True),
        atol=1e-12,
    )
    later = CausalSmoother(step, seconds)
    later.restore(smoother.state())
    assert later.push(90, 3.0) == smoother.push(90, 3.0)


def test_values_that_were_dropped_do_not_count() -> None:
    smoother = CausalSmoother(1.0, 1.0)
    assert smoother.push(0, 2.0) == 2.0
    assert smoother.push(2, 0.0) == pytest.approx(2.0 * np.exp(-2) / (1 + np.exp(-2)))
    assert smoother.push(7, 5.0) == 5.0  # five deviations after the last


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), 60.1, float("inf")])
@pytest.mark.parametrize("way", ["smooth", "smooth_frames", "CausalSmoother"])
def test_a_deviation_out_of_its_range_is_one_clear_error(seconds: float, way: str) -> None:
    ways = {
        "smooth": lambda: smooth(np.zeros(3), 0.1, seconds),
        "smooth_frames": lambda: smooth_frames(np.zeros(3), 10.0, seconds),
        "CausalSmoother": lambda: CausalSmoother(0.1, seconds),
    }
    with pytest.raises(ParameterError, match=rf"The 'smoothing' parameter of {way} must be a number in \[0.0, 60.0\]"):
        ways[way]()


@pytest.mark.parametrize("seconds", [True, "1", None, [0.5]])
def test_a_deviation_that_is_no_number_is_one_clear_error(seconds: object) -> None:
    with pytest.raises(ParameterError, match="The 'smoothing' parameter of compare must be a number"):
        check_smoothing(seconds, "compare")


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_time_goes_forward(step: float) -> None:
    with pytest.raises(ParameterError, match="'step' parameter"):
        smooth(np.zeros(3), step, 0.5)
    with pytest.raises(ParameterError, match="'fps' parameter"):
        smooth_frames(np.zeros(3), step, 0.5)
    with pytest.raises(ParameterError, match="'step' parameter"):
        CausalSmoother(step, 0.5)


def record(**facts: object) -> Result:
    given = {"dataset": "d", "split": "s", "modalities": ("m",), "fusion": "lego", "seed": 0, "selection": "last-step"}
    return Result.model_validate({**given, "metric": "micro_auc", "value": 0.5, "protocol": "p", **facts})


def test_records_carry_it_and_old_ones_had_none(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    line = record(smoothing=0.5).model_dump_json()
    old = line.replace(',"smoothing":0.5', "")
    assert old != line
    path.write_text(f"{line}\n{old}\n")
    assert [one.smoothing for one in load_results(path)] == [0.5, 0.0]
