"""linear_cross_entropy and linear_cross_entropy_with_grad: against the plain composition, memory, errors."""

import inspect
import itertools

import ml_dtypes
import numpy as np
import pytest
from contract import LAYOUTS, loss_options, refused, targets_for, views
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LONG, assert_same_bits, plain_cross_entropy
from test_memory import peak

import fastsoftmax as fs

REDUCTIONS = ["none", "sum", "mean"]
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-12, LONG().dtype.name: 1e-14}
"""Of sums of products: relative to the largest number of a result."""


def numbers(dtype, rows=(20,), features=7, classes=11, seed=0):
    """x, linear_weight and linear_bias."""
    rng = np.random.default_rng(seed)
    shapes = (*rows, features), (classes, features), (classes,)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def plain(x, matrix, target, bias=None, **options):
    """All results in long double."""
    x, matrix = x.astype(LONG), matrix.astype(LONG)
    logits = x @ matrix.T + (0 if bias is None else bias.astype(LONG))
    loss, gradient = plain_cross_entropy(logits, target, **options)
    rows = gradient.reshape(-1, len(matrix))
    d_matrix = rows.T @ x.reshape(len(rows), x.shape[-1])
    return loss, gradient @ matrix, d_matrix, None if bias is None else rows.sum(0)


def both(x, matrix, target, bias=None, **options):
    """All results; the loss is the same without gradients."""
    results = fs.linear_cross_entropy_with_grad(x, matrix, target, bias, **options)
    alone = fs.linear_cross_entropy(x, matrix, target, bias, **options)
    assert type(alone) is type(results[0])
    assert_close((alone,), results[:1], 1e-6 if np.asarray(alone).dtype == np.float32 else 1e-13)
    return results


def assert_close(got, expected, tolerance, message=""):
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None), message
        if a is not None:
            assert np.shape(a) == np.shape(b), message
            b = np.asarray(b, LONG)
            largest = np.max(abs(b[np.isfinite(b)]), initial=0)
            a = np.asarray(a).astype(LONG)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest, err_msg=message)


def test_signatures():
    options = "weight=None, ignore_index=None, label_smoothing=0.0, reduction='mean', z_loss=0.0, softcap=None"
    for function in (fs.linear_cross_entropy, fs.linear_cross_entropy_with_grad):
        given = inspect.signature(function).parameters
        bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given.values()]
        expected = f"(x, linear_weight, target, linear_bias=None, *, {options}, memory_budget={64 << 20}, "
        assert str(inspect.Signature(bare)) == f"{expected}progress=None, num_threads=None)"


# ---- what they are


@pytest.mark.parametrize("rows", [(), (20,), (4, 5), (2, 3, 4)])
@pytest.mark.parametrize("biased", [False, True])
def test_the_plain_composition(dtype, rows, biased):
    x, weight, bias = numbers(dtype, rows)
    rng, count = np.random.default_rng(1), int(np.prod(rows))
    bias = bias if biased else None
    logits = np.broadcast_to(0, (count, 11)) + rng.random((count, 11))
    grid = itertools.product(targets_for(logits, rng), loss_options(11, rng), REDUCTIONS, [None, 4.0])
    for i, ((kind, target), options, reduction, softcap) in enumerate(grid):
        target = target.reshape(rows + target.shape[1:])
        options = options | {"reduction": reduction, "softcap": softcap}
        expected = plain(x, weight, target, bias, **options)
        got = both(x, weight, target, bias, memory_budget=[1, 1000, 64 << 20][i % 7 % 3], **options)
        assert [np.asarray(a).dtype.name for a in got[:3]] == [dtype] * 3
        assert_close(got, expected, TOLERANCE[dtype], f"{kind}, {list(options)}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch(reduction):
    torch = pytest.importorskip("torch")
    x, weight, bias = numbers("float64")
    rng = np.random.default_rng(1)
    for (_, target), smoothing, scales in itertools.product(
        targets_for(rng.random((20, 11)), rng), [0.0, 0.2], [None, rng.random(11) + 0.5]
    ):
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
        loss = torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(*leaves),
            torch.tensor(target),
            scales if scales is None else torch.tensor(scales),
            label_smoothing=smoothing,
            reduction=reduction,
        )
        expected = loss.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(loss.sum(), leaves))
        got = both(x, weight, target, bias, weight=scales, label_smoothing=smoothing, reduction=reduction)
        assert_close(got, expected, 1e-12)


