"""Results that go past the caches, and long rows that threads share: the same bits, in the right place."""

import contextlib

import numpy as np
import pytest
from contract import FORWARD, REDUCTIONS, call
from reference import assert_same_bits

import fastsoftmax as fs
from fastsoftmax import _core


@contextlib.contextmanager
def past_the_caches():
    """Results of any size go past the caches inside the block, if they may."""
    _core.stream_from(0)
    try:
        yield
    finally:
        _core.stream_from(-1)


def calls(x, rng):
    """(name, function of further arguments) of everything that reads the matrix x."""
    grad, row_grad = rng.standard_normal(x.shape).astype(x.dtype), rng.standard_normal(len(x)).astype(x.dtype)
    y, logp, lse = fs.softmax(x), fs.log_softmax(x), fs.logsumexp(x, 1)
    labels, weight = rng.integers(x.shape[1], size=len(x)), rng.random(x.shape[1])
    for op in FORWARD:
        yield op, lambda op=op, **options: call(op, x, **options)
    yield "weights", lambda **options: fs.logsumexp(x, 1, b=weight - 0.25, return_sign=True, **options)[0]
    yield "temperature", lambda **options: fs.softmax(x, temperature=0.7, **options)
    yield "flush", lambda **options: fs.softmax(x, subnormals="flush", **options)
    yield "softmax_grad", lambda **options: fs.softmax_grad(grad, y, **options)
    yield "log_softmax_grad", lambda **options: fs.log_softmax_grad(grad, logp, **options)
    yield "logsumexp_grad", lambda **options: fs.logsumexp_grad(row_grad, x, 1, **options)
    yield "lse given", lambda **options: fs.logsumexp_grad(row_grad, x, 1, lse=lse, **options)
    for loss in ({}, {"ignore_index": int(labels[0])}, {"label_smoothing": 0.1}, {"weight": weight}, {"softcap": 30.0}):
        yield (
            f"cross_entropy {loss}",
            lambda loss=loss, **options: fs.cross_entropy_with_grad(x, labels, reduction="none", **loss, **options)[1],
        )


def spoiled(rng, dtype, shape):
    """(name, matrix) with rows that need care, or have no result, among ordinary ones."""
    x = rng.standard_normal(shape) * 4
    yield "ordinary", x.astype(dtype)
    special = x.copy()
    special[::3, shape[1] // 2] = np.nan
    special[1:2] = -np.inf
    special[2:3, -1] = np.inf
    special[4:5] += 5e6
    special[5:6, shape[1] // 3] = 1e30
    special[6:7] *= 1e-39 if dtype == "float32" else 1e-309
    special[7:8] *= 40
    yield "special", special.astype(dtype)
    yield "rising", np.sort(x * 40).astype(dtype)
    sunken = x.copy()
    sunken[:, : shape[1] // 2] = -np.inf
    yield "late", sunken.astype(dtype)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shape", [(70, 3), (40, 16), (9, 33), (9, 100), (20, 1000), (20, 1024), (8, 2049), (3, 9000)])
def test_past_the_caches(isa, dtype, shape):
    rng = np.random.default_rng(0)
    line = 64 // np.dtype(dtype).itemsize
    for kind, x in spoiled(rng, dtype, shape):
        for name, function in calls(x, rng):
            expected = function()
            with past_the_caches():
                assert_same_bits(function(), expected, f"{name}, {kind}")
                if name in (*REDUCTIONS, "weights"):
                    continue
                # Rows that begin anywhere in a cache line, one after the other or apart; what lies around them stays.
                for offset, pitch in ((1, 0), (line - 1, 0), (0, 1), (5, 3), (line // 2, line)):
                    memory = np.full(line + shape[0] * (shape[1] + pitch) + line, 7, dtype)
                    begin = -memory.ctypes.data % 64 // memory.itemsize + offset
                    rows = memory[begin : begin + shape[0] * (shape[1] + pitch)].reshape(shape[0], -1)
                    function(out=rows[:, : shape[1]])
                    assert_same_bits(rows[:, : shape[1]], expected, f"{name}, {kind}, offset {offset}, pitch {pitch}")
                    rows[:, : shape[1]] = 7
                    assert np.all(memory == 7)


def test_past_the_caches_where_that_cannot_be(isa, dtype):
    """In place, misaligned, by columns, and of other dtypes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 300)).astype(dtype)
    halves, expected = fs.softmax(x, dtype=np.float16), fs.softmax(x)
    from_halves = fs.softmax(x.astype(np.float16), dtype=dtype)
    records = np.zeros(x.shape, [("tag", "u1"), ("value", dtype)])["value"]
    bytes_apart = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    with past_the_caches():
        for out in (x.copy(), records, bytes_apart, np.empty_like(x, order="F"), np.empty(x.shape[::-1], dtype).T):
            if out.flags.c_contiguous and out is not bytes_apart:
                fs.softmax(out, out=out)
            else:
                fs.softmax(x, out=out)
            assert_same_bits(out, expected)
        assert_same_bits(fs.softmax(np.ascontiguousarray(x.T), 0), np.ascontiguousarray(expected.T))
        assert_same_bits(fs.softmax(x, dtype=np.float16), halves)
        assert_same_bits(fs.softmax(x.astype(np.float16), dtype=dtype), from_halves)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rows", [1, 3])
def test_long_rows_are_shared(isa, dtype, rows):
    """Rows of more than 1 MB, of which there are too few for the threads."""
    if isa in ("scalar", "base") and rows > 1:
        pytest.skip("slow, and no other code than of one row")
    rng = np.random.default_rng(0)
    n = 300_001 if dtype == "float32" else 150_001
    for kind, x in spoiled(rng, dtype, (rows, n)):
        # Rows as columns of a matrix, which are never shared.
        columns = np.ascontiguousarray(x.T)
        expected = fs.softmax(columns, 0).T
        assert_same_bits(fs.softmax(x, num_threads=2), expected, kind)
        in_place = x.copy()
        fs.softmax(in_place, out=in_place, num_threads=3)
        assert_same_bits(in_place, expected, kind)
        for name, function in calls(x, rng):
            alone = function(num_threads=1)
            assert_same_bits(function(num_threads=2), alone, f"{name}, {kind}")
            with past_the_caches():
                assert_same_bits(function(num_threads=3), alone, f"{name}, {kind}, past the caches")


def test_long_rows_that_have_to_be_loaded_are_shared():
    x = np.random.default_rng(0).standard_normal((2, 600_002)).astype(np.float16)[:, ::2]
    mask = np.random.default_rng(1).random(x.shape) < 0.9
    for op in FORWARD:
        for options in ({}, {"where": mask}):
            assert_same_bits(call(op, x, num_threads=3, **options), call(op, x, num_threads=1, **options), op)
