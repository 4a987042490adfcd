"""fastsoftmax.scipy: SciPy's own tests on it, comparison with SciPy, and the cases where SciPy is not right."""

import ast
import contextlib
import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastsoftmax as fs
import fastsoftmax.scipy as ours

NAMES = ("softmax", "log_softmax", "logsumexp")
inf, nan = np.inf, np.nan


# ---- SciPy's own tests


def scipys_test_files():
    """SciPy's test modules of these functions, {name: path}; log_softmax has its own before 1.16."""
    found = {}
    for name in ("scipy.special.tests.test_logsumexp", "scipy.special.tests.test_log_softmax"):
        with contextlib.suppress(ModuleNotFoundError):
            if spec := importlib.util.find_spec(name):
                found[name] = Path(spec.origin)
    return found


def functions_in(path):
    """The test functions that a file defines, as pytest names them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        for function in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(function, ast.FunctionDef) and function.name.startswith("test"):
                owner = f"{node.name}::" if node is not function else ""
                names.add(f"{path.stem}::{owner}{function.name}")
    return names


def off_by_one(function):
    """`function`, but wrong."""

    def wrong(*args, **kwargs):
        result = function(*args, **kwargs)
        return tuple(part + 1 for part in result) if isinstance(result, tuple) else result + 1

    return wrong


class Replace:
    """A plugin of pytest: SciPy's functions replaced by ours once the tests are collected (not earlier, as their
    decorators know SciPy's functions only), and the outcome of each test."""

    def __init__(self, wrong_one):
        self.functions = {name: getattr(ours, name) for name in NAMES}
        if wrong_one:
            self.functions[wrong_one] = off_by_one(self.functions[wrong_one])
        self.outcomes = {}

    def pytest_collection_modifyitems(self, items):
        for module in {scipy.special, *(item.module for item in items)}:
            for name in NAMES:
                if hasattr(module, name):
                    setattr(module, name, self.functions[name])

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def run_in_this_process(report, wrong_one, *arguments):
    plugin = Replace(wrong_one)
    pytest.main([*arguments], plugins=[plugin])
    Path(report).write_text(json.dumps({"package": fs.__file__, "outcomes": plugin.outcomes}))


def run_scipys_tests(tmp_path, wrong_one=""):
    """{test: outcome} of SciPy's tests on our functions, in a process of their own, as SciPy's conftest.py (which is
    found beside them, and provides their fixtures) changes global settings."""
    files = scipys_test_files()
    if not files:
        pytest.skip("SciPy is installed without its tests.")
    report, settings_file = tmp_path / "report.json", tmp_path / "pytest.ini"
    settings_file.write_text("[pytest]\naddopts = -q -p no:cacheprovider\n")  # not those of this project
    rootdir = ["--rootdir", next(iter(files.values())).parent]
    code = "import sys, test_scipy; test_scipy.run_in_this_process(*sys.argv[1:])"
    left_out = ("PYTEST_ADDOPTS", "SCIPY_ARRAY_API")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, report, wrong_one, "-c", settings_file, *rootdir, "--pyargs", *files],
        env={
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["package"] == fs.__file__
    return result["outcomes"], done.stdout


def test_scipys_own_tests(tmp_path):
    outcomes, output = run_scipys_tests(tmp_path)
    assert set(outcomes.values()) == {"passed"}, output
    expected = set().union(*(functions_in(path) for path in scipys_test_files().values()))
    ran = {nodeid.partition("[")[0] for nodeid in outcomes}
    assert {test.replace(".py::", "::") for test in ran} == expected
    assert len(outcomes) >= len(expected) >= 19  # as many as SciPy 1.14 has


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMES)
def test_scipys_own_tests_notice_a_wrong_function(tmp_path, name):
    outcomes, output = run_scipys_tests(tmp_path, wrong_one=name)
    failed = {test for test, outcome in outcomes.items() if outcome == "failed"}
    assert failed, output
    assert set(outcomes) > failed  # but not those of the other functions


# ---- the same as SciPy


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_scipys(name):
    def parameters(module):
        return [(p.name, p.kind, p.default) for p in inspect.signature(getattr(module, name)).parameters.values()]

    assert parameters(ours) == parameters(scipy.special)
    assert name in ours.__all__


