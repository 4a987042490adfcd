"""The build of the extension modules; everything else is in pyproject.toml.

Switches, as environment variables: FSM_DEBUG=1 (-O1 -g, and the functions of the vector layer stay functions),
FSM_SANITIZE=address,undefined (any -fsanitize= list; a debug build too), FSM_COVERAGE=1 (gcov). CC and CFLAGS are
honoured as usual.
"""

import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# csrc/isa/<name>_<precision>.c, and the flags that let the compiler use that instruction set, by target machine. Only
# these files get them: the rest runs before anybody knows what the CPU can do.
ISA_FLAGS = {
    "x86_64": {
        "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
    },
    "aarch64": {"neon": []},
}
MSVC_ISA_FLAGS = {"avx512": ["/arch:AVX512"], "avx2": ["/arch:AVX2"]}
# Loops over the lanes, as functions; the second is the reference, which nobody waits for.
PORTABLE_ISAS = {"base": [], "scalar": ["-Os"]}
PRECISIONS = ["f32", "f64"]
# Loops whose length is known are unrolled where the code says so (FSM_UNROLL), and if they are short. By itself GCC
# unrolls up to 16 iterations: all that is done once for each of 16 rows, and what is left over of 15.
GCC_FLAGS = ["--param=max-completely-peel-times=4"]
PORTABLE_SOURCES = [
    "csrc/arrays/strides.c",
    "csrc/describe.c",
    "csrc/dispatch.c",
    "csrc/cpu.c",
    "csrc/longdouble.c",
    "csrc/pool/pool.c",
    "csrc/pool/split.c",
    "csrc/pool/num_threads.c",
]

COMPILED = ["_call", "_check", "_grad", "_logsumexp", "_loss", "_softmax"]

MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class BuildExt(build_ext):
    """Compiles the sources of the core side by side, each with its own flags."""

    def build_extension(self, ext):
        self.force = True  # CC or a switch may be what has changed
        msvc = self.compiler.compiler_type == "msvc"
        level = ["/O2"] if msvc else ["-O3"]
        flags, ext.extra_link_args = self.common_flags(msvc)
        if not msvc and self.knows(*GCC_FLAGS):
            flags += GCC_FLAGS
        if ext.name != core.name:
            ext.extra_compile_args = level + flags
            super().build_extension(ext)
            return
        machine = self.machine()
        isa_flags = {**ISA_FLAGS.get(machine, {}), **PORTABLE_ISAS}
        sources = {source: [] for source in PORTABLE_SOURCES}
        sources |= {source: [] if msvc else ["-O2"] for source in ext.sources}  # what is done once a call
        for isa in isa_flags:
            for precision in PRECISIONS:
                flags_of_isa = MSVC_ISA_FLAGS.get(isa, []) if msvc else isa_flags[isa]
                sources[f"csrc/isa/{isa}_{precision}.c"] = flags_of_isa

        def compile_one(source):
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                macros=ext.define_macros,
                extra_postargs=[*level, *sources[source], *flags],  # a debug build has the last word
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [obj for objs in pool.map(compile_one, sources) for obj in objs]
        ext.sources, ext.extra_objects = [], objects
        super().build_extension(ext)

    def machine(self):
        """The machine that is built for, which need not be the one that builds."""
        for part in reversed(self.plat_name.split("-")):  # linux-x86_64, macosx-11.0-arm64, win-amd64
            if part in MACHINES:
                return MACHINES[part]
        return MACHINES.get(platform.machine().lower())

    def knows(self, *flags):
        """Whether the compiler does; Clang only warns that it makes no use of them."""
        command = [*self.compiler.compiler_so, *flags, "-Werror", "-fsyntax-only", "-x", "c", os.devnull]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    @staticmethod
    def common_flags(msvc):
        if msvc:
            return ["/std:c11", "/experimental:c11atomics", "/fp:precise", "/W3"], []
        # -ffp-contract=off: a*b + c is two roundings; where one is meant, the code says fma.
        flags = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-g0", "-pthread"]
        link_flags = ["-pthread"]
        sanitizers = os.environ.get("FSM_SANITIZE")
        if os.environ.get("FSM_DEBUG") or sanitizers:
            # The functions of block.h stay functions, to step through; inlined, with every load checked, they take many
            # times as long to compile.
            flags += ["-O1", "-g", "-DFSM_KEEP_FUNCTIONS="]
        if sanitizers:
            flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
            link_flags += [f"-fsanitize={sanitizers}"]
        if os.environ.get("FSM_COVERAGE"):
            # atomic: several threads count.
            flags += ["--coverage", "-fprofile-update=atomic", "-O1", "-DFSM_KEEP_FUNCTIONS="]
            link_flags += ["--coverage"]
        return flags, link_flags


core = Extension(
    "fastsoftmax._core",
    ["fastsoftmax/_core.pyx"],
    include_dirs=["csrc", numpy.get_include()],
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
    ],
    depends=sorted(str(path) for path in Path("csrc").rglob("*") if path.is_file()),
)

# Modules of Python that Cython compiles as they stand, which halves the time of a small call: seven keyword-only
# arguments alone, none of them given, cost an interpreted function as much as the kernel of ten numbers.
compiled = [Extension(f"fastsoftmax.{name}", [f"fastsoftmax/{name}.py"]) for name in COMPILED]

setup(
    ext_modules=cythonize(
        [core, *compiled],
        build_dir="build/cython",
        compiler_directives={
            "annotation_typing": False,
            "autotestdict": False,
            "freethreading_compatible": True,
            "language_level": 3,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
