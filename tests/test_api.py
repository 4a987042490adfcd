"""What the functions take, what they give back, and what they refuse, by the text of the error."""

import inspect
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from contract import (
    ABSENT,
    FORWARD,
    LAYOUTS,
    NORMALIZERS,
    REDUCTIONS,
    STORAGES,
    call,
    compute_of,
    misaligned,
    result_of,
    takes,
)
from reference import assert_same_bits, joined_axes

import fastsoftmax as fs
from fastsoftmax import _core

X = np.array([[1.0, 2.0, 4.0], [0.0, -1.0, 1000.0]])
PARAMETER = {op: "a" if op.startswith("log") and op in REDUCTIONS else "x" for op in FORWARD}
with_out = pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "out")])


@pytest.mark.parametrize(
    ("op", "signature"),
    [
        (
            "softmax",
            "x, axis=-1, *, out=None, dtype=None, where=None, temperature=1.0, all_neg_inf='nan', subnormals='keep', "
            "num_threads=None",
        ),
        (
            "log_softmax",
            "x, axis=-1, *, out=None, dtype=None, where=None, temperature=1.0, all_neg_inf='nan', num_threads=None",
        ),
        (
            "logsumexp",
            "a, axis=None, *, b=None, keepdims=False, return_sign=False, where=None, out=None, dtype=None, "
            "num_threads=None",
        ),
        ("logmeanexp", "a, axis=None, *, keepdims=False, where=None, out=None, dtype=None, num_threads=None"),
        ("softmax_entropy", "x, axis=-1, *, where=None, temperature=1.0, num_threads=None"),
    ],
)
def test_signature(op, signature):
    given = inspect.signature(getattr(fs, op))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({signature})"


# ---- input


@pytest.mark.parametrize("x", [[1, 2, 4], (1.0, 2.0, 4.0), range(3), [[1], [2]], [[True, False]]])
def test_whatever_asarray_takes(op, x):
    got = call(op, x)
    assert got.dtype == np.float64
    assert_same_bits(got, call(op, np.asarray(x, np.float64)))


def test_other_array_types(op):
    class Tensor:  # as torch's, on the CPU
        def __array__(self, dtype=None, copy=None):
            return X.astype(np.float32)

    assert_same_bits(call(op, Tensor()), call(op, X.astype(np.float32)))
    assert_same_bits(call(op, memoryview(X)), call(op, X))
    got = call(op, X.view(np.matrix))
    assert type(got) is np.ndarray
    assert_same_bits(got, call(op, X))


def test_torch(op):
    torch = pytest.importorskip("torch")
    assert_same_bits(call(op, torch.tensor(X)), call(op, X))


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
def test_scalars(op, axis):
    expected = {"softmax": 1, "log_softmax": 0, "softmax_entropy": 0}
    for x in (3, 3.5, np.float64(-7), np.array(2), True, np.int8(-3)):
        got = call(op, x, axis)
        assert type(got) is np.float64
        assert got == expected.get(op, x)
    for scalar in (np.float32(3), np.float16(3), np.longdouble(3), ml_dtypes.bfloat16(3)):
        got = call(op, scalar, axis)
        assert type(got) is type(scalar)
        assert got == expected.get(op, 3)
        assert type(call(op, np.array(scalar), axis)) is type(scalar)
    of_inf = np.inf if op in ("logsumexp", "logmeanexp") else np.nan
    np.testing.assert_array_equal([call(op, x, axis) for x in (np.nan, np.inf)], [np.nan, of_inf])
    np.testing.assert_array_equal(call(op, 3.0, axis, where=False), ABSENT[op])
    if takes(op, "out"):
        out = np.full((), 7.0)
        assert call(op, 3.0, axis, out=out) is out
        assert out == expected.get(op, 3)


def values_of(storage, shape=(9, 40)):
    """Numbers that `storage` holds exactly, and so does every float dtype that is not smaller."""
    dtype = STORAGES[storage]
    rng = np.random.default_rng(0)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        low = max(-20, np.iinfo(dtype).min)
        return rng.integers(low, 20, shape).astype(dtype)
    return (rng.standard_normal(shape) * 4).astype(np.float16).astype(dtype)


