"""The rules of the house, as far as reading files can check them."""

import os
import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
from contract import GRADIENTS
from toolchains import ROOT, isa_flags, setup_table

from fastsoftmax import _core

CSRC = ROOT / "csrc"
KERNELS = sorted((CSRC / "kernels").glob("*.h"))
PRECISIONS = setup_table("PRECISIONS")
ISA_FLAGS = setup_table("ISA_FLAGS")
OF_OTHER_SYSTEMS = ["os_windows.h", "neon.h", "sve.h", "arm.h"]
ALL_C = sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".def"))


def code(path):
    """The text of a C file without its comments."""
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def listed(name):
    """The entries of ops.def or isa.def."""
    return re.findall(r"^(?:OP|ISA)\((\w+)", code(CSRC / name), re.MULTILINE)


def test_every_op_has_its_kernel_its_function_and_its_test():
    assert listed("ops.def") == list(_core.ops())
    kernels = {path: code(path) for path in KERNELS}
    for op in listed("ops.def"):
        homes = [path for path, text in kernels.items() if f"static void {op}(const fsm_args *args" in text]
        assert len(homes) == 1, op
        assert f'#include "{homes[0].name}"' in code(CSRC / "kernels/table.h")
        assert f"static void {op}(" in code(CSRC / "longdouble.c")
        assert (ROOT / f"tests/test_{'gradients' if op in GRADIENTS else op}.py").exists()
        assert any(f"def {op}(" in path.read_text() for path in (ROOT / "fastsoftmax").glob("_*.py"))


def test_every_isa_has_its_file_its_flags_and_its_cpu_check():
    for isa in listed("isa.def"):
        assert all((CSRC / f"isa/{isa}_{precision}.c").exists() for precision in PRECISIONS)
        assert (CSRC / f"simd/{isa}.h").exists()
        assert f"bool fsm_cpu_{isa}(void)" in code(CSRC / "cpu.c")
    built = {isa for machine in ("x86_64", "aarch64") for isa in isa_flags(machine)}
    assert built == set(listed("isa.def")) - {"sve"}  # not in wheels yet


def test_both_precisions_define_the_same_names():
    defined = [
        re.findall(r"#define (\w+)|^FSM_INLINE \w+ (\w+)\(", code(CSRC / f"simd/{precision}.h"), re.MULTILINE)
        for precision in PRECISIONS
    ]
    names = [{name for pair in found for name in pair if name} - {"FSM_F32_H", "FSM_F64_H"} for found in defined]
    assert names[0] == names[1]


def test_headers_have_guards_and_include_what_they_use():
    """Each compiles alone, and no two include each other."""
    flags = {"avx": ISA_FLAGS["x86_64"]["avx512"] + ["-mf16c"], "x86": ISA_FLAGS["x86_64"]["avx2"]}
    for path in sorted(CSRC.rglob("*.h")):
        guards = re.findall(r"^#ifndef (FSM_\w+_H)\n#define \1$", path.read_text(), re.MULTILINE)
        assert len(guards) == 1 or path.name == "fsm.h", path
        assert not includes_itself(path), path
        if os.uname().machine != "x86_64" or shutil.which("gcc") is None or path.name in OF_OTHER_SYSTEMS:
            continue
        extra = next((value for key, value in flags.items() if path.name.startswith(key)), [])
        command = ["gcc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", *extra]
        # An unused static function is no fault of a header; the main file is another, so that it is one.
        subprocess.run([*command, "-x", "c", "-"], input=f'#include "{path}"\n', text=True, check=True)


def includes_itself(path, seen=()):
    """By way of others too."""
    if path in seen:
        return True
    included = re.findall(r'#include "([^"]+\.h)"', code(path))
    found = [other for name in included for other in (path.parent / name, CSRC / name) if other.exists()]
    return any(includes_itself(other.resolve(), (*seen, path)) for other in found)


