"""What the documentation says is so: its examples run, and the table of edge cases holds cell by cell."""

import doctest
import importlib
import inspect
import pkgutil
import re

import numpy as np
import pytest
from toolchains import ROOT

import fastsoftmax as fs

MODULES = ["fastsoftmax", *(f"fastsoftmax.{module.name}" for module in pkgutil.iter_modules(fs.__path__))]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "fastsoftmax.__main__"])
def test_examples_of_docstrings(name):
    """pytest's own --doctest-modules takes no module that is compiled."""
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failed


def test_every_public_function_has_examples():
    finder = doctest.DocTestFinder()
    for module in (fs, fs.scipy):
        for name in module.__all__:
            function = getattr(module, name)
            if name != "show_config" and callable(function):
                (found, *_) = finder.find(function, name, module=inspect.getmodule(function))
                assert found.examples, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_pages(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, verbose=False)
    assert not failed


def test_every_page_with_code_is_one_that_doctest_reads():
    for page in PAGES:
        text = page.read_text()
        assert text.count("```python") == len(re.findall(r"```python\n>>> ", text)), page


def table():
    """(case, arguments, x, {function: expected}) for each row of the table of edge cases, as text."""
    lines = [line for line in (ROOT / "docs/edge-cases.md").read_text().splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    for case, arguments, x, *expected in rows:
        yield pytest.param(arguments, x, dict(zip(header[3:], expected, strict=True)), id=case)


@pytest.mark.parametrize(("arguments", "x", "expected"), list(table()))
def test_edge_case(arguments, x, expected):
    names = {name: getattr(np, name) for name in ("inf", "nan", "zeros", "full", "array", "log", "exp", "float16")}
    keywords = eval(f"dict({arguments})", names)
    x = np.asarray(eval(x, names))
    assert sum(map(bool, expected.values())) >= 2
    for name, cell in expected.items():
        if cell:
            got = getattr(fs, name)(x, axis=-1, **keywords)
            wanted = np.asarray(eval(cell, names))
            assert np.shape(got) == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(got.dtype).eps, atol=0, err_msg=name)