def test_ignored_rows(dtype):
    x, weight, bias = numbers(dtype)
    target = np.arange(20) % 11
    target[[2, 9, 19]] = -100
    kept = target >= 0
    for spoilt, reduction, budget in itertools.product((0, np.nan, np.inf), REDUCTIONS, (1, 1 << 20)):
        x[~kept] = spoilt
        options = {"reduction": reduction, "ignore_index": -100, "memory_budget": budget, "z_loss": 0.01}
        loss, *gradients = both(x, weight, target, bias, **options)
        expected, d_x, *others = plain(x[kept], weight, target[kept], bias, reduction=reduction, z_loss=0.01)
        assert_close([loss[kept] if reduction == "none" else loss], [expected], TOLERANCE[dtype])
        assert_close([gradients[0][kept], *gradients[1:]], [d_x, *others], TOLERANCE[dtype])
        assert_same_bits(gradients[0][~kept], np.zeros((3, 7), dtype))
        if reduction == "none":
            assert_same_bits(loss[~kept], np.zeros(3, dtype))
        nothing = both(x, weight, np.full(20, -100), bias, **options)
        np.testing.assert_array_equal(nothing[0], {"none": np.zeros(20), "sum": 0, "mean": np.nan}[reduction])
        assert all(np.all(gradient == 0) for gradient in nothing[1:])


def test_no_rows(dtype):
    x, weight, bias = numbers(dtype, (0,))
    for reduction, expected in (("mean", np.nan), ("sum", 0), ("none", np.zeros(0))):
        loss, d_x, d_weight, d_bias = both(x, weight, np.zeros(0, int), bias, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        assert d_x.shape == (0, 7)
        np.testing.assert_array_equal(d_weight, np.zeros((11, 7)))
        np.testing.assert_array_equal(d_bias, np.zeros(11))


# ---- any array


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32", "float64", LONG().dtype.name])
def test_dtypes(storage):
    dtype = np.dtype(ml_dtypes.bfloat16 if storage == "bfloat16" else storage)
    x, weight, bias = numbers(dtype)
    bias, target = np.round(bias), np.arange(20) % 11
    got = both(x, weight, target, bias)
    assert [a.dtype for a in got] == [np.float32 if dtype.itemsize == 2 else dtype, dtype, dtype, dtype]
    assert_close(got, plain(x, weight, target, bias), TOLERANCE[storage])
    assert_close(got[:1], plain(x, weight, target, bias)[:1], min(TOLERANCE[storage], 1e-5))
    for label in ("u1", ">i2", "i8", ">u8"):
        for a, b in zip(both(x, weight, target.astype(label), bias), got, strict=True):
            assert_same_bits(a, b)
    for other in ("f4", "f8"):  # of the bias
        assert_close(both(x, weight, target, bias.astype(other)), got, TOLERANCE[storage])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_layout(data):
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    x, weight, bias = numbers(dtype, data.draw(st.sampled_from([(20,), (4, 5), ()])))
    target = np.asarray(np.random.default_rng(1).integers(0, 11, x.shape[:-1]))
    expected = both(x, weight, target, bias)
    moved = [data.draw(views(a))[0] for a in (x, weight, target, bias)]
    threads, budget = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([1, 500, 10**6]))
    assert_close(both(*moved, num_threads=threads, memory_budget=budget), expected, TOLERANCE[dtype] / 4)


def test_arguments_are_not_changed():
    x, weight, bias = numbers("float32")
    before = [a.copy() for a in (x, weight, bias)]
    for layout in LAYOUTS.values():
        both(layout(x), layout(weight), np.zeros(20, int), bias)
    for a, b in zip((x, weight, bias), before, strict=True):
        assert_same_bits(a, b)


def test_the_same_call_gives_the_same_bits(dtype):
    x, weight, bias = numbers(dtype, (300,), 33, 500)
    target = np.arange(300)
    expected = both(x, weight, target, bias, memory_budget=100_000)
    for a, b in zip(both(x, weight, target, bias, memory_budget=100_000), expected, strict=True):
        assert_same_bits(a, b)


# ---- memory and progress


@pytest.mark.parametrize("budget", [1 << 18, 1 << 20])
@pytest.mark.parametrize("layout", ["C", "F", "steps"])
def test_memory(dtype, budget, layout):
    x, weight, bias = numbers(dtype, (500,), 16, 2000)  # logits of 4 or 8 MB
    x, weight = LAYOUTS[layout](x), LAYOUTS[layout](weight)
    small = 16384 + 32 * len(x) + 64 * len(weight)  # a few numbers a row, and a class
    for target in (np.arange(500, dtype="i4"), np.arange(500, dtype=">u2")):
        for options in ({}, {"ignore_index": 3, "label_smoothing": 0.1, "reduction": "none"}):
            options = options | {"memory_budget": budget}
            allowed = budget + weight.nbytes + small
            assert peak(lambda o=options, t=target: fs.linear_cross_entropy(x, weight, t, bias, **o)) <= allowed
            allowed += x.nbytes + weight.nbytes + bias.nbytes
            assert (
                peak(lambda o=options, t=target: fs.linear_cross_entropy_with_grad(x, weight, t, bias, **o)) <= allowed
            )


