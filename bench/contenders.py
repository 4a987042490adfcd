"""Who is measured, and how each is called: in the best form it has, with as many threads as the others.

A maker takes a case, its logits and the number of threads, and returns a call without arguments that gives the result,
or None where the library has nothing of the kind. What a library only points at is an attribute of the call, so that it
lives as long. To measure a new operation, add a maker to `ops` of each contender
that has it.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OURS = "fastsoftmax"


@dataclass(frozen=True)
class Contender:
    name: str
    packages: tuple[str, ...]  # what it imports; the first one's version is its version
    ops: dict[str, Callable]  # operation: maker
    setup: Callable[[int], None] = lambda threads: None  # called once in a process, with the number of threads

    def installed(self):
        return all(importlib.util.find_spec(package) for package in self.packages)

    def load(self):
        for package in self.packages:
            importlib.import_module(package)

    def version(self):
        return importlib.metadata.version(self.packages[0])


# ---- fastsoftmax


def fastsoftmax_setup(threads):
    import fastsoftmax as fs

    fs.set_num_threads(threads)


def fastsoftmax_normalizer(case, x, threads):
    """softmax, and whatever else is called like it."""
    import fastsoftmax as fs

    function, axis = getattr(fs, case.op), case.axis
    if case.out:
        y = np.empty_like(x)
        return lambda: function(x, axis, out=y)
    return lambda: function(x, axis)


# ---- SciPy: has neither out= nor threads


def scipy_softmax(case, x, threads):
    from scipy.special import softmax

    return lambda: softmax(x, axis=case.axis)


# ---- torch


def torch_setup(threads):
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def torch_softmax(case, x, threads):
    import torch

    tensor, axis = torch.from_numpy(x), case.axis
    if case.out:
        y = torch.from_numpy(np.empty_like(x))
        return lambda: torch.softmax(tensor, axis, out=y)
    return lambda: torch.softmax(tensor, axis)


# ---- onnxruntime: run() for a new output, io_binding for an existing one. Takes contiguous arrays only.


@functools.cache
def onnxruntime_session(operator, dtype, axis, ndim, threads):
    import onnxruntime
    from onnx import TensorProto, helper

    element = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype]
    x, y = (helper.make_tensor_value_info(name, element, [None] * ndim) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=axis)], operator, [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = not os.environ.get("BENCH_MEMORY")  # an arena would hide what a call allocates
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnxruntime_softmax(case, x, threads):
    if case.layout != "C":
        return None
    session = onnxruntime_session("Softmax", case.dtype, case.axis, x.ndim, threads)
    if not case.out:
        return lambda: session.run(None, {"x": x})[0]
    y = np.empty_like(x)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, x.dtype, x.shape, y.ctypes.data)

    def call():
        session.run_with_iobinding(binding)
        return y

    call.keeps = x
    return call


# ---- JAX: compiled; the input is already its own. Its threads are the cores that the process may use. Has no out=,
# and arrays of one layout only.


def jax_setup(threads):
    import jax

    jax.config.update("jax_enable_x64", True)


@functools.cache
def jax_compiled(function, axis):
    import jax

    return jax.jit(lambda x: getattr(jax.nn, function)(x, axis=axis))


def jax_softmax(case, x, threads):
    import jax

    if case.layout != "C":
        return None
    function, array = jax_compiled("softmax", case.axis), jax.device_put(x)
    return lambda: function(array).block_until_ready()


# ---- numba: the three loops that one writes down, rows or columns. Only several threads take the parallel form.

COLUMN_STRIP = 64  # columns that a thread takes at a time


def numba_setup(threads):
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / "build/bench/numba"))
    import numba

    numba.set_num_threads(threads)


@functools.cache
def numba_kernels(parallel):
    """Functions that fill y with the softmax of x (2-D) along its rows, and along its columns."""
    import numba

    def compiled(function):
        if parallel:
            function.__qualname__ += "_parallel"  # the cache goes by the name, not by the options
        return numba.njit(fastmath=True, cache=True, parallel=parallel)(function)

    @numba.njit(fastmath=True, cache=True)
    def column_strip(x, y):
        n, columns = x.shape
        largest, total = x[0].copy(), np.zeros(columns, x.dtype)
        for i in range(1, n):
            for j in range(columns):
                largest[j] = max(largest[j], x[i, j])
        for i in range(n):
            for j in range(columns):
                y[i, j] = np.exp(x[i, j] - largest[j])
                total[j] += y[i, j]
        for i in range(n):
            for j in range(columns):
                y[i, j] /= total[j]

    @compiled
    def rows(x, y):
        for i in numba.prange(x.shape[0]):
            largest = x[i, 0]
            for j in range(1, x.shape[1]):
                largest = max(largest, x[i, j])
            total = x.dtype.type(0)
            for j in range(x.shape[1]):
                y[i, j] = np.exp(x[i, j] - largest)
                total += y[i, j]
            scale = 1 / total
            for j in range(x.shape[1]):
                y[i, j] *= scale

    @compiled
    def columns(x, y):
        for strip in numba.prange((x.shape[1] + COLUMN_STRIP - 1) // COLUMN_STRIP):
            first = strip * COLUMN_STRIP
            last = min(first + COLUMN_STRIP, x.shape[1])
            column_strip(x[:, first:last], y[:, first:last])

    return rows, columns


def numba_softmax(case, x, threads):
    if x.ndim != 2:
        return None
    kernel = numba_kernels(threads > 1)[0 if case.axis in (-1, 1) else 1]
    if case.out:
        y = np.empty_like(x)

        def into():
            kernel(x, y)
            return y

        return into

    def new():
        y = np.empty_like(x)
        kernel(x, y)
        return y

    return new


# ---- OpenVINO: the output tensor is a NumPy array, new or not. Float32 and contiguous arrays only (it computes float64
# models in float32).


@functools.cache
def openvino_model(operator, shape, axis, threads):
    import openvino
    from openvino import opset13

    parameter = opset13.parameter(shape, np.float32)
    model = openvino.Model([getattr(opset13, operator)(parameter, axis)], [parameter])
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(model, "CPU", config)


def openvino_softmax(case, x, threads):
    import openvino

    if case.dtype != "float32" or case.layout != "C":
        return None
    request = openvino_model("softmax", x.shape, case.axis % x.ndim, threads).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    if case.out:
        y = np.empty_like(x)
        request.set_output_tensor(openvino.Tensor(y, shared_memory=True))

        def into():
            request.infer()
            return y

        into.keeps = x
        return into

    def new():
        y = np.empty_like(x)
        request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
        request.infer()
        return y

    return new


CONTENDERS = [
    Contender(OURS, (OURS,), {"softmax": fastsoftmax_normalizer}, fastsoftmax_setup),
    Contender("scipy", ("scipy",), {"softmax": scipy_softmax}),
    Contender("torch", ("torch",), {"softmax": torch_softmax}, torch_setup),
    Contender("onnxruntime", ("onnxruntime", "onnx"), {"softmax": onnxruntime_softmax}),
    Contender("jax", ("jax",), {"softmax": jax_softmax}, jax_setup),
    Contender("numba", ("numba",), {"softmax": numba_softmax}, numba_setup),
    Contender("openvino", ("openvino",), {"softmax": openvino_softmax}),
]


def installed():
    return [contender for contender in CONTENDERS if contender.installed()]


def absent():
    return [contender.name for contender in CONTENDERS if not contender.installed()]
