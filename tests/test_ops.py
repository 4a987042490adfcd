"""What holds for every operation: accuracy, temperature, masks, special values, empty slices, no traps on the way."""

import ctypes
import ctypes.util
import functools
import platform
import sys

import numpy as np
import pytest
from contract import (
    ABSENT,
    FORWARD,
    NORMALIZERS,
    SLOW_ISAS,
    call,
    check,
    check_accuracy,
    exact_and_largest_term,
    listed,
    takes,
)
from reference import WIDE, assert_same_bits
from rows import LENGTHS, adversarial, breakers, confident, ordinary, short

import fastsoftmax as fs
from fastsoftmax import _core

TEMPERATURES = [0.7, 1e-3, 1e3]
tempered = pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "temperature")])


# ---- accuracy


@functools.cache
def exact_rows(op, dtype, rows, **options):
    """[(name, rows, exact results, largest terms)], computed once for all instruction sets."""
    most = np.inf if WIDE or dtype == "float32" else 5000  # mpmath takes 20 us an element
    cases = ((name, x) for name, x in listed(rows, dtype) if x.size <= most)
    return [(name, x, *exact_and_largest_term(op, x, **options)) for name, x in cases]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rows", [ordinary, breakers, adversarial, confident, short])
def test_accuracy(isa, dtype, op, rows):
    cases = exact_rows(op, dtype, rows)
    for name, x, exact, largest_term in cases[:60] if rows is adversarial and isa in SLOW_ISAS else cases:
        check_accuracy(op, call(op, x), exact, largest_term, name)


def few(dtype):
    """Rows of every kind, but short ones."""
    for name, x in [*adversarial(dtype, count=40, seed=2), *breakers(dtype), *confident(dtype)]:
        if x.shape[1] < 3000:
            yield name, x[:2]


@pytest.mark.sampled(3)
@tempered
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_accuracy_at_a_temperature(isa, dtype, op, temperature):
    for name, x, exact, _ in exact_rows(op, dtype, few, temperature=temperature):
        check_accuracy(op, call(op, x, temperature=temperature), exact, None, name)


@tempered
@pytest.mark.parametrize("temperature", [1e-300, 1e-200, 1e-40, 1e-30, 1e30, 1e40, 1e200, 1e300])
def test_extreme_temperatures(isa, dtype, op, temperature):
    for x in ([0, 1, 1, -1], [3, 3 + 1e-6, -np.inf], [-7.5, 0, 7.5], [1e-30, 0, -2e-30], [1e30, -1e30, 2], [1e-42, 0]):
        check(op, np.array(x, dtype), temperature=temperature, name=f"{x}")
    check(op, np.array([1e300 if dtype == "float64" else 1e38, 1, -3], dtype), temperature=temperature)
    check(op, np.linspace(-30, 50, 2500).astype(dtype), temperature=temperature)


@tempered
@pytest.mark.parametrize("temperature", [5e-324, 1e-305, 1.7e308, np.inf])
def test_temperatures_at_the_ends_of_the_range(dtype, op, temperature):
    """At infinity all elements that are above -inf are equal."""
    for x in ([0, 1, 1, -1], [3, -np.inf, 2], [1e-30, 0], [1e30, -1e30], [np.nan, 1], [np.inf, 1], [-np.inf, -np.inf]):
        check(op, np.array(x, dtype), temperature=temperature, name=f"{x}")
        check(op, np.array([x] * 40, dtype).T, 0, temperature=temperature, name=f"{x}")


@tempered
def test_temperature_1_is_none(dtype, op):
    x = (np.random.default_rng(0).standard_normal((5, 300)) * 5).astype(dtype)
    for one in (1, 1.0, np.float32(1), True):
        assert_same_bits(call(op, x, temperature=one), call(op, x))


@tempered
def test_a_power_of_two_as_temperature_is_exact(dtype, op):
    """x / 2 and x at temperature 2 are the same numbers; the bits need not be, but the results are."""
    x = np.random.default_rng(0).integers(-40, 40, (5, 300)).astype(dtype)
    for temperature in (0.5, 2.0, 8.0):
        divided = exact_and_largest_term(op, x / np.dtype(dtype).type(temperature))[0]
        check_accuracy(op, call(op, x, temperature=temperature), divided)


@pytest.mark.sampled(3)
def test_every_length_in_rows_and_columns(isa, dtype, op):
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((5, n)) * 4).astype(dtype)
        exact, largest_term = exact_and_largest_term(op, x)
        rows = call(op, x)
        check_accuracy(op, rows, exact, largest_term, f"n={n}")
        for columns in (1, 5, 45):  # single, few and whole strips of them
            many = np.resize(x, (columns, n))
            same = np.resize(rows, (columns, *rows.shape[1:]))
            assert_same_bits(call(op, np.ascontiguousarray(many.T), 0).T, same, f"{columns} columns of {n}")