@pytest.mark.parametrize("storage", STORAGES)
def test_every_dtype_in_every_layout(op, storage):
    """As if it had been converted to what the arithmetic is done in, and the result rounded once."""
    x = values_of(storage)
    result = result_of(storage)
    mask = np.random.default_rng(1).random(x.shape) < 0.7
    for axis in (0, 1, None):
        with np.errstate(all="raise"):
            expected = call(op, x.astype(compute_of(result)), axis)
            masked = call(op, x.astype(compute_of(result)), axis, where=mask)
        for name, layout in LAYOUTS.items():
            with np.errstate(all="raise"):
                got = call(op, layout(x), axis)
                got_masked = call(op, layout(x), axis, where=layout(mask))
            assert got.dtype == result
            assert got.dtype.isnative
            assert_same_bits(got, expected.astype(result), name)
            assert_same_bits(got_masked, masked.astype(result), name)
    rows = np.broadcast_to(x[0], x.shape)
    columns = np.broadcast_to(x[:, :1], x.shape)
    for broadcast in (rows, columns, np.broadcast_to(x[0, 0], x.shape)):
        for axis in (0, 1, None):
            assert_same_bits(call(op, broadcast, axis), call(op, broadcast.copy(), axis))


@pytest.mark.parametrize("integer", [name for name, dtype in STORAGES.items() if dtype.kind in "biu"])
def test_integers_are_converted_before_anything_is_subtracted(op, integer):
    dtype = STORAGES[integer]
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = np.array([[low, high], [high, high]] * 20, dtype)
    got = call(op, x)
    assert got.dtype == np.float64
    assert_same_bits(got, call(op, x.astype(np.float64)))
    assert_same_bits(call(op, np.asfortranarray(x), 0), call(op, x.astype(np.float64), 0))
    if takes(op, "dtype"):
        assert call(op, x, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_every_half_precision_number(op, half):
    """All bit patterns, as elements and (with rounding to them) as results."""
    x = np.arange(2**16, dtype=np.uint16).view(half)
    with np.errstate(invalid="ignore"):
        single = x.astype(np.float32)
    for options in ({}, {"where": np.arange(2**16) % 3 > 0}):
        by_row = {k: v.reshape(-1, 64) for k, v in options.items()}
        got = call(op, x.reshape(-1, 64), **by_row)
        expected = call(op, single.reshape(-1, 64), **by_row)
        with np.errstate(all="ignore"):
            rounded = expected.astype(half)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(got), nan)
        assert_same_bits(got[~nan], rounded[~nan])
        by_column = {k: v.reshape(64, -1) for k, v in options.items()}
        got, expected = call(op, x.reshape(64, -1), 0, **by_column), call(op, single.reshape(64, -1), 0, **by_column)
        nan = np.isnan(expected)
        with np.errstate(all="ignore"):
            assert_same_bits(got[~nan], expected.astype(half)[~nan])


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_results_round_to_nearest_even(half):
    """Of logsumexp of one element, which is exact: every float32 around the half-way points."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    pattern[::2] &= 0xFFFF8000 if half is ml_dtypes.bfloat16 else 0xFFFFF000  # ties
    x = pattern.view(np.float32)
    x = x[np.isfinite(x)]
    if half is np.float16:
        x = np.concatenate([x, (rng.standard_normal(10_000) * 10.0 ** rng.integers(-9, 5, 10_000)).astype("f4")])
    with np.errstate(all="ignore"):
        expected = x.astype(half)
        got = fs.logsumexp(x, axis=(), dtype=half)
        assert_same_bits(got, expected)
        out = np.empty(x.shape, half)
        assert_same_bits(fs.logsumexp(x.astype(np.float64), axis=(), out=out), x.astype(np.float64).astype(half))


def test_many_half_precision_zeros():
    for n in (4096, 70000):
        assert np.all(fs.softmax(np.zeros(n, np.float16)) == np.float16(1 / n))
        assert np.all(fs.softmax(np.zeros(n, ml_dtypes.bfloat16)) == ml_dtypes.bfloat16(1 / n))
        assert np.all(fs.log_softmax(np.zeros(n, np.float16)) == np.float16(-np.log(n)))
        assert fs.logsumexp(np.zeros(n, ml_dtypes.bfloat16)) == ml_dtypes.bfloat16(np.log(n))
        assert fs.logsumexp(np.full(n, 60000, np.float16)) == np.float16(60000)
        assert fs.logmeanexp(np.full(n, 60000, np.float16)) == np.float16(60000)
        assert fs.softmax_entropy(np.zeros(n, np.float16)) == np.float16(np.log(n))


def test_input_is_not_changed(op):
    for x in (X.copy(), X.T.copy(), X[:, ::2].copy(), X.astype("f2"), X.astype("i8"), X.astype("g"), X.astype(">f4")):
        for axis in (0, 1, None):
            before = x.copy()
            mask = x > 0
            mask_before = mask.copy()
            call(op, x, axis, where=mask)
            np.testing.assert_array_equal(x, before)
            np.testing.assert_array_equal(mask, mask_before)


# ---- dtype=


@pytest.mark.parametrize("wanted", ["float16", "bfloat16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "dtype")])
def test_dtype(op, wanted):
    """The input is rounded to what the result's arithmetic is done in, the result is rounded once."""
    for storage in STORAGES:
        result = STORAGES[wanted]
        x = values_of(storage)
        for values in (x, x.T, misaligned(x)):
            for axis in (0, 1):
                expected = call(op, values.astype(compute_of(result)), axis).astype(result)
                got = call(op, values, axis, dtype=result)
                assert got.dtype == result
                assert_same_bits(got, expected)
                out = np.zeros(expected.shape, result)
                assert call(op, values, axis, dtype=result, out=out) is out
                assert_same_bits(out, expected)