DTYPES = ["f4", "f8", "c8", "c16"]


def numbers(dtype, largest):
    """Numbers of this dtype with parts up to `largest`, many of them equal, none tiny (SciPy's results are NaN)."""
    parts = st.integers(-largest, largest) | st.floats(-largest, largest).map(lambda value: round(value, 3))
    rounded = parts.map(lambda value: float(np.float32(value)))
    return rounded if np.dtype(dtype).kind == "f" else st.builds(complex, rounded, rounded)


def arrays(dtype, shape, largest):
    return hnp.arrays(dtype, shape, elements=numbers(dtype, largest))


def axes_of(ndim):
    """None, an int or a tuple."""
    return st.none() | st.integers(-ndim, ndim - 1) | hnp.valid_tuple_axes(ndim, min_size=1)


def assert_alike(got, expected):
    """Of the same type, dtype and shape."""
    assert type(got) is type(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)


def without_warnings(function, *args, **kwargs):
    """What SciPy gives; its warnings are none of ours."""
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_normalizers_compared_with_scipy(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(arrays(dtype, hnp.array_shapes(max_dims=3, max_side=4), 30))
    axis = data.draw(axes_of(x.ndim))
    wide = x.astype("c16")
    terms = np.exp(wide - x.real.max(axis=axis, keepdims=True))
    total = np.abs(terms.sum(axis=axis, keepdims=True))
    if not np.all(total):
        return
    cancelled = np.abs(terms).sum(axis=axis, keepdims=True) / total
    tolerance = 300 * np.finfo(dtype).eps * cancelled  # SciPy's error: it rounds x - max
    for name in ("softmax", "log_softmax"):
        got = getattr(ours, name)(x, axis)
        expected = without_warnings(getattr(scipy.special, name), x, axis=axis)
        assert_alike(got, expected)
        if name == "softmax":
            assert np.all(np.abs(got - expected) <= tolerance * np.abs(expected))
        else:  # their angles may differ by a turn where the sum is close to the negative axis
            assert np.all(np.abs(np.exp(got.astype("c16") - expected) - 1) <= tolerance)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_logsumexp_compared_with_scipy(data):
    dtype_a, dtype_b = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(DTYPES))
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=4))
    a = data.draw(arrays(dtype_a, shapes.input_shapes[0], 30))
    b = data.draw(st.none() | arrays(dtype_b, shapes.input_shapes[1], 3))
    shape = a.shape if b is None else shapes.result_shape
    options = {"axis": data.draw(axes_of(len(shape))), "b": b, "keepdims": data.draw(st.booleans())}

    got, sign = ours.logsumexp(a, **options, return_sign=True)
    promoted = a if b is None else a.astype(np.result_type(a, b))  # SciPy 1.14 does not do it itself
    expected = without_warnings(scipy.special.logsumexp, promoted, **options, return_sign=True)
    assert_alike(got, expected[0])
    assert_alike(sign, expected[1])

    # The sums themselves are compared, over e^max: the logarithm of a sum that cancels has no digits.
    largest = np.max(a.real)
    weights = 1 if b is None else np.max(np.abs(b))
    tolerance = 300 * np.finfo(got.dtype).eps * weights * math.prod(shape)
    sums = sign * np.exp(got - largest)
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(sums, expected[1] * np.exp(expected[0] - largest), rtol=0, atol=tolerance)

    log = ours.logsumexp(a, **options)
    if sign.dtype.kind == "c":
        assert_alike(log, sign)
        assert np.all(np.abs(log.imag) <= np.pi)
        np.testing.assert_allclose(np.exp(log - largest), sums, rtol=0, atol=tolerance)
    else:
        np.testing.assert_array_equal(log, np.where(sign < 0, nan, got))