@pytest.mark.parametrize("axis", [None, (0, 1), (0, 2), (-1, -2), (2, 0, 1), (1,), ()])
def test_several_axes(isa, dtype, op, axis):
    x = (np.random.default_rng(0).standard_normal((6, 11, 70)) * 4).astype(dtype)
    check(op, x, axis)
    check(op, np.asfortranarray(x), axis)
    check(op, x[::-1, :, ::2], axis)


# ---- masks


def masks(rng, shape):
    for density in (0.01, 0.5, 0.97):
        yield rng.random(shape) < density
    yield rng.random(shape[1]) < 0.5
    yield rng.random((shape[0], 1)) < 0.5
    yield np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (shape[0], 1))  # padding


@pytest.mark.sampled(3)
def test_masked_elements_are_never_read_into_the_result(isa, dtype, op):
    for n in (1, 2, 5, 31, 32, 33, 100, 129, 2049, 5000):
        rng = np.random.default_rng(n)
        x = (rng.standard_normal((11, n)) * 5).astype(dtype)
        for mask in masks(rng, x.shape):
            expected = check(op, x, where=mask)
            for garbage in (np.nan, np.inf, -np.inf, np.finfo(dtype).max):
                disturbed = np.where(mask, x, np.array(garbage, dtype))
                assert_same_bits(call(op, disturbed, where=mask), expected)
                columns = call(op, np.ascontiguousarray(disturbed.T), 0, where=np.broadcast_to(mask, x.shape).T)
                assert_same_bits(columns.T, expected)


def test_a_mask_is_minus_inf(isa, dtype, op):
    """To the bit, where something is left and elements are not counted."""
    rng = np.random.default_rng(0)
    for n in (3, 40, 300, 5000):
        x = (rng.standard_normal((8, n)) * 5).astype(dtype)
        mask = rng.random((8, n)) < 0.6
        mask[:, 0] = True
        if op == "logmeanexp":
            check(op, np.where(mask, x, np.array(-np.inf, dtype)))
        else:
            assert_same_bits(call(op, x, where=mask), call(op, np.where(mask, x, np.array(-np.inf, dtype))))


def test_a_mask_of_ones_changes_nothing(isa, dtype, op):
    x = (np.random.default_rng(0).standard_normal((8, 333)) * 5).astype(dtype)
    for mask in (True, np.True_, [[True]], np.ones(333, bool), np.ones((8, 333), bool), None):
        assert_same_bits(call(op, x, where=mask), call(op, x))


def test_nothing_takes_part(isa, dtype, op):
    for n in (1, 7, 40, 3000):
        x = np.full((11, n), np.nan, dtype)
        for mask in (False, np.zeros(n, bool), np.zeros((11, 1), bool)):
            for axis, a in ((-1, x), (0, x.T.copy())):
                got = call(op, a, axis, where=mask if axis == -1 else np.broadcast_to(mask, x.shape).T)
                assert_same_bits(got, np.full(got.shape, ABSENT[op], dtype))


@pytest.mark.sampled(3)
def test_breakers_under_a_mask(isa, dtype, op):
    rng = np.random.default_rng(0)
    for name, x in few(dtype):
        check(op, x, where=rng.random(x.shape) < 0.7, name=name)


# ---- NaN and inf


def spoilt(op, special):
    return np.inf if op in ("logsumexp", "logmeanexp") and special == np.inf else np.nan


