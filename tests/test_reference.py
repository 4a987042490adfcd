"""The oracles against the textbook formulas, computed in mpmath with enough bits to spare for every cancellation."""

import mpmath
import numpy as np
import pytest
from contract import GRADIENTS
from mpmath import mpf
from reference import (
    LARGEST_TERMS,
    LONG,
    ORACLES,
    Losses,
    as_mpf,
    assert_same_bits,
    exact_logsumexp,
    plain_cross_entropy,
    ulp_error,
)
from rows import confident

from fastsoftmax import _core

TEXTBOOK_BITS = 4000
ZERO = mpf(2) ** -2500  # what is left where a textbook formula cancels: exp(-1500) is about 2^-2164


def sum_of_exp(row):
    return mpmath.fsum(map(mpmath.exp, row))


def softmax(row):
    total = sum_of_exp(row)
    return [mpmath.exp(x) / total for x in row]


def log_softmax(row):
    log = mpmath.log(sum_of_exp(row))
    return [x - log for x in row]


def logsumexp(row):
    return [mpmath.log(sum_of_exp(row))]


def logmeanexp(row):
    return [mpmath.log(sum_of_exp(row) / len(row))]


def softmax_entropy(row):
    pairs = zip(softmax(row), log_softmax(row), strict=True)
    return [-mpmath.fsum(p * log_p for p, log_p in pairs)]


TEXTBOOK = {f.__name__: f for f in (softmax, log_softmax, logsumexp, logmeanexp, softmax_entropy)}


def rows_of(dtype):
    rng = np.random.default_rng(3)
    for n in (1, 2, 20):
        for spread in (0.01, 1, 30, 300):
            yield (rng.standard_normal(n) * spread).astype(dtype)
    yield (rng.standard_normal(20) + 1e6).astype(dtype)
    yield np.array([1, 0, np.finfo(dtype).smallest_subnormal, 0.5, 0.5, 1], dtype)
    for _, rows in confident(dtype):
        if rows.shape[1] <= 5:
            yield from rows[::3]


def worst(op, row, temperature=1.0):
    """The largest error of the oracle, relative to the exact result or the largest term of the sum that makes it."""
    options = {} if temperature == 1 else {"temperature": temperature}
    got = as_mpf(np.atleast_1d(ORACLES[op](row, -1, **options)))
    with mpmath.workprec(TEXTBOOK_BITS):
        exact = TEXTBOOK[op]([x / mpf(temperature) for x in as_mpf(row)])
        of = as_mpf(np.atleast_1d(LARGEST_TERMS[op](row, -1))) if op in LARGEST_TERMS else exact
        triples = zip(got, exact, of, strict=True)
        return max(abs((a - b) / c) if abs(c) > ZERO else abs(a - b) for a, b, c in triples)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("op", TEXTBOOK)
@pytest.mark.parametrize("start", ["f4", "f8", "g"])
def test_against_mpmath(op, start):
    limit = 2.0**-180 if start == "g" else 2.0**-61
    for row in rows_of("f4" if start == "f4" else "f8"):
        assert worst(op, row.astype(start)) < limit, row


@pytest.mark.sampled(3)
@pytest.mark.parametrize("temperature", [0.7, 1 / 3, 1e-3, 1e3, 2.0**-40, 1e300])
@pytest.mark.parametrize("op", ["softmax", "log_softmax", "softmax_entropy"])
def test_temperature_against_mpmath(op, temperature):
    for row in rows_of("f8"):
        if np.ptp(row) / temperature < 1500:
            assert worst(op, row, temperature) < 2.0**-61, row


@pytest.mark.sampled(3)
@pytest.mark.parametrize("op", TEXTBOOK)
def test_long_rows_against_mpmath(op):
    """The error of longdouble sums."""
    row = (np.random.default_rng(4).standard_normal((1, 10_000)) * 4).astype(LONG)
    got, exact = as_mpf(ORACLES[op](row.astype(float), -1)), ORACLES[op](row, -1)
    of = LARGEST_TERMS[op](row, -1) if op in LARGEST_TERMS else exact
    assert (abs(got - exact) / abs(of)).max() < 2.0**-61


def test_weighted_sums_against_mpmath():
    rng = np.random.default_rng(5)
    for spread in (1, 30):
        a, b = rng.standard_normal((2, 50)) * spread
        b[::7] = 0
        value, sign = exact_logsumexp(a, b=b, return_sign=True)
        with mpmath.workprec(TEXTBOOK_BITS):
            total = mpmath.fsum(y * mpmath.exp(x) for x, y in zip(as_mpf(a), as_mpf(b), strict=True))
            exact = mpmath.log(abs(total))
        assert abs(as_mpf(value) - exact) < 2.0**-58  # as much as cancels here
        assert sign == np.sign(float(total))


