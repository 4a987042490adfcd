"""What losses give for what is not ordinary, and what they refuse."""

import itertools

import numpy as np
import pytest
from contract import both, check_gradient, loss_options, normal, refused
from reference import Losses, assert_same_bits

import fastsoftmax as fs

INF, NAN = np.inf, np.nan
REDUCTIONS = ["none", "sum", "mean"]


def test_special_values(isa, dtype):
    x = np.array([[0, 0, -INF], [-INF] * 3, [0, NAN, 1], [0, INF, 1], [-INF, 0, NAN]], dtype)
    x = np.concatenate([x, normal(dtype, (40, 3))])
    for label, expected in ((2, INF), (0, np.log(2))):
        target = np.full(len(x), label)
        loss, gradient = both(x, target, reduction="none")
        np.testing.assert_allclose(loss[:5], [expected, NAN, NAN, NAN, NAN], rtol=1e-6)
        one_hot = np.arange(3) == label
        np.testing.assert_array_equal(gradient[:5], [[0.5, 0.5, 0] - one_hot, *[[NAN] * 3] * 4])
        for kept, right in zip(both(x[5:], target[5:], reduction="none"), (loss, gradient), strict=True):
            assert_same_bits(kept, right[5:])
        columns = both(x.T, target, 0, reduction="none")
        assert_same_bits(columns[0], loss)
        assert_same_bits(columns[1].T, gradient)
        sharp = both(x, np.tile(one_hot.astype(dtype), (len(x), 1)), reduction="none")  # 0 * inf is nothing
        np.testing.assert_allclose(sharp[0][:5], loss[:5], rtol=1e-6)
        np.testing.assert_array_equal(sharp[1][:5], gradient[:5])
    loss, gradient = both(x[:1], [0], label_smoothing=0.3)
    assert loss == INF
    np.testing.assert_allclose(gradient, [[-0.3, 0.4, -0.1]], rtol=1e-6)
    loss, gradient = both(x[:1], [0], weight=[1, 1, 0], label_smoothing=0.3)
    assert np.isfinite(loss)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_loss_beyond_the_largest_number_is_inf(reduction):
    assert np.all(fs.cross_entropy(np.full((2, 3), 1e30, "f4"), [0, 1], z_loss=1, reduction=reduction) == INF)


@pytest.mark.parametrize("ignored", [-100, 2, -1, 2**63 - 1])
def test_ignored_rows(isa, dtype, ignored):
    x = normal(dtype, (6, 4))
    x[[1, 3, 5]] = np.array([NAN, INF, -INF])[:, None]
    label = np.array([0, ignored, 3, ignored, 1, ignored])
    for reduction, options in itertools.product(REDUCTIONS, loss_options(4, np.random.default_rng(0))):
        given = options | {"reduction": reduction}
        expected = both(x[::2], label[::2], **given)
        loss, gradient = both(x, label, ignore_index=ignored, **given)
        assert_same_bits(gradient[::2], expected[1])
        assert_same_bits(gradient[1::2], np.zeros((3, 4), dtype))
        if reduction == "none":
            assert_same_bits(loss[1::2], np.zeros(3, dtype))
        assert_same_bits(loss[::2] if reduction == "none" else loss, expected[0])
        nothing = both(x, np.full(6, ignored), ignore_index=ignored, **given)
        np.testing.assert_array_equal(nothing[0], {"mean": NAN, "sum": 0, "none": np.zeros(6)}[reduction])
        assert_same_bits(nothing[1], np.zeros((6, 4), dtype))


def test_labels_do_not_wrap_around():
    x, small = np.zeros((1, 50)), np.array([44], np.uint8)
    assert_same_bits(both(x, small, ignore_index=300)[0], both(x, [44])[0])
    assert np.isnan(both(x, np.array([2**64 - 1], np.uint64), ignore_index=2**64 - 1)[0])
    for label, ignored in ((np.uint8(255), -1), (np.uint64(2**64 - 1), -1), (np.int64(2**32), 0), (np.int8(-1), 255)):
        with refused(IndexError, f"target[0] = {label} is out of range for 50 classes"):
            both(x, np.array([label]), ignore_index=ignored)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 0, 5)])
