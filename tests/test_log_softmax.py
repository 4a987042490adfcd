"""log_softmax alone: literal values, invariants, confident rows. tests/test_ops.py has what holds for every
operation."""

import mpmath
import numpy as np
import pytest
import scipy.special
from contract import check
from reference import LONG, assert_same_bits, ulp_error

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["log_softmax"]


# ---- literal


def test_one_element_is_exactly_plus_zero(isa, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1000, 1)) * 100).astype(dtype)
    for large in (1, 1e6, 1e30):
        zeros = np.zeros((1000, 1), dtype)
        assert_same_bits(fs.log_softmax(x * np.dtype(dtype).type(large)), zeros)
        assert_same_bits(fs.log_softmax(x.reshape(1, 1000), axis=0), zeros.reshape(1, 1000))


@pytest.mark.parametrize("n", [2, 3, 4, 10, 64, 1000, 5000])
def test_equal_elements(isa, dtype, n):
    for value in (0, -7.3, 1e4, -3e9):
        y = fs.log_softmax(np.full((3, n), value, dtype))
        assert len(np.unique(y)) == 1
        assert ulp_error(y[0, 0], -np.log(LONG(n))) <= MAX_ULP


def test_known_values(isa, dtype):
    log = np.log(np.arange(1, 5, dtype=np.longdouble)).astype(dtype)
    np.testing.assert_allclose(fs.log_softmax(log), np.log([0.1, 0.2, 0.3, 0.4]), rtol=4 * np.finfo(dtype).eps)
    half = np.log(np.array(0.5, dtype))
    np.testing.assert_array_equal(fs.log_softmax(np.array([0, -np.inf, 0], dtype)), [half, -np.inf, half])
    np.testing.assert_array_equal(fs.log_softmax(np.array([3e4, -3e4], dtype)), [0, -6e4])


def test_the_difference_may_overflow(isa, dtype):
    most = np.finfo(dtype).max
    np.testing.assert_array_equal(fs.log_softmax(np.array([most, -most], dtype)), [0, -np.inf])
    np.testing.assert_array_equal(fs.log_softmax(np.array([most, 0], dtype)), [0, -most])


# ---- confident rows: the largest element's result is -log1p(the others), however small


@pytest.mark.sampled(3)
@pytest.mark.parametrize("gap", [1e-3, 0.3, 1, 5, 16, 17, 30, 37, 40, 60, 80, 87])
def test_the_largest_element_keeps_its_digits(isa, dtype, gap):
    for n in (2, 3, 40, 3000):
        gap = float(np.dtype(dtype).type(gap))
        with mpmath.workprec(300):
            exact = -mpmath.log1p((n - 1) * mpmath.exp(-mpmath.mpf(gap)))
        for position in {0, 1, n // 2, n - 1}:
            x = np.full((1, n), -gap, dtype)
            x[0, position] = 0
            for y in (fs.log_softmax(x), fs.log_softmax(np.repeat(x.T, 33, axis=1), axis=0).T[:1]):
                assert ulp_error(y[0, position], np.array(exact, object)) <= MAX_ULP


def test_all_digits_are_lost_only_below_the_smallest_number(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    enough, too_much = (102, 106) if dtype == "float32" else (743.5, 750)  # exp(-enough) is about 3.6 tiny
    assert -6 * tiny < fs.log_softmax(np.array([0, -enough], dtype))[0] < 0
    assert fs.log_softmax(np.array([0, -too_much], dtype))[0] == 0


# ---- invariants


def test_order_is_kept_and_nothing_is_positive(isa, dtype):
    rng = np.random.default_rng(0)
    for spread in (1, 5, 100):
        x = np.sort((rng.standard_normal((50, 300)) * spread).astype(dtype))
        y = fs.log_softmax(x)
        assert np.all(np.diff(y) >= 0)
        assert np.all(y <= 0)


def test_it_is_the_logarithm_of_softmax(isa, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((50, 300)) * 5).astype(dtype)
    exp = np.exp(fs.log_softmax(x).astype(LONG))
    np.testing.assert_allclose(exp, fs.softmax(x), rtol=100 * np.finfo(dtype).eps)  # |log| up to 50


def test_exact_shift_changes_little(isa, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(-20, 20, (20, 300)).astype(dtype)
    np.testing.assert_allclose(fs.log_softmax(x + 4096), fs.log_softmax(x), rtol=2 * MAX_ULP * np.finfo(dtype).eps)


def test_scipy_agrees_on_rows_that_are_not_confident(isa):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 40, 50)) * 5
    for axis in (0, 1, 2, -1, None, (0, 2)):
        np.testing.assert_allclose(fs.log_softmax(x, axis), scipy.special.log_softmax(x, axis), rtol=1e-13, atol=1e-13)


def test_subnormal_inputs_count_as_what_they_are(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    check("log_softmax", np.array([[0, tiny, -tiny, 5 * tiny], [1, tiny, 1, tiny], [200, tiny, 200, 200]], dtype))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("base", [3e6, 2.0**21 - 150, 1e7, -3e6])
def test_chunks_that_merge_by_their_difference(isa, dtype, temperature, base):
    """Maxima of 2^21 and more are relative to themselves; so is what they leave of another chunk."""
    for gap in (20.0, 70.0, 231.0, 342.0, 387.0, 700.0):
        x = np.full((2, 3000), -np.inf, dtype)
        x[:, [5, 2500]] = [[base, base + gap], [base + gap, base]]
        check("log_softmax", x, temperature=temperature)
        check("softmax_entropy", x, temperature=temperature)