INFINITE = [
    # a, b, logarithm of the absolute value, sign
    ([inf], None, inf, 1),
    ([inf], [-1], inf, -1),
    ([-inf, inf], None, inf, 1),
    ([inf, inf], None, inf, 1),
    ([inf, 1], [-1, 1], inf, -1),
    ([inf, inf], [1, -1], nan, nan),
    ([-inf], None, -inf, 0),
    ([-inf, -inf], None, -inf, 0),
    ([-inf, -inf], [-1, -1], -inf, 0),
    ([-inf, 1], None, 1, 1),
    ([nan, 1], None, nan, nan),
    ([nan, inf], None, nan, nan),
    ([inf, 1], [0, 1], 1, 1),
    ([nan, 1], [-0.0, 1], 1, 1),
    ([1, 10000], [1, 0], 1, 1),
    ([1, 1], 0, -inf, 0),
    ([1, 1], [1, -1], -inf, 0),
    ([1, 1], [nan, 1], nan, nan),
    ([-inf, 1], [nan, 1], nan, nan),
    ([1, 1], [inf, 1], inf, 1),
    ([1, 1], [-inf, 1], inf, -1),
    ([1, 1], [inf, -inf], nan, nan),
    ([-inf, 1], [inf, 1], nan, nan),
    ([inf, 1], [inf, -1], inf, 1),
    ([], None, -inf, 0),
    ([], 2, -inf, 0),
]


@pytest.mark.parametrize(("a", "b", "value", "sign"), INFINITE)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_infinite_and_missing_terms(dtype, a, b, value, sign):
    a = np.array(a, dtype)
    got = ours.logsumexp(a, b=b, return_sign=True)
    np.testing.assert_array_equal(got, (value, sign))
    np.testing.assert_array_equal(ours.logsumexp(a, b=b), nan if sign == -1 else value)


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1000, 1000], [1e-300, 1e-300], 309.9176192823462),
        ([709, 1000], [1e308, 1e308], 1709.196208642166),
        ([1000, 1000], [1e308, 1e308], 1709.8893558227257),
        ([0, 0], [5e-324, 5e-324], -743.7469247408213),
        ([800, 0], [5e-324, 1], 55.55992807861878),
        ([0, -40], None, 4.248354255291589e-18),
    ],
)
def test_extreme_terms(a, b, value):
    units = 4e-16 * max(a)  # 2 ULP of the largest term
    np.testing.assert_allclose(ours.logsumexp(a, b=b), value, rtol=1e-15, atol=units)
    np.testing.assert_allclose(ours.logsumexp(np.array(a, complex), b=b), value, rtol=1e-15, atol=units)


# ---- types, dtypes, shapes


@pytest.mark.parametrize("x", [3, 3.5, True, np.float64(2), np.array(2), 1 + 2j, np.array(1j)])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_scalars(x, axis):
    type_of_result = np.complex128 if np.iscomplexobj(x) else np.float64
    for name, value in (("softmax", 1), ("log_softmax", 0), ("logsumexp", x)):
        got = getattr(ours, name)(x, axis)
        assert type(got) is type_of_result
        np.testing.assert_allclose(got, value, rtol=1e-15)
    value, sign = ours.logsumexp(x, axis, return_sign=True)
    assert (type(value), type(sign)) == (np.float64, type_of_result)
    kept = ours.logsumexp(x, axis, keepdims=True)  # as SciPy from 1.15 on
    assert_alike(kept, np.zeros(1, type_of_result))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g", "c8", "c16", "G", ">f4", ">c16", ml_dtypes.bfloat16])
def test_dtype_of_the_result(dtype):
    x = np.array([[1, 2], [3, 4]], dtype)
    native = x.dtype.newbyteorder("=")
    for axis in (None, 1, (0, 1)):
        assert ours.softmax(x, axis).dtype == ours.log_softmax(x, axis).dtype == native
        assert ours.logsumexp(x, axis).dtype == native
        value, sign = ours.logsumexp(x, axis, return_sign=True)
        assert sign.dtype == native
        assert value.dtype == (native if native.kind != "c" else np.finfo(native).dtype)


