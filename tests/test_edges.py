"""The edge cases of the documentation, one by one, for every dtype and layout; and anything that hypothesis thinks of,
against the oracle and, where it is right, SciPy."""

import warnings

import ml_dtypes
import numpy as np
import pytest
import scipy.special
from contract import (
    ABSENT,
    FORWARD,
    NORMALIZERS,
    STORAGES,
    call,
    check_accuracy,
    compute_of,
    exact_and_largest_term,
    result_of,
    takes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import assert_same_bits

import fastsoftmax as fs

INF, NAN = np.inf, np.nan
LOG2, LOG3 = np.log(2), np.log(3)

# ---- one by one

EDGES = {
    "row all -inf": (
        [-INF, -INF, -INF],
        {},
        {"softmax": [NAN] * 3, "log_softmax": [NAN] * 3, "logsumexp": -INF, "logmeanexp": -INF, "softmax_entropy": NAN},
    ),
    "row all -inf, as zero": (
        [-INF, -INF, -INF],
        {"all_neg_inf": "zero"},
        {"softmax": [0] * 3, "log_softmax": [-INF] * 3},
    ),
    "all that take part are -inf": (
        [-INF, 5, -INF],
        {"where": [True, False, True]},
        {
            "softmax": [NAN, 0, NAN],
            "log_softmax": [NAN, -INF, NAN],
            "logsumexp": -INF,
            "logmeanexp": -INF,
            "softmax_entropy": NAN,
        },
    ),
    "all that take part are -inf, as zero": (
        [-INF, 5, -INF],
        {"where": [True, False, True], "all_neg_inf": "zero"},
        {"softmax": [0] * 3, "log_softmax": [-INF] * 3},
    ),
    "some -inf": (
        [0, -INF, 0],
        {},
        {
            "softmax": [0.5, 0, 0.5],
            "log_softmax": [-LOG2, -INF, -LOG2],
            "logsumexp": LOG2,
            "logmeanexp": LOG2 - LOG3,
            "softmax_entropy": LOG2,
        },
    ),
    "a +inf": (
        [0, INF, 1],
        {},
        {"softmax": [NAN] * 3, "log_softmax": [NAN] * 3, "logsumexp": INF, "logmeanexp": INF, "softmax_entropy": NAN},
    ),
    "a NaN": (
        [0, NAN, 1],
        {},
        {"softmax": [NAN] * 3, "log_softmax": [NAN] * 3, "logsumexp": NAN, "logmeanexp": NAN, "softmax_entropy": NAN},
    ),
    "a NaN and +inf": (
        [NAN, INF, 1],
        {},
        {"softmax": [NAN] * 3, "log_softmax": [NAN] * 3, "logsumexp": NAN, "logmeanexp": NAN, "softmax_entropy": NAN},
    ),
    "a NaN among -inf, as zero": (
        [-INF, NAN, -INF],
        {"all_neg_inf": "zero"},
        {"softmax": [NAN] * 3, "log_softmax": [NAN] * 3},
    ),
    "a NaN row with a mask": (
        [NAN, 2, 1],
        {"where": [True, False, True]},
        {
            "softmax": [NAN, 0, NAN],
            "log_softmax": [NAN, -INF, NAN],
            "logsumexp": NAN,
            "logmeanexp": NAN,
            "softmax_entropy": NAN,
        },
    ),
    "a masked NaN": (
        [0, NAN, 0],
        {"where": [True, False, True]},
        {
            "softmax": [0.5, 0, 0.5],
            "log_softmax": [-LOG2, -INF, -LOG2],
            "logsumexp": LOG2,
            "logmeanexp": 0,
            "softmax_entropy": LOG2,
        },
    ),
    "nothing takes part": (
        [NAN, 2, INF],
        {"where": False},
        {"softmax": [0] * 3, "log_softmax": [-INF] * 3, "logsumexp": -INF, "logmeanexp": NAN, "softmax_entropy": 0},
    ),
    "one element": (
        [-7.5],
        {},
        {"softmax": [1], "log_softmax": [0], "logsumexp": -7.5, "logmeanexp": -7.5, "softmax_entropy": 0},
    ),
}
FLOATS = [name for name, dtype in STORAGES.items() if dtype.kind not in "biu"]


@pytest.mark.parametrize(("case", "op"), [(case, op) for case, (_, _, results) in EDGES.items() for op in results])
def test_edge(case, op):
    row, options, results = EDGES[case]
    expected = np.array(results[op], float)
    by_column = {k: np.broadcast_to(v, len(row))[:, None] if k == "where" else v for k, v in options.items()}
    for storage in FLOATS:
        x = np.array(row, STORAGES[storage])
        epsilon = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6}.get(storage.removeprefix("swapped "), 1e-15)
        with np.errstate(all="raise"):
            got = np.asarray(call(op, x, **options))
            np.testing.assert_allclose(got.astype(float), expected, rtol=epsilon, atol=epsilon, err_msg=storage)
            many = np.broadcast_to(got, (40, *got.shape))
            assert_same_bits(call(op, np.tile(x, (40, 1)), **options), many, storage)
            assert_same_bits(call(op, np.tile(x[:, None], 40), 0, **by_column).T, many, storage)


