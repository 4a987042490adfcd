"""longdouble: the same semantics, and its own precision, by the oracle in mpmath. tests/test_api.py has dtypes, layouts
and outputs."""

import mpmath
import numpy as np
import pytest
from contract import FORWARD, LONGDOUBLE_ULP, NORMALIZERS, call, check, takes
from reference import LONG, as_mpf, exact_logsumexp, ulp_error

import fastsoftmax as fs

FMT = np.finfo(LONG)
tempered = pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "temperature")])


def rows(seed=0, lengths=(1, 2, 3, 17, 33, 200, 2049)):
    """Numbers that use all bits of a longdouble, and exponents beyond those of a double."""
    rng = np.random.default_rng(seed)
    for n in lengths:
        for spread in (1, 30, 2000) if n < 1000 else (5,):
            noise = rng.standard_normal((2, n)).astype(LONG) * LONG(2) ** -60
            yield (rng.standard_normal((2, n)) * spread).astype(LONG) + noise
    yield rng.standard_normal((2, 50)).astype(LONG) + LONG(10) ** 9
    yield rng.standard_normal((2, 50)).astype(LONG) * LONG(2) ** -200


def confident_rows():
    for gap in (1e-3, 1, 20, 43, 60, 700, 5000, 11000):
        for n in (2, 40, 2500) if gap == 43 else (2, 40):
            x = np.full((1, n), -gap, LONG)
            x[0, n // 2] = 0
            yield x
            yield x[:, ::-1] + LONG(7) / 3


@pytest.mark.sampled(2)
@pytest.mark.parametrize("cases", [rows, confident_rows])
def test_accuracy(op, cases):
    for x in cases():
        check(op, x)
        if x.shape[1] < 100:
            check(op, np.asfortranarray(x), 0)
            check(op, x.T, None)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("temperature", [0.7, 1e-3, 1e3, 1e-300, 1e300])
@tempered
def test_accuracy_at_a_temperature(op, temperature):
    for x in rows(lengths=(2, 3, 33, 200)):
        check(op, x, temperature=temperature)
    for x in confident_rows():
        if x.shape[1] == 40:
            check(op, x, temperature=temperature)


def test_precision_is_that_of_longdouble(op):
    """Not of a double: neither the input nor the result is rounded to one."""
    if FMT.nmant == np.finfo(float).nmant:
        pytest.skip("longdouble is double")
    x = np.array([0, 1 / LONG(3), -LONG(2) / 7])
    got = call(op, x)
    assert got.dtype == LONG
    assert np.all(got != np.asarray(got).astype(float))
    assert np.any(call(op, x.astype(float).astype(LONG)) != got)
    assert type(call(op, LONG(3))) is LONG


def test_range_is_that_of_longdouble(op):
    large = FMT.max / 4
    for x in ([large, 0, -large], [large, large], [0, -large], [-large, -large / 2], [FMT.smallest_subnormal, 0]):
        check(op, np.array(x, LONG))
    assert fs.softmax(np.array([0, -FMT.max], LONG))[1] == 0


@pytest.mark.sampled(2)
def test_masks(op):
    rng = np.random.default_rng(0)
    for x in rows(lengths=(2, 17, 200)):
        mask = rng.random(x.shape) < 0.6
        expected = check(op, x, where=mask)
        for garbage in (np.nan, np.inf, -np.inf):
            disturbed = np.where(mask, x, LONG(garbage))
            np.testing.assert_array_equal(call(op, disturbed, where=mask), expected)
        check(op, x, None, where=mask)
        check(op, x, 0, where=mask[:1])
        if op in NORMALIZERS:
            check(op, np.where(mask, -np.inf, x), where=~mask, all_neg_inf="zero")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 1), (0, 2), (2, 1), ()])
def test_axes(op, axis):
    x = np.random.default_rng(0).standard_normal((5, 6, 7)).astype(LONG) * 3
    for view in (x, np.asfortranarray(x), x[::-1, :, ::2], x.transpose(1, 2, 0)):
        check(op, view, axis)


