"""softmax_entropy alone: literal values, invariants. tests/test_ops.py has what holds for every operation."""

import mpmath
import numpy as np
import pytest
import scipy.special
from contract import check
from reference import LONG, assert_same_bits, ulp_error

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["softmax_entropy"]
INF = np.inf


def test_one_element_has_none(isa, dtype):
    x = (np.random.default_rng(0).standard_normal((1000, 1)) * 100).astype(dtype)
    assert_same_bits(fs.softmax_entropy(x), np.zeros(1000, dtype))
    assert_same_bits(fs.softmax_entropy(x.T, axis=0), np.zeros(1000, dtype))


@pytest.mark.parametrize("n", [2, 3, 4, 10, 64, 1000, 5000])
def test_equal_elements_have_the_most(isa, dtype, n):
    for value in (0, -7.3, 1e4, -3e9):
        got = fs.softmax_entropy(np.full((3, n), value, dtype))
        assert len(np.unique(got)) == 1
        assert ulp_error(got[0], np.log(LONG(n))) <= MAX_ULP


def test_known_values(isa, dtype):
    p = np.array([0.5, 0.25, 0.125, 0.125])
    x = np.log(p).astype(dtype)
    np.testing.assert_allclose(fs.softmax_entropy(x), 1.75 * np.log(2), rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(fs.softmax_entropy(np.array([0, -INF, 0], dtype)), np.log(2), rtol=1e-6)
    assert fs.softmax_entropy(np.array([0, -INF, -INF], dtype)) == 0
    assert fs.softmax_entropy(np.array([1e4, -1e4], dtype)) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("gap", [1e-3, 0.3, 1, 5, 16, 17, 30, 37, 60, 80])
def test_small_entropies_keep_their_digits(isa, dtype, gap):
    """(n - 1) (1 + gap) exp(-gap) and less: p log p of the largest one is lost in 1 - p."""
    for n in (2, 3, 40, 3000):
        gap = float(np.dtype(dtype).type(gap))
        with mpmath.workprec(300):
            others = (n - 1) * mpmath.exp(-mpmath.mpf(gap))
            exact = np.array(mpmath.log1p(others) + gap * others / (1 + others), object)
        for position in {0, 1, n // 2, n - 1}:
            x = np.full((1, n), -gap, dtype)
            x[0, position] = 0
            assert ulp_error(fs.softmax_entropy(x)[0], exact) <= MAX_ULP
            assert ulp_error(fs.softmax_entropy(np.repeat(x.T, 33, axis=1), axis=0)[32], exact) <= MAX_ULP


def test_it_is_the_sum_of_p_log_p(isa):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 40, 50)) * 3
    for axis in (0, 1, -1, None, (0, 2)):
        expected = scipy.special.entr(scipy.special.softmax(x, axis)).sum(axis)
        np.testing.assert_allclose(fs.softmax_entropy(x, axis), expected, rtol=1e-12, atol=1e-14)
    expected = scipy.special.entr(scipy.special.softmax(x / 0.3, -1)).sum(-1)
    np.testing.assert_allclose(fs.softmax_entropy(x, temperature=0.3), expected, rtol=1e-12, atol=1e-14)


def test_it_lies_between_0_and_log_n(isa, dtype):
    for spread in (1e-4, 1, 30, 1000):
        x = (np.random.default_rng(0).standard_normal((50, 300)) * spread).astype(dtype)
        got = fs.softmax_entropy(x)
        assert np.all(got >= 0)
        assert np.all(got <= np.nextafter(np.log(np.array(300, dtype)), np.array(9, dtype)))


def test_heat_raises_it(isa, dtype):
    x = (np.random.default_rng(0).standard_normal((50, 30)) * 5).astype(dtype)
    entropies = [fs.softmax_entropy(x, temperature=t) for t in (1e-9, 0.1, 1, 2, 10, 1e9)]
    assert np.all(np.diff(entropies, axis=0) >= 0)
    assert np.all(entropies[0] == 0)
    np.testing.assert_allclose(entropies[-1], np.log(30), rtol=1e-6)


def test_result_dtype():
    for start, result in (("f4", "f4"), ("f8", "f8"), ("f2", "f2"), ("i4", "f8"), ("?", "f8"), ("g", "g")):
        assert fs.softmax_entropy(np.ones((2, 3), start)).dtype == result


def test_many_terms_near_the_smallest_normal_number(isa, dtype):
    """Each is far below it, but counts a hundred times, and there may be thousands."""
    near, far, many = (-87.3, -106.3, 200_000) if dtype == "float32" else (-708.0, -748.2, 20_000)
    for count in (1000, many):
        check("softmax_entropy", np.r_[0, near, np.full(count, far)].astype(dtype)[None])
        check("softmax_entropy", np.r_[0, near - 3, np.full(count, far)].astype(dtype)[None])
