"""Sums of squares that are singular, or a little worse by rounding: every factorisation takes them.

What rounding makes of a matrix depends on the processor, so it is drawn here: the proof holds on
any machine.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.errors import RunError
from compressor.prune import _ridge, thinet
from compressor.prune._eliminate import eliminate, problem
from compressor.prune._factor import LEAST, factor, rounding, solve

ROWS, WIDTH, OUTPUTS = 200, 12, 3
DTYPES = [torch.float32, torch.float64]
DRAWS = 200


def plain(generator):
    return torch.randn(ROWS, WIDTH, generator=generator).double().relu() + 0.1


def duplicated(generator):
    x = plain(generator)
    x[:, WIDTH // 2 :] = 1.5 * x[:, : WIDTH // 2]
    return x


def of_rank_four(generator):
    mixed = torch.randn(4, WIDTH, generator=generator).double()
    return torch.randn(ROWS, 4, generator=generator).double() @ mixed


def with_one_sum(generator):
    x = plain(generator)
    x[:, 5] = x[:, :4].sum(1)
    return x


def with_constants(generator):
    x = plain(generator)
    x[:, ::3] = 2.0
    return x


def with_dead(generator):
    x = plain(generator)
    x[:, ::3] = 0.0
    return x


def all_dead(generator):
    return 0 * plain(generator)


def with_fewer_rows_than_columns(generator):
    return plain(generator)[: WIDTH // 2]


def tiny(generator):
    return 1e-8 * plain(generator)


def huge(generator):
    return 1e8 * plain(generator)


def uneven(generator):
    return plain(generator) * 10 ** torch.linspace(-8, 8, WIDTH).double()


INPUTS = (
    plain, duplicated, of_rank_four, with_one_sum, with_constants, with_dead, all_dead,
    with_fewer_rows_than_columns, tiny, huge, uneven,
)  # fmt: skip


def perturbed(gram, rows, dtype, generator):
    """Every entry wrong by up to rows * eps of the roots of its two diagonal entries."""
    error = 2 * torch.rand(gram.shape, generator=generator, dtype=torch.float64) - 1
    error = error.triu() + error.triu(1).T
    size = gram.diagonal().sqrt()
    return gram + rows * torch.finfo(dtype).eps * error * size[:, None] * size


def unexplained(x, y):
    """|| y - x w ||^2 with the pseudo-inverse's w, the columns brought to one length."""
    length = x.norm(dim=0)
    x = x / torch.where(length > 0, length, 1.0)
    return float((y - x @ (torch.linalg.pinv(x, rtol=1e-10) @ y)).square().sum())


class Layer:
    """A layer's inputs x, its present weights, and the outputs y that it should give."""

    def __init__(self, make, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.x = make(self.generator)
        self.rows = len(self.x)
        size = self.x.square().mean(0).sqrt()
        size = torch.where(size > 0, size, 1.0)
        # weights as large as the channels are small, so that all of them count
        self.weight = self.normal(OUTPUTS, WIDTH) / size
        wanted = self.weight * (1 + 0.5 * self.normal(OUTPUTS, WIDTH))
        self.y = self.x @ wanted.T + 0.3 * self.normal(self.rows, OUTPUTS)
        self.centred, self.wanted = self.x - self.x.mean(0), self.y - self.y.mean(0)
        self.energy = float(self.wanted.square().sum())
        # ThiNet's: what each channel adds to one output
        self.parts = self.x * self.weight[0]
        self.total = self.parts.sum(1, keepdim=True)
        self.all = float(self.total.square().sum()) or 1.0

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator).double()

    def sums(self, dtype):
        a = torch.cat([self.x, self.x.new_ones(self.rows, 1)], 1)
        gram = perturbed(a.T @ a, self.rows, dtype, self.generator)
        gram[-1, -1] = self.rows
        found = {"gram": gram, "cross": self.y.T @ a, "square": self.y.square().sum(0)}
        return {key: value[None].to(dtype) for key, value in found.items()}

    def gram(self, dtype):
        return perturbed(self.parts.T @ self.parts, self.rows, dtype, self.generator)


def refitted(layer, dtype, ridge=1e-6):
    """Residual of the refit and of the pseudo-inverse, as shares of the outputs' energy."""
    one = _ridge.system(layer.sums(dtype), layer.weight[None], ridge, intercept=True)
    weight = one.solve()[0]
    assert weight.isfinite().all() and 0 <= one.residual(weight[None]) < float("inf")
    found = (layer.wanted - layer.centred @ weight.T).square().sum() / layer.energy
    return float(found), unexplained(layer.centred, layer.wanted) / layer.energy


def rescaled(layer, dtype):
    kept = torch.arange(0, WIDTH, 2)
    w = thinet.rescale(layer.gram(dtype), kept)
    assert w.isfinite().all()
    found = (layer.total[:, 0] - layer.parts[:, kept] @ w).square().sum() / layer.all
    return float(found), unexplained(layer.parts[:, kept], layer.total) / layer.all