@pytest.mark.sampled(3)
@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf])
def test_a_nan_or_inf_spoils_its_row_only(isa, dtype, op, special):
    for n in (1, 2, 3, 10, 31, 32, 33, 129, 2048, 5000):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((11, n)).astype(dtype)
        good = call(op, x)
        for position in {0, n // 2, n - 1}:
            bad = x.copy()
            bad[3, position] = special
            expected = good.copy()
            expected[3] = spoilt(op, special)  # the canonical quiet NaN, bits included
            assert_same_bits(call(op, bad), expected)
            assert_same_bits(call(op, np.asfortranarray(bad)), expected)
            bad[3, n // 3] = -special if special == np.inf else np.inf
            if n > 1 and n // 3 != position:
                expected[3] = spoilt(op, special)
                assert_same_bits(call(op, bad), expected)


def test_nan_beats_inf(isa, dtype, op):
    for n in (2, 40, 5000):
        for first, second in ((0, n - 1), (n - 1, 0), (0, n // 2)):
            x = np.zeros((11, n), dtype)
            x[1, first], x[1, second] = np.inf, np.nan
            for got in (call(op, x)[1], call(op, x.T.copy(), 0).T[1]):
                assert_same_bits(got, np.full(got.shape, np.nan, dtype))


def test_any_nan_payload_gives_the_one_nan(isa, dtype, op):
    integer = "u4" if dtype == "float32" else "u8"
    quiet = np.array([np.nan], dtype).view(integer)
    x = np.zeros((11, 40), dtype)
    x[0, 5] = (quiet + 77).view(dtype)[0]
    signalling = quiet.copy()
    signalling ^= np.array(1 << (22 if dtype == "float32" else 51), integer)
    x.view(integer)[1, 7] = signalling[0] | 1
    for options in {}, {"where": np.arange(40) < 30}:
        for got in (call(op, x, **options), call(op, x.T.copy(), 0, **{k: v[:, None] for k, v in options.items()}).T):
            spoilt_part = got[:2, :30] if op in NORMALIZERS and options else got[:2]
            assert_same_bits(spoilt_part, np.full(spoilt_part.shape, np.nan, dtype))


def test_rows_of_minus_inf(isa, dtype, op):
    for n in (1, 5, 32, 200, 3000):
        x = np.full((11, n), -np.inf, dtype)  # as columns, more than are gathered one by one
        x[1::2] = 0
        of_minus_inf = -np.inf if op in ("logsumexp", "logmeanexp") else np.nan
        expected = call(op, np.zeros((11, n), dtype))
        expected[::2] = of_minus_inf
        assert_same_bits(call(op, x), expected)
        assert_same_bits(call(op, np.asfortranarray(x)), expected)
        if op in NORMALIZERS:
            assert_same_bits(call(op, x, all_neg_inf="nan"), expected)
            expected[::2] = ABSENT[op]
            assert_same_bits(call(op, x, all_neg_inf="zero"), expected)
            assert_same_bits(call(op, np.asfortranarray(x), all_neg_inf="zero"), expected)


@pytest.mark.parametrize("all_neg_inf", ["nan", "zero"])
@pytest.mark.parametrize("op", NORMALIZERS)
def test_all_neg_inf_with_masks_and_nan(isa, dtype, op, all_neg_inf):
    inf, nan = np.inf, np.nan
    rows = [[-inf, 3, -inf], [3, -inf, 4], [-inf, nan, -inf], [-inf, -inf, nan], [nan, nan, nan], [inf, -inf, 1]]
    for n in (3, 60, 4000):
        x = np.resize(np.array(rows, dtype), (12, 3))[:, np.arange(n) % 3]
        for mask in ([True, False, True], [False, True, False], [False] * 3, [True] * 3):
            options = {"where": np.resize(mask, n), "all_neg_inf": all_neg_inf}
            expected = check(op, x, **options)
            options["where"] = options["where"][:, None]
            assert_same_bits(call(op, x.T.copy(), 0, **options).T, expected)


# ---- empty


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (0, 0), (2, 0, 3), (3, 4, 0)])
def test_empty(shape, dtype, op):
    x = np.empty(shape, dtype)
    for axis in (*range(len(shape)), None, (0, -1) if len(shape) > 1 else (0,), ()):
        joined = range(len(shape)) if axis is None else {i % len(shape) for i in np.atleast_1d(axis).astype(int)}
        kept = shape if op in NORMALIZERS else tuple(n for i, n in enumerate(shape) if i not in joined)
        y = call(op, x, axis)
        assert np.shape(y) == kept
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.full(kept, ABSENT[op], dtype))


# ---- the unit's exception flags


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


@pytest.mark.sampled(3)
@needs_mxcsr
def test_nothing_is_subnormal_on_the_way(isa, dtype, op):
    """What is slow on many CPUs raises a flag: a result that underflows, or a subnormal operand. Softmax makes its
    subnormal results by integer instructions; rows that have such results of other operations are left out, and their
    operands are not looked at, as entries of vectors that are not in use may hold anything. Subnormal inputs are
    compared, which is slow on no CPU; the entropy also takes their differences."""
    flags = ExceptionFlags()
    tiny = np.finfo(dtype).smallest_normal
    tested = 0
    for rows in (breakers, ordinary):
        for name, x, exact, _ in exact_rows(op, dtype, rows):
            if op != "softmax" and np.any((abs(exact) < tiny) & (exact != 0)):
                continue
            if op == "softmax_entropy" and "subnormal inputs" in name:
                continue
            columns = np.repeat(x[:1, :5000].T, 9, axis=1)
            flags.clear()
            call(op, x, num_threads=1)
            call(op, columns, 0, num_threads=1)
            raised = flags.raised() & flags.UNDERFLOW
            if op == "softmax" and "subnormal inputs" not in name:
                raised |= flags.raised() & flags.SUBNORMAL_OPERAND
            assert raised == 0, f"{name}: flags {raised:#x}"
            tested += 1
    assert tested > (130 if WIDE or dtype == "float32" else 50)


@needs_mxcsr
def test_nothing_is_subnormal_in_columns_that_rise(isa, dtype):
    """Their exponentials are relative to less than the maximum (softmax.h), and so closer to the end of the range."""
    depth = 150 if dtype == "float32" else 800
    x = np.random.default_rng(0).uniform(-depth, 0, (300, 64)).astype(dtype)
    x[0] = 0.5  # the largest of the first elements
    x[200] = np.linspace(0, 39, 64)
    flags = ExceptionFlags()
    flags.clear()
    fs.softmax(x, 0, num_threads=1)
    assert flags.raised() & (flags.UNDERFLOW | flags.SUBNORMAL_OPERAND) == 0


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


# ---- the package


def test_every_op_is_public():
    for op in _core.ops():
        assert op in fs.__all__
        assert getattr(fs, op).__module__.startswith("fastsoftmax")