@pytest.mark.parametrize("op", GRADIENTS)
@pytest.mark.parametrize("start", ["f4", "f8", "g"])
def test_gradients_against_mpmath(op, start):
    rng = np.random.default_rng(6)
    for row in rows_of("f4" if start == "f4" else "f8"):
        grad = (rng.standard_normal(len(row)) * 10.0 ** rng.integers(-9, 9)).astype(start)
        saved = np.asarray(ORACLES[GRADIENTS[op]](row), dtype=LONG).astype(start)
        with mpmath.workprec(TEXTBOOK_BITS):
            g, s = as_mpf(grad), as_mpf(saved)
            if op == "softmax_grad":
                total = mpmath.fsum(g * s)
                exact = [b * (a - total) for a, b in zip(g, s, strict=True)]
            else:
                total = mpmath.fsum(g)
                exact = [a - mpmath.exp(b) * total for a, b in zip(g, s, strict=True)]
            error = abs(as_mpf(ORACLES[op](grad, saved)) - np.array(exact, object))
            assert all(error <= as_mpf(LARGEST_TERMS[op](grad, saved)) * 2.0**-60), row


LOSSES = [{}, {"label_smoothing": 0.1}, {"z_loss": 0.01}, {"label_smoothing": 0.3, "z_loss": 1e-4, "weight": True}]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("options", LOSSES)
@pytest.mark.parametrize("start", ["f4", "f8", "g"])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_against_mpmath(soft, start, options):
    rng = np.random.default_rng(7)
    for row in list(rows_of("f4" if start == "f4" else "f8"))[::4]:
        n, eps, z = len(row), mpf(options.get("label_smoothing", 0)), mpf(options.get("z_loss", 0))
        weight = rng.random(n) + 0.5 if "weight" in options else np.ones(n)
        target = rng.random(n) if soft else rng.integers(n)
        oracle = Losses(row.astype(start), target, **options | {"weight": weight, "reduction": "sum"})
        with mpmath.workprec(TEXTBOOK_BITS):
            x, q = as_mpf(row), as_mpf(target if soft else np.arange(n) == target)
            c = as_mpf(weight) * ((1 - eps) * q + eps / n)
            lse = mpmath.log(sum_of_exp(x))
            loss = mpmath.fsum(c * (lse - x)) + z * lse**2
            assert abs(as_mpf(oracle.loss()) - loss) <= as_mpf(oracle.largest_term_of_loss()) * 2.0**-60 + ZERO, row
            factor = mpmath.fsum(c) + 2 * z * lse
            gradient = [factor * mpmath.exp(a - lse) - b for a, b in zip(x, c, strict=True)]
            error = abs(as_mpf(oracle.gradient()) - np.array(gradient, object))
            assert all(error <= as_mpf(oracle.largest_term_of_gradient()) * 2.0**-60 + ZERO), row


def test_scales_of_losses():
    """The mean divides by the weights of the labels, the part of z_loss by the number of the rows that count."""
    x, label = np.random.default_rng(8).standard_normal((5, 3)), np.array([0, 2, 9, 1, 1])
    options = {"weight": [0.5, 1.5, 4.0], "ignore_index": 9, "z_loss": 0.1, "label_smoothing": 0.2}
    rows = Losses(x, label, reduction="none", **options)
    of_z = np.where(label == 9, 0, 0.1 * exact_logsumexp(x, 1) ** 2)
    np.testing.assert_allclose(Losses(x, label, reduction="sum", **options).loss(), rows.loss().sum())
    mean = Losses(x, label, reduction="mean", **options)
    np.testing.assert_allclose(mean.loss(), (rows.loss() - of_z).sum() / 7.5 + of_z.sum() / 4)
    for axis, moved in ((-1, x), (0, x.T)):
        for reduction in ("none", "sum", "mean"):
            oracle = Losses(moved, label, axis, reduction=reduction, **options)
            loss, gradient = plain_cross_entropy(moved, label, axis, reduction=reduction, **options)
            np.testing.assert_allclose(oracle.loss(), loss, rtol=1e-13)
            np.testing.assert_allclose(oracle.gradient(), gradient, rtol=1e-11, atol=1e-14)
    assert np.isnan(Losses(x[:0], label[:0]).loss())
    assert np.isnan(Losses(x[2:3], label[2:3], ignore_index=9).loss())
    np.testing.assert_array_equal(Losses(x[2:3], label[2:3], ignore_index=9).gradient(), np.zeros((1, 3)))


@pytest.mark.parametrize("start", ["f4", "f8", "g"])
def test_gradient_of_logsumexp_against_mpmath(start):
    for row in rows_of("f4" if start == "f4" else "f8"):
        row, lse = row.astype(start), np.asarray(exact_logsumexp(row), LONG).astype(start)
        for saved in (None, lse):
            got = as_mpf(ORACLES["logsumexp_grad"](np.array(3, start), row, lse=saved))
            with mpmath.workprec(TEXTBOOK_BITS):
                log = mpmath.log(sum_of_exp(as_mpf(row))) if saved is None else as_mpf(saved)[()]
                exact = np.array([3 * mpmath.exp(x - log) for x in as_mpf(row)], object)
                assert all((abs(got - exact) <= exact * 2.0**-60) | (exact < ZERO)), row


