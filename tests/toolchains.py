"""Builds csrc/ with the programs of tests/native/ by each compiler found here, and runs the result.

FSM_REQUIRE_TOOLCHAINS names the toolchains (comma-separated) whose absence is a failure instead of a skip.
FSM_SANITIZE (any -fsanitize= list) is for the programs that run on this machine, not under an emulator.

    python tests/toolchains.py aarch64-gcc build/driver     builds the driver to stay, and prints how to call it
"""

import ast
import contextlib
import copy
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build/native"  # the programs, for the next run of the tests
DEBUG = ["-O1", "-DFSM_KEEP_FUNCTIONS="]  # as setup.py has it: compiles in a small part of the time


@dataclass(frozen=True)
class Toolchain:
    """A compiler, the machine it compiles for, and the emulator of that, if this machine is another. SVE is built for
    the one length that the emulator is told."""

    compiler: tuple
    machine: str = "x86_64"
    emulator: str = ""
    debug: bool = False

    @property
    def flags(self):
        sve = ["-DFSM_SVE_BITS=256"] if self.emulator else []
        is_gcc = self.compiler[0].endswith("gcc") and sys.platform == "linux"  # on macOS that is Clang
        of_gcc = setup_table("GCC_FLAGS") if is_gcc else []
        flags = ["-std=gnu11", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", *of_gcc, *sve]
        return flags + (DEBUG if self.debug else ["-Werror"])  # -O1 knows less of what cannot be uninitialized

    @property
    def link_flags(self):
        return ["-static"] if self.emulator else []


TOOLCHAINS = {
    "gcc-debug": Toolchain(("gcc",), platform.machine(), debug=True),
    "gcc": Toolchain(("gcc",)),
    "clang": Toolchain(("clang",)),
    "aarch64-gcc": Toolchain(("aarch64-linux-gnu-gcc",), "aarch64", "qemu-aarch64"),
    "aarch64-clang": Toolchain(("clang", "--target=aarch64-linux-gnu"), "aarch64", "qemu-aarch64"),
}
EMULATED_CPU = ["-cpu", "max,sve256=on,sve-default-vector-length=32"]
SVE_FLAGS = ["-march=armv8.2-a+sve", "-msve-vector-bits=256"]


def missing(name):
    """What this machine lacks to build and run toolchain `name`, or None."""
    of = TOOLCHAINS[name]
    if of.machine not in setup_table("ISA_FLAGS") or (not of.emulator and of.machine != platform.machine()):
        return "another machine"
    libraries = ["aarch64-linux-gnu-gcc"] if of.emulator else []  # come with it
    needed = [of.compiler[0], *filter(None, [of.emulator]), *libraries]
    return next((program for program in needed if shutil.which(program) is None), None)


def require(name, *programs):
    """Skips the test, or fails it, where toolchain `name` or one of the programs is not to be had."""
    import pytest  # here, since bench/ uses this file too

    if lacking := missing(name) or next((program for program in programs if shutil.which(program) is None), None):
        assert name not in os.environ.get("FSM_REQUIRE_TOOLCHAINS", "").split(","), f"{name} needs {lacking}"
        pytest.skip(f"{name} needs {lacking}")


def setup_table(name):
    """A constant of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def isa_flags(machine):
    """The flags that setup.py gives each file of csrc/isa/."""
    return {**setup_table("ISA_FLAGS")[machine], **setup_table("PORTABLE_ISAS")}


def core_sources(machine, sve):
    """The files of csrc/ that are compiled for a machine, slowest first, and the flags of each; with SVE or without."""
    of_isa = ({"sve": SVE_FLAGS} if sve else {}) | isa_flags(machine)
    precisions = setup_table("PRECISIONS")
    sources = {f"csrc/isa/{isa}_{precision}.c": flags for isa, flags in of_isa.items() for precision in precisions}
    return sources | {source: [] for source in setup_table("PORTABLE_SOURCES")}


def build_alone(name, patterns, directory, *flags):
    """tests/native/<name>.c with some sources of csrc/; the path of the program."""
    program = Path(directory) / name
    of_csrc = [path for pattern in patterns for path in (ROOT / "csrc").glob(pattern)]
    sources = [ROOT / f"tests/native/{name}.c", *of_csrc]
    common = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["gcc", *common, *flags, *sources, "-lm", "-lpthread", "-o", program], check=True)
    return program


def build_pool(directory, *flags):
    return build_alone("pool", ["pool/*.c"], directory, *flags)


@contextlib.contextmanager
def alone(directory):
    """One process at a time is inside the block; the others wait."""
    import fcntl  # there where the programs are, not on Windows

    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def state_of(*command):
    """What a build depends on, in a few letters: the command, the compiler, and every file that it may read."""
    version = subprocess.run([command[0], "--version"], stdout=subprocess.PIPE, check=True).stdout
    state = hashlib.sha256(repr((command, version)).encode())
    for directory in ("csrc", "tests/native"):
        for path in sorted(path for path in (ROOT / directory).rglob("*") if path.is_file()):
            state.update(f"{path}".encode() + path.read_bytes())
    return state.hexdigest()


class Driver:
    """The driver as built by one toolchain; it is built anew only after a change."""

    def __init__(self, name, directory=None):
        toolchain, sanitizers = TOOLCHAINS[name], os.environ.get("FSM_SANITIZE")
        emulator = [toolchain.emulator, *EMULATED_CPU] if toolchain.emulator else []
        flags, link_flags = toolchain.flags, toolchain.link_flags
        if sanitizers and not emulator:  # the flags of setup.py
            link_flags = [f"-fsanitize={sanitizers}"]
            flags = [*flags, *DEBUG, "-g", *link_flags, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
            name += "-sanitized"
        directory = Path(directory or BUILT / name).absolute()
        with alone(directory):
            state, built_from = state_of(*toolchain.compiler, *flags), directory / "built-from"
            if not built_from.exists() or built_from.read_text() != state:
                self._build(directory, toolchain, flags, link_flags)
                built_from.write_text(state)
        self._command = [*emulator, str(directory / "driver")]
        self._server = None

    @staticmethod
    def _build(directory, toolchain, flags, link_flags):
        """Every path to the sources is relative, so that ccache knows them in another clone."""
        sources = core_sources(toolchain.machine, sve=bool(toolchain.emulator)) | {"tests/native/driver.c": []}
        flags = [*flags, "-Icsrc", "-I.", '-DFSM_PROBE="tests/native/probe.h"']

        def compile_one(item):
            source, extra = item
            target = str(directory / f"{Path(source).stem}.o")
            subprocess.run([*toolchain.compiler, *flags, *extra, "-c", source, "-o", target], cwd=ROOT, check=True)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources.items()))
        program = ["-lm", "-lpthread", "-o", str(directory / "driver")]
        subprocess.run([*toolchain.compiler, *link_flags, *objects, *program], check=True)

    def on(self, emulator):
        """The same program under another command."""
        other = copy.copy(self)
        other._command, other._server = [*emulator, self._command[-1]], None
        return other

    def _call(self, *arguments, data=b""):
        return subprocess.run(
            [*self._command, *map(str, arguments)], input=data, stdout=subprocess.PIPE, check=True
        ).stdout

    def _serve(self, *arguments, data):
        """As _call(), by one process for all calls: under an emulator it is the start of each that takes the time."""
        if self._server is None:
            self._server = subprocess.Popen([*self._command, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._server.stdin.write(" ".join(map(str, arguments)).encode() + b"\n" + data)
        self._server.stdin.flush()
        size = int.from_bytes(self._server.stdout.read(8), sys.byteorder)
        result = self._server.stdout.read(size)
        assert len(result) == size > 0, f"the driver ended: {arguments}"
        return result

    def close(self):
        """Ends the process that serves; it has nothing to complain of."""
        if self._server is not None:
            assert self._server.communicate()[0] == b""
            assert self._server.returncode == 0
            self._server = None

    def isas(self):
        return self._call("isas").decode().split()

    def run(self, op, isa, x, *loss, **operands):
        """`op` of a C-contiguous (outer, n, inner) array along its middle axis; a reduction leaves 1 of it. Of a loss,
        whose numbers are `loss`, the gradient and the losses. Operands: by their names in the driver."""
        outer, _, inner = x.shape
        data = b"".join(array.tobytes() for array in (x, *operands.values()))
        loss = [f"loss={','.join(map(repr, loss))}"] if loss else []
        result = self._serve(op, isa, f"f{x.dtype.itemsize * 8}", *x.shape, *operands, *loss, data=data)
        if not loss:
            return np.frombuffer(result, x.dtype).reshape(outer, -1, inner)
        gradient, losses = result[: x.nbytes], result[x.nbytes :]
        return np.frombuffer(gradient, x.dtype).reshape(x.shape), np.frombuffer(losses).reshape(outer, 1, inner)

    def sums(self, isa, x, columns):
        """The exponentials and the pairs (hi, lo) of sums of a row (columns = 0), or of the columns of x."""
        out = self._call("sums", isa, f"f{x.dtype.itemsize * 8}", len(x), columns, data=x.tobytes())
        return np.frombuffer(out[: x.nbytes], x.dtype).reshape(x.shape), np.frombuffer(out[x.nbytes :]).reshape(-1, 2)

    def vec(self, function, isa, dtype, records):
        """The results of one function of csrc/vec.h, as bytes; records are (n, a, b, c)."""
        dtype = np.dtype(dtype)
        data = b"".join(
            np.int64(n).tobytes() + b"".join(np.asarray(v, dtype).tobytes() for v in abc) for n, *abc in records
        )
        return self._call("vec", function, isa, f"f{dtype.itemsize * 8}", 128 // dtype.itemsize, data=data)


if __name__ == "__main__":
    print(*Driver(*sys.argv[1:])._command)