F4 = np.array([1, 2], "f4")


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [  # Python's scalars adapt to arrays, as in NumPy and in SciPy from 1.16 on
        (F4, 2.5, "f4"),
        (F4, 2, "f4"),
        (F4, True, "f4"),
        (1.5, F4, "f4"),
        (1, F4, "f4"),
        (np.float32(1), 2.5, "f4"),
        (F4, np.float64(2), "f8"),
        (F4, [1.0, 2.0], "f8"),
        (F4, np.array([1, 2]), "f8"),
        (F4, np.array([1, 2], "i2"), "f4"),
        (F4.astype("f2"), np.array([1, 2], "i1"), "f2"),
        (F4.astype("f2"), np.array([True, False]), "f2"),
        (np.array([1, 2], "i1"), F4.astype("f2"), "f2"),
        (np.array([1, 2], "i1"), np.array([1, 2], "i1"), "f8"),
        (np.array([1, 2], "i1"), 2.5, "f8"),
        (np.array([1, 2], "i1"), 1000, "f8"),
        (1, 2, "f8"),
        (F4, 2j, "c8"),
        (1j, F4, "c8"),
        (F4, [2j, 1], "c16"),
        (F4.astype("c8"), 2.5, "c8"),
        (F4.astype("c8"), np.array([1.0, 2.0]), "c16"),
        (F4.astype("c8"), np.array([1, 2], "i1"), "c8"),
        (F4.astype("c8"), np.array([1, 2]), "c16"),
        (F4.astype("c8"), F4.astype("g"), "G"),
        (1, 2j, "c16"),
    ],
)
def test_common_dtype_of_a_and_b(a, b, dtype):
    got = ours.logsumexp(a, b=b)
    assert got.dtype == dtype
    exact = np.log(np.sum(np.asarray(b, "G") * np.exp(np.asarray(a, "G"))))
    np.testing.assert_allclose(got, exact, rtol=4 * np.finfo(dtype).eps)


def test_shapes():
    a, b = np.zeros((4, 1, 2, 1)), np.ones((3, 1, 5))
    for dtype in ("f8", "c16"):
        a = a.astype(dtype)
        assert ours.logsumexp(a, b=b, axis=(0, -1)).shape == (3, 2)
        assert ours.logsumexp(a, b=b, axis=(0, -1), keepdims=True).shape == (1, 3, 2, 1)
        assert ours.logsumexp(a, b=b, axis=()).shape == (4, 3, 2, 5)
        np.testing.assert_allclose(ours.logsumexp(a, b=b), np.log(120), rtol=1e-15)
        assert ours.logsumexp(np.array(1, dtype), b=np.ones((3, 1)), axis=1).shape == (3,)
        assert ours.softmax(a, ()).tolist() == np.ones_like(a).tolist()
        for empty in ((0,), (3, 0), (0, 3)):
            x = np.zeros(empty, dtype)
            for axis in (None, -1, 0):
                assert_alike(ours.softmax(x, axis), x)
                assert_alike(ours.log_softmax(x, axis), x)
                value, sign = ours.logsumexp(x, axis, return_sign=True)
                assert value.shape == sign.shape == np.sum(x, axis).shape
                assert np.all(value == -inf)
                assert np.all(sign == 0)


def test_arguments_are_not_written_to():
    for dtype in ("f8", "c16", "G"):
        a, b = np.array([[0, 1, inf], [1, 2, 3]], dtype), np.array([1, -1, 0], dtype)
        copies = a.copy(), b.copy()
        for axis in (None, 0, 1):
            ours.softmax(a, axis)
            ours.log_softmax(a, axis)
            ours.logsumexp(a, axis, b)
        np.testing.assert_array_equal(a, copies[0])
        np.testing.assert_array_equal(b, copies[1])


# ---- complex numbers


def mpc(z):
    return mpmath.mpc(float(z.real), float(z.imag))


