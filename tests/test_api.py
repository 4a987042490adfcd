"""What softmax() takes, what it gives back, and what it refuses, by the text of the error."""

import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from reference import assert_same_bits, exact_softmax

import fastsoftmax as fs
from fastsoftmax import _core

X = np.array([[1.0, 2.0, 4.0], [0.0, -1.0, 1000.0]])


# ---- input


@pytest.mark.parametrize("x", [[1, 2, 4], (1.0, 2.0, 4.0), range(3), [[1], [2]], [[True, False]]])
def test_whatever_asarray_takes(x):
    got = fs.softmax(x)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, exact_softmax(np.asarray(x, np.float64)).astype(float), rtol=1e-15)


def test_other_array_types():
    class Tensor:  # as torch's, on the CPU
        def __array__(self, dtype=None, copy=None):
            return X.astype(np.float32)

    assert_same_bits(fs.softmax(Tensor()), fs.softmax(X.astype(np.float32)))
    assert_same_bits(fs.softmax(memoryview(X)), fs.softmax(X))
    got = fs.softmax(X.view(np.matrix))
    assert type(got) is np.ndarray
    assert_same_bits(got, fs.softmax(X))


@pytest.mark.parametrize("axis", [-1, 0])
def test_scalars(axis):
    for x in (3, 3.5, np.float64(-7), np.array(2), True):
        got = fs.softmax(x, axis)
        assert type(got) is np.float64
        assert got == 1
    assert type(fs.softmax(np.float32(3))) is np.float32
    assert np.isnan(fs.softmax(np.inf))
    out = np.zeros(())
    assert fs.softmax(3.0, out=out) is out
    assert out == 1


@pytest.mark.parametrize("integer", "bhilqBHILQ?")
def test_integers_are_converted_before_anything_is_subtracted(integer):
    dtype = np.dtype(integer)
    low, high = (0, 1) if integer == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = np.array([[low, high], [high, high]], dtype)
    got = fs.softmax(x)
    assert got.dtype == np.float64
    assert_same_bits(got, fs.softmax(x.astype(np.float64)))
    assert fs.softmax(x, dtype=np.float32).dtype == np.float32


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_float32_rounded_once(half):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 300)) * 4).astype(half)
    got = fs.softmax(x)
    assert got.dtype == half
    assert_same_bits(got, fs.softmax(x.astype(np.float32)).astype(half))
    assert np.all(fs.softmax(np.zeros(4096, half)).astype(np.float32) == 2.0**-12)
    out = np.empty(x.shape, half)
    assert fs.softmax(x, out=out) is out
    assert_same_bits(out, got)


def test_many_half_precision_zeros():
    assert np.all(fs.softmax(np.zeros(70000, np.float16)) == np.float16(1 / 70000))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_byte_swapped_input_gives_native_output(dtype):
    x = (X * 3).astype(np.dtype(dtype).newbyteorder("S"))
    got = fs.softmax(x)
    assert got.dtype.isnative
    assert_same_bits(got, fs.softmax(x.astype(x.dtype.newbyteorder("="))))


def test_read_only_and_odd_strides():
    x = X.copy()
    x.flags.writeable = False
    assert_same_bits(fs.softmax(x), fs.softmax(X))
    records = np.zeros(5, [("tag", "u1"), ("value", "f8")])  # strides of 9 bytes, misaligned
    records["value"] = [3, 1, 4, 1, 5]
    assert_same_bits(fs.softmax(records["value"]), fs.softmax(records["value"].copy()))


