"""The one list of what is measured.

Every operation, on every input below, in both dtypes (or those of OTHER_DTYPES), into a new and into an existing
output, on one thread and on all: that is `--full`. Beside an input stand the cases with it that are quick, which is
what runs without it: "operation dtype output threads", separated by commas.
"""

import functools
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import ml_dtypes
import numpy as np

from fastsoftmax import _core

DTYPES = {"f32": "float32", "f64": "float64"}
OTHER_DTYPES = {"f16": "float16", "bf16": "bfloat16", "i32": "int32"}
OUTPUTS = {"new": False, "out": True}
THREADS = ("1", "all")

# {operation: (bound, what it is relative to)} of what is measured: every kernel, and what shares one.
OPS = {**_core.ops(), "cross_entropy_with_grad": _core.ops()["cross_entropy"]}

LOSSES = ("cross_entropy", "cross_entropy_with_grad")  # with class indices; of each row, and the gradient of their sum
REDUCTIONS = ("logsumexp", "logmeanexp", "softmax_entropy", "cross_entropy")
GRADIENTS = {"softmax_grad": "softmax", "log_softmax_grad": "log_softmax"}  # and what they are the gradients of
LACKS = {
    "softmax_entropy": ("out",),
    "logsumexp": ("temperature",),
    "logmeanexp": ("temperature",),
    **dict.fromkeys(GRADIENTS, ("where", "integers")),  # gradients of integers' results are those of float64
    "logsumexp_grad": ("where", "temperature", "integers"),
    "cross_entropy": ("out", "where", "temperature", "integers", "several axes", "halves"),  # theirs are float32
    "cross_entropy_with_grad": ("where", "temperature", "integers", "several axes"),
}

LAYOUTS = {
    "C": "",
    "F": "Fortran order",
    "stepped": "every 2nd column",
    "reversed": "negative steps",
    "misaligned": "misaligned",
    "swapped": "byte-swapped",
    "broadcast": "broadcast row",
}
MASKS = {"": "", "random": "random mask", "causal": "causal mask", "shared": "shared mask"}
LOSS_OPTIONS = {"": "", "smoothing": "label smoothing", "weight": "class weights"}
SMOOTHING = 0.1


@dataclass(frozen=True)
class Input:
    """What a call is given, but its dtype."""

    shape: tuple[int, ...]
    axis: int | tuple[int, ...] | None = -1
    spread: float = 4  # standard deviation of normal logits
    source: str = "normal"  # or "digits": the logits that examples/digits.py leaves
    layout: str = "C"  # one of LAYOUTS
    mask: str = ""  # one of MASKS: which elements take part
    temperature: float = 1
    loss: str = ""  # one of LOSS_OPTIONS

    @property
    def axes(self):
        """The joined axes, from 0 on."""
        if self.axis is None:
            return tuple(range(len(self.shape)))
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return tuple(sorted(axis % len(self.shape) for axis in axes))

    @property
    def elements(self):
        return math.prod(self.shape)

    @property
    def joined(self):
        """Elements of a slice: those that are normalized, or reduced, together."""
        return math.prod(self.shape[axis] for axis in self.axes)

    def rows(self, array):
        """An array of this shape, its slices as the rows of a 2-D one; what has an element a slice, as a 1-D one."""
        if array.ndim < len(self.shape):
            return array.reshape(-1)
        return np.moveaxis(array, self.axes, range(-len(self.axes), 0)).reshape(-1, self.joined)

    def where(self):
        """The mask, True for what takes part, or None."""
        if not self.mask:
            return None
        if self.mask == "causal":
            *_, rows, columns = self.shape
            return np.tri(rows, columns, columns - rows, dtype=bool)
        shape = self.shape
        if self.mask == "shared":  # by all slices
            shape = tuple(length if axis in self.axes else 1 for axis, length in enumerate(shape))
        return np.random.default_rng(1).random(shape, np.float32) < 0.75

    @property
    def words(self):
        """Its name, after that of the operation and the dtype."""
        words = [str(self.shape)]
        if self.axis != -1:
            words.append(f"axis {self.axis}")
        if self.source != "normal":
            words.append(self.source)
        elif self.spread != 4:
            words.append(f"sd {self.spread:g}")
        if self.temperature != 1:
            words.append(f"temperature {self.temperature:g}")
        return " ".join(filter(None, [*words, LAYOUTS[self.layout], MASKS[self.mask], LOSS_OPTIONS[self.loss]]))