def test_special_rows():
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf], [-inf, -inf], [nan, 0], [inf, 0]])
    same = np.testing.assert_array_equal
    same(ORACLES["softmax"](x), [[1, 0], [nan, nan], [nan, nan], [nan, nan]])
    same(ORACLES["softmax"](x, all_neg_inf="zero"), [[1, 0], [0, 0], [nan, nan], [nan, nan]])
    same(ORACLES["softmax"](x, where=[True, False]), [[1, 0], [nan, 0], [nan, 0], [nan, 0]])
    same(ORACLES["softmax"](x, where=[False, True]), [[0, nan], [0, nan], [0, 1], [0, 1]])
    same(ORACLES["softmax"](x, where=False), np.zeros((4, 2)))
    same(ORACLES["log_softmax"](x), [[0, -inf], [nan, nan], [nan, nan], [nan, nan]])
    same(ORACLES["log_softmax"](x, all_neg_inf="zero")[1], [-inf, -inf])
    same(ORACLES["log_softmax"](x, where=False), np.full((4, 2), -inf))
    same(ORACLES["logsumexp"](x, -1), [0, -inf, nan, inf])
    same(ORACLES["logsumexp"](x, -1, where=False), [-inf] * 4)
    same(ORACLES["logmeanexp"](x[1:], -1), [-inf, nan, inf])
    same(ORACLES["logmeanexp"](x, -1, where=False), [nan] * 4)
    same(ORACLES["softmax_entropy"](x), [0, nan, nan, nan])
    same(ORACLES["softmax_entropy"](x, where=False), [0] * 4)
    same(ORACLES["softmax"](x, temperature=inf), [[1, 0], [nan, nan], [nan, nan], [nan, nan]])
    same(ORACLES["softmax"]([0.0, 7.0], temperature=inf), [0.5, 0.5])
    value, sign = exact_logsumexp([[0, 0], [0, -inf], [inf, 0]], axis=-1, b=[1, -1], return_sign=True)
    same(value, [-inf, 0, inf])
    same(sign, [0, 1, 1])
    same(exact_logsumexp([0, 1], b=[1, -1]), nan)


def test_shapes():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert ORACLES["softmax"](x, axis=None).shape == (2, 3, 4)
    assert ORACLES["logsumexp"](x, axis=(0, -1)).shape == (3,)
    assert ORACLES["logsumexp"](x, axis=(0, -1), keepdims=True).shape == (1, 3, 1)
    assert exact_logsumexp(np.zeros(3), b=np.ones((2, 1))).shape == ()
    assert ORACLES["softmax"](x[:0], axis=0).shape == (0, 3, 4)
    assert ORACLES["logsumexp"](x[:0], axis=0).shape == (3, 4)
    assert ORACLES["softmax"](3.0) == 1
    np.testing.assert_array_equal(ORACLES["logsumexp"](x, axis=()), x)
    together = ORACLES["softmax"](x.transpose(1, 0, 2).reshape(3, 8)).reshape(3, 2, 4).transpose(1, 0, 2)
    np.testing.assert_array_equal(ORACLES["softmax"](x, axis=(0, 2)), together)


def test_ulp_error():
    inf, nan, most = np.inf, np.nan, float(np.finfo(np.float32).max)
    table = [
        (1, 1, 0),
        (1, 1 + 2.0**-23, 1),
        (0, 2.0**-149, 1),
        (1e-45, 0, 1),
        (3, 4, 2.0**21),
        (nan, nan, 0),
        (inf, inf, 0),
        (inf, -inf, inf),
        (nan, 1, inf),
        (1, nan, inf),
        (most, inf, inf),
        (inf, most, 1),
        (inf, 1e39, 0),
        (most, 1e39, 0.5),
        (most, most + 2.0**101, 0.125),
        (-inf, 1e39, 2.0**24),
    ]
    got, exact, expected = np.array(table, LONG).T
    got = got.astype(np.float32)
    np.testing.assert_array_equal(ulp_error(got, exact), expected)
    np.testing.assert_array_equal(ulp_error(got, as_mpf(exact)), expected)
    np.testing.assert_array_equal(ulp_error(-got, -exact), expected)
    assert ulp_error(np.float64(0), LONG(2.0**-60), largest_term=LONG(1)) == 2.0**-8
    with mpmath.workprec(200):
        third = mpf(1) / 3
    assert 0 < ulp_error(LONG(1) / 3, third) <= 0.5


def test_same_bits():
    for dtype in ("f2", "f4", "f8", "g"):
        assert_same_bits(np.array([0, np.nan], dtype), np.array([0, np.nan], dtype))
        for other in ([-0.0, np.nan], [0, 1], [np.finfo(dtype).smallest_subnormal, np.nan]):
            with pytest.raises(AssertionError):
                assert_same_bits(np.array([0, np.nan], dtype), np.array(other, dtype))


def test_every_op_has_an_oracle():
    assert list(ORACLES) == list(_core.ops())
    assert set(LARGEST_TERMS) == {op for op, (_, kind) in _core.ops().items() if kind == "largest term"}