def half_gone(order, cost, each):
    """The columns that are left when half the blocks have gone, and what that cost."""
    assert order.sort().values.tolist() == list(range(WIDTH // each))
    assert cost.isfinite().all() and (cost >= 0).all()
    half = len(order) // 2
    columns = torch.arange(WIDTH).view(-1, each)
    return columns[order[half:]].flatten(), float(cost[:half].sum())


def eliminated(each):
    def run(layer, dtype):
        one = _ridge.system(
            layer.sums(dtype), layer.weight[None], 1e-6, intercept=True, by_input=True
        )
        blocks = torch.arange(WIDTH).view(-1, each)
        problems = [problem(one.matrix, one.cross, blocks, 1 / layer.energy)]
        left, grown = half_gone(*eliminate(problems, len(blocks)), each)
        before = unexplained(layer.centred, layer.wanted)
        after = unexplained(layer.centred[:, left], layer.wanted)
        return grown, (after - before) / layer.energy

    return run


def eliminated_under_the_rescale(layer, dtype):
    sums = {"gram": layer.gram(dtype), "energy": torch.tensor(layer.all)}
    left, grown = half_gone(*eliminate([thinet.rescale_problem(sums)], WIDTH), 1)
    return grown, unexplained(layer.parts[:, left], layer.total) / layer.all


def picked_forward(layer, dtype):
    order, cost = thinet._forward(layer.gram(dtype), WIDTH // 2)
    assert len(order.unique()) == WIDTH // 2
    assert cost.isfinite().all() and (cost >= 0).all()
    energy = float(layer.total.square().sum())
    left = energy - float(cost.sum())
    return left / layer.all, unexplained(layer.parts[:, order], layer.total) / layer.all


FACTORISATIONS = {
    "the refit": refitted,
    "the rescale": rescaled,
    "OBS, a column a channel": eliminated(1),
    "OBS, four columns a channel": eliminated(4),
    "ThiNet's rescale_aware": eliminated_under_the_rescale,
    "ThiNet's forward": picked_forward,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", FACTORISATIONS)
def test_rounding_of_any_sign_moves_no_result_by_more_than_a_hundredth(name, dtype):
    """Results are shares of the outputs' energy: what is left of it, or what a cut adds to it."""
    # the refit pulls by the mean energy, which holds channels far below it where they are
    inputs = [make for make in INPUTS if name != "the refit" or make is not uneven]
    worst = 0.0
    for draw in range(DRAWS):
        layer = Layer(inputs[draw % len(inputs)], draw)
        found, by_pseudo_inverse = FACTORISATIONS[name](layer, dtype)
        worst = max(worst, abs(found - by_pseudo_inverse))
    assert worst < 0.01


@pytest.mark.parametrize("ridge", [1e-6, 0.01])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_a_refit_over_uneven_channels_is_no_worse_than_none(dtype, ridge):
    for draw in range(20):
        layer = Layer(uneven, draw)
        found, _ = refitted(layer, dtype, ridge)
        as_it_is = layer.wanted - layer.centred @ layer.weight.T
        assert found <= 1.01 * float(as_it_is.square().sum()) / layer.energy


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from(INPUTS), st.sampled_from(DTYPES), st.integers(-8, 8), st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0, 30.0]),
)  # fmt: skip
def test_every_symmetric_matrix_has_a_factor_near_it(make, dtype, exponent, seed, errors):
    """errors: how many times as large as rounding may be. Measured in units of the columns."""
    generator = torch.Generator().manual_seed(seed)
    x = 10.0**exponent * make(generator)
    exact = x.T @ x
    matrix = exact + errors * (perturbed(exact, len(x), dtype, generator) - exact)
    lower = factor(matrix)
    assert torch.equal(lower, lower.tril()) and (lower.diagonal() > 0).all()
    units = exact.diagonal().sqrt()
    units = torch.where(units > 0, units, 1.0)
    error = (lower @ lower.T - matrix) / units[:, None] / units
    size = errors * rounding(len(x), WIDTH, dtype)
    assert torch.linalg.matrix_norm(error, 2) <= 3 * size + 2 * WIDTH * LEAST
    answer = solve(matrix, torch.ones(WIDTH, 1).double())
    assert answer.isfinite().all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_errors_of_one_size_do_not_drown_the_matrix_in_units_of_its_small_columns(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDTH, generator=generator).double() * 10 ** torch.linspace(-3, 0, WIDTH)
    exact = x.T @ x
    error = 2 * torch.rand(exact.shape, generator=generator, dtype=torch.float64) - 1
    matrix = exact + 1e-3 * exact.diagonal().mean() * (error.triu() + error.triu(1).T)
    lower = factor(matrix)
    off = torch.linalg.matrix_norm(lower @ lower.T - exact, 2)
    assert off < 0.05 * torch.linalg.matrix_norm(exact, 2)


def test_one_bad_matrix_of_several_is_repaired_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([plain(generator), duplicated(generator), plain(generator)])
    matrix = x.mT @ x
    lower = factor(matrix)
    for i in (0, 2):
        assert torch.equal(lower[i], torch.linalg.cholesky(matrix[i : i + 1])[0])
    torch.testing.assert_close(lower @ lower.mT, matrix, rtol=1e-8, atol=1e-6)


def test_no_matrix_that_is_not_finite_has_one():
    for value in (float("nan"), float("inf")):
        matrix = torch.eye(3).double()
        matrix[1, 2] = matrix[2, 1] = value
        with pytest.raises(RunError, match="NaN or infinity"):
            factor(matrix)


def test_eigenvalues_that_are_not_found_are_an_error_in_words(monkeypatch):
    def fails(matrix):
        raise torch.linalg.LinAlgError("linalg.eigh: failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(RunError, match="eigenvalues .* not found; raise prune.ridge"):
        factor(-torch.eye(3).double())


def test_rounding_grows_with_rows_width_and_the_coarseness_of_the_dtype():
    assert rounding(100, 16, torch.float64) == 800 * 2.0**-52
    assert rounding(100, 16, torch.float32) == 800 * 2.0**-23
