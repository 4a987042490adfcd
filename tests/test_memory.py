"""What is touched and what is allocated."""

import ctypes
import mmap
import sys
import tracemalloc

import numpy as np
import pytest
from contract import FORWARD, LAYOUTS, NORMALIZERS, SLOW_ISAS, STORAGES, call, takes
from reference import assert_same_bits
from rows import LENGTHS

import fastsoftmax as fs

PAGE = mmap.PAGESIZE
needs_mprotect = pytest.mark.skipif(sys.platform == "win32", reason="mprotect")


# ---- touched


class Guarded:
    """Memory with an inaccessible page on either side: a read or write outside kills the process."""

    def __init__(self, nbytes):
        self.pages = -(-nbytes // PAGE)
        self.memory = mmap.mmap(-1, (self.pages + 2) * PAGE)
        self.bytes = np.frombuffer(self.memory, np.uint8)
        mprotect = ctypes.CDLL(None, use_errno=True).mprotect
        mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.protect = lambda start, flags: mprotect(self.bytes.ctypes.data + start, PAGE, flags)
        for start in (0, (self.pages + 1) * PAGE):
            assert self.protect(start, 0) == 0, ctypes.get_errno()

    def at(self, end, shape, dtype):
        """An array that starts (or ends) right at the guard page."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = (self.pages + 1) * PAGE - nbytes if end else PAGE
        return self.bytes[start : start + nbytes].view(dtype).reshape(shape)


def guarded_copies(a, order="C"):
    """The array next to the guard page at its start, and at its end; in C or Fortran order."""
    shape = a.shape if order == "C" else a.shape[::-1]
    memory = Guarded(a.nbytes)
    for end in (False, True):
        copy = memory.at(end, shape, a.dtype)
        copy = copy if order == "C" else copy.T
        copy[...] = a
        yield copy


@pytest.mark.sampled(3)
@needs_mprotect
def test_guard_pages(isa, dtype, op):
    for n in (n for n in LENGTHS if n < 3000):
        rng = np.random.default_rng(n)
        for shape, axis in [((3, n), 1), ((n, 3), 0), ((n, 33), 0), ((2, n, 9), 1)]:
            x = (rng.standard_normal(shape) * 4).astype(dtype)
            mask = rng.random(shape) < 0.7
            expected, masked = call(op, x, axis), call(op, x, axis, where=mask)
            outs = guarded_copies(np.zeros_like(expected))
            for a, m, y in zip(guarded_copies(x), guarded_copies(mask), outs, strict=True):
                out = {"out": y} if takes(op, "out") else {}
                assert_same_bits(call(op, a, axis, where=m, **out), masked)
                assert_same_bits(call(op, a, axis, **out), expected)
                if op in NORMALIZERS:
                    assert_same_bits(call(op, a, axis, out=a), expected)


@pytest.mark.sampled(4)
@needs_mprotect
@pytest.mark.parametrize("storage", [name for name in STORAGES if name not in ("float32", "float64")])
def test_guard_pages_of_other_storages(isa, storage, op):
    rng = np.random.default_rng(0)
    for n in (1, 3, 8, 17, 31, 33, 100, 2049) if isa not in SLOW_ISAS else (1, 17, 33):
        for shape, axis in [((3, n), 1), ((n, 3), 0), ((n, 17), 0)]:
            x = (rng.random(shape) * 9).astype(STORAGES[storage])
            mask = rng.random(shape) < 0.7
            expected = call(op, x, axis, where=mask)
            for order in "CF":
                outs = guarded_copies(np.zeros_like(expected), order)
                for a, m, y in zip(guarded_copies(x, order), guarded_copies(mask, order), outs, strict=True):
                    out = {"out": y} if takes(op, "out") else {}
                    assert_same_bits(call(op, a, axis, where=m, **out), expected)


@needs_mprotect
@pytest.mark.parametrize("n", [1, 3, 17, 33, 2049])
def test_guard_pages_of_weights(isa, dtype, n):
    rng = np.random.default_rng(n)
    for shape, axis in [((3, n), 1), ((n, 9), 0)]:
        x, b = rng.standard_normal((2, *shape)).astype(dtype)
        expected = fs.logsumexp(x, axis, b=b)
        for a, w in zip(guarded_copies(x), guarded_copies(b), strict=True):
            assert_same_bits(fs.logsumexp(a, axis, b=w), expected)
            assert_same_bits(fs.logsumexp(a, axis, b=w[:1]), fs.logsumexp(x, axis, b=b[:1]))


@needs_mprotect
@pytest.mark.parametrize("n", [1, 3, 17, 33, 2049])
def test_guard_pages_of_losses(isa, dtype, n):
    rng = np.random.default_rng(n)
    weight = rng.random(n).astype(dtype)
    for shape, axis in [((3, n), 1), ((n, 3), 0), ((n, 33), 0), ((2, n, 9), 1)]:
        x, q = rng.random((2, *shape)).astype(dtype)
        label = rng.integers(0, n, shape[:axis] + shape[axis + 1 :], dtype="i4")
        for target in (label, q):
            loss, gradient = fs.cross_entropy_with_grad(x, target, axis, weight=weight)
            for a, t, w in zip(*map(guarded_copies, (x, target, weight)), strict=True):
                assert_same_bits(fs.cross_entropy(a, t, axis, weight=w), loss)
                assert_same_bits(fs.cross_entropy_with_grad(a, t, axis, weight=w, out=a)[1], gradient)
        for lse in (None, fs.logsumexp(x, axis)):
            grad = rng.random(label.shape).astype(dtype)
            expected = fs.logsumexp_grad(grad, x, axis, lse=lse)
            saved = guarded_copies(grad if lse is None else lse)
            for a, g, log in zip(guarded_copies(x), guarded_copies(grad), saved, strict=True):
                got = fs.logsumexp_grad(g, a, axis, lse=None if lse is None else log, out=a)
                assert_same_bits(got, expected)


@needs_mprotect
def test_guard_pages_guard():
    import subprocess

    code = """
import sys
sys.path.insert(0, {path!r})
from test_memory import Guarded
Guarded(8).bytes[{offset}]
"""
    path = str(__import__("pathlib").Path(__file__).parent)
    for offset, dies in ((PAGE, False), (PAGE - 1, True), (2 * PAGE, True)):
        done = subprocess.run([sys.executable, "-c", code.format(path=path, offset=offset)], check=False)
        assert (done.returncode < 0) == dies


# ---- allocated

SMALL = 8192


def peak(call):
    """Most bytes that Python and NumPy held at once during call(), beyond what they held before."""
    tracemalloc.start()
    try:
        call()  # whatever is allocated once
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def size_of_result(op, x, axis, itemsize):
    return itemsize * (
        x.size if op in NORMALIZERS or axis == () else x.size // x.shape[axis] if axis is not None else 1
    )


BROADCAST = {
    "broadcast rows": lambda x: np.broadcast_to(x[:1], x.shape),
    "broadcast columns": lambda x: np.broadcast_to(x[:, :1], x.shape),
}
layouts = pytest.mark.parametrize("layout", (LAYOUTS | BROADCAST).values(), ids=(LAYOUTS | BROADCAST).keys())


@pytest.mark.sampled(8)
@layouts
@pytest.mark.parametrize("storage", STORAGES)
def test_only_the_output_is_allocated(op, storage, layout):
    x = layout(np.ones((64, 180), STORAGES[storage]))
    mask = layout(np.ones((64, 180), bool))
    itemsize = call(op, x[:2]).dtype.itemsize
    for axis in (0, 1, None, ()):
        own = size_of_result(op, x, axis, itemsize) + SMALL
        assert peak(lambda axis=axis: call(op, x, axis)) <= own
        assert peak(lambda axis=axis: call(op, x, axis, where=mask)) <= own
        if takes(op, "temperature") and axis == 1:
            assert peak(lambda axis=axis: call(op, x, axis, temperature=0.7)) <= own


@pytest.mark.sampled(4)
@layouts
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "longdouble"])
@pytest.mark.parametrize("op", [op for op in FORWARD if takes(op, "out")])
def test_a_given_output_takes_nothing(op, dtype, layout):
    dtype = STORAGES[dtype]
    for storage in ("f4", dtype):
        x = layout(np.ones((64, 180), storage))
        for axis in (0, 1, None):
            result = call(op, x, axis, dtype=dtype)
            out = np.zeros_like(result, subok=False) if np.ndim(result) else np.zeros((), dtype)
            assert peak(lambda x=x, axis=axis, out=out: call(op, x, axis, dtype=dtype, out=out)) <= SMALL
            own = size_of_result(op, x, axis, dtype.itemsize) + SMALL
            assert peak(lambda x=x, axis=axis: call(op, x, axis, dtype=dtype)) <= own
            if op in NORMALIZERS and storage == dtype and x.flags.writeable:
                mask = np.ones(x.shape, bool)
                assert peak(lambda x=x, axis=axis: call(op, x, axis, out=x)) <= SMALL
                assert peak(lambda x=x, axis=axis, mask=mask: call(op, x, axis, out=x, where=mask)) <= SMALL


@pytest.mark.parametrize("mask", [True, np.ones(180, bool), np.ones((64, 1), bool), np.ones((64, 180), bool)])
@pytest.mark.parametrize("as_is", [np.asarray, np.asfortranarray, lambda m: m[..., ::-1] if m.ndim else m])
def test_a_mask_takes_nothing(op, dtype, mask, as_is):
    x = np.ones((64, 180), dtype)
    mask = as_is(np.asarray(mask))
    for axis in (0, 1, None):
        own = size_of_result(op, x, axis, x.itemsize) + SMALL
        assert peak(lambda axis=axis: call(op, x, axis, where=mask)) <= own


@pytest.mark.parametrize("storage", ["f4", "f8", "f2", "i4", ">f8"])
def test_weights_take_nothing(dtype, storage):
    a, b = np.ones((64, 180), dtype), np.ones((64, 180), storage)
    for axis in (0, 1, None):
        for weights in (b, np.asfortranarray(b), b[::-1, ::-1], b[:1], b[:, :1], b[0, 0]):
            own = size_of_result("logsumexp", a, axis, 8) + SMALL
            assert peak(lambda axis=axis, w=weights: fs.logsumexp(a, axis, b=w)) <= own
            assert peak(lambda axis=axis, w=weights: fs.logsumexp(a, axis, b=w, return_sign=True)) <= 2 * own
    # Neither operand is enlarged in memory.
    a, b = np.ones((300, 1), dtype), np.ones((1, 400), storage)
    assert peak(lambda: fs.logsumexp(a, b=b)) <= SMALL


@pytest.mark.sampled(4)
@layouts
@pytest.mark.parametrize(
    "storage", ["float16", "bfloat16", "float32", "float64", "swapped float32", "longdouble", "int16"]
)
def test_losses_allocate_little(storage, layout):
    x = layout(np.ones((300, 1000), STORAGES[storage]))
    whole = 300_000 * (8 if x.dtype.kind == "i" else x.itemsize)
    q = layout(np.full(x.shape, 0.5, "f4"))
    for axis, rows in ((1, 300), (0, 1000)):
        own = 2 * SMALL + 32 * rows + 16 * x.shape[axis]
        label, weight = np.zeros(rows, ">i2"), np.ones(x.shape[axis], "f4")
        options = {"ignore_index": 7, "weight": weight, "label_smoothing": 0.1, "z_loss": 1e-3}
        for reduction in ("mean", "none"):
            for target, given in ((label, options), (label, {}), (q, {})):
                given = {**given, "reduction": reduction}
                assert peak(lambda a=axis, t=target, g=given: fs.cross_entropy(x, t, a, **g)) <= own
                for out, most in ((None, own + whole), (x, own)):
                    if out is None or (x.flags.writeable and x.dtype.kind != "i"):
                        given["out"] = out
                        taken = peak(lambda a=axis, t=target, g=given: fs.cross_entropy_with_grad(x, t, a, **g))
                        assert taken <= most


@layouts
def test_gradient_of_logsumexp_allocates_little(dtype, layout):
    x = layout(np.ones((300, 1000), dtype))
    for axis, rows in ((1, 300), (0, 1000), (None, 1)):
        for saved in (False, True):
            grad = np.ones(rows if axis is not None else (), dtype)
            lse = fs.logsumexp(x, axis) if saved else None
            own = 2 * SMALL + 32 * rows
            assert peak(lambda a=axis, g=grad, s=lse: fs.logsumexp_grad(g, x, a, lse=s)) <= own + x.size * x.itemsize
            if x.flags.writeable:
                assert peak(lambda a=axis, g=grad, s=lse: fs.logsumexp_grad(g, x, a, lse=s, out=x)) <= own


def test_joined_axes_take_nothing(op, dtype):
    x = np.ones((30, 40, 100), dtype).transpose(1, 2, 0)
    mask = np.ones((100, 40, 30), bool).transpose(1, 0, 2)
    for axis in ((0, 1), (0, 2), (1, 2), (0, 1, 2), ()):
        kept = [n for i, n in enumerate(x.shape) if i not in axis]
        own = x.itemsize * (x.size if op in NORMALIZERS else int(np.prod(kept))) + SMALL
        assert peak(lambda axis=axis: call(op, x, axis, where=mask)) <= own


def test_disjoint_arrays_in_one_block_of_memory(dtype):
    both = np.linspace(-4, 4, 600 * 1600).astype(dtype).reshape(600, 1600)
    x, out = both[:, :800], both[:, 800:]
    expected = fs.softmax(x.copy())
    assert peak(lambda: fs.softmax(x, out=out)) <= SMALL
    assert_same_bits(out.copy(), expected)
    both = np.linspace(-4, 4, 600 * 800).astype(f"c{2 * np.dtype(dtype).itemsize}").reshape(600, 800)
    assert peak(lambda: fs.softmax(both.real, out=both.imag)) <= SMALL
    assert_same_bits(both.imag.copy(), fs.softmax(both.real.copy()))


def test_peak_sees_a_copy():
    x = np.ones((64, 180))
    assert peak(lambda: fs.softmax(x.copy())) >= 2 * x.nbytes
