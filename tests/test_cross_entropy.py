"""cross_entropy and cross_entropy_with_grad: accuracy, other libraries, bits, dtypes and layouts, invariants."""

import functools
import inspect
import itertools

import mpmath
import numpy as np
import pytest
from conftest import USABLE_ISAS, running_on
from contract import (
    LAYOUTS,
    SLOW_ISAS,
    STORAGES,
    both,
    check_accuracy,
    check_gradient,
    compute_of,
    listed,
    loss_options,
    normal,
    result_of,
    targets_for,
    views,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LONG, WIDE, Losses, assert_same_bits, plain_cross_entropy, ulp_error
from rows import adversarial, breakers, confident, ordinary, short

import fastsoftmax as fs
from fastsoftmax import _core

REDUCTIONS = ["none", "sum", "mean"]


def test_signatures():
    names = "weight=None, ignore_index=None, label_smoothing=0.0, reduction='mean', z_loss=0.0, softcap=None"
    for function, out in ((fs.cross_entropy, ""), (fs.cross_entropy_with_grad, "out=None, ")):
        given = inspect.signature(function).parameters.values()
        bare = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in given])
        assert str(bare) == f"(logits, target, axis=-1, *, {names}, {out}num_threads=None)"


# ---- accuracy


@functools.cache
def cases(dtype):
    """[(message, logits, target, options, exact results)] of all kinds of rows: each without options, and with some."""
    found, rng, turn = [], np.random.default_rng(0), itertools.count()
    most = 20_000 if WIDE or dtype == "float32" else 300
    for rows in (ordinary, breakers, confident, short, adversarial):
        for message, x in listed(rows, dtype)[: 60 if rows is adversarial else None]:
            if x.size > most:
                continue
            questions = list(itertools.product(targets_for(x, rng), loss_options(x.shape[1], rng), REDUCTIONS))
            i = next(turn)
            chosen = [questions[i % 2 * 15]]
            if np.max(x[np.isfinite(x)], initial=0) < np.finfo(dtype).max / 8:  # else a part of a distance overflows
                chosen.append(questions[i * 7 % len(questions)])
            for (kind, target), options, reduction in chosen:
                options = options | {"reduction": reduction}
                e = Losses(x, target, **options)
                exact = e.loss(), e.largest_term_of_loss(), e.gradient(), e.largest_term_of_gradient()
                found.append((f"{message}, {kind}, {list(options)}", x, target, options, (*exact, e.negligible(dtype))))
    return found


@pytest.mark.sampled(2)
def test_accuracy(isa, dtype):
    for message, x, target, options, exact in cases(dtype)[:: 3 if isa in SLOW_ISAS else 1]:
        loss, gradient = both(x, target, **options)
        check_accuracy("cross_entropy", loss, *exact[:2], message)
        check_gradient("cross_entropy", gradient, *exact[2:], message)
        if x.size < 3000 and options["reduction"] == "none":
            nine = np.repeat(target, 9, axis=0)
            losses, columns = both(np.repeat(x.T, 9, axis=1), nine.T, 0, **options)
            assert_same_bits(losses[::9], loss, message)
            assert_same_bits(columns[:, ::9].T, gradient, message)


@pytest.mark.parametrize("isa", [isa for isa in USABLE_ISAS if isa not in SLOW_ISAS])
def test_every_isa_gives_the_bits_of_scalar(isa, dtype):
    for message, x, target, options, _ in cases(dtype)[::4]:
        with running_on("scalar"):
            loss, gradient = fs.cross_entropy_with_grad(x, target, **options)
        with running_on(isa):
            got = both(x, target, **options)
        assert_same_bits(got[0], loss, message)
        assert_same_bits(got[1], gradient, message)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("gap", [1e-3, 1, 16, 17, 27.63, 37, 40, 60, 80, 87])
