"""What is touched and what is allocated."""

import ctypes
import mmap
import sys
import tracemalloc

import numpy as np
import pytest
from reference import assert_same_bits
from rows import LENGTHS

import fastsoftmax as fs

PAGE = mmap.PAGESIZE


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


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.parametrize("n", [n for n in LENGTHS if n < 3000])
def test_guard_pages(isa, dtype, n):
    rng = np.random.default_rng(n)
    for shape, axis in [((3, n), 1), ((n, 3), 0), ((n, 33), 0), ((2, n, 9), 1)]:
        x = (rng.standard_normal(shape) * 4).astype(dtype)
        expected = fs.softmax(x, axis)
        source, target = Guarded(x.nbytes), Guarded(x.nbytes)
        for end in (False, True):
            a, y = source.at(end, shape, dtype), target.at(end, shape, dtype)
            a[...] = x
            assert_same_bits(fs.softmax(a, axis, out=y), expected)
            assert_same_bits(fs.softmax(a, axis, out=a), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
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


@pytest.mark.parametrize("make", [np.copy, np.asfortranarray, lambda x: x[::-1, ::2], lambda x: x.T], ids=range(4))
@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_output_is_allocated(dtype, make, axis):
    x = make(np.zeros((600, 800), dtype))
    small = 4096
    assert peak(lambda: fs.softmax(x, axis)) <= x.nbytes + small
    out = np.empty_like(x)
    assert peak(lambda: fs.softmax(x, axis, out=out)) <= small
    assert peak(lambda: fs.softmax(x, axis, out=x)) <= small


def test_disjoint_arrays_in_one_block_of_memory(dtype):
    both = np.linspace(-4, 4, 600 * 1600).astype(dtype).reshape(600, 1600)
    x, out = both[:, :800], both[:, 800:]
    expected = fs.softmax(x.copy())
    assert peak(lambda: fs.softmax(x, out=out)) <= 4096
    assert_same_bits(out.copy(), expected)
    both = np.linspace(-4, 4, 600 * 800).astype(f"c{2 * np.dtype(dtype).itemsize}").reshape(600, 800)
    assert peak(lambda: fs.softmax(both.real, out=both.imag)) <= 4096
    assert_same_bits(both.imag.copy(), fs.softmax(both.real.copy()))


@pytest.mark.parametrize("start", ["int32", "float16", ">f4"])
def test_converted_input_takes_one_array_of_the_compute_type(start):
    x = np.zeros((600, 800), start)
    result = fs.softmax(x)
    compute = x.size * max(result.itemsize, 4)
    own = compute if result.itemsize >= 4 else compute + result.nbytes
    assert peak(lambda: fs.softmax(x)) <= own + 4096
