"""logsumexp_grad: accuracy, bits, layouts, special values, errors."""

import functools
import inspect

import mpmath
import numpy as np
import pytest
from conftest import USABLE_ISAS, running_on
from contract import (
    LAYOUTS,
    SLOW_ISAS,
    STORAGES,
    check_gradient,
    compute_of,
    listed,
    normal,
    refused,
    result_of,
    views,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LONG, WIDE, assert_same_bits, exact_logsumexp_grad, joined_axes
from rows import breakers, confident, ordinary, short

import fastsoftmax as fs

INF, NAN = np.inf, np.nan


def reduced(shape, axis, kept=False):
    joined = joined_axes(axis, len(shape))
    return tuple(1 if i in joined else n for i, n in enumerate(shape) if kept or i not in joined)


def test_signature():
    given = inspect.signature(fs.logsumexp_grad).parameters.values()
    bare = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in given])
    assert str(bare) == "(grad, a, axis=None, *, lse=None, out=None, num_threads=None)"


# ---- accuracy


def exact(grad, a, lse):
    """The exact gradient, and which elements are but a factor times less than the smallest number."""
    with mpmath.workprec(200), np.errstate(all="ignore"):
        p = exact_logsumexp_grad(np.ones_like(grad), a, -1, lse=lse)
        return exact_logsumexp_grad(grad, a, -1, lse=lse), np.asarray(p < np.finfo(a.dtype).smallest_subnormal, bool)


@functools.cache
def cases(dtype):
    """[(message, grad, a, lse or None, what is exact)] of all kinds of rows."""
    found, rng = [], np.random.default_rng(0)
    most = 20_000 if WIDE or dtype == "float32" else 300
    for rows in (ordinary, breakers, confident, short):
        for i, (message, a) in enumerate(listed(rows, dtype)):
            if a.size > most:
                continue
            scale = [1, 1e-30, 1e30, 0][i % 4]
            grad = (rng.standard_normal(len(a)) * scale).astype(dtype)
            with running_on("scalar"):
                saved = fs.logsumexp(a, -1)
            for lse in (None, saved):
                found.append((f"{message}, {lse is None}, {scale}", grad, a, lse, exact(grad, a, lse)))
    return found


def test_accuracy(isa, dtype):
    for message, grad, a, lse, (value, negligible) in cases(dtype)[:: 3 if isa in SLOW_ISAS else 1]:
        got = fs.logsumexp_grad(grad, a, -1, lse=lse)
        check_gradient("logsumexp_grad", got, value, None, negligible, message)
        if a.size < 3000:
            nine = None if lse is None else np.repeat(lse, 9)
            columns = fs.logsumexp_grad(np.repeat(grad, 9), np.repeat(a.T, 9, axis=1), 0, lse=nine)
            assert_same_bits(columns[:, ::9].T, got, message)


@pytest.mark.parametrize("isa", [isa for isa in USABLE_ISAS if isa not in SLOW_ISAS])
def test_every_isa_gives_the_bits_of_scalar(isa, dtype):
    for message, grad, a, lse, _ in cases(dtype)[::3]:
        with running_on("scalar"):
            expected = fs.logsumexp_grad(grad, a, -1, lse=lse)
        with running_on(isa):
            assert_same_bits(fs.logsumexp_grad(grad, a, -1, lse=lse), expected, message)


# ---- what it is


@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2), ()])
def test_finite_differences(axis):
    rng, h = np.random.default_rng(0), 2.0**-22
    a, direction = rng.standard_normal((2, 5, 7, 4)).astype(LONG)
    slope = (fs.logsumexp(a + h * direction, axis) - fs.logsumexp(a - h * direction, axis)) / (2 * h)
    grad = rng.standard_normal(slope.shape)
    for lse in (None, fs.logsumexp(a.astype(float), axis)):
        got = fs.logsumexp_grad(grad, a.astype(float), axis, lse=lse)
        np.testing.assert_allclose((got * direction).sum(), (grad * slope).sum(), rtol=1e-8)