@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_cross_entropy_with_grad"])
def test_progress(name):
    x, weight, bias = numbers("float32", (5, 40))
    target, function = np.zeros((5, 40), int), getattr(fs, name)
    for budget, fewest in ((64 << 20, 1), (4 * 11 * 50, 2), (1, 2)):
        calls = []
        function(x, weight, target, bias, memory_budget=budget, progress=lambda *a, calls=calls: calls.append(a))
        done = [a for a, _ in calls]
        assert done == sorted(set(done))
        assert {rows for _, rows in calls} == {200}
        assert done[-1] == 200
        assert len(done) >= fewest
    with pytest.raises(KeyboardInterrupt):
        function(x, weight, target, bias, progress=lambda done, rows: (_ for _ in ()).throw(KeyboardInterrupt))


# ---- errors

X, WEIGHT, BIAS = numbers("float64", (3,), 5, 4)
LABEL = np.array([0, 3, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "parts"),
    [
        ((X, WEIGHT[:, :3], LABEL), {}, ValueError, ["linear_weight", "(4, 3)", "5"]),
        ((X, WEIGHT[0], LABEL), {}, ValueError, ["linear_weight", "(5,)"]),
        ((X, WEIGHT[None], LABEL), {}, ValueError, ["linear_weight", "(1, 4, 5)"]),
        ((X, WEIGHT[:0], LABEL), {}, ValueError, ["(0, 5)"]),
        ((np.float64(3), WEIGHT, LABEL), {}, ValueError, ["x"]),
        ((X, WEIGHT, LABEL, BIAS[:3]), {}, ValueError, ["linear_bias", "(3,)", "4"]),
        ((X, WEIGHT, LABEL, BIAS[None]), {}, ValueError, ["linear_bias", "(1, 4)", "4"]),
        ((X, WEIGHT, LABEL[:2]), {}, ValueError, ["target", "(2,)", "(3,)"]),
        ((X, WEIGHT, np.zeros((3, 4), int)), {}, ValueError, ["probabilities", "float"]),
        ((X, WEIGHT, np.zeros((3, 5))), {}, ValueError, ["target", "(3, 5)", "(3, 4)"]),
        ((X, WEIGHT, LABEL > 0), {}, TypeError, ["target", "bool"]),
        ((X, WEIGHT, [0, 9, 1]), {}, IndexError, ["target[1] = 9 is out of range for 4 classes (ignore_index= skips"]),
        ((X, WEIGHT, [0, 1, -1]), {"ignore_index": 0}, IndexError, ["target[2] = -1 is out of range for 4 classes"]),
        ((X, WEIGHT, np.ones((3, 4))), {"ignore_index": 0}, ValueError, ["ignore_index"]),
        ((np.ma.array(X), WEIGHT, LABEL), {}, TypeError, ["MaskedArray"]),
        ((X, np.ma.array(WEIGHT), LABEL), {}, TypeError, ["linear_weight", "MaskedArray"]),
        ((X, WEIGHT, np.ma.array(LABEL)), {}, TypeError, ["target", "MaskedArray"]),
        ((X, WEIGHT, LABEL, np.ma.array(BIAS)), {}, TypeError, ["linear_bias", "MaskedArray"]),
        ((X.astype(complex), WEIGHT, LABEL), {}, TypeError, ["complex128"]),
        ((X, WEIGHT, LABEL), {"reduction": "avg"}, ValueError, ["none", "sum", "mean", "avg"]),
        ((X, WEIGHT, LABEL), {"label_smoothing": 2}, ValueError, ["label_smoothing", "2"]),
        ((X, WEIGHT, LABEL), {"z_loss": -1}, ValueError, ["z_loss", "-1"]),
        ((X, WEIGHT, LABEL), {"softcap": 0}, ValueError, ["softcap", "0"]),
        ((X, WEIGHT, LABEL), {"weight": np.ones(5)}, ValueError, ["weight", "(5,)", "4"]),
        ((X, WEIGHT, LABEL), {"num_threads": 0}, ValueError, ["num_threads", "0"]),
        *(((X, WEIGHT, LABEL), {"memory_budget": n}, ValueError, ["memory_budget", n]) for n in (0, -5)),
        *(((X, WEIGHT, LABEL), {"memory_budget": n}, (TypeError, ValueError), ["memory_budget"]) for n in (1.5, "1")),
    ],
)
def test_errors(arguments, options, error, parts):
    for function in (fs.linear_cross_entropy, fs.linear_cross_entropy_with_grad):
        with refused(error, *parts):
            function(*arguments, **options)


def test_no_features():
    loss, dx, dw, _ = fs.linear_cross_entropy_with_grad(np.zeros((3, 0)), np.zeros((5, 0)), [0, 1, 2])
    np.testing.assert_allclose(loss, np.log(5))
    assert (dx.shape, dw.shape) == ((3, 0), (5, 0))


def test_no_warning_of_overflow():
    assert not np.isfinite(fs.linear_cross_entropy(np.full((2, 3), 1e200), np.full((4, 3), 1e200), [0, 1]))