def test_no_rows(shape):
    axis = shape.index(5)
    rows = shape[:axis] + shape[axis + 1 :]
    for target in (np.zeros(rows, int), np.zeros(shape)):
        for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.zeros(rows))):
            loss, gradient = both(np.zeros(shape, "f4"), target, axis, reduction=reduction)
            np.testing.assert_array_equal(loss, expected)
            assert (gradient.shape, gradient.dtype, loss.dtype) == (shape, np.float32, np.float32)


def test_out_that_overlaps(dtype):
    room, label = normal(dtype, (4, 50)), np.array([3, 0, 9])
    for x, out in (
        (room[:3], room[1:]),
        (room[1:], room[:3]),
        (room[:3, :20], room[:3, 5:25]),
        (room[:3], room[2::-1]),
    ):
        before = room.copy()
        loss, gradient = both(x.copy(), label)
        got = fs.cross_entropy_with_grad(x, label, out=out)
        assert got[1] is out
        assert_same_bits(got[0], loss)
        assert_same_bits(out, gradient)
        room[...] = before
    q = abs(room)
    expected = both(room, q.copy())[1]
    assert_same_bits(fs.cross_entropy_with_grad(room, q, out=q)[1], expected)


def test_out_of_another_dtype(dtype):
    x, label = normal(dtype, (4, 50)), np.arange(4)
    loss, gradient = both(x, label)
    for other in ("f2", "f4", "f8", ">f4"):
        got = fs.cross_entropy_with_grad(x, label, out=np.empty(x.shape, other))
        assert_same_bits(got[0], loss)
        assert_same_bits(got[1], gradient.astype(other))


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, label = normal("f4", (5, 7)), np.arange(5)
    for got, expected in zip(both(torch.tensor(x), torch.tensor(label)), both(x, label), strict=True):
        assert_same_bits(got, expected)


# ---- errors

X, LABEL, Q = np.zeros((3, 4)), np.array([0, 3, 1]), np.full((3, 4), 0.25)
BAD_OPTIONS = [
    ({"reduction": "avg"}, ValueError, ["reduction", "none", "sum", "mean", "avg"]),
    ({"reduction": None}, ValueError, ["reduction", "none", "sum", "mean", "None"]),
    *(({"label_smoothing": value}, ValueError, ["label_smoothing", value]) for value in (-0.1, 1.5, NAN)),
    *(({"z_loss": value}, ValueError, ["z_loss", value]) for value in (-1e-3, NAN)),
    *(({"softcap": value}, ValueError, ["softcap", value]) for value in (0, -3.0, NAN)),
    ({"weight": np.ones(3)}, ValueError, ["weight", "(3,)", "4"]),
    ({"weight": np.ones((1, 4))}, ValueError, ["weight", "(1, 4)", "4"]),
    ({"weight": np.ma.ones(4)}, TypeError, ["weight", "MaskedArray"]),
    ({"num_threads": 0}, ValueError, ["num_threads", "0"]),
]
BAD_ARGUMENTS = [
    (X, LABEL[:2], {}, ValueError, ["target", "(2,)", "(3,)"]),
    (X, LABEL[:, None], {}, ValueError, ["target", "(3, 1)", "(3,)"]),
    (X, LABEL, {"axis": 0}, ValueError, ["target", "(3,)", "(4,)"]),
    (X, Q.astype(int), {}, ValueError, ["probabilities", "float"]),
    (X[0], LABEL, {}, ValueError, ["target", "(3,)"]),
    (X, Q[:, :3], {}, ValueError, ["target", "(3, 3)", "(3, 4)"]),
    (X, LABEL.astype(float), {}, ValueError, ["target", "(3,)", "(3, 4)"]),
    (X, Q, {"ignore_index": 1}, ValueError, ["ignore_index"]),
    (X, LABEL > 0, {}, TypeError, ["target", "bool"]),
    (X, LABEL.astype(complex), {}, TypeError, ["complex128"]),
    (X, LABEL.astype(object), {}, TypeError, ["object"]),
    (X.astype(complex), LABEL, {}, TypeError, ["complex128"]),
    (np.ma.array(X), LABEL, {}, TypeError, ["MaskedArray"]),
    (X, np.ma.array(LABEL), {}, TypeError, ["target", "MaskedArray"]),
    (X, np.ma.array(Q), {}, TypeError, ["target", "MaskedArray"]),
    (X, LABEL, {"axis": None}, TypeError, ["axis", "None"]),
    (X, LABEL, {"axis": (0,)}, TypeError, ["axis", "tuple"]),
    (X, LABEL, {"axis": 1.0}, TypeError, ["axis", "float"]),
    (X, LABEL, {"axis": 2}, np.exceptions.AxisError, ["axis 2"]),
    (np.float64(3), 0, {}, ValueError, []),
    (np.zeros((3, 0)), LABEL, {}, ValueError, ["(3, 0)"]),
]


