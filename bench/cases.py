"""The one list of what is measured.

Every operation, on every input below, in both dtypes, into a new and into an existing output, on one thread and on all:
that is `--full`. The cases named in an input's `quick` are what runs without it.
"""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastsoftmax import _core

DTYPES = {"f32": "float32", "f64": "float64"}
OUTPUTS = {"new": False, "out": True}
THREADS = ("1", "all")
LAYOUTS = {"C": "", "F": "Fortran order", "stepped": "every 2nd column"}


@dataclass(frozen=True)
class Input:
    """Logits, and which of the cases with them are quick: "dtype output threads", separated by commas."""

    shape: tuple[int, ...]
    axis: int = -1
    spread: float = 4  # standard deviation of normal logits
    source: str = "normal"  # or "digits": the logits that examples/digits.py leaves
    layout: str = "C"  # one of LAYOUTS
    quick: str = ""


@dataclass(frozen=True)
class Case:
    """One call: an operation on an input."""

    op: str
    dtype: str
    shape: tuple[int, ...]
    axis: int = -1
    spread: float = 4
    source: str = "normal"
    layout: str = "C"
    out: bool = False  # into an existing array, or a new one
    threads: str = "1"  # or "all"
    quick: bool = False

    @property
    def input_name(self):
        words = [self.op, self.dtype, str(self.shape)]
        if self.axis != -1:
            words.append(f"axis {self.axis}")
        if self.source != "normal":
            words.append(self.source)
        elif self.spread != 4:
            words.append(f"sd {self.spread:g}")
        words.append(LAYOUTS[self.layout])
        return " ".join(filter(None, words))

    @property
    def name(self):
        return f"{self.input_name} {'out=' if self.out else 'new'}, {threads_name(self.threads)}"

    @property
    def elements(self):
        return int(np.prod(self.shape))

    @property
    def nbytes(self):
        """Of the input."""
        return self.elements * np.dtype(self.dtype).itemsize

    def logits(self):
        """A new array, always with the same numbers."""
        if self.source == "digits":
            x = digits_logits().astype(self.dtype)
        else:
            x = np.random.default_rng(0).standard_normal(self.shape, dtype=self.dtype)
            x *= self.spread
        if self.layout == "F":
            return np.asfortranarray(x)
        if self.layout == "stepped":
            wider = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
            wider[..., ::2] = x
            return wider[..., ::2]
        return x


def threads_name(threads):
    return "1 thread" if threads == "1" else "all threads"


def digits_logits():
    """Real logits, trained on first use."""
    saved = Path(__file__).parent.parent / "examples/digits_logits.npy"
    if not saved.exists():
        from examples.digits import main

        main()
    return np.load(saved)


SHAPES = [
    # Few elements: the call itself.
    Input((1, 10), quick="f32 new 1, f64 new 1, f32 new all"),
    Input((1, 1000), quick="f32 new 1"),
    Input((64, 10), quick="f32 new 1"),
    # Short rows.
    Input((1024, 10)),
    Input((100000, 3), quick="f32 out 1"),
    Input((100000, 10), quick="f32 new 1, f32 out 1, f64 out 1, f32 out all"),
    Input((100000, 16), quick="f32 out 1"),
    Input((65536, 64), quick="f32 out 1"),
    # In cache.
    Input((64, 1000), quick="f32 new 1, f32 out 1, f64 new 1, f64 out 1, f32 out all"),
    Input((1024, 128), quick="f32 out 1"),
    Input((1024, 1024), quick="f32 new 1, f32 out 1, f64 out 1, f32 new all, f32 out all, f64 out all"),
    # Beyond it.
    Input((4096, 1024), quick="f32 new 1, f32 out 1, f64 new 1, f32 out all"),
    Input((16384, 1024), quick="f32 out 1, f32 out all"),
    # Long rows.
    Input((128, 32000), quick="f32 out 1, f64 out 1, f32 out all"),
    Input((256, 50257)),
    Input((16, 1000000), quick="f32 out 1"),
    Input((1, 16000000), quick="f32 out all"),
    # Along the other axis.
    Input((1000, 64), axis=0, quick="f32 new 1"),
    Input((1024, 1024), axis=0, quick="f32 out 1, f64 out 1, f32 out all"),
    Input((1024, 4096), axis=0),
    Input((32000, 128), axis=0, quick="f32 out 1"),
    Input((10, 100000), axis=0, quick="f32 out 1"),
]

# Rows so wide that exponentials underflow, and logits of a trained classifier.
CONTENTS = [
    Input((1797, 10), source="digits", quick="f32 new 1, f64 out 1, f32 new all"),
    Input((64, 1000), spread=1),
    Input((64, 1000), spread=10, quick="f32 out 1"),
    Input((64, 1000), spread=20),
    Input((64, 1000), spread=30, quick="f32 out 1"),
    Input((64, 1000), spread=40),
    Input((64, 1000), spread=100, quick="f32 out 1, f64 out 1"),
]

# What is quick of the other layouts, by shape, axis and layout.
QUICK_LAYOUTS = {
    ((64, 1000), -1, "stepped"): "f32 out 1",
    ((1024, 1024), -1, "F"): "f32 new 1",
}


def inputs():
    yield from SHAPES
    yield from CONTENTS
    for layout, given in itertools.product(list(LAYOUTS)[1:], SHAPES):
        if layout == "F" and 1 in given.shape:
            continue  # the same memory as C
        quick = QUICK_LAYOUTS.get((given.shape, given.axis, layout), "")
        yield Input(given.shape, given.axis, layout=layout, quick=quick)


@functools.cache
def all_cases():
    return [
        Case(
            op=op,
            dtype=DTYPES[dtype],
            shape=given.shape,
            axis=given.axis,
            spread=given.spread,
            source=given.source,
            layout=given.layout,
            out=OUTPUTS[output],
            threads=threads,
            quick=f"{dtype} {output} {threads}" in given.quick.split(", "),
        )
        for op in _core.ops()
        for threads in THREADS
        for given in inputs()
        for dtype in DTYPES
        for output in OUTPUTS
    ]


def quick_cases():
    return [case for case in all_cases() if case.quick]
