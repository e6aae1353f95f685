"""Distances by matrix products against differences in float64, wherever the rows lie."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lego_fusion.errors import DataError, ParameterError
from lego_fusion.graph.distances import mean_distance, middle, nearest, prepare, squared_distances

SHAPES = [(1, 1, 1), (5, 1, 3), (1, 6, 1), (7, 5, 40), (20, 33, 257)]  # rows, rows of y, width
OFFSETS = [0.0, 1e3, -1e6]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_differences(x: Tensor, y: Tensor) -> np.ndarray:
    """|x_i - y_j|^2 in float64, without the formula under test."""
    return np.square(x.double().numpy()[..., :, None, :] - y.double().numpy()[..., None, :, :]).sum(-1)


def scale_of(x: Tensor, y: Tensor) -> np.ndarray:
    """|x_i - c|^2 + |y_j - c|^2 with c the median row of y by column."""
    c = np.median(y.double().numpy(), axis=-2, keepdims=True)
    left, right = (np.square(rows.double().numpy() - c).sum(-1) for rows in (x, y))
    return np.asarray(left[..., :, None] + right[..., None, :])


def sorted_by_loop(x: Tensor, y: Tensor, k: int, exclude: tuple[Tensor, Tensor] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distances and places of the k nearest, one row at a time."""
    distances = np.sqrt(by_differences(x, y))
    if exclude is not None:
        distances[exclude[0].numpy()[:, None] == exclude[1].numpy()] = np.inf
    places = np.argsort(distances, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(distances, places, 1)
    return found, np.where(np.isinf(found), -1, places)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_within_rounding_of_differences_at_any_offset(shape, dtype, offset):
    rows, others, width = shape
    x = (random(rows, width) + offset).to(dtype)  # the oracle sees the rounded numbers, too
    y = (random(others, width, seed=1) + offset).to(dtype)
    got = squared_distances(x, y)
    assert got.dtype == dtype and got.shape == (rows, others) and (got >= 0).all()
    bound = (1e-5 if dtype == torch.float32 else 1e-13) * (scale_of(x, y) + 1e-9)
    assert (np.abs(got.double().numpy() - by_differences(x, y)) <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_computed_in_thirty_two(dtype):
    x, y = random(6, 50, dtype=dtype), random(9, 50, seed=1, dtype=dtype)
    assert squared_distances(x, y).dtype == torch.float32
    np.testing.assert_allclose(squared_distances(x, y), by_differences(x, y), rtol=1e-5, atol=1e-4)
    distances, places = nearest(x, y, 2)
    expected = sorted_by_loop(x, y, 2)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-6)
    assert (places.numpy() == expected[1]).all()
    assert squared_distances(x.double(), y).dtype == torch.float64 == nearest(x, y.double(), 1)[0].dtype


def test_leading_axes_of_rows_and_points_prepared_once():
    x, y = random(2, 3, 4, 5), random(6, 5, seed=1)
    points = prepare(y)
    expected = squared_distances(x.reshape(-1, 5), y).reshape(2, 3, 4, 6)
    for others in (y, y[None], points):
        torch.testing.assert_close(squared_distances(x, others), expected, rtol=0, atol=0)
    np.testing.assert_allclose(points.rows + points.centre, y, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_item_of_a_batch_to_its_own(dtype):
    x, y = random(3, 4, 5, dtype=dtype), random(3, 6, 5, seed=1, dtype=dtype)
    x, y = (one + 100 * torch.arange(3, dtype=dtype)[:, None, None] for one in (x, y))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    np.testing.assert_allclose(squared_distances(x, y), by_differences(x, y), rtol=0, atol=tolerance)
    for batch in (x, x[:1], x[0]):
        among = squared_distances(batch)
        np.testing.assert_allclose(among, by_differences(batch, batch), rtol=0, atol=tolerance)
        assert torch.equal(among, among.mT) and (among.diagonal(dim1=-2, dim2=-1) == 0).all()


@pytest.mark.parametrize("huge", [1e6, 1e12, 1e18])
def test_huge_rows_do_not_break_the_others(huge):
    x, y = random(6, 8, dtype=torch.float32), random(30, 8, seed=1, dtype=torch.float32)
    expected = by_differences(x, y)
    far = y.clone()
    far[3], far[17], far[29] = far[3] * huge, far[17] - huge, far[29] * -huge
    usual = [j for j in range(30) if j not in (3, 17, 29)]
    rows = torch.cat([x, far[3:4]])
    got = squared_distances(rows, far).double().numpy()
    np.testing.assert_allclose(got[:6, usual], expected[:, usual], rtol=0, atol=1e-4 if huge < 1e8 else 1e-3 * 64)
    np.testing.assert_allclose(got[:6, [3, 17, 29]], by_differences(x, far)[:, [3, 17, 29]], rtol=1e-5)
    distances, places = nearest(rows, far, 2)
    assert distances[6, 0] == 0 and places[6, 0] == 3
    np.testing.assert_allclose(distances[:6], sorted_by_loop(x, far, 2)[0], rtol=1e-5)


def test_squares_out_of_range_are_infinite_and_nan_stays_in_its_row():
    x = torch.tensor([[0.0], [1e30], [float("nan")]])
    got = squared_distances(x, torch.tensor([[0.0], [1.0], [2e30]]))
    assert got[0].tolist() == [0, 1, torch.inf] and (got[1] == torch.inf).all() and got[2].isnan().all()
    assert squared_distances(x[:2]).tolist() == [[0, torch.inf], [torch.inf, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 64, 2048])
def test_copies_are_told_from_near_copies(dtype, width):
    x = random(12, width, dtype=dtype) + 3
    x[5] *= 1e6
    y = torch.cat([x, x + 0.01 * (x - 3)])  # the same rows, and each 1 % further out
    got = squared_distances(x, y)
    same = torch.from_numpy(by_differences(x, y) == 0)
    assert (got[same] == 0).all() and (got.diagonal() == 0).all()
    assert (got.diagonal(12) > 0).all()


@pytest.mark.parametrize("tile", [1, 3, 7, 1024])
def test_nearest_by_loop_whatever_the_tile(tile):
    x, y = random(50, 6), random(90, 6, seed=1)
    for k in (1, 3, 90):
        distances, places = nearest(x, y, k, tile=tile)
        expected = sorted_by_loop(x, y, k)
        np.testing.assert_allclose(distances, expected[0], rtol=1e-12)
        assert (places.numpy() == expected[1]).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), many=st.integers(1, 700), k=st.integers(1, 12), tile=st.integers(1, 60))