@pytest.mark.parametrize("storage", STORAGES)
def test_empty(op, storage):
    dtype = STORAGES[storage]
    result = np.dtype(float) if dtype.kind in "biu" else dtype.newbyteorder("=")
    for shape, axis, reduced in (
        ((2, 0), 1, (2,)), ((2, 0), 0, (0,)), ((0,), 0, ()), ((0, 3), 1, (0,)), ((0, 3), (0, 1), ()),
        ((2, 0, 3), (1, 2), (2,)), ((2, 0, 3), (0, 2), (0,)), ((0, 0), None, ()), ((2, 0), (), (2, 0)),
    ):  # fmt: skip
        x = np.zeros(shape, dtype)
        with np.errstate(all="raise"):
            got = call(op, x, axis)
        assert got.dtype == result
        assert np.shape(got) == (shape if op in NORMALIZERS else reduced)
        np.testing.assert_array_equal(np.asarray(got, float), np.full(np.shape(got), ABSENT[op]))
        assert_same_bits(call(op, x, axis, where=True), got)
        assert_same_bits(call(op, x, axis, where=np.zeros(shape, bool)), got)
        if takes(op, "out"):
            out = np.full(np.shape(got), 7, result)
            assert call(op, x, axis, out=out) is out
            assert_same_bits(out, got)
        if takes(op, "keepdims"):
            assert call(op, x, axis, keepdims=True).shape == x.sum(axis, keepdims=True).shape
    assert np.shape(fs.logsumexp(np.zeros((2, 0), dtype), 1, return_sign=True)[1]) == (2,)


def test_half_precision_does_not_overflow_on_the_way():
    for half in (np.float16, ml_dtypes.bfloat16):
        x = np.full(4096, 60000, half)
        assert fs.logsumexp(x) == x[0]
        np.testing.assert_array_equal(fs.softmax(x), np.full(4096, 1 / 4096, half))
        assert fs.logsumexp(np.array([60000, -60000], half)) == x[0]


def test_ints_that_wrap_around_elsewhere():
    whole = np.array([-(2**31), 2**31 - 1], np.int32)
    np.testing.assert_array_equal(fs.softmax(whole), [0, 1])
    np.testing.assert_array_equal(fs.log_softmax(whole), [1 - 2.0**32, 0])
    assert fs.logsumexp(whole) == 2.0**31 - 1
    np.testing.assert_allclose(fs.softmax(np.array([0, 200], np.uint8)), [np.exp(-200), 1], rtol=1e-15)
    np.testing.assert_allclose(fs.softmax(np.array([0, 5], np.uint32)), [1 / (1 + np.exp(5)), 1 / (1 + np.exp(-5))])
    np.testing.assert_allclose(fs.softmax([True, False]), [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-15)
    np.testing.assert_array_equal(fs.softmax(np.array([2**64 - 1, 0], np.uint64)), [1, 0])


def test_many_dimensions(op):
    for ndim in (8, 32, 64):
        x = np.arange(4.0).reshape((1,) * (ndim - 2) + (2, 2))
        np.testing.assert_array_equal(np.ravel(call(op, x)), np.ravel(call(op, np.arange(4.0).reshape(2, 2))))
        np.testing.assert_array_equal(np.ravel(call(op, x, None)), np.ravel(call(op, np.arange(4.0))))
        np.testing.assert_array_equal(np.ravel(call(op, x, tuple(range(ndim)))), np.ravel(call(op, np.arange(4.0))))
    x = np.random.default_rng(0).standard_normal((2,) * 16)
    for axis in (0, 7, 15, tuple(range(0, 16, 2)), (3, 4)):
        check_accuracy(op, call(op, x, axis), *exact_and_largest_term(op, x, axis))


# ---- anything


def elements_of(dtype):
    """Ordinary numbers, specials, and the ends of the range."""
    fmt = np.finfo(dtype)
    special = [INF, -INF, NAN, 0.0, -0.0, 1.0, fmt.max, -fmt.max, fmt.smallest_subnormal, -fmt.smallest_normal, 2.0**21]
    ordinary = st.floats(-100, 100, width=32)
    finite = st.floats(width=32 if dtype == np.float32 else 64, allow_nan=False, allow_infinity=False)
    return st.one_of(ordinary, ordinary, ordinary, finite, st.sampled_from([float(value) for value in special]))


@st.composite
def problems(draw):
    """(op, x, axis, options) of any shape, order and steps."""
    op = draw(st.sampled_from(FORWARD))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=9))
    elements = elements_of(dtype) if draw(st.booleans()) else st.floats(-60, 60, width=32)
    x = draw(hnp.arrays(dtype, shape, elements=elements))
    if x.ndim:
        x = x.transpose(draw(st.permutations(range(x.ndim))))
        if draw(st.booleans()):
            x = draw(hnp.basic_indices(x.shape, allow_ellipsis=False, allow_newaxis=True).map(lambda index: x[index]))
            x = np.asarray(x)
    axes = st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.sampled_from([0, -1])
    several = st.lists(st.sampled_from(range(x.ndim)), unique=True).map(tuple) if x.ndim else st.just(())
    axis = draw(st.one_of(axes, several, st.none()))
    options = {}
    if draw(st.booleans()):
        options["where"] = draw(hnp.arrays(bool, draw(st.sampled_from([x.shape, x.shape[1:], ()]))))
    if takes(op, "temperature") and draw(st.booleans()):
        options["temperature"] = draw(st.sampled_from([0.7, 1e-3, 1e3, 1e-20, 1e20, 3]))
    if takes(op, "all_neg_inf"):
        options["all_neg_inf"] = draw(st.sampled_from(["nan", "zero"]))
    return op, x, axis, options