def test_dtype_rounds_the_input():
    x = np.array([1 + 2.0**-30, 1, 1 - 2.0**-40])
    assert_same_bits(fs.softmax(x, dtype="f4"), fs.softmax(x.astype("f4")))
    assert_same_bits(fs.softmax(X.astype("f4"), dtype="f8"), fs.softmax(X.astype("f4").astype("f8")))
    assert np.all(np.isnan(fs.softmax([1e300, 0], dtype="f4")))  # inf as float32, without a warning
    for dtype in (float, "d", np.float64, np.dtype("f8"), ">f8"):
        got = fs.softmax(X.astype("f4"), dtype=dtype)
        assert got.dtype == np.float64
        assert got.dtype.isnative


def test_casts_neither_warn_nor_raise():
    with np.errstate(all="raise"):
        assert np.isnan(fs.softmax([1e300, 0], dtype="f4")).all()
        assert fs.softmax([0.0, -18.0], dtype="f2")[1] == 0
        assert fs.softmax(np.array([0, -17], "f2"))[1] == np.float16(4.2e-8)
        out = np.empty(2, "f4")
        assert fs.softmax([0.0, -95.0], out=out)[1] == np.float32(5.521082e-42)
        assert fs.logsumexp([1e300, 1e300], dtype="f2") == np.inf
        assert fs.logsumexp([1e30, 1e30], dtype="f2") == np.inf
        assert fs.log_softmax([1e30, 0.0], dtype="f2")[1] == -np.inf
        assert np.isnan(fs.logsumexp([1.0, 2.0], b=[1, -1]))
        for op in FORWARD:
            call(op, [np.nan, np.inf, -np.inf, 5e-324, 1e308, -1e308])
            call(op, np.array([[np.nan, np.inf, -np.inf, 1e-45, 1e38, -1e38]] * 40, "f4"), 0)


# ---- output


