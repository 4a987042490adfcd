"""logsumexp alone: literal values, weights, signs, what SciPy says. tests/test_ops.py has what holds for every
operation."""

import numpy as np
import pytest
import scipy.special
from contract import check
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import LONG, assert_same_bits, exact_logsumexp, largest_term_of_logsumexp, ulp_error

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["logsumexp"]
MAX_WEIGHTED_ULP = 4  # of the largest term or of 1, times what terms of both signs cancel; ops.def leaves weights out
INF, NAN = np.inf, np.nan


# ---- literal


def test_one_element_is_itself(isa, dtype):
    rng = np.random.default_rng(0)
    fmt = np.finfo(dtype)
    x = (rng.standard_normal(1000) * 100).astype(dtype)
    x[:7] = [0, fmt.max, -fmt.max, fmt.smallest_subnormal, -fmt.smallest_normal, 2e6, 3e6]
    assert_same_bits(fs.logsumexp(x[:, None], axis=1), x)
    assert_same_bits(fs.logsumexp(x[None], axis=0), x)
    assert_same_bits(fs.logsumexp(x, axis=()), x)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 64, 1000, 5000])
def test_equal_elements_are_log_n_above(isa, dtype, n):
    for value in (0, 1.5, -7.25, 4096, 1e9):
        got = fs.logsumexp(np.full((3, n), value, dtype), axis=1)
        assert len(np.unique(got)) == 1
        assert ulp_error(got[0], value + np.log(LONG(n)), np.maximum(abs(value), np.log(LONG(n)))) <= MAX_ULP


def test_known_values(isa, dtype):
    close = np.testing.assert_allclose
    close(fs.logsumexp(np.log(np.arange(1, 5, dtype=dtype))), np.log(10), rtol=4 * np.finfo(dtype).eps)
    same = np.testing.assert_array_equal
    same(fs.logsumexp(np.array([0, -INF, -INF], dtype)), 0)
    same(fs.logsumexp(np.array([1e4, -1e4], dtype)), 1e4)
    same(fs.logsumexp(np.array([-1e4, -2e4], dtype)), -1e4)


def test_small_results_of_confident_rows(isa, dtype):
    """max 0: the result is log1p of the others, with all its digits."""
    for gap in (10, 20, 50, 80):
        for n in (2, 40, 3000):
            check("logsumexp", np.where(np.arange(n) == n // 2, 0, -gap).astype(dtype))


# ---- arguments


def test_the_axis_is_all_of_them_by_default(dtype):
    x = (np.random.default_rng(0).standard_normal((6, 7, 8)) * 5).astype(dtype)
    got = fs.logsumexp(x)
    assert type(got) is np.dtype(dtype).type
    assert got == fs.logsumexp(x.reshape(-1)) == fs.logsumexp(x, axis=(0, 1, 2)) == fs.logsumexp(x, None)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, 2), (), (0, 1, 2)])
def test_keepdims(dtype, axis):
    x = (np.random.default_rng(0).standard_normal((6, 7, 8)) * 5).astype(dtype)
    for weights in (None, np.ones(8)):
        plain = fs.logsumexp(x, axis, b=weights)
        kept = fs.logsumexp(x, axis, b=weights, keepdims=True)
        assert kept.shape == x.sum(axis, keepdims=True).shape
        assert_same_bits(np.reshape(kept, np.shape(plain)), plain)
        out = np.zeros(kept.shape, kept.dtype)
        assert fs.logsumexp(x, axis, b=weights, keepdims=True, out=out) is out
        assert_same_bits(out, kept)


# ---- weights