@dataclass(frozen=True)
class Case(Input):
    """One call: an operation on an input."""

    op: str = "softmax"
    dtype: str = "float32"  # of the input
    out: bool = False  # into an existing array, or a new one
    threads: str = "1"  # or "all"
    quick: bool = False

    @property
    def input_name(self):
        return f"{self.op} {self.dtype} {self.words}"

    @property
    def name(self):
        return f"{self.input_name} {'out=' if self.out else 'new'}, {threads_name(self.threads)}"

    @property
    def exists(self):
        """Whether the operation has what the case asks for."""
        asked = {
            "out": self.out,
            "where": self.mask != "",
            "temperature": self.temperature != 1,
            "integers": self.dtype == "int32",
            "halves": self.dtype in ("float16", "bfloat16"),
            "several axes": not isinstance(self.axis, int),
        }
        if self.loss and self.op not in LOSSES:
            return False
        return not any(asked[what] for what in LACKS.get(self.op, ()))

    @property
    def nbytes(self):
        """Of the input, or of each that is as large as the result."""
        return self.elements * numpy_dtype(self.dtype).itemsize

    @property
    def working_set(self):
        """Bytes of what is read and what is written, if the result is as large as the input."""
        return (3 if self.op in GRADIENTS else 2) * self.nbytes

    @property
    def rows_shape(self):
        """Of what has an element a slice."""
        return tuple(length for axis, length in enumerate(self.shape) if axis not in self.axes)

    @property
    def result_shape(self):
        return self.rows_shape if self.op in REDUCTIONS else self.shape

    @property
    def result_dtype(self):
        return np.dtype(np.float64) if self.dtype == "int32" else numpy_dtype(self.dtype)

    def inputs(self):
        """The arrays that the operation takes: new, but always with the same numbers."""
        if self.op in GRADIENTS:
            return self.array(self.normal(seed=1)), self.array(self.saved())
        if self.op == "logsumexp_grad":
            grad = np.random.default_rng(1).standard_normal(self.rows_shape)
            return np.asarray(grad, self.result_dtype), self.logits()
        if self.op in LOSSES:
            return self.logits(), np.asarray(np.random.default_rng(1).integers(self.joined, size=self.rows_shape))
        return (self.logits(),)

    def loss_options(self):
        """The arguments of the loss by their names."""
        if self.loss == "smoothing":
            return {"label_smoothing": SMOOTHING}
        if self.loss == "weight":
            return {"weight": (np.random.default_rng(2).random(self.joined) + 0.5).astype(self.result_dtype)}
        return {}

    def logits(self):
        return self.array(digits_logits() if self.source == "digits" else self.normal(seed=0) * self.spread)

    def saved(self):
        """The forward result that a gradient takes, in float64: of no contender."""
        x = self.logits().astype(np.float64, order="C")
        x /= self.temperature
        x -= x.max(self.axes, keepdims=True)
        e = np.exp(x)
        total = e.sum(self.axes, keepdims=True)
        return e / total if GRADIENTS[self.op] == "softmax" else x - np.log(total)

    def normal(self, seed):
        drawn = np.float64 if self.dtype == "float64" else np.float32
        return np.random.default_rng(seed).standard_normal(self.shape, dtype=drawn)

    def array(self, x):
        """Numbers in the dtype and the layout of the case."""
        x = np.rint(x) if self.dtype == "int32" else x
        return laid_out(x.astype(numpy_dtype(self.dtype), copy=False), self.layout)

    def output(self):
        """An array for the result."""
        return np.empty(self.result_shape, self.result_dtype, order="F" if self.layout == "F" else "C")