def test_nearest_of_any_number(seed, many, k, tile):
    """Also where the smallest of a row are found by groups of columns, with columns left over."""
    k = min(k, many)
    x, y = random(9, 3, seed=seed, dtype=torch.float32), random(many, 3, seed=seed + 1, dtype=torch.float32)
    distances, places = nearest(x, y, k, tile=tile)
    np.testing.assert_allclose(distances, sorted_by_loop(x, y, k)[0], rtol=1e-5)
    chosen = np.take_along_axis(np.sqrt(by_differences(x, y)), places.numpy(), 1)
    np.testing.assert_allclose(distances, chosen, rtol=1e-5)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("offset", OFFSETS)
def test_nearest_is_exact_for_copies_and_near_copies_far_away(offset):
    """Frames that hardly move: products cannot tell a copy from what is 1e-4 away, differences can."""
    x = (random(40, 200) + offset).float()
    y = x.repeat_interleave(3, 0)
    y[0::3] += 1.0
    y[1::3, :1] = torch.nextafter(y[1::3, :1], torch.tensor(torch.inf))
    distances, places = nearest(x, y, 2)
    assert (distances[:, 0] == 0).all() and (places[:, 0] == torch.arange(40) * 3 + 2).all()
    np.testing.assert_allclose(distances, sorted_by_loop(x, y, 2)[0], rtol=1e-5)


def test_the_first_of_equal_rows_comes_first():
    y = torch.tensor([[1.0], [-1.0], [1.0], [5.0]])
    assert nearest(torch.zeros(1, 1), y, 4)[1].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("tile", [2, 1024])
def test_equal_groups_never_meet(tile):
    x, y = random(30, 4), random(25, 4, seed=1)
    exclude = (torch.arange(30) // 6, torch.arange(25) % 5)
    distances, places = nearest(x, y, 3, exclude=exclude, tile=tile)
    expected = sorted_by_loop(x, y, 3, exclude)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-12)
    assert (places.numpy() == expected[1]).all()


def test_too_few_of_other_groups_are_infinitely_far():
    x, y = random(2, 3, 4), random(4, 4, seed=1)
    exclude = (torch.tensor([[0, 0, 1], [2, 1, 0]]), torch.tensor([0, 0, 0, 1]))
    distances, places = nearest(x, y, 2, exclude=exclude)
    assert distances.shape == places.shape == (2, 3, 2)
    assert places[0, 0].tolist() == [3, -1] and distances[0, 0, 1] == torch.inf
    assert (places[1, 0] >= 0).all() and (places[0, 2] < 3).all()
    everything = nearest(x, y, 1, exclude=(torch.zeros(2, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long)))
    assert (everything[0] == torch.inf).all() and (everything[1] == -1).all()