@pytest.mark.parametrize("op", NORMALIZERS)
def test_results_have_the_order_of_the_input(op):
    x = np.zeros((4, 5, 6))
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)):
        for view in (x.transpose(order), x.astype("i4").transpose(order), x.transpose(order)[::-1, ::2]):
            for options in ({}, {"dtype": "f4"}, {"where": True}, {"temperature": 2}):
                y = call(op, view, **options)
                assert type(y) is np.ndarray
                assert y.flags.owndata
                assert y.base is None
                assert y.strides == np.empty_like(view, dtype=y.dtype).strides


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_keep_the_order_of_what_is_left(op):
    x = np.zeros((4, 5, 6, 7))
    for order in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)):
        view = x.transpose(order)
        for axis in (0, 2, -1, (0, 3), (1, 2)):
            joined = joined_axes(axis, 4)
            y = call(op, view, axis)
            assert type(y) is np.ndarray
            assert y.flags.owndata
            assert y.base is None
            left = [view.strides[i] for i in range(4) if i not in joined]
            assert np.argsort(y.strides).tolist() == np.argsort(left).tolist()


def test_results_are_not_shared():
    x = np.zeros((3, 4))
    for op in FORWARD:
        assert not np.shares_memory(call(op, x), call(op, x))
        assert not np.shares_memory(call(op, x, ()), x)


@with_out
@pytest.mark.parametrize("out_dtype", ["f2", "f4", "f8", "g", ">f2", ">f4", ">f8", ">g", ml_dtypes.bfloat16], ids=str)
def test_out_of_another_dtype(op, out_dtype):
    for x in (X, X.astype("f4"), np.linspace(-9, 9, 4 * 70).reshape(4, 70), X.astype("i4"), X.T):
        for axis in (0, 1):
            expected = call(op, x, axis)
            for out in (np.empty(expected.shape, out_dtype), np.empty(expected.shape[::-1], out_dtype).T):
                with np.errstate(all="raise"):
                    assert call(op, x, axis, out=out) is out
                with np.errstate(all="ignore"):
                    np.testing.assert_array_equal(out, expected.astype(out_dtype))
            records = np.zeros(expected.shape, [("tag", "u1"), ("value", out_dtype)])
            records["tag"] = 7
            call(op, x, axis, out=records["value"])
            with np.errstate(all="ignore"):
                np.testing.assert_array_equal(records["value"], expected.astype(out_dtype))
            assert np.all(records["tag"] == 7)


@with_out
def test_out_of_a_subclass(op):
    x = X.astype("f4")
    expected = call(op, x, 1, **({"keepdims": True} if op in REDUCTIONS else {}))
    out = np.empty(expected.shape, "f4").view(np.matrix)
    assert call(op, x, 1, out=out, **({"keepdims": True} if op in REDUCTIONS else {})) is out
    assert_same_bits(np.asarray(out), expected)


@pytest.mark.parametrize("storage", [name for name, dtype in STORAGES.items() if dtype.kind not in "biu"])
@pytest.mark.parametrize("op", NORMALIZERS)
def test_in_place(op, storage):
    for layout in ("C", "F", "steps", "misaligned"):
        for axis in (0, 1, None):
            for options in ({}, {"where": np.arange(40) % 3 > 0}, {"temperature": 0.7}):
                x = LAYOUTS[layout](values_of(storage))
                expected = call(op, x.copy(), axis, **options)
                assert call(op, x, axis, out=x, **options) is x
                np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("op", NORMALIZERS)
def test_overlapping_out(op):
    for shift in (1, 3, 17):
        memory = np.linspace(-5, 5, 200)
        x, out = memory[:100].reshape(10, 10), memory[shift : 100 + shift].reshape(10, 10)
        expected = call(op, x.copy())
        call(op, x, out=out)
        assert_same_bits(out, expected)
    square = np.linspace(-5, 5, 100).reshape(10, 10) ** 2
    expected = call(op, square.copy())
    call(op, square, out=square.T)
    assert_same_bits(square.T.copy(), expected)
    for view in (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1, ::-1]):
        x = np.linspace(-5, 5, 100).reshape(10, 10)
        expected = call(op, x.copy())
        call(op, x, out=view(x))
        assert_same_bits(view(x).copy(), expected)