@pytest.mark.parametrize("axis", [0, 1, 2, None, (0, 2), ()])
def test_torch_and_the_textbook(axis):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5, 7, 4)) * 5
    for kept in (False, True):
        grad = rng.standard_normal(reduced(a.shape, axis, kept))
        leaf = torch.tensor(a, requires_grad=True)
        lse = torch.logsumexp(leaf, joined_axes(axis, 3), keepdim=kept) if axis != () else leaf * 1
        (expected,) = torch.autograd.grad(lse, leaf, torch.tensor(grad))
        plain = grad.reshape(reduced(a.shape, axis, True)) * fs.softmax(a, axis)
        for saved in (None, fs.logsumexp(a, axis, keepdims=kept)):
            got = fs.logsumexp_grad(grad, a, axis, lse=saved)
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12)
            np.testing.assert_allclose(got, plain, rtol=1e-12)


def test_known_values(isa, dtype):
    a = np.zeros((2, 4), dtype)
    np.testing.assert_array_equal(fs.logsumexp_grad(np.array([1, -8], dtype), a, 1), [[0.25] * 4, [-2] * 4])
    np.testing.assert_array_equal(fs.logsumexp_grad(3, a), np.full((2, 4), 0.375))
    np.testing.assert_array_equal(fs.logsumexp_grad(np.ones(2, dtype), a, 1, lse=np.zeros(2, dtype)), np.ones((2, 4)))
    assert fs.logsumexp_grad(2.0, 5.0) == 2
    for shape in ((0, 4), (4, 0), (0,)):
        for axis in (0, -1, None):
            empty = np.zeros(shape, dtype)
            assert fs.logsumexp_grad(np.ones(reduced(shape, axis), dtype), empty, axis).shape == shape


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_invariants(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, length = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70))
    a, grad = rng.standard_normal((n, length)) * data.draw(st.sampled_from([0.1, 3, 30])), rng.standard_normal(n)
    got = fs.logsumexp_grad(grad, a, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-300)
    close(got.sum(1), grad)
    order = rng.permutation(length)
    close(fs.logsumexp_grad(grad, a[:, order], 1), got[:, order])
    close(fs.logsumexp_grad(grad, a + rng.integers(-50, 50, (n, 1)), 1), got, rtol=1e-11)
    close(fs.logsumexp_grad(-2 * grad, a, 1), -2 * got)


# ---- any array


