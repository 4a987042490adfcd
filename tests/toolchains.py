"""Builds csrc/ with the programs of tests/native/ by each compiler found here, and runs the result.

FSM_REQUIRE_TOOLCHAINS names the toolchains (comma-separated) whose absence is a failure instead of a skip.
FSM_SANITIZE (any -fsanitize= list) is for the programs that run on this machine, not under an emulator.

    python tests/toolchains.py aarch64-gcc build/driver     builds the driver to stay, and prints how to call it
"""

import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

# name: (compiler command, machine, emulator command). SVE is built for the one length that the emulator is told.
TOOLCHAINS = {
    "gcc": (["gcc"], "x86_64", []),
    "clang": (["clang"], "x86_64", []),
    "aarch64-gcc": (["aarch64-linux-gnu-gcc", "-static", "-DFSM_SVE_BITS=256"], "aarch64", ["qemu-aarch64"]),
    "aarch64-clang": (
        ["clang", "--target=aarch64-linux-gnu", "-static", "-DFSM_SVE_BITS=256"],
        "aarch64",
        ["qemu-aarch64"],
    ),
}
EMULATED_CPU = ["-cpu", "max,sve256=on,sve-default-vector-length=32"]
SVE_FLAGS = ["-march=armv8.2-a+sve", "-msve-vector-bits=256"]


def missing(name):
    """What this machine lacks to build and run toolchain `name`, or None."""
    command, machine, emulator = TOOLCHAINS[name]
    if not emulator and os.uname().machine != machine:
        return f"a machine of kind {machine}"
    needed = [command[0], *emulator, *(["aarch64-linux-gnu-gcc"] if machine == "aarch64" else [])]
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


def build_alone(name, pattern, directory, *flags):
    """tests/native/<name>.c with some sources of csrc/; the path of the program."""
    program = Path(directory) / name
    sources = [ROOT / f"tests/native/{name}.c", *sorted((ROOT / "csrc").glob(pattern))]
    common = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*TOOLCHAINS["gcc"][0], *common, *flags, *sources, "-lm", "-lpthread", "-o", program], check=True)
    return program


def build_pool(directory, *flags):
    return build_alone("pool", "pool/*.c", directory, *flags)


class Driver:
    """The driver as built by one toolchain."""

    def __init__(self, name, directory=None):
        csrc = ROOT / "csrc"
        command, machine, emulator = TOOLCHAINS[name]
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="fastsoftmax-")
            directory = self._temporary.name
        build = Path(directory)
        build.mkdir(parents=True, exist_ok=True)
        of_isa = isa_flags(machine) | ({"sve": SVE_FLAGS} if machine == "aarch64" else {})
        precisions = setup_table("PRECISIONS")
        flags = {f"isa/{isa}_{precision}.c": extra for isa, extra in of_isa.items() for precision in precisions}
        sources = {csrc / source: extra for source, extra in flags.items()}
        sources |= {ROOT / source: [] for source in [*setup_table("PORTABLE_SOURCES"), "tests/native/driver.c"]}
        probe = f'-DFSM_PROBE="{ROOT / "tests/native/probe.h"}"'
        common = [*command, "-std=gnu11", "-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", probe, f"-I{csrc}"]
        link = [*command]
        if (sanitizers := os.environ.get("FSM_SANITIZE")) and not emulator:  # the flags of setup.py
            common += ["-O1", "-g", "-DFSM_KEEP_FUNCTIONS=", "-fno-omit-frame-pointer"]
            common += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
            link += [f"-fsanitize={sanitizers}"]

        def compile_one(item):
            source, extra = item
            target = build / f"{source.stem}.o"
            static = [flag for flag in common if flag != "-static"]
            subprocess.run([*static, *extra, "-c", str(source), "-o", str(target)], check=True)
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, sources.items()))
        subprocess.run([*link, *objects, "-lm", "-lpthread", "-o", str(build / "driver")], check=True)
        self._command = [*emulator, *(EMULATED_CPU if emulator else []), str(build / "driver")]

    def on(self, emulator):
        """The same program under another command."""
        other = copy.copy(self)
        other._command = [*emulator, self._command[-1]]
        return other

    def _call(self, *arguments, data=b""):
        return subprocess.run(
            [*self._command, *map(str, arguments)], input=data, stdout=subprocess.PIPE, check=True
        ).stdout

    def isas(self):
        return self._call("isas").decode().split()

    def run(self, op, isa, x, *loss, **operands):
        """`op` of a C-contiguous (outer, n, inner) array along its middle axis; a reduction leaves 1 of it. Of a loss,
        whose numbers are `loss`, the gradient and the losses. Operands: by their names in the driver."""
        outer, _, inner = x.shape
        data = b"".join(array.tobytes() for array in (x, *operands.values()))
        loss = [f"loss={','.join(map(repr, loss))}"] if loss else []
        result = self._call("run", op, isa, f"f{x.dtype.itemsize * 8}", *x.shape, *operands, *loss, data=data)
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