@pytest.mark.sampled(4)
@pytest.mark.parametrize("part", range(4))  # of the examples
@settings(max_examples=250, deadline=None)
@given(problem=problems())
def test_anything(part, problem):
    op, x, axis, options = problem
    with np.errstate(all="raise"):
        got = call(op, x, axis, **options)
    assert got.dtype == x.dtype
    exact = exact_and_largest_term(op, x, axis, **options)
    assert np.shape(got) == np.shape(exact[0])
    check_accuracy(op, got, *exact)
    if x.ndim:
        assert type(got) is np.ndarray or (op not in NORMALIZERS and np.shape(got) == ())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", range(3))  # of the examples
@settings(max_examples=240, deadline=None)
@given(problem=problems(), storage=st.sampled_from(list(STORAGES)))
def test_any_storage(part, problem, storage):
    """As if it had been converted to what the arithmetic is done in, and the result rounded once."""
    op, x, axis, options = problem
    with np.errstate(all="ignore"):
        if STORAGES[storage].kind in "biu":
            x = np.nan_to_num(x, nan=0, posinf=1, neginf=0).clip(0, 100)
        # Every third element of a larger array.
        stored = np.zeros((*x.shape, 3), STORAGES[storage])[..., 1]
        stored[...] = x.astype(STORAGES[storage])
        expected = np.asarray(call(op, stored.astype(compute_of(result_of(storage))), axis, **options))
        expected = expected.astype(result_of(storage))
    with np.errstate(all="raise"):
        got = np.asarray(call(op, stored, axis, **options))
    assert got.dtype == expected.dtype
    assert_same_bits(np.isnan(got), np.isnan(expected))
    assert_same_bits(got[~np.isnan(got)], expected[~np.isnan(got)])


@settings(max_examples=300, deadline=None)
@given(problems(), st.data())
def test_scipy_agrees_where_it_is_right(problem, data):
    """Float64, without masks and temperature, on slices that are not empty and without +inf (XX
    log_softmax says -inf). Its error is that of x - max, and what log_softmax loses in confident rows."""
    op, x, axis, _ = problem
    x = np.where(x == INF, 0, x.astype(np.float64))
    if x.size == 0 or op not in ("softmax", "log_softmax", "logsumexp") or axis == ():
        return
    finite = np.isfinite(x).all() and abs(x).max() < 1e300
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if op == "logsumexp" and data.draw(st.booleans()):
            b = data.draw(hnp.arrays(float, x.shape, elements=st.sampled_from([1.0, 2.0, 0.5, 3.0])))
            expected = scipy.special.logsumexp(x, axis, b=b)
            got = fs.logsumexp(x, axis, b=b)
        else:
            expected = getattr(scipy.special, op)(x, axis)
            got = call(op, x, axis)
    assert np.shape(got) == np.shape(expected)
    if finite:
        tolerance = 1e-13 * max(1.0, abs(x).max())
        np.testing.assert_allclose(got, expected, rtol=min(tolerance, 1e-3), atol=tolerance)
    else:  # there it may say NaN where there is a number
        assert not np.any(np.isnan(got) & ~np.isnan(expected))
