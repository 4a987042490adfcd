"""How csrc/describe.c has arrays of any shape and strides walked: every row once, its elements in C order of the joined
axes, in as few dimensions as that takes, and side by side where kernels are faster so."""

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toolchains import build_alone, require

SIZES = {"f32": 4, "f64": 8}


@pytest.fixture(scope="module")
def describe(tmp_path_factory):
    """describe(dtype, axes, layouts): (N, AXES, NDIM, COLUMNS), and the offsets of elements as (row, operand, element);
    see tests/native/describe.c. A layout is (lengths, strides), or None."""
    require("gcc")
    program = build_alone("describe", ["describe.c", "arrays/*.c"], tmp_path_factory.mktemp("describe"))

    def run(dtype, axes, layouts):
        operands = ["none" if layout is None else ":".join(map(listed, layout)) for layout in layouts]
        out = subprocess.run([program, dtype, listed(axes), *operands], stdout=subprocess.PIPE, check=True).stdout
        numbers = np.frombuffer(out, np.int64)
        present = sum(layout is not None for layout in layouts)
        return tuple(numbers[:4].tolist()), numbers[4:].reshape(-1, present, numbers[0])

    return run


def listed(numbers):
    return ",".join(map(str, numbers))


def offsets(layout, shape, axes):
    """Of the elements of an operand, as (row, element)."""
    lengths, strides = layout
    of_each = np.zeros(lengths, np.int64)
    for d, length in enumerate(lengths):
        of_each += np.expand_dims(np.arange(length) * strides[d], [k for k in range(len(lengths)) if k != d])
    kept = [d for d in range(len(shape)) if d not in axes]
    n = np.prod([shape[d] for d in axes], dtype=int)
    return np.broadcast_to(of_each, shape).transpose([*kept, *axes]).reshape(-1, n)


def contiguous(shape, size, order=None):
    """The layout of an array whose dimensions lie in memory in this order, the outermost first."""
    strides = [0] * len(shape)
    for d in reversed(range(len(shape)) if order is None else order):
        strides[d] = size
        size *= shape[d]
    return list(shape), strides


@st.composite
def calls(draw):
    """(dtype, axes, layouts): most operands contiguous, some with gaps, reversed or broadcast along a dimension."""
    dtype = draw(st.sampled_from(sorted(SIZES)))
    shape = draw(st.lists(st.sampled_from([1, 2, 2, 3, 3, 4, 5]), max_size=6))
    ndim = len(shape)
    if ndim and draw(st.booleans()):
        shape[draw(st.integers(0, ndim - 1))] = draw(st.sampled_from([35, 150]))
    axes = [d for d in range(ndim) if draw(st.booleans())]
    orders = [list(range(ndim)), list(range(ndim))[::-1], draw(st.permutations(range(ndim)))]
    order = draw(st.sampled_from(orders))

    layouts = []
    for o in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["as x", "as x", "one a row", "one for all rows", "none"])) if o else "as x"
        if kind == "none":
            layouts.append(None)
            continue
        single = {"as x": [], "one a row": axes, "one for all rows": [d for d in range(ndim) if d not in axes]}[kind]
        lengths = [1 if d in single else length for d, length in enumerate(shape)]
        if draw(st.integers(0, 3)) == 0:
            order = draw(st.sampled_from(orders))
        size = SIZES[dtype]
        strides = [0] * ndim
        for d in reversed(order):
            how = draw(st.sampled_from(["plain"] * 5 + ["gap", "reversed", "broadcast"]))
            strides[d] = {"reversed": -size, "broadcast": 0}.get(how, size)
            size *= lengths[d] + (how == "gap")
            if lengths[d] == 1:
                strides[d] = draw(st.sampled_from([strides[d], 12345]))  # NumPy promises nothing of these
        layouts.append((lengths, strides))
    return dtype, axes, layouts


@settings(max_examples=200, deadline=None)
@given(call=calls())
def test_every_row_is_walked_once(describe, call):
    dtype, axes, layouts = call
    shape = layouts[0][0]
    (n, *_), walked = describe(dtype, axes, layouts)
    expected = np.stack([offsets(layout, shape, axes) for layout in layouts if layout is not None], axis=1)
    assert n == expected.shape[2]
    assert sorted(walked.tolist()) == sorted(expected.tolist())


@settings(max_examples=50, deadline=None)
@given(call=calls())
def test_rows_are_walked_as_x_lies_in_memory(describe, call):
    """Without gaps, that is from one end to the other."""
    dtype, axes, layouts = call
    shape = layouts[0][0]
    kept = [d for d in range(len(shape)) if d not in axes]
    for order in ([*kept, *axes], [*kept[::-1], *axes], [*axes, *kept[::-1]]):
        _, walked = describe(dtype, axes, [contiguous(shape, 4, order)])
        assert np.all(np.diff(walked[:, 0, 0]) > 0)


def dense(*shape, order=None):
    return contiguous(shape, 4, order)


@pytest.mark.parametrize(
    ("axes", "layouts", "expected"),
    [
        pytest.param([2], [dense(6, 5, 4), dense(6, 5, 4)], (4, 1, 1, 0), id="rows"),
        pytest.param([1, 2], [dense(6, 5, 4), dense(6, 1, 1)], (20, 1, 1, 0), id="joined axes that are one"),
        pytest.param([0, 1], [dense(6, 5, 4, order=[2, 1, 0])], (30, 2, 1, 0), id="joined axes in C order"),
        pytest.param([0, 2], [dense(6, 5, 4)], (24, 2, 1, 0), id="joined axes apart"),
        pytest.param([0], [dense(6, 5, 4, order=[2, 1, 0])], (6, 1, 1, 0), id="rows in another order"),
        pytest.param([2], [dense(6, 5, 4, order=[1, 0, 2])], (4, 1, 1, 0), id="dimensions that are one"),
        pytest.param([2], [dense(6, 5, 4), dense(1, 5, 4)], (4, 1, 2, 0), id="but not in each operand"),
        pytest.param([2], [dense(6, 5, 4), None, dense(6, 5, 4)], (4, 1, 1, 0), id="in each that is there"),
        pytest.param([1], [dense(60, 50, 40), dense(60, 1, 40)], (50, 1, 1, 40), id="columns"),
        pytest.param([0], [dense(50, 10, 4), dense(1, 10, 4)], (50, 1, 0, 40), id="columns that are one"),
        pytest.param([1], [dense(60, 50, 3)], (50, 1, 2, 0), id="few columns"),
        pytest.param([1], [([40, 50], [0, 4])], (50, 1, 1, 0), id="one row over and over"),
        pytest.param([2], [dense(40, 1, 1)], (1, 1, 0, 40), id="rows of one element"),
        pytest.param([0], [dense(*[2] * 10, *[1] * 54)], (2, 1, 0, 512), id="as many dimensions as there can be"),
        pytest.param([62], [dense(*[1] * 62, 2, 3, order=[63, 62, *range(62)])], (2, 1, 1, 0), id="the last of them"),
    ],
)
def test_dimensions_that_are_left(describe, axes, layouts, expected):
    assert describe("f32", axes, layouts)[0] == expected