def check_weighted(a, b, axis=None, **options):
    value, sign = fs.logsumexp(a, axis, b=b, return_sign=True, **options)
    exact, exact_sign = exact_logsumexp(a, axis, b=b, return_sign=True, **options)
    np.testing.assert_array_equal(sign, exact_sign.astype(float))
    plain = fs.logsumexp(a, axis, b=b, **options)
    assert_same_bits(plain, np.where(np.asarray(sign) < 0, NAN, value).astype(plain.dtype))
    unit = np.maximum(largest_term_of_logsumexp(a, axis, b=b, **options), 1)
    error = np.asarray(ulp_error(value, exact, unit))
    with np.errstate(invalid="ignore"):
        cancelled = np.exp(exact_logsumexp(a, axis, b=abs(np.asarray(b)), **options) - exact)
    assert np.all(error <= MAX_WEIGHTED_ULP * np.where(np.isfinite(exact), cancelled, 1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("n", [1, 2, 3, 31, 33, 100, 2049, 5000])
def test_weights(isa, dtype, n):
    rng = np.random.default_rng(n)
    for spread in (1, 30):
        a = (rng.standard_normal((10, n)) * spread).astype(dtype)
        check_weighted(a, rng.random((10, n)).astype(dtype), axis=1)
        check_weighted(a, rng.standard_normal((10, n)).astype(dtype), axis=1)
        check_weighted(a, rng.integers(-1, 2, (10, n)).astype(dtype), axis=1)
        check_weighted(a, rng.standard_normal(n).astype(dtype), axis=-1)
        check_weighted(a.T, rng.random((n, 1)).astype(dtype), axis=0)
        check_weighted(a.T.copy(), rng.standard_normal((n, 10)).astype(dtype), axis=0)
        check_weighted(a, (10 ** rng.uniform(-30, 30, (10, n))).astype(dtype), axis=1)
        check_weighted(a, rng.standard_normal((10, 1)).astype(dtype), axis=(0, 1), where=rng.random((10, n)) < 0.6)


def test_weights_at_the_ends_of_the_range(isa, dtype):
    most, least = np.finfo(dtype).max, np.finfo(dtype).smallest_normal
    for n in (1, 2, 3, 40, 3000):
        a = (np.random.default_rng(n).standard_normal((6, n)) * 5).astype(dtype)
        for values in ([most], [least], [most, 1, least], [most, -most / 2], [-least, 2 * least], [1e30, 1e-30]):
            check_weighted(a, np.resize(values, n).astype(dtype), axis=1)


def test_a_large_weight_makes_up_for_a_small_exponential(isa, dtype):
    for gap, large, small in ((100, 1e38, 1e-38), (170, 1e38, 1e-38), (700, 1e300, 1e-300), (1300, 1e300, 1e-300)):
        if dtype == "float64" or large < 1e39:
            for n in (1, 40, 3000):
                a = np.repeat(np.array([0, -gap], dtype), n)
                b = np.repeat(np.array([small, large], dtype), n)
                for order in (1, -1):
                    got = fs.logsumexp(a[::order], b=b[::order])
                    assert ulp_error(got, exact_logsumexp(a, b=b), LONG(gap)) <= MAX_WEIGHTED_ULP


def test_weights_of_one_change_nothing(isa, dtype):
    """Nor do any that sum to the same: two elements are one of weight 2."""
    a = (np.random.default_rng(0).standard_normal((6, 300)) * 5).astype(dtype)
    expected = fs.logsumexp(a, axis=1)
    for one in (1, 1.0, np.ones(300, dtype), np.ones((6, 1), np.int8), True):
        got = fs.logsumexp(a, axis=1, b=np.asarray(one).astype(dtype))
        check_same = ulp_error(got, expected.astype(LONG), np.maximum(abs(expected), 1).astype(LONG))
        assert check_same.max() <= 2 * MAX_ULP
    check_weighted(np.array([1.5, 1.5, -3], dtype), np.array([1, 1, 1], dtype))
    check_weighted(np.array([1.5, -3], dtype), np.array([2, 1], dtype))


@pytest.mark.parametrize("garbage", [NAN, -INF, INF, 1e30])
def test_an_element_of_weight_zero_takes_no_part(isa, dtype, garbage):
    rng = np.random.default_rng(0)
    for n in (3, 40, 5000):
        a = rng.standard_normal((4, n)).astype(dtype)
        b = rng.standard_normal((4, n)).astype(dtype)
        absent = rng.random((4, n)) < 0.3
        absent[0] = False
        absent[1] = True
        b[absent] = 0
        expected = fs.logsumexp(np.where(absent, 0, a).astype(dtype), axis=1, b=b, return_sign=True)
        disturbed = np.where(absent, garbage, a).astype(dtype)
        for got in (
            fs.logsumexp(disturbed, axis=1, b=b, return_sign=True),
            fs.logsumexp(disturbed, axis=1, b=np.where(absent, -0.0, b).astype(dtype), return_sign=True),
            fs.logsumexp(disturbed, axis=1, b=np.where(absent, NAN, b).astype(dtype), where=~absent, return_sign=True),
        ):
            assert_same_bits(got[0], expected[0])
            assert_same_bits(got[1], expected[1])
        assert expected[0][1] == -INF
        assert expected[1][1] == 0


def test_mask_and_weights_must_both_let_an_element_take_part(isa, dtype):
    a = np.array([1, 2, NAN, NAN, 5, NAN], dtype)
    b = np.array([1, 2, 0, 3, -1, 0], dtype)
    where = np.array([1, 1, 1, 0, 1, 0], bool)
    check_weighted(a, b, where=where)


@pytest.mark.parametrize(
    ("a", "b", "value", "sign"),
    [
        ([0, 0], [1, -1], -INF, 0),
        ([0, 1], [1, -1], np.log(np.e - 1), -1),
        ([0], [-2], np.log(2), -1),
        ([-INF, -INF], [1, -1], -INF, 0),
        ([-INF, 0], [-1, 1], 0, 1),
        ([INF, 0], [1, -1], INF, 1),
        ([INF, 0], [-1, 1], INF, -1),
        ([INF, INF], [1, -1], NAN, NAN),
        ([INF, INF], [1, 0], INF, 1),
        ([0, 0], [INF, 1], INF, 1),
        ([0, 0], [-INF, 1], INF, -1),
        ([0, 0], [-INF, INF], NAN, NAN),
        ([0, 0], [NAN, 1], NAN, NAN),
        ([NAN, 0], [1, 1], NAN, NAN),
        ([-INF, 0], [INF, 1], NAN, NAN),
        ([5, 7], [0, 0], -INF, 0),
        ([], [], -INF, 0),
    ],
)
def test_special_weighted_sums(isa, dtype, a, b, value, sign):
    a, b = np.array(a, dtype), np.array(b, dtype)
    for x, w, axis in ((a, b, None), (np.tile(a, (40, 1)), b, 1), (np.tile(a[:, None], 40), b[:, None], 0)):
        got_value, got_sign = fs.logsumexp(x, axis, b=w, return_sign=True)
        expected = np.full(np.shape(got_value), value, dtype)
        np.testing.assert_allclose(got_value, expected, rtol=8 * np.finfo(dtype).eps)
        assert_same_bits(got_sign, np.full(np.shape(got_sign), sign, dtype))
        plain = fs.logsumexp(x, axis, b=w)
        assert_same_bits(plain, np.full(np.shape(plain), NAN, dtype) if sign == -1 else got_value)


def test_signs_without_weights(dtype):
    rows = np.array([[0, 1], [-INF, -INF], [INF, 0], [NAN, 0]], dtype)
    value, sign = fs.logsumexp(rows, axis=1, return_sign=True)
    assert_same_bits(value, fs.logsumexp(rows, axis=1))
    assert_same_bits(sign, np.array([1, 0, 1, NAN], dtype))
    value, sign = fs.logsumexp(rows, axis=1, where=False, return_sign=True)
    np.testing.assert_array_equal(value, np.full(4, -INF))
    np.testing.assert_array_equal(sign, np.zeros(4))


def test_signs_have_dtype_and_shape_of_the_value(dtype):
    a = np.zeros((3, 4, 5), dtype)
    for axis in (None, 0, (0, 2), ()):
        for keepdims in (False, True):
            value, sign = fs.logsumexp(a, axis, keepdims=keepdims, return_sign=True)
            assert (type(sign), sign.dtype, sign.shape) == (type(value), value.dtype, value.shape)
    out = np.zeros(4, dtype)
    value, sign = fs.logsumexp(a, (0, 2), return_sign=True, out=out)
    assert value is out
    assert sign is not out
    np.testing.assert_array_equal(sign, 1)
    out = np.zeros(4, "f8")
    value, sign = fs.logsumexp(a, (0, 2), b=-1, return_sign=True, out=out)
    assert value is out
    np.testing.assert_allclose(value, np.log(15), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(sign, -1)
    assert [type(part) for part in fs.logsumexp(3, return_sign=True)] == [np.float64, np.float64]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("f4", "f4", "f4"), ("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f2", "f2", "f2"), ("f2", "f4", "f4"),
        ("i4", "i4", "f8"), ("f4", "i2", "f4"), ("f4", "i4", "f8"), ("f4", "?", "f4"), ("?", "?", "f8"),
        ("f4", "g", "g"), ("i8", "f4", "f8"), ("u1", "f2", "f2"),
    ],
)  # fmt: skip
def test_result_dtype_of_weighted_sums(a, b, expected):
    value, sign = fs.logsumexp(np.ones(3, a), b=np.ones(3, b), return_sign=True)
    assert value.dtype == sign.dtype == expected
    np.testing.assert_allclose(float(value), 1 + np.log(3), rtol=1e-3)
    value = fs.logsumexp(np.ones(3, a), b=np.ones(3, b), dtype="f4")
    assert value.dtype == "f4"


def test_weights_may_enlarge(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 1, 5)).astype(dtype), rng.random((2, 1, 4, 1)).astype(dtype)
    check_weighted(a, b)
    check_weighted(a, b, axis=(0, -1))
    assert fs.logsumexp(a, (0, -1), b=b).shape == (3, 4)
    scalar = np.dtype(dtype).type(2)
    check_weighted(scalar, np.ones((2, 3), dtype), axis=0)
    assert fs.logsumexp(scalar, 0, b=np.ones((2, 3), dtype)).shape == (3,)
    # The mask, too, is one of the enlarged shape.
    check_weighted(a, b, axis=1, where=rng.random((2, 3, 4, 5)) < 0.5)
    check_weighted(np.zeros((1, 3), dtype), np.ones((4, 1), dtype), axis=0, where=[[True], [False], [True], [True]])
    assert np.all(np.isneginf(fs.logsumexp(np.zeros((3, 1), dtype), axis=1, b=np.zeros((3, 0), dtype))))