@pytest.mark.parametrize(("logits", "target", "options", "error", "parts"), BAD_ARGUMENTS)
def test_bad_arguments(logits, target, options, error, parts):
    for function in (fs.cross_entropy, fs.cross_entropy_with_grad):
        with refused(error, *parts):
            function(logits, target, **options)


@pytest.mark.parametrize(("options", "error", "parts"), BAD_OPTIONS)
def test_bad_options(options, error, parts):
    out = np.full(X.shape, 7.0)
    for target in (LABEL, Q):
        with refused(error, *parts):
            fs.cross_entropy(X, target, **options)
        with refused(error, *parts):
            fs.cross_entropy_with_grad(X, target, out=out, **options)
    assert np.all(out == 7)


@pytest.mark.parametrize(
    ("out", "error", "parts"),
    [
        (np.zeros((4, 3)), ValueError, ["out has shape (4, 3), expected (3, 4)."]),
        (np.zeros((3, 4), int), TypeError, ["cannot cast float64 result to out of dtype int64."]),
        (np.broadcast_to(0.0, (3, 4)), ValueError, ["out is read-only."]),
        (np.ma.zeros((3, 4)), TypeError, ["out must be a numpy.ndarray, got MaskedArray."]),
        ([[0.0] * 4] * 3, TypeError, ["out must be a numpy.ndarray, got list."]),
    ],
)
def test_bad_out(out, error, parts):
    with refused(error, *parts):
        fs.cross_entropy_with_grad(X, LABEL, out=out)


def test_labels_out_of_range():
    x = np.random.default_rng(0).standard_normal((6, 10, 3))
    for bad, value in itertools.product(((0, 0), (1, 2), (5, 1)), (10, -1, 2**40, -100)):
        label = np.ones((6, 3), int)
        label[bad] = value
        in_place = x.copy()
        text = f"target[{bad[0]}, {bad[1]}] = {value} is out of range for 10 classes (ignore_index= skips rows)."
        for axis, logits, target in ((1, in_place, label), (-1, in_place.transpose(0, 2, 1), label)):
            for ignored in (None, 1, 7):
                with refused(IndexError, text):
                    fs.cross_entropy_with_grad(logits, target, axis, out=logits, ignore_index=ignored)
                with refused(IndexError, text):
                    fs.cross_entropy(logits, target, axis, ignore_index=ignored)
        assert_same_bits(in_place, x)
    label = np.zeros(20_000, np.uint8)
    label[[17, 19_000]] = 10
    for order in (1, -1):
        with refused(IndexError, f"target[{17 if order == 1 else 999}] = 10 is out of range for 10 classes"):
            fs.cross_entropy(np.zeros((20_000, 10), "f4"), label[::order], num_threads=2)
    with refused(IndexError, "= 10 is out of range for 10 classes"):
        fs.cross_entropy(np.zeros(10), 10)


# ---- far apart


def test_a_heavy_class_loses_no_other(isa, dtype):
    """The gradient of a confident label with smoothing comes of what the other classes weigh alone."""
    for heavy, n in ((1e5, 64), (1e10, 3), (1e-3, 2)):
        weight, x = np.ones(n), np.zeros((1, n), dtype)
        weight[0], x[0, 0] = heavy, 60
        _, gradient = both(x, [0], weight=weight, label_smoothing=0.125, reduction="sum")
        exact = Losses(x, [0], weight=weight, label_smoothing=0.125, reduction="sum")
        check_gradient(
            "cross_entropy", gradient, exact.gradient(), exact.largest_term_of_gradient(), exact.negligible(dtype)
        )