@pytest.mark.parametrize("storage", STORAGES)
def test_every_dtype_in_every_layout(storage):
    a = (np.random.default_rng(0).random((6, 40)) * 9).astype(STORAGES[storage])
    result, compute = result_of(storage), compute_of(result_of(storage))
    for axis in (0, 1, None):
        grad = np.arange(1, 1 + a.size // 6 if axis == 0 else 7) if axis is not None else np.array(3)
        grad = grad.astype(a.dtype if a.dtype.kind != "b" else "f8")
        lse = fs.logsumexp(a.astype(compute), axis).astype(result)
        for saved in (None, lse):
            wide = None if saved is None else saved.astype(compute)
            expected = fs.logsumexp_grad(grad.astype(compute), a.astype(compute), axis, lse=wide).astype(result)
            for name, layout in LAYOUTS.items():
                laid = layout(a)
                got = fs.logsumexp_grad(grad, laid, axis, lse=saved)
                assert got.dtype == result
                assert_same_bits(got, expected, name)
                if laid.dtype.kind not in "biu" and name != "read-only":
                    assert fs.logsumexp_grad(grad, laid, axis, lse=saved, out=laid) is laid
                    np.testing.assert_array_equal(laid.astype(LONG), got.astype(LONG), name)


def test_dtypes_that_differ():
    a, grad = normal("f4", (6, 40)), normal("f8", 6)
    for first, second, result in (("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f2", "f4", "f4"), ("i4", "f4", "f8")):
        got = fs.logsumexp_grad(grad.astype(first), a.astype(second), 1)
        assert got.dtype == result
        assert_same_bits(got, fs.logsumexp_grad(grad.astype(first).astype(result), a.astype(second).astype(result), 1))
    np.testing.assert_allclose(
        fs.logsumexp_grad(grad, a, 1, lse=fs.logsumexp(a, 1, dtype="f8")), fs.logsumexp_grad(grad, a, 1), rtol=1e-12
    )


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_layout_gives_the_bits_of_contiguous_rows(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(
        st.sampled_from([(3, 5, 7), (40, 33), (30, 40, 3), (2, 300, 3), (1, 70), (65, 2), (4, 0, 3), (9,)])
    )
    axis = data.draw(st.sampled_from([*range(len(shape)), None, (0, -1) if len(shape) > 1 else 0, ()]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a = (rng.standard_normal(shape) * rng.choice([1, 30])).astype(dtype)
    grad = rng.standard_normal(reduced(shape, axis, data.draw(st.booleans()))).astype(dtype)
    lse = fs.logsumexp(a, axis, keepdims=data.draw(st.booleans())) if data.draw(st.booleans()) else None
    order = [i for i in range(a.ndim) if i not in joined_axes(axis, a.ndim)] + joined_axes(axis, a.ndim)
    rows = np.ascontiguousarray(a.transpose(order)).reshape(grad.size, -1 if grad.size else 1)
    flat = fs.logsumexp_grad(grad.ravel(), rows, 1, lse=None if lse is None else np.ravel(lse)) if a.size else a
    expected = flat.reshape([shape[i] for i in order]).transpose(np.argsort(order)) if a.size else a
    moved, moved_grad = data.draw(views(a))[0], data.draw(views(grad))[0]
    moved_lse = None if lse is None else data.draw(views(np.asarray(lse)))[0]
    threads = data.draw(st.sampled_from([1, 2, 3]))
    for out in (None, data.draw(views(np.zeros_like(a)))[0], moved):
        got = fs.logsumexp_grad(moved_grad, moved, axis, lse=moved_lse, out=out, num_threads=threads)
        assert out is None or got is out
        assert_same_bits(got, expected)


def test_batches_of_short_rows(isa, dtype):
    """Rows that fit in a block are computed several at a time, unless one of a batch is not ordinary."""
    lanes = 128 // np.dtype(dtype).itemsize
    for n in range(1, lanes + 2):
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((170, n)) * 3).astype(dtype)
        x[40] += 3e6
        x[100, -1] = [NAN, INF, -INF][n % 3]
        x[130:] *= 20
        grad = rng.standard_normal(170).astype(dtype)
        grad[[3, 35, 70]] = 0, INF, NAN
        expected = fs.logsumexp_grad(grad, np.ascontiguousarray(x.T), axis=0).T
        for rows in (slice(None), slice(1, 2), slice(33), slice(37, 103), slice(129, 160)):
            assert_same_bits(fs.logsumexp_grad(grad[rows], x[rows], axis=1), expected[rows], f"{n} {rows}")


@pytest.mark.parametrize(("shape", "axis"), [((2000, 300), 1), ((300, 2000), 0), ((2, 300_000), 1), ((600, 900), None)])
def test_threads(dtype, shape, axis):
    a = normal(dtype, shape)
    grad = normal(dtype, reduced(shape, axis))
    for lse in (None, fs.logsumexp(a, axis)):
        expected = fs.logsumexp_grad(grad, a, axis, lse=lse, num_threads=1)
        for threads in (2, 4):
            assert_same_bits(fs.logsumexp_grad(grad, a, axis, lse=lse, num_threads=threads), expected)


def test_out_in_the_memory_of_others(dtype):
    a = normal(dtype, (40, 40))
    for make in (lambda: a[3].copy(), lambda: a[:, 5].copy()):
        grad, lse = make(), fs.logsumexp(a, 1)
        for saved in (None, lse):
            expected = fs.logsumexp_grad(grad, a, 1, lse=saved)
            room = a.copy()
            room[3], room[:, 5] = make(), a[:, 5]
            out = np.empty_like(a)
            out[7] = grad
            assert_same_bits(fs.logsumexp_grad(out[7], a, 1, lse=saved, out=out), expected)
            out[:, 2] = grad
            assert_same_bits(fs.logsumexp_grad(out[:, 2], a, 1, lse=saved, out=out), expected)
            if saved is not None:
                out[9] = lse
                assert_same_bits(fs.logsumexp_grad(grad, a, 1, lse=out[9], out=out), expected)


# ---- what is not ordinary


def test_special_values(isa, dtype):
    a = np.concatenate([[[-INF] * 3, [0, NAN, 1], [0, INF, 1], [0, -INF, 0], [0, 0, 0]], normal("f8", (20, 3))])
    a, grad = a.astype(dtype), np.ones(25, dtype)
    got = fs.logsumexp_grad(grad, a, 1)
    np.testing.assert_array_equal(got[:4], [*[[NAN] * 3] * 3, [0.5, 0, 0.5]])
    alone = fs.logsumexp_grad(grad[5:], a[5:], 1)
    assert_same_bits(got[5:], alone)
    columns = fs.logsumexp_grad(grad, np.ascontiguousarray(a.T), 0)
    assert_same_bits(columns.T, got)
    saved = fs.logsumexp_grad(grad, a, 1, lse=fs.logsumexp(a, 1))
    np.testing.assert_array_equal(saved[[0, 1]], [[NAN] * 3] * 2)
    np.testing.assert_allclose(saved[3], [0.5, 0, 0.5], rtol=1e-6)
    for value, expected in ((NAN, [NAN] * 3), (INF, [INF] * 3), (-INF, [-INF] * 3), (0, [0] * 3)):
        grad[4] = value
        np.testing.assert_array_equal(fs.logsumexp_grad(grad, a, 1)[4], expected)
    grad[3] = INF
    np.testing.assert_array_equal(fs.logsumexp_grad(grad, a, 1)[3], [INF, NAN, INF])


def test_subnormal_probabilities_and_a_large_gradient(isa, dtype):
    """A probability that is subnormal keeps its digits where the result is normal."""
    low, high, scale = (-103, -80, 1e30) if dtype == "float32" else (-744, -700, 1e290)
    a = np.concatenate([[0], np.linspace(low, high, 500)]).astype(dtype)[None]
    for lse in (None, np.zeros(1, dtype)):
        grad = np.array([scale], dtype)
        got = fs.logsumexp_grad(grad, a, 1, lse=lse)
        check_gradient("logsumexp_grad", got, *[exact(grad, a, lse)[0], None], np.zeros(a.shape, bool))


# ---- errors

A = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("grad", "a", "options", "error", "parts"),
    [
        (np.zeros(4), A, {"axis": 1}, ValueError, ["grad", "(4,)", "(3,)"]),
        (np.zeros((3, 4)), A, {"axis": 1}, ValueError, ["grad", "(3, 4)", "(3,)"]),
        (np.zeros((1, 3)), A, {"axis": 1}, ValueError, ["grad", "(1, 3)"]),
        (np.zeros(1), A, {}, ValueError, ["grad", "(1,)"]),
        (np.zeros(3), A, {"axis": 1, "lse": np.zeros(4)}, ValueError, ["lse", "(4,)", "(3,)"]),
        (np.zeros(3), A, {"axis": 2}, np.exceptions.AxisError, ["axis 2"]),
        (np.zeros(3), A, {"axis": 1.0}, TypeError, ["axis", "float"]),
        (np.ma.zeros(3), A, {"axis": 1}, TypeError, ["MaskedArray"]),
        (np.zeros(3), np.ma.zeros((3, 4)), {"axis": 1}, TypeError, ["MaskedArray"]),
        (np.zeros(3), A, {"axis": 1, "lse": np.ma.zeros(3)}, TypeError, ["lse", "MaskedArray"]),
        (np.zeros(3, complex), A, {"axis": 1}, TypeError, ["complex128"]),
        (np.zeros(3), A, {"axis": 1, "out": np.zeros((4, 3))}, ValueError, ["out has shape (4, 3), expected (3, 4)."]),
        (np.zeros(3), A, {"axis": 1, "out": np.zeros((3, 4), int)}, TypeError, ["out", "int64"]),
        (np.zeros(3), A, {"axis": 1, "out": np.broadcast_to(0.0, (3, 4))}, ValueError, ["out is read-only."]),
        (np.zeros(3), A, {"axis": 1, "num_threads": 0}, ValueError, ["num_threads", "0"]),
    ],
)
def test_errors(grad, a, options, error, parts):
    out = np.full((3, 4), 7.0)
    with refused(error, *parts):
        fs.logsumexp_grad(grad, a, **{"out": out} | options)
    assert np.all(out == 7)


def test_nan_beside_a_saved_result(isa, dtype):
    a = np.array([[np.nan, 0, 1, -INF, INF]] * 40, dtype)
    for got in (
        fs.logsumexp_grad(np.ones(40, dtype), a, 1, lse=np.full(40, 1.5, dtype)),
        fs.logsumexp_grad(np.ones(40, dtype), a.T.copy(), 0, lse=np.full(40, 1.5, dtype)).T,
    ):
        np.testing.assert_allclose(got[0], [NAN, np.exp(-1.5), np.exp(-0.5), 0, NAN], rtol=1e-6)