def test_files_that_are_named_are_there():
    """Also in comments and documents, which no compiler reads."""
    folders = "|".join(path.name for path in CSRC.iterdir() if path.is_dir())
    documents = [ROOT / "setup.py", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for path in [*ALL_C, *documents, *(ROOT / "tests").rglob("*.py")]:
        for name in re.findall(rf"\b(?:{folders})/\w+\.(?:[ch]|def)\b", path.read_text()):
            assert (CSRC / name).exists() or (ROOT / "tests" / name).exists(), (path.name, name)


def test_names_can_be_found():
    """No function is made by pasting: what ctags, clangd and a debugger call it is what stands in the file."""
    assert not any(re.search(r"\bFN\(", code(path)) for path in ALL_C)


def test_kernels_know_no_isa_and_no_dtype():
    for path in KERNELS:
        text = code(path)
        conditions = re.findall(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b(.*)", text, re.MULTILINE)
        assert len(conditions) == (2 if path.name == "table.h" else 1), path  # the guard; what tests add
        assert not re.search(r"_mm\d*_|__m\d+|vld1q|svld1|immintrin|arm_neon|\bvf(32|64)_", text), path
        assert not re.search(r"\b(float|f32|f64)\b", text), path


def test_kernels_do_not_allocate_print_or_keep_state():
    for path in [*KERNELS, CSRC / "arrays/load.h", CSRC / "arrays/store.h"]:
        text = code(path)
        assert not re.search(r"\b(malloc|calloc|realloc|free|printf|alloca|errno|exit)\b", text), path
        assert not re.search(r"^\s*static (?!const\b)[^(]*[=;]", text, re.MULTILINE), path


def test_pasting_is_for_lists():
    """Those of .def files, and the one symbol of a translation unit."""
    for path in ALL_C:
        if path.name == "table.h" or path.parent.name == "simd":
            continue  # that symbol; instructions whose names differ by a suffix
        joined = re.sub(r"\\\n", " ", code(path))
        pastes = [line for line in joined.splitlines() if "##" in line]
        allowed = all(re.match(r"\s*#define (OP|ISA|HALF|FLOAT|INTEGER)\(", line) for line in pastes)
        assert allowed, (path, pastes)


def test_indices_are_ptrdiff_t():
    for path in KERNELS:
        assert not re.search(r"\b(size_t|long|unsigned) (n|step|count|stride|row|column)\b", code(path)), path


def test_no_arithmetic_in_python():
    """On numbers, that is: class indices are only looked at."""
    banned = re.compile(r"\bnp\.(exp|log|sum|max|maximum|subtract|divide|multiply|log1p|einsum|dot)\b|\.(sum|max)\(")
    for path in (ROOT / "fastsoftmax").glob("_*.py"):  # scipy.py: complex input
        body = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
        body = re.sub(r"^def labels\(.*?^(?=def )", "", body, flags=re.DOTALL | re.MULTILINE)
        assert not banned.search(body), path


def test_errors_are_raised_in_check_only():
    for path in (ROOT / "fastsoftmax").glob("*.py*"):
        if path.suffix in (".py", ".pyx") and path.name != "_check.py":
            assert not re.search(r"^\s*raise\b", path.read_text(), re.MULTILINE), path


def test_no_leftovers():
    for path in [*ALL_C, *(ROOT / "fastsoftmax").glob("*.py*")]:
        if path.suffix in (".pyc",):
            continue
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", path.read_text()), path


def test_no_fast_math_and_no_native_anywhere():
    for path in [ROOT / "setup.py", ROOT / "pyproject.toml", *ALL_C]:
        assert not re.search(r"fast-math|march=native|/fp:fast", path.read_text()), path


# ---- the tools around it


def tracked_files():
    """Every text file in the repository, those that git ignores aside."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listing.stdout.splitlines() if (path := ROOT / name).suffix not in (".png", ".npz")]


def test_text_files_keep_editorconfig():
    """Here, as some editors do not read it: UTF-8, LF, a last newline, no blanks at the end of a line, tabs only where
    make wants them, no line above 120 but in Markdown."""
    for path in tracked_files():
        text = path.read_bytes().decode()
        assert not text or (text.endswith("\n") and not text.endswith("\n\n")), path
        for number, line in enumerate(text.split("\n"), 1):
            where = f"{path}:{number}"
            assert line == line.rstrip(), where
            assert "\t" not in line.removeprefix("\t" if path.name == "Makefile" else ""), where
            assert len(line) <= 120 or path.suffix == ".md", where


def test_hooks_are_the_checks_of_the_makefile():
    checks = re.search(r"^CHECKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"- id: (\S+)", hooks) == checks
    assert re.findall(r"entry: make --silent check-(\S+)", hooks) == checks
    assert "make --keep-going check\n" in (ROOT / ".ci/run").read_text()


def test_the_sdist_has_what_building_and_testing_need():
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = re.findall(r"^graft (\S+)", manifest, re.MULTILINE)
    included = [name for line in re.findall(r"^include (.*)$", manifest, re.MULTILINE) for name in line.split()]
    implied = ["fastsoftmax/*.py", "fastsoftmax/*.pyi", "fastsoftmax/py.typed"]
    implied += ["pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"]  # by setuptools
    for path in tracked_files():  # all there is, but pictures
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] not in grafted:
            assert any(fnmatch(name, pattern) for pattern in included + implied), name


def ci_commands():
    """.ci/run, with the recipes of the Makefile that it calls."""
    makefile, script = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    targets = re.findall(r"\bmake (\w+)$", script, re.MULTILINE)
    recipes = [re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1] for target in targets]
    assert recipes
    return "\n".join([script, *recipes])


def test_what_pytest_leaves_out_is_run_by_ci():
    """By a step that takes all of it: that marker, and nothing that chooses further."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    left_out = re.search(r'-m "(.*)"', options["addopts"])[1].removeprefix("not ").split(" and not ")
    known = {marker.split(":")[0].split("(")[0] for marker in options["markers"]}
    assert left_out
    assert set(left_out) == known - {"sampled"}
    for marker in left_out:
        assert re.search(
            rf"^\s*(\w+=\S+ )*pytest (-q |-n0 )*-m {marker}( \$\(ARGS\))?$", ci_commands(), re.MULTILINE
        ), marker


def test_every_formatter_is_pinned():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for formatter in ("clang-format", "ruff"):
        assert any(requirement.startswith(f"{formatter}==") for requirement in extras["dev"])