def test_no_rows():
    assert squared_distances(torch.zeros(0, 3), torch.ones(4, 3)).shape == (0, 4)
    assert squared_distances(torch.ones(4, 3), torch.zeros(0, 3)).shape == (4, 0)
    assert squared_distances(torch.zeros(2, 0, 3)).shape == (2, 0, 0)
    distances, places = nearest(torch.zeros(0, 3), torch.ones(4, 3), 2)
    assert distances.shape == places.shape == (0, 2)


@pytest.mark.parametrize("far", [1, 2, 4])
def test_the_middle_is_among_most_rows(far):
    """Nine rows in the unit cube, and fewer huge ones on one side of it or on two."""
    for huge in (1e3, 1e30):
        y = torch.cat([random(9, 3).sigmoid(), torch.full((far, 3), huge)]).float()
        y[-1] *= -1
        assert ((middle(y) >= 0) & (middle(y) <= 1)).all()
    assert middle(torch.full((7, 2), 0.1)).tolist() == [[pytest.approx(0.1)] * 2]
    assert middle(torch.arange(10_000.0)[:, None]).item() == pytest.approx(4999.5, abs=2)


@pytest.mark.parametrize("tile", [1, 4, 1024])
def test_mean_distance_over_all_pairs(tile):
    x = random(11, 3, dtype=torch.float32) + 50
    pairs = np.sqrt(by_differences(x, x))[np.triu_indices(11, 1)]
    assert mean_distance(x, tile=tile).item() == pytest.approx(pairs.mean(), rel=1e-5)
    assert mean_distance(x[:1]) == 0


def test_gradients_are_those_of_finite_differences():
    x, y = random(2, 4, 3).requires_grad_(), random(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(squared_distances, (x, y))
    assert torch.autograd.gradcheck(lambda x: squared_distances(x), (x,))
    assert not nearest(x, y, 1)[0].requires_grad


def test_autocast_does_not_lower_the_precision():
    x, y = random(5, 40, dtype=torch.float32), random(6, 40, seed=1, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(squared_distances(x, y), squared_distances(x.clone(), y.clone()))
        distances = squared_distances(x, y)
    assert torch.equal(distances, squared_distances(x, y))


class _ToReferences(nn.Module):
    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("y", y)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return squared_distances(x, self.y), squared_distances(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_exported_for_other_runtimes_with_any_number_of_rows():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = _ToReferences(random(6, 4, seed=1, dtype=torch.float32)).eval()
    shapes = {"x": {0: torch.export.Dim("bags", min=1), 1: torch.export.Dim("nodes", min=2)}}
    program = torch.export.export(model, (random(3, 5, 4, dtype=torch.float32),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.onnx.export(program, f=file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    x = random(2, 9, 4, seed=2, dtype=torch.float32)
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(got[0], by_differences(x, model.y), rtol=0, atol=1e-4)
    np.testing.assert_allclose(got[1], by_differences(x, x), rtol=0, atol=1e-4)


def test_errors():
    x, y = random(4, 3), random(5, 3)
    for k in (0, 6):
        with pytest.raises(ParameterError, match=r"'k' parameter of nearest must be an int in \[1, 5\]"):
            nearest(x, y, k)
    with pytest.raises(ParameterError, match="'tile' parameter of nearest"):
        nearest(x, y, 1, tile=0)
    with pytest.raises(DataError, match="a mean distance needs rows"):
        mean_distance(torch.zeros(0, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nearest_refuses_what_has_no_distance(value):
    rows, broken = random(4, 3, dtype=torch.float32), random(4, 3, dtype=torch.float32)
    broken[2, 1] = value
    for x, y in ((rows, broken), (broken, rows)):
        with pytest.raises(DataError, match=r"NaN, infinite or too large.*run the doctor"):
            nearest(x, y, 1)


@pytest.mark.usefixtures("unchecked_types")
def test_shapes_that_do_not_go_together():
    x, y = random(4, 3), random(5, 3)
    for call in (lambda: squared_distances(x, y[:, :2]), lambda: nearest(x, y[:, :2], 1)):
        with pytest.raises(ParameterError, match="the rows have different widths: expected 2, got 3"):
            call()
    with pytest.raises(ParameterError, match=r"batches of different size: expected a batch of 2, .* got \(4, 3\)"):
        squared_distances(x, random(2, 5, 3))
    with pytest.raises(ParameterError, match=r"groups do not fit the rows \(exclude\): expected \(4,\) and \(5,\)"):
        nearest(x, y, 1, exclude=(torch.arange(4), torch.arange(4)))