def test_python_numbers_as_weights(dtype):
    """They promote as NumPy's do: a Python number does not widen an array."""
    a = np.array([1, 2, 3], dtype)
    for b in (2, 2.0, [2, 2, 2], np.full(3, 2, dtype)):
        got = fs.logsumexp(a, b=b)
        np.testing.assert_allclose(got, fs.logsumexp(a) + np.log(2), rtol=1e-6)
    assert fs.logsumexp(a, b=np.array(2, "f4")).dtype == dtype


def test_any_layout_of_weights(isa, dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((60, 50)) * 3).astype(dtype), rng.standard_normal((60, 50)).astype(dtype)
    for axis in (0, 1, None):
        expected = fs.logsumexp(a, axis, b=b, return_sign=True)
        big = np.zeros((120, 150), dtype)
        big[::-2, ::3] = b
        records = np.zeros((60, 50), [("tag", "u1"), ("value", dtype)])
        records["value"] = b
        for same in (np.asfortranarray(b), big[::-2, ::3], records["value"], b.astype(f">{b.dtype.str[1:]}")):
            for x in (a, np.asfortranarray(a)):
                got = fs.logsumexp(x, axis, b=same, return_sign=True)
                assert_same_bits(got[0], expected[0])
                assert_same_bits(got[1], expected[1])


# ---- SciPy


def test_scipy_agrees(isa):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 20, 10)) * 5
    for axis in (None, 0, 1, -1, (0, 2)):
        for keepdims in (False, True):
            np.testing.assert_allclose(
                fs.logsumexp(a, axis, keepdims=keepdims),
                scipy.special.logsumexp(a, axis, keepdims=keepdims),
                rtol=1e-13,
            )
            got = fs.logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=True)
            expected = scipy.special.logsumexp(a, axis, b=b, keepdims=keepdims, return_sign=True)
            np.testing.assert_allclose(got[0], expected[0], rtol=1e-12)
            np.testing.assert_array_equal(got[1], expected[1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-700, 700), st.floats(-1e3, 1e3)), min_size=1, max_size=30))
@example([(0.0, 1e-14), (0.0, 1.0)])  # the first of the largest has next to no weight
def test_weighted_sums_of_anything(pairs):
    a, b = np.array(pairs).T
    check_weighted(a, b)