@pytest.mark.parametrize("dtype", ["c8", "c16"])
@pytest.mark.parametrize(("spread", "turns", "n"), [(1, 1, 3), (30, 3, 20), (300, 3, 20), (1, 1e4, 5), (10, 1e-8, 5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy_of_complex(dtype, spread, turns, n, weighted):
    """Errors in units of eps, over the factor by which the sum cancels. SciPy 1.17 reaches 2 for the first row of
    parameters and thousands for (1, 1e4, 5)."""
    rng = np.random.default_rng(0)
    eps = float(np.finfo(dtype).eps)
    for _ in range(30):
        a = (rng.standard_normal(n) * spread + 1j * rng.standard_normal(n) * turns).astype(dtype)
        b = (rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(dtype) if weighted else np.ones(n, dtype)
        with mpmath.workdps(60):
            terms = [mpc(weight) * mpmath.exp(mpc(z)) for z, weight in zip(a, b, strict=True)]
            total = mpmath.fsum(terms)
            log = mpmath.log(total)
            unit = eps * mpmath.fsum(map(abs, terms)) / abs(total)

            got = mpc(ours.logsumexp(a, b=b if weighted else None))
            largest = max(1, abs(log.real), max(abs(a.real)))
            assert abs(got.real - log.real) <= 4 * max(unit, eps * largest)
            assert abs(got.imag - log.imag) <= 4 * unit
            value, sign = ours.logsumexp(a, b=b if weighted else None, return_sign=True)
            assert float(value) == got.real
            assert abs(mpc(sign) - total / abs(total)) <= 4 * unit
            if weighted:
                continue

            for z, y, log_y, term in zip(a, ours.softmax(a), ours.log_softmax(a), terms, strict=True):
                if abs(term / total) > np.finfo(dtype).smallest_normal:
                    assert abs(mpc(y) - term / total) <= 4 * unit * abs(term / total)
                difference = mpc(log_y) - (mpc(z) - log)
                turn = 2 * mpmath.pi * mpmath.nint(difference.imag / (2 * mpmath.pi))
                assert abs(difference.real) <= 4 * max(unit, eps * abs((mpc(z) - log).real))
                assert abs(difference.imag - turn) <= 4 * max(unit, eps * abs(log_y.imag))


@pytest.mark.parametrize("dtype", ["c8", "c16", "G"])
def test_complex_numbers_that_are_real(dtype):
    real = np.finfo(dtype).dtype
    x = np.random.default_rng(0).standard_normal((5, 40)).astype(real) * 20
    for axis in (None, 0, 1):
        for name in NAMES:
            got = getattr(ours, name)(x.astype(dtype), axis)
            assert np.all(got.imag == 0)
            np.testing.assert_allclose(got.real, getattr(ours, name)(x, axis), rtol=16 * np.finfo(real).eps)


def test_one_term_that_outweighs_the_rest():
    """The logarithm keeps its relative accuracy, the sum being 1 + 4e-18; SciPy gives 0."""
    with mpmath.workdps(60):
        exact = mpmath.log1p(mpmath.exp(mpmath.mpc(-40, 1)))
    got = ours.logsumexp([-40 + 1j, 0])
    assert abs(mpc(got) - exact) < 1e-15 * abs(exact)
    assert ours.log_softmax([-40 + 1j, 0])[1] == -got
    shifted = ours.logsumexp([-40 + 3j, 2j], b=[2, 2])
    np.testing.assert_allclose(shifted, np.log(2) + 2j, rtol=1e-15)


def test_imaginary_part_is_in_the_principal_branch():
    for dtype in ("c8", "c16", "G"):
        pi = np.angle(np.array(-1, dtype))
        for a in (np.zeros(1, "f4"), np.array([1, 2], "f4")):
            assert ours.logsumexp(a, b=np.array(-1, dtype)).imag == pi
            assert ours.logsumexp(a, b=np.array(complex(-1, -0.0)).astype(dtype)).imag == pi
            assert ours.logsumexp(a, b=np.array(complex(-1, -1e-45)).astype(dtype)).imag == pi
    np.testing.assert_allclose(ours.logsumexp(10j), 10j - 4j * np.pi, rtol=1e-15)
    # log_softmax is continuous around the largest element instead, as SciPy's.
    np.testing.assert_array_equal(ours.log_softmax([1 + 10j, 1 + 10j]), [-np.log(2)] * 2)
    np.testing.assert_allclose(ours.log_softmax([0j, -700 + 100j]), [0, -700 + 100j], atol=1e-300)


def test_exact_complex_results():
    assert ours.logsumexp(1j) == 1j
    assert ours.logsumexp([3 + 1j]) == 3 + 1j
    np.testing.assert_array_equal(ours.softmax([5 + 7j] * 4), [0.25] * 4)
    np.testing.assert_array_equal(ours.softmax([complex(-inf, 2), 0, 0]), [0, 0.5, 0.5])
    assert ours.logsumexp([1, 1j], b=[0, 1]) == 1j
    assert ours.logsumexp([complex(nan, nan), 2], b=[0, 1]) == 2
    assert ours.logsumexp([complex(-inf, nan), 2]) == 2
    assert ours.logsumexp([0j, 0j], b=[1, -1]) == -inf
    assert ours.logsumexp([0j, 0j], b=[1, -1], return_sign=True) == (-inf, 0)
    assert ours.logsumexp([complex(-inf, 3)] * 2, return_sign=True) == (-inf, 0)
    assert ours.logsumexp([complex(inf, 0), 1]) == inf
    for x in ([complex(inf, 1), 0], [complex(0, inf), 0], [complex(-inf, 0)] * 2, [nan + 0j, 0]):
        assert np.all(np.isnan(ours.softmax(x)))
        assert np.all(np.isnan(ours.log_softmax(x)))
    assert np.all(np.isnan(ours.logsumexp([complex(0, inf), 1], return_sign=True)))


def test_sum_does_not_depend_on_axis_or_layout():
    x = np.random.default_rng(0).standard_normal((1000, 3, 2)) * (1 + 2j)
    for name in NAMES:
        function = getattr(ours, name)
        np.testing.assert_array_equal(function(x, 0), function(x.T, 2).T)
        np.testing.assert_array_equal(function(x, (0, 2)), function(np.asfortranarray(x), (0, 2)))
        np.testing.assert_array_equal(function(x), function(x.ravel()).reshape(np.shape(function(x))))


# ---- where SciPy is not right, and errors


def test_integers_neither_wrap_around_nor_lose_precision():
    expected = [scipy.special.expit(-200), 1]
    for x in (np.array([0, 200], "u1"), np.array([-100, 100], "i1")):  # SciPy: NaN, or float16
        assert ours.softmax(x).dtype == np.float64
        np.testing.assert_allclose(ours.softmax(x), expected, rtol=1e-15)
        np.testing.assert_allclose(ours.log_softmax(x), [-200, -np.exp(-200)], rtol=1e-15)
    x = np.array([-(2**31), 2**31 - 1], "i4")
    assert ours.softmax(x).tolist() == [0, 1]
    assert ours.log_softmax(x).tolist() == [-(2.0**32) + 1, 0]
    assert ours.softmax([True, False]).tolist() == ours.softmax([1, 0]).tolist()  # SciPy: TypeError


def test_sums_of_16_bit_numbers():
    assert np.all(ours.softmax(np.zeros(4096, ml_dtypes.bfloat16)).astype("f4") == 2.0**-12)
    assert ours.logsumexp(np.zeros(70000, "f2")) == np.float16(np.log(70000))


def test_infinity_in_log_softmax():
    assert np.all(np.isnan(ours.log_softmax([inf, 1])))  # SciPy: [nan, -inf]


@pytest.mark.parametrize("name", NAMES)
def test_errors(name):
    function = getattr(ours, name)
    for dtype in ("f8", "c16"):
        x = np.ones((2, 3), dtype)
        with pytest.raises(TypeError, match=rf"{name}\(\) got a numpy.ma.MaskedArray"):
            function(np.ma.array(x))
        with pytest.raises(np.exceptions.AxisError):
            function(x, 2)
        with pytest.raises(np.exceptions.AxisError):
            function(np.zeros((0, 3), dtype), 2)
        with pytest.raises(ValueError, match="repeated axis"):
            function(x, (0, -2))
        with pytest.raises(TypeError, match="axis must be an int, a tuple of ints or None, got float"):
            function(x, 0.5)
    for x in (None, "a", np.array([1, 1j], object), np.array(["2020"], "M8[D]")):
        with pytest.raises(TypeError):
            function(x)


@pytest.mark.parametrize("a", [[1.0, 2.0], [1j, 2.0]])
def test_errors_of_weights(a):
    with pytest.raises(TypeError, match="MaskedArray"):
        ours.logsumexp(a, b=np.ma.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="broadcast"):
        ours.logsumexp(a, b=[1.0, 2.0, 3.0])
    for b in ("a", np.array([1, 1j], object), np.array(["2020"], "M8[D]")):
        with pytest.raises(TypeError):
            ours.logsumexp(a, b=b)
