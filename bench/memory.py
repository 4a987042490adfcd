"""How much memory a call takes: at its peak, beyond its input and its output.

Ours is counted to the page, in a process for each kind of call that never gives memory back: whatever the call touches
is there at its end, also what is kept for the next one. The others have threads, and so no copies of their process can
be made: theirs is the peak of a second call as the system tells it, which overlooks up to 256 KB.
"""

import ctypes
import gc
import json
import os
from dataclasses import replace
from pathlib import Path

from bench.cases import OPS
from bench.contenders import CONTENDERS, OURS

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PAGES = Path("/proc/self/smaps_rollup")  # counted when it is read; what STATUS says may be off by dozens of pages a CPU
TINY = 2  # elements along each axis
CALLS = 3  # with several threads, of which one may come too late to take part

# No memory goes back to the system, and NumPy asks for no huge pages, which would count whole.
KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "NUMPY_MADVISE_HUGEPAGE": "0",
    "OPENBLAS_NUM_THREADS": "1",
}

# Freed memory goes back to the system at once, and each new output counts.
GIVEN_BACK = {
    "BENCH_MEMORY": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "NUMPY_MADVISE_HUGEPAGE": "0",
}


def can_be_told():
    return RESET.exists() and PAGES.exists()


# ---- ours


class OwnMemory:
    """A service of bench/worker.py."""

    def __init__(self, threads):
        self.threads = threads
        self.makers = next(contender.ops for contender in CONTENDERS if contender.name == OURS)
        gc.collect()
        gc.freeze()  # or each copy of this process would visit, and so copy, everything

    def memory(self, case):
        """{operation: {threads: bytes, or None if the call failed}}"""
        cases = [replace(case, op=op) for op in OPS]
        return {
            one.op: {str(threads): in_copy(self.touched, one, inputs, threads) for threads in {1, self.threads}}
            for one in cases
            if one.exists
            for inputs in [one.inputs()]
        }

    def touched(self, case, inputs, threads):
        """Bytes that calls touch besides the inputs and one result, and keep or not."""
        import fastsoftmax as fs

        fs.set_num_threads(threads)
        call = self.makers[case.op](case, inputs, threads)
        give_back_free_memory()
        tiny = replace(case, shape=tuple(min(length, TINY) for length in case.shape))
        self.makers[case.op](tiny, tiny.inputs(), threads)()  # so that code and small objects are there
        give_back_free_memory()
        before = bytes_told(PAGES, "Anonymous")
        for _ in range(1 if threads == 1 else CALLS):
            result = None  # its memory can be used again
            result = call()
        return max(0, bytes_told(PAGES, "Anonymous") - before - result.nbytes)


def give_back_free_memory():
    """What is free counts as soon as it is used again. (Only glibc has this.)"""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(ctypes.c_size_t(0))


def in_copy(function, *arguments):
    """function(*arguments) in a copy of this process; None if it fails there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(function(*arguments)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


# ---- the others


def peak_memory(call):
    """Bytes that a call takes at its peak, beyond what the process had and its result; None where that cannot be told.

    The first call's are not counted, nor is what stays allocated between calls.
    """
    call()
    gc.collect()
    try:
        RESET.write_text("5")  # the peak is now the current size
    except OSError:
        return None
    before = bytes_told(STATUS, "VmRSS")
    result = call()
    peak = bytes_told(STATUS, "VmHWM")
    return max(0, peak - before - result.nbytes)


def bytes_told(file, field):
    line = next(line for line in file.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
