"""softmax: literal values, invariants, accuracy, subnormals, special values, empty shapes."""

import ctypes
import ctypes.util
import platform
import sys

import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import assert_same_bits, exact_softmax, mpmath_softmax, ulp_error
from rows import LENGTHS, adversarial, breakers, ordinary

import fastsoftmax as fs
from fastsoftmax import _core

MAX_ULP, _ = _core.ops()["softmax"]
MAX_SUBNORMAL_UNITS = 2  # of the smallest subnormal; the largest of them are as precise as normal numbers


def check_accuracy(rows, name):
    got = fs.softmax(rows)
    exact = exact_softmax(rows)
    error = ulp_error(got, exact)
    normal = exact >= np.finfo(got.dtype).smallest_normal
    assert error[normal].max(initial=0) <= MAX_ULP, name
    assert error[~normal].max(initial=0) <= MAX_SUBNORMAL_UNITS, name


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


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(max_dims=3, max_side=40),
        elements=st.floats(-300, 300, width=32),
    ),
    st.data(),
)
def test_any_array_on_any_axis(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    got = fs.softmax(x, axis)
    exact = exact_softmax(x, axis)
    normal = exact >= np.finfo(x.dtype).smallest_normal
    assert ulp_error(got, exact)[normal].max(initial=0) <= MAX_ULP
    assert got.dtype == x.dtype
    assert got.shape == x.shape


# ---- accuracy


def test_accuracy_of_ordinary_rows(isa, dtype):
    for name, rows in ordinary(dtype):
        check_accuracy(rows, name)


def test_accuracy_of_rows_that_break_shortcuts(isa, dtype):
    for name, rows in breakers(dtype):
        check_accuracy(rows, name)


def test_accuracy_of_adversarial_rows(isa, dtype):
    for name, rows in adversarial(dtype, count=60 if isa in ("scalar", "base") else 400):
        check_accuracy(rows, name)


def test_the_oracle_against_mpmath(dtype):
    rng = np.random.default_rng(3)
    for spread in (1, 30, 300):
        row = (rng.standard_normal(40) * spread).astype(dtype)
        pairs = zip(map(as_mpf, exact_softmax(row)), mpmath_softmax(row), strict=True)
        assert max(abs(got - exact) / exact for got, exact in pairs) < 2.0**-61


def as_mpf(value):
    """A longdouble as an mpf, exactly."""
    mantissa, exponent = np.frexp(value)
    high = float(mantissa)
    with mpmath.workprec(200):
        return mpmath.ldexp(mpmath.mpf(high) + mpmath.mpf(float(mantissa - np.longdouble(high))), int(exponent))


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
    y = fs.softmax(x)
    error = ulp_error(y, exact_softmax(x))
    normal = y >= fmt.smallest_normal
    assert error[normal].max() <= MAX_ULP
    assert error[~normal].max() <= MAX_SUBNORMAL_UNITS
    assert np.count_nonzero(y) >= fmt.nmant + 3
    assert y[-1] == 0


class ExceptionFlags:
    """The sticky exception flags of the SSE unit, by way of the C library's fenv_t."""

    INVALID, SUBNORMAL_OPERAND, DIVISION, OVERFLOW, UNDERFLOW = 1, 2, 4, 8, 16

    def __init__(self):
        self.libm = ctypes.CDLL(ctypes.util.find_library("m"))
        self.environment = (ctypes.c_uint32 * 8)()  # MXCSR is the last word

    def clear(self):
        self.libm.fegetenv(self.environment)
        self.environment[7] &= ~0x3F
        self.libm.fesetenv(self.environment)

    def raised(self):
        self.libm.fegetenv(self.environment)
        return self.environment[7] & 0x3F


needs_mxcsr = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="reads MXCSR through glibc"
)


@needs_mxcsr
def test_nothing_is_subnormal_on_the_way(isa, dtype):
    """What would be slow on many CPUs raises a flag: a subnormal operand, or a result that underflows. Results that
    are subnormal are made by integer instructions. Inputs that are subnormal are compared, which raises the flag of
    the operand on every CPU and is slow on none."""
    flags = ExceptionFlags()
    for name, rows in [*breakers(dtype), *ordinary(dtype)]:
        columns = np.repeat(rows[:1, :5000].T, 9, axis=1)
        flags.clear()
        fs.softmax(rows, out=rows)
        fs.softmax(columns, axis=0, out=columns)
        raised = flags.raised()
        if "subnormal inputs" in name:
            raised &= ~flags.SUBNORMAL_OPERAND
        allowed = flags.OVERFLOW if name == "the whole range" else 0  # x - max, to -inf
        assert raised & ~allowed & 0x1F == 0, f"{name}: flags {raised:#x}"


@needs_mxcsr
def test_the_flags_are_seen():
    flags = ExceptionFlags()
    flags.clear()
    assert flags.raised() & 0x1F == 0
    np.multiply(np.full(40, 1e-300), 1e-300)
    assert flags.raised() & flags.UNDERFLOW
    flags.clear()
    np.multiply(np.full(40, 5e-324), 1.0)
    assert flags.raised() & flags.SUBNORMAL_OPERAND


# ---- NaN, inf, empty


@pytest.mark.parametrize("n", [1, 2, 3, 10, 31, 32, 33, 129, 2048, 5000])
@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf])
def test_a_nan_or_inf_spoils_its_row_only(isa, dtype, n, special):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, n)).astype(dtype)
    good = fs.softmax(x)
    for position in {0, n // 2, n - 1}:
        bad = x.copy()
        bad[3, position] = special
        expected = good.copy()
        expected[3] = np.nan  # the canonical quiet NaN, bits included
        assert_same_bits(fs.softmax(bad), expected)
        assert_same_bits(fs.softmax(np.asfortranarray(bad)), expected)


def test_any_nan_payload_gives_the_one_nan(isa, dtype):
    integer = "u4" if dtype == "float32" else "u8"
    quiet = np.array([np.nan], dtype).view(integer)
    x = np.zeros((2, 40), dtype)
    x[0, 5] = (quiet + 77).view(dtype)[0]
    signalling = quiet.copy()
    signalling ^= np.array(1 << (22 if dtype == "float32" else 51), integer)
    x.view(integer)[1, 7] = signalling[0] | 1
    assert_same_bits(fs.softmax(x), np.full((2, 40), np.nan, dtype))
    assert_same_bits(fs.softmax(x.T, axis=0), np.full((40, 2), np.nan, dtype))


@pytest.mark.parametrize("n", [1, 5, 32, 200, 3000])
def test_rows_of_minus_inf_are_nan(isa, dtype, n):
    x = np.full((3, n), -np.inf, dtype)
    x[1] = 0
    expected = np.full((3, n), np.nan, dtype)
    expected[1] = fs.softmax(x[1])
    assert_same_bits(fs.softmax(x), expected)
    assert_same_bits(fs.softmax(np.asfortranarray(x)), expected)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (0, 0), (2, 0, 3), (3, 4, 0)])
def test_empty(shape, dtype):
    for axis in range(len(shape)):
        y = fs.softmax(np.empty(shape, dtype), axis)
        assert y.shape == shape
        assert y.dtype == dtype


@pytest.mark.parametrize("n", LENGTHS)
def test_every_length_in_rows_and_columns(isa, dtype, n):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal((5, n)) * 4).astype(dtype)
    np.testing.assert_allclose(
        fs.softmax(x), exact_softmax(x).astype(dtype), rtol=MAX_ULP * np.finfo(dtype).eps, atol=0
    )