def test_a_confident_row_keeps_its_digits(isa, dtype, gap):
    """The loss is log1p of what the others are, and the label's gradient is minus that, however small."""
    gap, (bound, _) = float(np.dtype(dtype).type(gap)), _core.ops()["cross_entropy"]
    for n in (2, 3, 40, 3000):
        with mpmath.workprec(300):
            others = (n - 1) * mpmath.exp(-mpmath.mpf(gap))
            exact_loss, exact_gradient = np.array([mpmath.log1p(others), -others / (1 + others)], object)
        for position in {0, 1, n // 2, n - 1}:
            x = np.full(n, -gap, dtype)
            x[position] = 0
            columns = np.repeat(x[:, None], 33, axis=1)
            for loss, gradient in (both(x, position), both(columns, np.full(33, position), 0, reduction="none")):
                assert ulp_error(np.ravel(loss)[0], np.array(exact_loss)) <= bound
                assert ulp_error(gradient.reshape(n, -1)[position, 0], np.array(exact_gradient)) <= bound


# ---- what it is


def of_torch(torch, x, target, weight, ignore_index, label_smoothing, reduction, z_loss, softcap):
    """The loss along axis 1, or 0 of a vector, and its gradient."""
    logits = torch.tensor(x, requires_grad=True)
    capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(
        capped,
        torch.tensor(target),
        weight if weight is None else torch.tensor(weight),
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    kept = torch.tensor(
        target != ignore_index if target.shape != x.shape else np.ones_like(target.sum(min(1, x.ndim - 1)))
    )
    of_z = z_loss * torch.logsumexp(capped, min(1, x.ndim - 1)) ** 2 * kept
    loss = loss + (of_z if reduction == "none" else of_z.sum() / (kept.sum() if reduction == "mean" else 1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("shape", [(5,), (6, 5), (4, 5, 3), (2, 5, 3, 4)])
@pytest.mark.parametrize("kind", ["labels", "some ignored", "probabilities"])
def test_torch_and_the_textbook(kind, shape):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    axis = min(1, len(shape) - 1)
    x, w = rng.standard_normal(shape) * 3, rng.random(5) + 0.25
    target = (
        rng.random(shape)
        if kind == "probabilities"
        else np.asarray(rng.integers(0, 5, shape[:axis] + shape[axis + 1 :]))
    )
    ignored = target.flat[-1] if kind == "some ignored" and len(shape) > 1 else None
    grid = itertools.product([None, w], [0.0, 0.1, 1.0], REDUCTIONS, [0.0, 0.1], [None, 5.0])
    for weight, smoothing, reduction, z, softcap in grid:
        expected = of_torch(torch, x, target, weight, ignored, smoothing, reduction, z, softcap)
        options = {"weight": weight, "ignore_index": ignored, "label_smoothing": smoothing, "reduction": reduction}
        options |= {"z_loss": z, "softcap": softcap}
        got = both(x, target, axis, **options)
        plain = plain_cross_entropy(x, target, axis, **options)
        for a, b, c in zip(got, expected, plain, strict=True):
            assert np.shape(a) == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=str(options))
            np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-14, err_msg=str(options))


def test_softcap(isa, dtype):
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    x, rng = normal(dtype, (10, 300), 20), np.random.default_rng(1)
    for (_, target), options, cap in itertools.product(targets_for(x, rng), loss_options(300, rng), (5.0, 30.0)):
        loss, gradient = both(x, target, softcap=cap, **options)
        expected = plain_cross_entropy(
            x.astype(LONG), target.astype(LONG if target.ndim == 2 else int), softcap=cap, **options
        )
        exact = Losses(cap * np.tanh(x.astype(np.float64) / cap), target, **options)
        np.testing.assert_allclose(loss, expected[0], rtol=tolerance)
        largest = exact.largest_term_of_gradient() + exact.scale * exact.own * exact.c
        assert np.all(abs(gradient - expected[1]) <= tolerance * largest)


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_finite_differences(reduction, softcap):
    rng, h = np.random.default_rng(0), 2.0**-22
    x, direction = rng.standard_normal((2, 5, 7, 4)).astype(LONG)
    options = {"weight": rng.random(7) + 0.25, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": softcap}
    for target in (rng.integers(0, 7, (5, 4)), rng.random((5, 7, 4))):
        up, down = (fs.cross_entropy(x + s * h * direction, target, 1, reduction=reduction, **options) for s in (1, -1))
        _, gradient = both(x.astype(np.float64), target, 1, reduction=reduction, **options)
        np.testing.assert_allclose((gradient * direction).sum(), ((up - down) / (2 * h)).sum(), rtol=1e-8)


def test_known_values(isa, dtype):
    log = np.log(np.array([0.25, 0.25, 0.5], dtype))
    loss, gradient = both(log, 2)
    np.testing.assert_allclose(loss, np.log(2), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, [0.25, 0.25, -0.5], rtol=4 * np.finfo(dtype).eps)
    assert type(loss) is np.dtype(dtype).type
    for x in (3, -1e4, 0):  # of one class
        for target in (np.zeros(4, int), np.ones((4, 1))):
            loss, gradient = both(np.full((4, 1), x, dtype), target, reduction="none")
            np.testing.assert_array_equal(loss, np.zeros(4))
            np.testing.assert_array_equal(gradient, np.zeros((4, 1)))


# ---- any array


@pytest.mark.parametrize("storage", STORAGES)
def test_every_dtype_in_every_layout(storage):
    x = (np.random.default_rng(0).random((6, 40)) * 9).astype(STORAGES[storage])
    result, compute = result_of(storage), compute_of(result_of(storage))
    for axis, n in ((0, 40), (1, 6)):
        for target in (np.arange(n) % 6, np.arange(240).reshape(6, 40) % 4 / np.float32(4)):
            expected, gradient = both(x.astype(compute), target, axis, reduction="none")
            for name, layout in LAYOUTS.items():
                laid = layout(x)
                got = both(laid, target if target.ndim == 1 else layout(target), axis, reduction="none")
                assert (got[0].dtype, got[1].dtype) == (compute, result)
                assert_same_bits(got[0], expected, name)
                assert_same_bits(got[1], gradient.astype(result), name)
                if laid.dtype.kind not in "biu" and name != "read-only":
                    in_place = both(laid, target, axis, reduction="none", out=laid)
                    assert in_place[1] is laid
                    assert_same_bits(in_place[0], expected, name)
                    np.testing.assert_array_equal(laid.astype(LONG), got[1].astype(LONG), name)


@pytest.mark.parametrize("storage", [name for name, dtype in STORAGES.items() if dtype.kind in "iu"])
def test_every_dtype_of_labels(isa, storage):
    x, label = normal("f4", (12, 40)), np.random.default_rng(0).integers(0, 40, 12)
    expected = both(x, label, reduction="none", ignore_index=label[3])
    of_dtype = label.astype(STORAGES[storage])
    records = np.zeros(12, [("tag", "u1"), ("label", of_dtype.dtype)])
    records["label"] = of_dtype
    for laid in (
        of_dtype,
        np.repeat(of_dtype, 3)[::3],
        of_dtype[::-1].copy()[::-1],
        records["label"],
        of_dtype.tolist(),
    ):
        for got, right in zip(both(x, laid, reduction="none", ignore_index=label[3]), expected, strict=True):
            assert_same_bits(got, right)
    one = np.broadcast_to(of_dtype[0], 12)
    assert_same_bits(both(x.T, one, 0)[1], both(x, np.full(12, label[0]))[1].T)


@pytest.mark.parametrize("storage", [name for name, dtype in STORAGES.items() if dtype.kind not in "biu"])
def test_every_dtype_of_probabilities_and_weights(storage):
    rng = np.random.default_rng(0)
    x, q, w = normal("f4", (6, 40)), rng.integers(0, 5, (6, 40)) / 4, rng.integers(1, 9, 40) / 4
    for axis, weight in ((1, w), (0, w[:6])):
        expected = both(x, q.astype("f4"), axis, weight=weight.astype("f4"), reduction="none")
        for layout in LAYOUTS.values():
            laid = layout(q.astype(STORAGES[storage]))
            for other in (
                weight.astype(STORAGES[storage]),
                np.repeat(weight, 2)[::2],
                weight[::-1].copy()[::-1],
                list(weight),
            ):
                got = both(x, laid, axis, weight=other, reduction="none")
                assert_same_bits(got[0], expected[0])
                assert_same_bits(got[1], expected[1])


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32", "float64"])
def test_plain_calls_are_like_all_others(storage):
    """Without options they take a way of their own (_core.loss_of_labels), which an integer as label_smoothing is no
    part of."""
    rng = np.random.default_rng(0)
    for shape in ((10,), (5, 10), (2, 3, 10), (1000, 3), (1, 300)):
        x = (rng.standard_normal(shape) * 4).astype(STORAGES[storage])
        for labels, reduction in itertools.product(("int64", "uint8", "int32"), REDUCTIONS):
            target = np.asarray(rng.integers(0, shape[-1], shape[:-1]).astype(labels).reshape(shape[:-1]) % 3)
            options = {"reduction": reduction, "num_threads": 2}
            expected = both(x, target, label_smoothing=0, **options)
            for out_for in (lambda _: None, np.empty_like, lambda logits: logits):
                logits = x.copy()
                out = out_for(logits)
                got = both(logits, target, out=out, **options)
                assert out is None or got[1] is out
                for result, other in zip(got, expected, strict=True):
                    assert type(result) is type(other)
                    assert result.dtype == other.dtype
                    assert_same_bits(result, other, f"{shape} {labels} {reduction}")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_layout_gives_the_bits_of_contiguous_rows(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = data.draw(
        st.sampled_from([(3, 5, 7), (40, 33), (30, 40, 3), (2, 300, 3), (1, 1, 70), (65, 2), (4, 3, 0), (9,)])
    )
    axis = data.draw(st.sampled_from([i - len(shape) for i, n in enumerate(shape) if n]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = (rng.standard_normal(shape) * rng.choice([1, 30])).astype(dtype)
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    options = data.draw(st.sampled_from(list(loss_options(shape[axis], rng))))
    options["reduction"] = data.draw(st.sampled_from(REDUCTIONS))
    if data.draw(st.booleans()):
        target = q = np.asarray(rng.integers(0, shape[axis], rows.shape[:-1]))
        options["ignore_index"] = 0
    else:
        q = rng.random(rows.shape).astype(dtype)
        target = np.moveaxis(q, -1, axis)
    loss, gradient = both(rows, q, **options)
    moved = data.draw(views(x))[0]
    target = data.draw(views(target))[0]
    options["num_threads"] = data.draw(st.sampled_from([1, 2, 3]))
    for out in (None, data.draw(views(np.zeros_like(x)))[0], moved):
        got = both(moved, target, axis, out=out, **options)
        assert out is None or got[1] is out
        assert_same_bits(got[0], loss)
        assert_same_bits(np.moveaxis(got[1], axis, -1), gradient)


def test_batches_of_short_rows(isa, dtype):
    """Rows that fit in a block are computed several at a time, unless one of a batch is not ordinary."""
    lanes = 128 // np.dtype(dtype).itemsize
    for n in range(1, lanes + 2):
        rng = np.random.default_rng(n)
        x = rng.standard_normal((170, n)).astype(dtype)
        x[40] += 3e6
        x[100, -1] = [np.nan, np.inf, -np.inf][n % 3]
        x[101] = -np.inf
        x[130:, n // 2] += [20, 40, 90, 110][n % 4]
        x[rng.random(x.shape) < 0.01] = 0
        x[140:][rng.random((30, n)) < 0.05] = np.finfo(dtype).smallest_subnormal
        label = rng.integers(0, n, 170)
        options = {"reduction": "none", "ignore_index": 0, "weight": rng.random(n).astype(dtype), "z_loss": 1e-3}
        for chosen in ({"reduction": "none"}, options):
            columns = both(np.ascontiguousarray(x.T)[None], label[None], 1, **chosen)
            loss, gradient = columns[0][0], columns[1][0].T
            for rows in (slice(None), slice(1, 2), slice(33), slice(37, 103), slice(129, 160)):
                got = both(x[rows], label[rows], **chosen)
                assert_same_bits(got[0], loss[rows], f"{n} {rows} {list(chosen)}")
                assert_same_bits(got[1], gradient[rows], f"{n} {rows} {list(chosen)}")
                assert_same_bits(fs.cross_entropy(x[rows], label[rows], **chosen), loss[rows])


@pytest.mark.parametrize(("shape", "axis"), [((2000, 300), 1), ((300, 2000), 0), ((2, 300_000), 1), ((20, 60, 500), 1)])
def test_threads(dtype, shape, axis):
    x, rng = normal(dtype, shape), np.random.default_rng(0)
    label = rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    for options in ({"ignore_index": 1}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
        expected = both(x, label, axis, num_threads=1, **options)
        for threads in (2, 4):
            for got, right in zip(both(x, label, axis, num_threads=threads, **options), expected, strict=True):
                assert_same_bits(got, right)


def test_a_row_alone_gives_its_bits(isa, dtype):
    x, label = normal(dtype, (40, 300)), np.arange(40)
    losses, gradient = both(x, label, reduction="none", z_loss=1e-3)
    for i in (0, 17, 39):
        loss, of_row = both(x[i], label[i], z_loss=1e-3)
        assert_same_bits(loss, losses[i])
        assert_same_bits(of_row, gradient[i])
    disturbed = x.copy()
    disturbed[5], disturbed[6, 3], disturbed[7] = np.nan, np.inf, 1e9
    others = np.delete(np.arange(40), [5, 6, 7])
    for a, b in zip(both(disturbed, label, reduction="none", z_loss=1e-3), (losses, gradient), strict=True):
        assert_same_bits(a[others], b[others])


# ---- invariants


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_invariants(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, classes = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70))
    x = rng.standard_normal((n, classes)) * data.draw(st.sampled_from([0.1, 3, 30]))
    target = data.draw(st.sampled_from([t for _, t in targets_for(x, rng)]))
    options = data.draw(st.sampled_from(list(loss_options(classes, rng))))
    losses, gradient = both(x, target, reduction="none", **options)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    if "z_loss" not in options:
        close(gradient.sum(1), 0)
        shifted = both(x + rng.integers(-50, 50, (n, 1)), target, reduction="none", **options)
        close(shifted[0], losses)
        close(shifted[1], gradient)
        assert np.all(losses >= 0)
    order = rng.permutation(classes)
    moved = options | ({"weight": options["weight"][order]} if "weight" in options else {})
    permuted = both(
        x[:, order], np.argsort(order)[target] if target.ndim == 1 else target[:, order], reduction="none", **moved
    )
    close(permuted[0], losses)
    close(permuted[1], gradient[:, order])
    total = both(x, target, reduction="sum", **options)
    close(total[0], losses.sum())
    assert_same_bits(total[1], gradient)
    if target.ndim == 1:
        one_hot = both(x, (target[:, None] == np.arange(classes)).astype(float), reduction="none", **options)
        close(one_hot[0], losses)
        close(one_hot[1], gradient)
    if "weight" not in options:
        cut = data.draw(st.integers(0, n))
        parts = [
            np.nan_to_num(fs.cross_entropy(x[s], target[s], **options)) * len(x[s]) for s in (np.s_[:cut], np.s_[cut:])
        ]
        close(both(x, target, **options)[0] * n, sum(parts))