def test_large_terms(isa):
    x = np.array([[1e13, 2e13, 5e12]], "f4")
    _, gradient = both(x, [0], label_smoothing=0.1, z_loss=1e-4)
    np.testing.assert_allclose(gradient[0, 1], 4e9, rtol=1e-6)
    q, x = np.array([[0.2, 0.3, 0.5]], "f4") * np.float32(1e10), np.array([[1, 2, 0.5]], "f4")
    _, gradient = both(x, q)
    np.testing.assert_allclose(gradient, fs.softmax(x.astype("f8")) * q.sum() - q, rtol=1e-5)
    _, gradient = both(np.ones((1, 3)), [0], label_smoothing=0.1, z_loss=1e250)
    np.testing.assert_allclose(gradient, np.full((1, 3), 2e250 * (1 + np.log(3)) / 3))
    _, gradient = both(np.array([[0.0, -744.0]]), [0], weight=[1e20, 1], reduction="sum")
    np.testing.assert_allclose(gradient[0, 0], -1e20 * np.exp(-np.longdouble(744)).astype("f8"), rtol=0.5)


@pytest.mark.parametrize("size", [1e39, 1e-40, 1e-46, 1e300])
def test_weights_beyond_the_range_of_the_logits(isa, size):
    x = np.array([[1, 2, 0.5], [0, 3, 1]], "f4")
    for got, expected in zip(both(x, [0, 2], weight=[size] * 3), both(x, [0, 2]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("cap", [1e-310, 1e-50, 1e-40, 1e50, 1e300])
def test_caps_beyond_the_range_of_the_logits(isa, dtype, cap):
    x = np.array([[1, 2, 0.5]], dtype)
    loss, gradient = both(x, [0], softcap=cap)
    expected, of_x = both(x if cap > 1 else np.zeros_like(x), [0])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_x if cap > 1 else np.zeros_like(x), rtol=1e-6, atol=1e-30)


def test_infinite_factors(isa, dtype):
    """Weights that add up to 0: the mean divides by that."""
    x = np.array([[0, -1e5], [0, 0]], dtype)
    loss, gradient = both(x, [0, 1], weight=[1, -1])
    assert not np.isfinite(loss)
    assert not np.isfinite(gradient).any()
    loss, _ = both(x, [0, 1], weight=[np.inf, 1], reduction="none")
    assert loss[1] == np.log(np.asarray(2, dtype))


def test_memory_order_of_labels():
    rng = np.random.default_rng(0)
    for _ in range(30):
        x, t, w = rng.normal(size=(30, 40, 5)), rng.integers(0, 5, (30, 40)), rng.random(5)
        for ignored in (None, 3):
            options = {"weight": w, "ignore_index": ignored}
            for a, b in zip(both(x, t, **options), both(x, np.asfortranarray(t), **options), strict=True):
                assert_same_bits(a, b)


def test_mean_has_the_precision_of_longdouble():
    x = normal("longdouble", (3, 5))
    _, mean = both(x, [0, 1, 2], label_smoothing=0.1)
    _, total = both(x, [0, 1, 2], label_smoothing=0.1, reduction="sum")
    np.testing.assert_allclose(mean * 3, total, rtol=8 * np.finfo(np.longdouble).eps)


def test_no_warning_of_overflow():
    logits = np.array([[3e38, -3e38]], "f4")
    for target in ([1], np.array([1])):  # a list does not take the quick way
        loss, _ = both(logits, target, reduction="none")
        assert loss == INF
    assert np.isnan(fs.cross_entropy(np.zeros((2, 3)), [0, 1], weight=[INF, -INF, 1]))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nan_of_any_loss_gives_the_one_nan(dtype, reduction):
    """Infinities of both signs, and NaN, in any order; no weight at all."""
    x = np.array([[0, -INF], [-INF, 0], [0, NAN], [0, 0]], dtype)
    for order in itertools.permutations(range(4)):
        for weight in ([1, -1], [1, 1], [0, 0], [NAN, 1]):
            for of in (lambda a: a, np.ndarray.tolist):  # a list does not take the quick way
                target = np.array([1, 0, 0, 1])[list(order)]
                loss = fs.cross_entropy(of(x[list(order)]), target, weight=weight, reduction=reduction)
                assert_same_bits(loss, loss.dtype.type(NAN))