def test_dtype():
    for dtype in ("float16", "float32", "float64", float):
        assert fs.softmax(X, dtype=dtype).dtype == dtype
    assert_same_bits(fs.softmax(X.astype("f4"), dtype="f8"), fs.softmax(X.astype("f4").astype("f8")))
    assert_same_bits(fs.softmax(X, dtype="f4"), fs.softmax(X.astype("f4")))
    assert np.all(np.isnan(fs.softmax([1e300, 0], dtype="f4")))  # inf as float32, without a warning
    assert fs.softmax(X.astype("f2"), dtype=ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


def test_casts_neither_warn_nor_raise():
    with np.errstate(all="raise"):
        assert np.isnan(fs.softmax([1e300, 0], dtype="f4")).all()
        assert fs.softmax([0.0, -18.0], dtype="f2")[1] == 0
        assert fs.softmax(np.array([0, -17], "f2"))[1] == np.float16(4.2e-8)
        out = np.empty(2, "f4")
        assert fs.softmax([0.0, -95.0], out=out)[1] == np.float32(5.521082e-42)


# ---- output


def test_result_is_a_base_array_in_the_order_of_the_input():
    x = np.zeros((4, 5, 6)).transpose(2, 0, 1)
    for dtype in (None, "f4"):
        y = fs.softmax(x, dtype=dtype)
        assert type(y) is np.ndarray
        assert y.base is None
        assert y.flags.owndata
        assert np.argsort(y.strides).tolist() == np.argsort(x.strides).tolist()


def test_input_is_not_changed():
    for x in (X.copy(), X.T.copy(), X[:, ::2].copy(), X.astype("f2"), X.astype("i8")):
        before = x.copy()
        fs.softmax(x)
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("out_dtype", ["f2", "f4", "f8", ">f4", ">f8", ml_dtypes.bfloat16])
def test_out_of_another_dtype(out_dtype):
    out = np.empty(X.shape, out_dtype)
    assert fs.softmax(X, out=out) is out
    assert_same_bits(out, fs.softmax(X).astype(out_dtype))


def test_out_of_a_subclass():
    out = np.empty(X.shape).view(np.matrix)
    assert fs.softmax(X, out=out) is out
    assert_same_bits(np.asarray(out), fs.softmax(X))


def test_overlapping_out():
    for shift in (1, 3, 17):
        memory = np.linspace(-5, 5, 200)
        x, out = memory[:100].reshape(10, 10), memory[shift : 100 + shift].reshape(10, 10)
        expected = fs.softmax(x.copy())
        fs.softmax(x, out=out)
        assert_same_bits(out, expected)
    square = np.linspace(-5, 5, 100).reshape(10, 10) ** 2
    expected = fs.softmax(square.copy())
    fs.softmax(square, out=square.T)
    assert_same_bits(square.T.copy(), expected)
    reversed_rows = np.linspace(-5, 5, 100).reshape(10, 10)
    expected = fs.softmax(reversed_rows.copy())
    fs.softmax(reversed_rows, out=reversed_rows[::-1])
    assert_same_bits(reversed_rows[::-1].copy(), expected)


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


# ---- errors


def message(text):
    return f"^{re.escape(text)}$"


def test_masked_array():
    with pytest.raises(
        TypeError, match=r"^softmax\(\) got a numpy\.ma\.MaskedArray; its mask would be ignored\. Pass "
    ):
        fs.softmax(np.ma.masked_array(X, X > 1))


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "g", [("a", "f4")]])
def test_unsupported_dtype(dtype):
    dtype = np.dtype(dtype)
    with pytest.raises(
        TypeError,
        match=message(f"softmax() supports float16/32/64, bfloat16, integer and bool input, got {dtype}."),
    ):
        fs.softmax(np.zeros(3, dtype))


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (1.0, "axis must be an int, got float."),
        ("0", "axis must be an int, got str."),
        (None, "axis must be an int, got NoneType. To join several axes, reshape x."),
        ((0, 1), "axis must be an int, got tuple. To join several axes, reshape x."),
    ],
)
def test_axis_of_the_wrong_type(axis, text):
    with pytest.raises(TypeError, match=message(text)):
        fs.softmax(X, axis)


@pytest.mark.parametrize(("x", "axis"), [(X, 2), (X, -3), (X, 2**31), (X, 10**30), (3.0, 1), (np.zeros(3, "i4"), 1)])
def test_axis_out_of_range(x, axis):
    text = f"axis {axis} is out of bounds for array of dimension {np.ndim(x)}"
    with pytest.raises(np.exceptions.AxisError, match=message(text)):
        fs.softmax(x, axis)


def test_integer_like_axis():
    assert_same_bits(fs.softmax(X, np.int8(0)), fs.softmax(X, 0))


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (np.zeros((2, 4)), ValueError, "out has shape (2, 4), expected (2, 3)."),
        (np.zeros((3, 2)).T[:1], ValueError, "out has shape (1, 3), expected (2, 3)."),
        (np.broadcast_to(0.0, (2, 3)), ValueError, "out is read-only."),
        (np.zeros((2, 3), int), TypeError, "cannot cast float64 result to out of dtype int64."),
        (np.zeros((2, 3), "U40"), TypeError, "cannot cast float64 result to out of dtype <U40."),
        (np.zeros((2, 3), object), TypeError, "cannot cast float64 result to out of dtype object."),
        ([[0.0] * 3] * 2, TypeError, "out must be a numpy.ndarray, got list."),
        (np.ma.zeros((2, 3)), TypeError, "out must be a numpy.ndarray, got MaskedArray."),
    ],
)
def test_bad_out(out, error, text):
    before = np.array(out)
    with pytest.raises(error, match=message(text)):
        fs.softmax(X, out=out)
    np.testing.assert_array_equal(out, before)


def test_bad_dtype():
    with pytest.raises(TypeError, match=message("dtype must be float16, bfloat16, float32 or float64, got int32.")):
        fs.softmax(X, dtype="i4")
    with pytest.raises(TypeError, match="not understood"):
        fs.softmax(X, dtype="no such thing")


def test_nothing_is_written_before_all_checks_pass():
    out = np.full((2, 3), 7.0)
    for wrong in ({"axis": 5}, {"dtype": "i4"}, {"axis": 1.5}):
        with pytest.raises((TypeError, np.exceptions.AxisError)):
            fs.softmax(X, out=out, **wrong)
    assert np.all(out == 7)


def test_keyword_only():
    with pytest.raises(TypeError):
        fs.softmax(X, -1, None)


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