def numpy_dtype(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def laid_out(x, layout):
    """The numbers of x (but of its first row only, if that is broadcast) in another layout."""
    if layout == "F":
        return np.asfortranarray(x)
    if layout == "stepped":
        wider = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wider[..., ::2] = x
        return wider[..., ::2]
    if layout == "reversed":
        return np.flip(np.flip(x).copy())
    if layout == "misaligned":
        y = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        y[...] = x
        return y
    if layout == "swapped":
        return x.astype(x.dtype.newbyteorder())
    if layout == "broadcast":  # writable, as torch likes it
        return np.lib.stride_tricks.as_strided(x[:1].copy(), x.shape, (0, *x.strides[1:]))
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


SHAPES = {
    # Few elements: the call itself.
    Input((1, 10)): "softmax f32 new 1, softmax f32 new all, logsumexp f32 new 1",
    Input((1, 1000)): "softmax f32 new 1",
    Input((64, 10)): "softmax f32 new 1",
    # Short rows.
    Input((1024, 10)): "",
    Input((100000, 3)): "softmax f32 out 1",
    Input((100000, 10)): "softmax f32 out 1, softmax f64 out 1, softmax f32 out all, log_softmax f32 out 1,"
    " softmax_grad f32 out 1, log_softmax_grad f32 out 1, cross_entropy f32 new 1,"
    " cross_entropy_with_grad f32 out 1",
    Input((100000, 16)): "softmax f32 out 1",
    Input((65536, 64)): "softmax f32 out 1",
    # In cache.
    Input((64, 1000)): "softmax f32 out 1, softmax f64 out 1, softmax f32 out all, log_softmax f32 out 1,"
    " logsumexp f32 new 1, logmeanexp f32 new 1, softmax_entropy f32 new 1,"
    " softmax_grad f32 out 1, log_softmax_grad f32 out 1, cross_entropy_with_grad f32 out 1",
    Input((1024, 128)): "softmax f32 out 1",
    Input((1024, 1024)): "softmax f32 out 1, softmax f64 out 1, softmax f32 out all, log_softmax f64 out 1,"
    " logsumexp f32 new 1, logsumexp f32 new all, softmax_grad f64 out 1, log_softmax_grad f64 out 1,"
    " cross_entropy_with_grad f64 out 1",
    # Beyond it.
    Input((4096, 1024)): "softmax f32 new 1, softmax_grad f32 new 1, log_softmax_grad f32 new 1,"
    " logsumexp_grad f32 new 1, cross_entropy f32 new 1, cross_entropy_with_grad f32 out 1",
    Input((16384, 1024)): "softmax f32 out 1",
    # Long rows.
    Input((128, 32000)): "softmax f32 out 1, softmax_grad f32 out 1, log_softmax_grad f32 out 1,"
    " cross_entropy_with_grad f32 out 1",
    Input((256, 50257)): "",
    Input((16, 1000000)): "",
    Input((1, 16000000)): "softmax f32 out all",
    # Along the other axis.
    Input((1000, 64), axis=0): "softmax f32 new 1",
    Input((1024, 1024), axis=0): "softmax f32 out 1, softmax f64 out 1, softmax f32 out all, log_softmax f32 out 1,"
    " logsumexp f32 new 1, softmax_grad f32 out 1, log_softmax_grad f32 out 1, cross_entropy_with_grad f32 out 1",
    Input((1024, 4096), axis=0): "",
    Input((32000, 128), axis=0): "softmax f32 out 1",
    Input((10, 100000), axis=0): "softmax f32 out 1",
}

# Rows so wide that exponentials underflow, and logits of a trained classifier.
CONTENTS = {
    Input((1797, 10), source="digits"): "softmax f32 new 1",
    Input((64, 1000), spread=1): "",
    Input((64, 1000), spread=10): "",
    Input((64, 1000), spread=20): "",
    Input((64, 1000), spread=30): "softmax f32 out 1, softmax_grad f32 out 1, log_softmax_grad f32 out 1",
    Input((64, 1000), spread=40): "",
    Input((64, 1000), spread=100): "",
    Input((4096, 1024), spread=30): "cross_entropy_with_grad f32 out 1",
}

# Several axes at once, and one that has others on both sides.
AXES = {
    Input((64, 128, 128), axis=(1, 2)): "softmax f32 out 1",
    Input((64, 128, 128), axis=(0, 2)): "",
    Input((1024, 1024), axis=None): "logsumexp f32 new 1, logsumexp_grad f32 out 1",
    Input((1000, 100, 3), axis=1): "softmax f32 out 1",
}

# Not every element takes part, or all are divided by the temperature.
MASKED = {
    Input((64, 1000), mask="random"): "",
    Input((1024, 1024), mask="random"): "softmax f32 out 1, logsumexp f32 new 1",
    Input((1024, 1024), mask="causal"): "softmax f32 out 1",
    Input((1024, 1024), mask="shared"): "log_softmax f32 out 1",
    Input((1024, 1024), axis=0, mask="random"): "",
    Input((1024, 1024), axis=0, mask="shared"): "",
    Input((64, 1000), temperature=0.7): "softmax f32 out 1",
    Input((1024, 1024), axis=0, temperature=0.7): "",
}

# Losses in which every class counts, or not all count the same.
LOSS_INPUTS = {
    Input((1024, 1024), loss="smoothing"): "cross_entropy_with_grad f32 out 1",
    Input((1024, 1024), loss="weight"): "cross_entropy_with_grad f32 out 1",
    Input((1024, 1024), axis=0, loss="smoothing"): "",
}

# Inputs that stand for the others in every layout and dtype.
TYPICAL = [Input((100000, 10)), Input((64, 1000)), Input((1024, 1024)), Input((1024, 1024), axis=0)]

QUICK_LAYOUTS = {
    Input((1024, 1024), layout="F"): "softmax f32 new 1",
    Input((64, 1000), layout="stepped"): "softmax f32 out 1",
    Input((1024, 1024), layout="reversed"): "softmax f32 out 1",
    Input((1024, 1024), layout="misaligned"): "softmax f32 out 1",
    Input((1024, 1024), layout="swapped"): "softmax f32 out 1",
    Input((1024, 1024), layout="broadcast"): "softmax f32 out 1",
}

QUICK_OTHER_DTYPES = {
    Input((64, 1000)): "softmax i32 new 1",
    Input((1024, 1024)): "softmax f16 out 1, softmax bf16 out 1, logsumexp bf16 new 1,"
    " softmax_grad bf16 out 1, log_softmax_grad bf16 out 1, cross_entropy_with_grad bf16 out 1",
    Input((1024, 1024), axis=0): "softmax f16 out 1",
}


def layouts():
    """Inputs in other layouts, with their quick cases."""
    for layout in list(LAYOUTS)[1:]:
        for given in SHAPES if layout in ("F", "stepped") else TYPICAL:
            if layout == "F" and 1 in given.shape:
                continue  # the same memory as C
            there = replace(given, layout=layout)
            yield there, QUICK_LAYOUTS.get(there, "")


def inputs():
    """(input, dtypes, quick cases)"""
    lists = (SHAPES, CONTENTS, AXES, MASKED, LOSS_INPUTS)
    for given, quick in [*(item for one in lists for item in one.items()), *layouts()]:
        yield given, DTYPES, quick
    for given in [*TYPICAL, Input((128, 32000)), Input((32000, 128), axis=0)]:
        yield given, OTHER_DTYPES, QUICK_OTHER_DTYPES.get(given, "")


@functools.cache
def all_cases():
    cases = [
        made(given, op, dtypes[dtype], OUTPUTS[output], threads, f"{op} {dtype} {output} {threads}" in marks(quick))
        for op in OPS
        for threads in THREADS
        for given, dtypes, quick in inputs()
        for dtype in dtypes
        for output in OUTPUTS
    ]
    return [case for case in cases if case.exists]


def made(given, *rest):
    return Case(*(getattr(given, field.name) for field in fields(Input)), *rest)


def marks(quick):
    return [mark.strip() for mark in quick.split(",") if mark]


def quick_cases():
    return [case for case in all_cases() if case.quick]


@functools.cache
def memory_cases():
    """A case for each kind of array whose memory is measured (with every operation): 4 MB, if float32, or more."""
    ways = [{"layout": layout} for layout in LAYOUTS] + [{"mask": mask} for mask in MASKS if mask]
    kinds = [(Input((1024, 1024), axis, **way), "float32") for axis in (-1, 0) for way in [*ways, {"temperature": 0.7}]]
    kinds += [(Input((1024, 1024), axis), dtype) for axis in (-1, 0) for dtype in ["float64", *OTHER_DTYPES.values()]]
    kinds += [(given, "float32") for given in [*AXES, Input((32000, 128), axis=0), Input((1, 1000000))]]
    return [made(given, "softmax", dtype) for given, dtype in kinds]