@with_out
@pytest.mark.parametrize(
    ("start", "end"), [("f4", "f8"), ("f8", "f4"), ("f2", "f4"), ("f4", "f2"), ("i4", "f4"), ("g", "f8")]
)
def test_out_in_the_memory_of_input_of_another_dtype(op, start, end):
    for axis in (0, 1):
        memory = np.zeros(8192, np.uint8)
        x = memory[: 240 * np.dtype(start).itemsize].view(start).reshape(12, 20)
        x[...] = np.arange(240).reshape(12, 20) % 13
        expected = call(op, x.copy(), axis, dtype=end)
        out = memory[: expected.nbytes].view(end).reshape(expected.shape)
        assert call(op, x, axis, dtype=end, out=out) is out
        assert_same_bits(out, expected)


@pytest.mark.parametrize("op", [op for op in REDUCTIONS if takes(op, "out")])
def test_reduction_into_its_input(op):
    parts = [(0, np.s_[3]), (0, np.s_[-1, ::-1]), (1, np.s_[:, 5]), (1, np.s_[0, :12]), (None, np.s_[2, 3, ...])]
    for axis, part in parts:
        x = np.linspace(-5, 9, 12 * 20).reshape(12, 20)
        expected = call(op, x.copy(), axis)
        out = x[part]
        assert call(op, x, axis, out=out) is out
        assert_same_bits(out.copy(), expected)
    x = np.linspace(-5, 9, 20)
    expected = call(op, x.copy(), ())
    call(op, x, (), out=x[::-1])
    assert_same_bits(x[::-1].copy(), expected)


@with_out
def test_out_in_the_memory_of_the_mask(op):
    for axis in (0, 1, None):
        for offset in (0, 8, 100, 1000):
            memory = np.zeros(4096, np.uint8)
            x = np.linspace(-5, 9, 12 * 20).reshape(12, 20)
            mask = memory[offset : offset + x.size].view(bool).reshape(x.shape)
            mask[...] = np.arange(240).reshape(x.shape) % 3 > 0
            expected = np.asarray(call(op, x, axis, where=mask.copy()))
            out = memory[: expected.nbytes].view(float).reshape(expected.shape)
            assert call(op, x, axis, where=mask, out=out) is out
            assert_same_bits(out, expected)


def test_out_in_the_memory_of_the_weights():
    parts = [(0, np.s_[3]), (0, np.s_[-1, ::-1]), (1, np.s_[:, 5]), (1, np.s_[0]), (None, np.s_[2, 3, ...])]
    for axis, part in [*parts, ((), np.s_[:]), ((), np.s_[::-1])]:
        a, b = np.random.default_rng(0).standard_normal((2, 12, 12))
        expected = fs.logsumexp(a, axis, b=b.copy(), return_sign=True)
        out = b[part]
        value, sign = fs.logsumexp(a, axis, b=b, out=out, return_sign=True)
        assert value is out
        assert_same_bits(value.copy(), expected[0])
        assert_same_bits(sign, expected[1])


def test_out_that_repeats_elements():
    """As with NumPy, which of the values remains is open; but each is a right one."""
    values = np.arange(4.0)
    x = np.lib.stride_tricks.as_strided(values, (3, 4), (0, 8))
    expected = fs.softmax(values.copy())
    fs.softmax(x, out=x)
    assert_same_bits(values, expected)
    windows = np.linspace(-3, 3, 12)
    x = np.lib.stride_tricks.sliding_window_view(windows, 5, writeable=True)
    expected = fs.softmax(x.copy())
    fs.softmax(x, out=x)
    for i in range(12):
        assert windows[i] in [expected[r, i - r] for r in range(8) if 0 <= i - r < 5]
    one = np.zeros(1)
    expected = fs.logsumexp(np.eye(3), axis=0)
    fs.logsumexp(np.eye(3), axis=0, out=np.lib.stride_tricks.as_strided(one, (3,), (0,)))
    assert one[0] in expected


# ---- errors


def message(text):
    return f"^{re.escape(text)}$"


def check_refused(op, error, text, x=X, axis=-1, **options):
    """That error and text; nothing is written to `out`."""
    untouched = np.full(np.shape(call(op, X)), 7.0)
    if takes(op, "out"):
        options.setdefault("out", untouched)
    with pytest.raises(error, match=message(text)):
        call(op, x, axis, **options)
    assert np.all(untouched == 7)


