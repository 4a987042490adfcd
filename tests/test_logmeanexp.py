"""logmeanexp alone: literal values, what is counted. tests/test_ops.py has what holds for every operation."""

import numpy as np
import pytest
from contract import check
from reference import LONG, assert_same_bits, ulp_error

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["logmeanexp"]
INF, NAN = np.inf, np.nan


def test_one_element_is_itself(isa, dtype):
    fmt = np.finfo(dtype)
    x = (np.random.default_rng(0).standard_normal(1000) * 100).astype(dtype)
    x[:7] = [0, fmt.max, -fmt.max, fmt.smallest_subnormal, -fmt.smallest_normal, 2e6, 3e6]
    assert_same_bits(fs.logmeanexp(x[:, None], axis=1), x)
    assert_same_bits(fs.logmeanexp(x[None], axis=0), x)
    assert_same_bits(fs.logmeanexp(x, axis=()), x)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 64, 1000, 5000])
def test_the_mean_of_equal_elements_is_theirs(isa, dtype, n):
    for value in (0, 1.5, -7.3, 4096, 1e9):
        row = np.full((3, n), value, dtype)
        got = fs.logmeanexp(row, axis=1)
        assert len(np.unique(got)) == 1
        assert ulp_error(got[0], LONG(row[0, 0]), np.maximum(abs(LONG(row[0, 0])), np.log(LONG(n)))) <= MAX_ULP


def test_known_values(isa, dtype):
    log = np.log(np.arange(1, 5, dtype=dtype))
    np.testing.assert_allclose(fs.logmeanexp(log), np.log(2.5), rtol=8 * np.finfo(dtype).eps)
    got = fs.logmeanexp(np.array([1e4, -1e4], dtype))
    np.testing.assert_allclose(got, 1e4 - np.log(2), rtol=2 * np.finfo(dtype).eps)


def test_it_is_logsumexp_less_the_log_of_the_count(isa):
    x = np.random.default_rng(0).standard_normal((30, 40, 50)) * 5
    mask = np.random.default_rng(1).random((30, 40, 50)) < 0.5
    for axis in (0, 1, -1, None, (0, 2)):
        n = np.ones_like(x).sum(axis)
        np.testing.assert_allclose(fs.logmeanexp(x, axis), fs.logsumexp(x, axis) - np.log(n), rtol=0, atol=1e-13)
        difference = fs.logsumexp(x, axis, where=mask) - np.log(mask.sum(axis))
        np.testing.assert_allclose(fs.logmeanexp(x, axis, where=mask), difference, rtol=0, atol=1e-13)


def test_minus_inf_is_counted_and_masked_elements_are_not(isa, dtype):
    log2 = np.log(np.array(2, dtype))
    for n in (2, 40, 5000):
        row = np.zeros((1, n), dtype)
        row[0, ::2] = -INF
        for x, axis in ((row, 1), (np.repeat(row.T, 40, axis=1), 0)):
            np.testing.assert_allclose(fs.logmeanexp(x, axis), -log2, rtol=8 * np.finfo(dtype).eps)
            assert np.all(fs.logmeanexp(x, axis, where=x == 0) == 0)
            assert np.all(fs.logmeanexp(x, axis, where=x < 0) == -INF)
            assert np.all(np.isnan(fs.logmeanexp(x, axis, where=x > 0)))


def test_nothing_is_nothing(dtype):
    assert_same_bits(fs.logmeanexp(np.zeros(0, dtype)), np.array(NAN, dtype))
    assert_same_bits(fs.logmeanexp(np.zeros((3, 0), dtype), axis=1), np.full(3, NAN, dtype))
    assert_same_bits(fs.logmeanexp(np.zeros((0, 3), dtype), axis=0), np.full(3, NAN, dtype))
    assert_same_bits(fs.logmeanexp(np.zeros((3, 2), dtype), axis=1, where=False), np.full(3, NAN, dtype))


def test_it_lies_between_mean_and_maximum(isa, dtype):
    x = (np.random.default_rng(0).standard_normal((50, 300)) * 5).astype(dtype)
    got = fs.logmeanexp(x, axis=1)
    assert np.all(got < x.max(axis=1))
    assert np.all(got > x.mean(axis=1))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, 2), (), (0, 1, 2)])
def test_keepdims(dtype, axis):
    x = (np.random.default_rng(0).standard_normal((6, 7, 8)) * 5).astype(dtype)
    plain, kept = fs.logmeanexp(x, axis), fs.logmeanexp(x, axis, keepdims=True)
    assert kept.shape == x.sum(axis, keepdims=True).shape
    assert_same_bits(np.reshape(kept, np.shape(plain)), plain)


@pytest.mark.parametrize("n", [3, 1000, 2**20 + 1])
def test_the_count_is_exact(dtype, n):
    check("logmeanexp", np.zeros((1, n), dtype))
    mask = np.arange(n) % 3 == 0
    check("logmeanexp", np.linspace(-1, 1, n).astype(dtype)[None], where=mask)