def test_special_values(op):
    inf, nan = np.inf, np.nan
    table = [[0, -inf, 3], [-inf] * 3, [nan, 0, 1], [inf, 0, 1], [inf, -inf, nan], [inf, inf, -inf], [-inf, nan, -inf]]
    x = np.array(table, LONG)
    for masked in (None, [True, False, True], [False, True, True], False):
        for options in ({}, {"all_neg_inf": "zero"}) if op in NORMALIZERS else ({},):
            check(op, x, where=masked, **options)
            check(op, x.T.copy(), 0, where=masked if np.ndim(masked) == 0 else np.array(masked)[:, None], **options)


def test_weights():
    rng = np.random.default_rng(0)
    for a in rows(lengths=(2, 17, 200)):
        for b in (rng.random(a.shape), rng.standard_normal(a.shape), rng.integers(-1, 2, a.shape)):
            value, sign = fs.logsumexp(a, 1, b=b.astype(LONG), return_sign=True)
            exact, exact_sign = exact_logsumexp(a, 1, b=b.astype(LONG), return_sign=True)
            assert value.dtype == sign.dtype == LONG
            np.testing.assert_array_equal(sign, exact_sign.astype(int))
            finite = exact_sign.astype(int) != 0
            assert np.all(np.isneginf(value[~finite]))
            absolute = exact_logsumexp(a, 1, b=abs(b).astype(LONG))
            with mpmath.workprec(200):
                for got, right, total in zip(value[finite], exact[finite], absolute[finite], strict=True):
                    unit = max(abs(right), 1) * mpmath.exp(total - right)  # what terms of both signs cancel
                    assert abs(as_mpf(got)[()] - right) <= LONGDOUBLE_ULP * unit * mpmath.mpf(2) ** -FMT.nmant


def test_signs_and_sums_of_nothing():
    zero = np.zeros((2, 3), LONG)
    value, sign = fs.logsumexp(zero, 1, b=[[1, -1, 0], [1, -3, 1]], return_sign=True)
    np.testing.assert_array_equal(value[0], -np.inf)
    np.testing.assert_array_equal(sign, [0, -1])
    assert np.isnan(fs.logsumexp(zero, b=-1))
    assert fs.logsumexp(np.zeros(0, LONG)) == -np.inf
    assert np.isnan(fs.logmeanexp(np.zeros(0, LONG)))
    assert fs.softmax_entropy(np.zeros(0, LONG)) == 0


def test_result_of_narrower_input():
    """dtype=longdouble: the arithmetic is, and the input was exact."""
    x = np.random.default_rng(0).standard_normal((3, 40)) * 5
    for op in FORWARD:
        if takes(op, "dtype"):
            for narrow in (x.astype("f4"), x, x.astype("f2"), x.astype("i4")):
                got = call(op, narrow, dtype=LONG)
                assert got.dtype == LONG
                np.testing.assert_array_equal(got, call(op, narrow.astype(LONG)))


def test_flushed_subnormal_results_are_zero():
    x = np.array([0, -11390, -5], LONG)
    kept, flushed = fs.softmax(x), fs.softmax(x, subnormals="flush")
    if FMT.smallest_normal > np.exp(LONG(-11390)) > 0:
        assert kept[1] > 0
        assert flushed[1] == 0
    np.testing.assert_array_equal(flushed[::2], kept[::2])


def test_a_long_row():
    x = (np.random.default_rng(0).standard_normal((1, 5000)) * 4).astype(LONG)
    check("softmax", x)
    x[0, 3777] = 100
    for op in ("log_softmax", "softmax_entropy", "logsumexp"):
        check(op, x)


def test_equal_elements(op):
    for n in (1, 2, 8, 1000):
        got = call(op, np.full((1, n), LONG(1) / 3))
        if op == "softmax" and n & (n - 1) == 0:
            assert np.all(got == LONG(1) / n)
        if op == "log_softmax":
            with mpmath.workprec(200):
                assert ulp_error(got[0, 0], np.array(-mpmath.log(n), object)) <= LONGDOUBLE_ULP
        if n == 1:
            one = {"softmax": 1, "log_softmax": 0, "softmax_entropy": 0}
            assert got.item(0) == one.get(op, LONG(1) / 3)
