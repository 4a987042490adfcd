"""What no library can beat, measured in turn with them: copies of the same bytes, and the arithmetic of our own kernels
on numbers in L1. np.exp, for a sense of what a small call costs. And our own time for the same numbers in the memory
order that suits best, for what a layout or an axis costs.

Makers are those of bench/contenders.py. Their calls may do another amount of work than the case once: `call.work` says
how many times.
"""

import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.cases import REDUCTIONS, Case
from bench.contenders import CONTENDERS, OURS
from fastsoftmax import _core
from tests.toolchains import ROOT, isa_flags

NATIVE = Path(__file__).parent / "native"
CHUNK = {"float32": 2048, "float64": 1024}  # 8 KB; with a second input and the output, in any L1
COMPUTED_IN = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
PASSES = 20  # of native/yardsticks.c
NEW_PAGES = 1 << 20  # from this many bytes on, a new output is memory that is new to the process
SMALL = 10000  # elements up to which np.exp is of interest


def compiler():
    """The C compiler as a command, or None."""
    given = shlex.split(os.environ.get("CC", ""))
    return given or next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


@functools.cache
def native():
    """The yardsticks in C for the active instruction set, compiled at first use; None without a compiler. FSM_DEBUG, as
    setup.py knows it, has them compiled in a small part of the time: to be tested, not to measure with."""
    command, isa, debug = compiler(), _core.active_isa(), bool(os.environ.get("FSM_DEBUG"))
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if command is None or os.name != "posix":
        return None
    library = ROOT / f"build/bench/{isa}{'-debug' if debug else ''}.so"
    units = [ROOT / f"csrc/isa/{isa}_{precision}.c" for precision in ("f32", "f64")]
    beside = [path for folder in ("arrays", "pool") for path in (ROOT / "csrc" / folder).glob("*.c")]
    sources = [*units, *beside, NATIVE / "yardsticks.c"]
    newest = max(path.stat().st_mtime for path in [*(ROOT / "csrc").rglob("*.[chd]*"), *NATIVE.iterdir()])
    if not library.exists() or library.stat().st_mtime < newest:
        library.parent.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        flags = ["-std=c11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", *isa_flags(machine)[isa]]
        flags += ["-O1", "-DFSM_KEEP_FUNCTIONS="] if debug else []
        flags += [f"-DBENCH_ISA={isa}", f"-I{ROOT / 'csrc'}", *map(str, sources)]
        flags += ["-lm", "-lpthread", "-o", str(partial)]
        subprocess.run([*command, *flags], check=True)
        os.replace(partial, library)
    return ctypes.CDLL(str(library))


def has_limit(case):
    """There are a copy and an arithmetic to compare with: as large a result, of floats, without extras."""
    plain = case.op not in REDUCTIONS and not case.mask and case.temperature == 1 and not case.loss
    return native() is not None and plain and case.dtype in COMPUTED_IN


def large(case, inputs):
    """Those of the shape of the case."""
    return [x for x in inputs if x.shape == case.shape]


def with_work(call, work):
    call.work = work
    return call


def numpy_copyto(case, inputs, threads):
    if case.op in REDUCTIONS:
        return None
    x = large(case, inputs)[0]
    if case.out:
        y = case.output()
        return lambda: np.copyto(y, x)

    def new():
        y = case.output()
        np.copyto(y, x)
        return y

    return new


def numpy_exp(case, inputs, threads):
    if case.elements > SMALL or case.dtype not in COMPUTED_IN:
        return None
    x = -np.abs(large(case, inputs)[0])  # no overflow, as in a softmax
    if case.out:
        y = np.empty_like(x)
        return lambda: np.exp(x, out=y)
    return lambda: np.exp(x)


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def pointers(x, other=None):
    """Of one or two inputs."""
    return pointer(x), None if other is None else pointer(other)


def c_copy(past_caches):
    """A maker of copies in C, shared by the threads where there are several. A second input is read."""

    def maker(case, inputs, threads):
        if not has_limit(case):
            return None
        n = case.nbytes
        sources = [np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8) for x in large(case, inputs)]
        target = np.empty(n, np.uint8)

        def copy(y, times):
            sizes = ctypes.c_ssize_t(n), ctypes.c_ssize_t(times)
            native().bench_copy(pointer(y), *pointers(*sources), *sizes, past_caches, threads)

        if not case.out and n >= NEW_PAGES:
            return lambda: copy(np.empty(n, np.uint8), 1)
        times = max(1, 1_000_000 // n)  # so that the call itself does not count
        return with_work(lambda: copy(target, times), times)

    return maker


def arithmetic(op, dtype, units, threads):
    """A call that does the arithmetic of an operation in L1 on so many threads, and for how many elements."""
    kernel = "cross_entropy" if op == "cross_entropy_with_grad" else op
    n, number = CHUNK[dtype], list(_core.ops()).index(kernel)
    case = Case((n,), op=op, dtype=dtype)
    inputs = large(case, case.inputs())
    size, sizes = inputs[0].itemsize, (ctypes.c_ssize_t(n), ctypes.c_ssize_t(units))
    work = native().bench_floor
    return lambda: work(number, size, *pointers(*inputs), *sizes, threads), units * PASSES * n


def floor(case, inputs, threads):
    """The arithmetic for the elements of the case."""
    if not has_limit(case):
        return None
    call, elements = arithmetic(case.op, COMPUTED_IN[case.dtype], 5 if threads == 1 else 40 * threads, threads)
    return with_work(call, elements / case.elements)


def as_rows(case, inputs, threads):
    """Our own call for the same numbers as rows of ordinary arrays, where the inputs are something else."""
    if case.layout == "C" and case.axes == (len(case.shape) - 1,):
        return None
    rows = [np.ascontiguousarray(case.rows(x), x.dtype.newbyteorder("=")) for x in inputs]
    maker = next(contender.ops[case.op] for contender in CONTENDERS if contender.name == OURS)
    shape = (case.elements // case.joined, case.joined)
    return maker(replace(case, shape=shape, axis=-1, layout="C"), rows, threads)


COPIES = {"copy": c_copy(0), "streaming copy": c_copy(1)}
AS_ROWS = "as rows"
YARDSTICKS = {"np.copyto": numpy_copyto, "np.exp": numpy_exp, **COPIES, "floor": floor, AS_ROWS: as_rows}