def test_masked_array(op):
    p = PARAMETER[op]
    text = (
        f"{op}() got a numpy.ma.MaskedArray; its mask would be ignored. "
        f"Pass {op}({p}.data, where=~np.ma.getmaskarray({p}))."
    )
    masked = np.ma.masked_array(X, X > 1)
    check_refused(op, TypeError, text, masked)
    np.testing.assert_array_equal(call(op, masked.data, where=~np.ma.getmaskarray(masked)), call(op, X, where=X <= 1))


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V4", [("a", "f4")]], ids=str)
def test_unsupported_dtype(op, dtype):
    dtype = np.dtype(dtype)
    hint = " (fastsoftmax.scipy takes complex)" if dtype.kind == "c" else ""
    text = f"{op}() supports float16/32/64, bfloat16, longdouble, integer and bool input, got {dtype}{hint}."
    check_refused(op, TypeError, text, np.zeros((2, 3), dtype))
    check_refused(op, TypeError, text, np.zeros((), dtype))
    if op == "logsumexp":
        with pytest.raises(TypeError, match=re.escape(f"got {dtype}")):
            fs.logsumexp(X, b=np.zeros((2, 3), dtype))


def test_dtypes_of_the_newer_kind_have_one_number(op):
    """-1, which must not stand for bfloat16 where that has not been seen yet."""
    code = f"""
import fastsoftmax, numpy as np
from numpy._core._multiarray_umath import _get_sfloat_dtype
for x in (np.arange(6.0), np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3).T):
    x = x.view(_get_sfloat_dtype()(1.0))
    assert x.dtype.num == -1
    try:
        fastsoftmax.{op}(x)
        raise SystemExit("no error")
    except TypeError as error:
        assert "_ScaledFloatTestDType" in str(error), error
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_objects_that_are_no_arrays(op):
    for x in (None, "text", {}, object(), [None, 1.0], 1j):
        with pytest.raises(TypeError, match=re.escape(f"{op}() supports float16/32/64")):
            call(op, x)
    with pytest.raises(ValueError, match="inhomogeneous"):
        call(op, [[1, 2], [3]])


@pytest.mark.parametrize(("axis", "name"), [(1.0, "float"), ("0", "str"), (1j, "complex"), ([0], "list"), ({}, "dict")])
def test_axis_of_the_wrong_type(op, axis, name):
    check_refused(op, TypeError, f"axis must be an int, a tuple of ints or None, got {name}.", axis=axis)


@pytest.mark.parametrize("axis", [(0, 1.0), ("0",), (None,), ((0,),)])
def test_axes_of_the_wrong_type(op, axis):
    with pytest.raises(TypeError, match=r"^axis must be an int, a tuple of ints or None, got .*\.$"):
        call(op, X, axis)


@pytest.mark.parametrize(
    ("x", "axis", "wrong"),
    [
        (X, 2, 2),
        (X, -3, -3),
        (X, 2**31, 2**31),
        (X, 10**30, 10**30),
        (X, (0, 2), 2),
        (X, (-3, 0), -3),
        (3.0, 1, 1),
        (3.0, (0, 1), 1),
        (np.zeros(3, "i4"), 1, 1),
        (np.zeros((2, 0)), 2, 2),
    ],
)
def test_axis_out_of_range(op, x, axis, wrong):
    text = f"axis {wrong} is out of bounds for array of dimension {np.ndim(x)}"
    check_refused(op, np.exceptions.AxisError, text, x, axis)


def test_repeated_axis(op):
    text = "repeated axis: (0, -2) names axis 0 of 2 dimensions more than once."
    check_refused(op, ValueError, text, axis=(0, -2))
    text = "repeated axis: (1, 0, 1) names axis 1 of 2 dimensions more than once."
    check_refused(op, ValueError, text, axis=(1, 0, 1))


def test_integer_like_axis(op):
    assert_same_bits(call(op, X, np.int8(0)), call(op, X, 0))
    assert_same_bits(call(op, X, (np.int64(1),)), call(op, X, 1))
    assert_same_bits(call(op, X, (1, np.uint8(0))), call(op, X, (0, 1)))
    assert_same_bits(call(op, X, np.array(0)), call(op, X, 0))


@pytest.mark.parametrize("kind", ["float64", "int64", "uint8", "object", "<U5", "complex128"])
def test_mask_of_the_wrong_dtype(op, kind):
    text = f"where must be bool, got {kind} (additive masks: add them to {PARAMETER[op]})."
    check_refused(op, TypeError, text, where=np.ones((2, 3)).astype(kind))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (2, 4), (2, 2, 3), (1, 2, 3), (0,), (2, 0)])
def test_mask_of_the_wrong_shape(op, shape):
    text = f"where has shape {shape}, which does not broadcast to {PARAMETER[op]}'s shape (2, 3)."
    check_refused(op, ValueError, text, where=np.ones(shape, bool))


def test_mask_of_a_scalar(op):
    text = f"where has shape (1,), which does not broadcast to {PARAMETER[op]}'s shape ()."
    with pytest.raises(ValueError, match=message(text)):
        call(op, 3.0, where=[True])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (-1.5, "-1.5"), (np.nan, "nan"), (-np.inf, "-inf"), (False, "False")]
)
@pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "temperature")])
def test_temperature_that_is_not_positive(op, value, text):
    check_refused(op, ValueError, f"temperature must be > 0, got {text}.", temperature=value)


@pytest.mark.parametrize(
    ("value", "name"), [("1", "str"), (None, "NoneType"), (1j, "complex"), (np.ones(2), "ndarray"), ([1.0], "list")]
)
@pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "temperature")])
def test_temperature_that_is_no_number(op, value, name):
    check_refused(op, TypeError, f"temperature must be a real number, got {name}.", temperature=value)


def test_words_that_are_not_known():
    for op in NORMALIZERS:
        check_refused(op, ValueError, 'all_neg_inf must be "nan" or "zero", got "one".', all_neg_inf="one")
        for value in (0, np.array(["nan", "zero"])):
            with pytest.raises(ValueError, match=r'^all_neg_inf must be "nan" or "zero", got '):
                call(op, X, all_neg_inf=value)
    check_refused("softmax", ValueError, 'subnormals must be "keep" or "flush", got "no".', subnormals="no")


BAD_OUTS = [
    (np.zeros((2, 4)), ValueError, "out has shape (2, 4), expected (2, 3)."),
    (np.zeros((3, 2)).T[:1], ValueError, "out has shape (1, 3), expected (2, 3)."),
    (np.zeros((1, 2, 3)), ValueError, "out has shape (1, 2, 3), expected (2, 3)."),
    (np.broadcast_to(0.0, (2, 3)), ValueError, "out is read-only."),
    (np.zeros((2, 3), int), TypeError, "cannot cast float64 result to out of dtype int64."),
    (np.zeros((2, 3), bool), TypeError, "cannot cast float64 result to out of dtype bool."),
    (np.zeros((2, 3), "U40"), TypeError, "cannot cast float64 result to out of dtype <U40."),
    (np.zeros((2, 3), object), TypeError, "cannot cast float64 result to out of dtype object."),
    ([[0.0] * 3] * 2, TypeError, "out must be a numpy.ndarray, got list."),
    (np.ma.zeros((2, 3)), TypeError, "out must be a numpy.ndarray, got MaskedArray."),
    (7.0, TypeError, "out must be a numpy.ndarray, got float."),
]


@pytest.mark.parametrize(("out", "error", "text"), BAD_OUTS)
@pytest.mark.parametrize("op", NORMALIZERS)
def test_bad_out(op, out, error, text):
    for x in (X, X.T.copy().T, X.astype("i8"), X.astype(">f8")):
        before = np.array(out)
        check_refused(op, error, text, x, out=out)
        np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({"axis": 1}, (2, 4), (2,)),
        ({"axis": 1}, (2, 1), (2,)),
        ({"axis": 0}, (2,), (3,)),
        ({"axis": None}, (1,), ()),
        ({"axis": (0, 1)}, (2, 3), ()),
        ({"axis": 1, "keepdims": True}, (2,), (2, 1)),
        ({"axis": None, "keepdims": True}, (), (1, 1)),
        ({"axis": ()}, (2,), (2, 3)),
    ],
)
@pytest.mark.parametrize("op", [op for op in REDUCTIONS if takes(op, "out")])
def test_bad_out_of_a_reduction(op, options, shape, expected):
    out = np.full(shape, 7.0)
    text = f"out has shape {shape}, expected {expected}."
    check_refused(op, ValueError, text, out=out, **options)
    assert np.all(out == 7)
    for dtype in (int, bool):
        text = f"cannot cast float64 result to out of dtype {np.dtype(dtype)}."
        check_refused(op, TypeError, text, out=np.zeros(expected, dtype), **options)
    frozen = np.zeros(expected)
    frozen.flags.writeable = False
    check_refused(op, ValueError, "out is read-only.", out=frozen, **options)


@pytest.mark.parametrize("wanted", ["i4", "?", "c16", "O", "U3", "M8[s]"])
@pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "dtype")])
def test_bad_dtype(op, wanted):
    text = f"dtype must be float16, bfloat16, float32, float64 or longdouble, got {np.dtype(wanted)}."
    check_refused(op, TypeError, text, dtype=wanted)
    with pytest.raises(TypeError, match="not understood"):
        call(op, X, dtype="no such thing")


@pytest.mark.parametrize(
    ("threads", "error", "text"),
    [
        (0, ValueError, f"num_threads must be from 1 to {_core.MAX_THREADS}, got 0."),
        (-1, ValueError, f"num_threads must be from 1 to {_core.MAX_THREADS}, got -1."),
        (10**20, ValueError, f"num_threads must be from 1 to {_core.MAX_THREADS}, got {10**20}."),
        (1.5, TypeError, "num_threads must be an int, got float."),
        ("2", TypeError, "num_threads must be an int, got str."),
    ],
)
def test_bad_num_threads(op, threads, error, text):
    check_refused(op, error, text, num_threads=threads)


def test_weights_that_do_not_broadcast():
    for b, shape in ((np.ones(2), "(2,)"), (np.ones((3, 1, 2)), "(3, 1, 2)")):
        with pytest.raises(ValueError, match=re.escape(shape)) as caught:
            fs.logsumexp(X, b=b)
        assert "(2, 3)" in str(caught.value)
    masked = np.ma.masked_array(X, X > 1)
    with pytest.raises(TypeError, match="MaskedArray"):
        fs.logsumexp(X, b=masked)


def test_keyword_only(op):
    with pytest.raises(TypeError, match="positional argument"):
        getattr(fs, op)(X, -1, None)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        call(op, X, nonsense=1)


# ---- the process around it


def run_python(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", _core.isas())
def test_isa_from_the_environment(name):
    done = run_python("import fastsoftmax._core as c; print(c.active_isa())", FASTSOFTMAX_ISA=name)
    if _core.isas()[name]:
        assert done.stdout.strip() == name
    else:
        assert f"FASTSOFTMAX_ISA='{name}' cannot run on this machine. Usable here: " in done.stderr


def test_unknown_isa_in_the_environment():
    done = run_python("import fastsoftmax", FASTSOFTMAX_ISA="avx1024")
    assert done.returncode != 0
    assert "ValueError: FASTSOFTMAX_ISA='avx1024' is not in this build. Usable here: " in done.stderr


def test_show_config(capsys):
    fs.show_config()
    shown = capsys.readouterr().out
    for part in (fs.__version__, _core.compiler(), _core.active_isa(), np.__version__, *_core.isas()):
        assert part in shown
    module = subprocess.run([sys.executable, "-m", "fastsoftmax"], capture_output=True, text=True, check=True)
    assert module.stdout.splitlines()[0] == shown.splitlines()[0]


def test_import_changes_no_floating_point_mode_and_needs_only_numpy():
    code = """
import sys, numpy as np
tiny = np.array([5e-324])
import fastsoftmax
assert (tiny * 1.0)[0] == 5e-324
fastsoftmax.softmax(np.linspace(-800, 0, 1000))
assert (tiny * 1.0)[0] == 5e-324
third_party = {"scipy", "torch", "pytest", "sklearn", "Cython"} & set(sys.modules)
assert not third_party, third_party
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
