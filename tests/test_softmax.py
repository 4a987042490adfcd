"""softmax alone: literal values, invariants, subnormal results. tests/test_ops.py has what holds for every
operation."""

import numpy as np
import pytest
import scipy.special
from contract import check
from reference import assert_same_bits

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["softmax"]


# ---- literal


def test_one_element_is_exactly_one(isa, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1000, 1)) * 100).astype(dtype)
    assert np.all(fs.softmax(x) == 1)
    assert np.all(fs.softmax(x.reshape(1, 1000), axis=0) == 1)


@pytest.mark.parametrize("power", range(8))
def test_equal_elements_share_exactly(isa, dtype, power):
    rng = np.random.default_rng(0)
    n = 2**power
    x = np.repeat((rng.standard_normal((200, 1)) * 100).astype(dtype), n, axis=1)
    assert np.all(fs.softmax(x) == 1 / n)


def test_known_values(isa, dtype):
    log = np.log(np.arange(1, 5, dtype=np.longdouble)).astype(dtype)
    np.testing.assert_allclose(fs.softmax(log), [0.1, 0.2, 0.3, 0.4], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(fs.softmax(np.array([0, -np.inf, 0], dtype)), [0.5, 0, 0.5])
    np.testing.assert_array_equal(fs.softmax(np.array([3e4, -3e4], dtype)), [1, 0])


# ---- invariants


def test_sums_to_one_and_keeps_order(isa, dtype):
    rng = np.random.default_rng(0)
    x = np.sort((rng.standard_normal((50, 300)) * 5).astype(dtype))
    y = fs.softmax(x)
    assert np.all(np.diff(y) >= 0)
    np.testing.assert_allclose(y.sum(axis=1, dtype=np.longdouble), 1, rtol=2 * np.finfo(dtype).eps)


def test_exact_shift_changes_little(isa, dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(-20, 20, (20, 300)).astype(dtype)
    np.testing.assert_allclose(fs.softmax(x + 4096), fs.softmax(x), rtol=2 * MAX_ULP * np.finfo(dtype).eps)


def test_scipy_agrees(isa):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 40, 50)) * 5
    for axis in (0, 1, 2, -1):
        np.testing.assert_allclose(fs.softmax(x, axis), scipy.special.softmax(x, axis), rtol=1e-13)


# ---- subnormal numbers


def test_subnormal_inputs_count_as_what_they_are(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([[0, tiny, -tiny, 5 * tiny], [1, tiny, 1, tiny], [200, tiny, 200, 200]], dtype)
    zeros = np.where(np.abs(x) < 1, 0, x).astype(dtype)
    assert_same_bits(fs.softmax(x), fs.softmax(zeros))


def test_subnormal_results_underflow_gradually(isa, dtype):
    fmt = np.finfo(dtype)
    # 2^-k relative to the largest: exact results from normal down through every subnormal to zero.
    k = np.arange(-fmt.minexp - 3, -fmt.minexp + fmt.nmant + 6)
    x = np.concatenate([[0], -k * np.log(np.longdouble(2))]).astype(dtype)
    y = check("softmax", x)
    assert np.count_nonzero(y) >= fmt.nmant + 3
    assert y[-1] == 0


def test_flushed_subnormal_results_are_zero(isa, dtype):
    """And the others keep their bits."""
    tiny = np.finfo(dtype).smallest_normal
    low = -105 if dtype == "float32" else -747
    for x in (np.linspace(low, 0, 3000), np.linspace(0, low, 3), np.full(40, low), np.full(70, 1e9)):
        x = x.astype(dtype)
        x[len(x) // 2] = 0
        for options in ({}, {"temperature": 0.9}, {"where": np.arange(len(x)) % 5 != 1}):
            kept = fs.softmax(x, subnormals="keep", **options)
            flushed = np.where(kept < tiny, np.zeros(1, dtype), kept)
            assert_same_bits(kept, fs.softmax(x, **options))
            assert_same_bits(fs.softmax(x, subnormals="flush", **options), flushed)
            columns = np.repeat(x[:, None], 40, axis=1)
            options = {k: v[:, None] if k == "where" else v for k, v in options.items()}
            y = fs.softmax(columns, axis=0, subnormals="flush", **options)
            assert_same_bits(y, np.repeat(flushed[:, None], 40, axis=1))


def test_flushing_has_subnormal_results_to_flush(dtype):
    x = np.array([0, -90 if dtype == "float32" else -720], dtype)
    assert fs.softmax(x)[1] > 0
    assert fs.softmax(x, subnormals="flush")[1] == 0
    x[1] = np.nan
    assert_same_bits(fs.softmax(x, subnormals="flush"), np.full(2, np.nan, dtype))
