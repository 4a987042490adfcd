"""Who is measured. A contender makes, for a case and its logits, a call without arguments that returns the result,
or None where it has no such operation. Every one runs on one thread and in the best form it has."""

import importlib.util

import numpy as np
import scipy.special

import fastsoftmax as fs


def fastsoftmax(case, x):
    if case.out:
        y = np.empty_like(x)
        return lambda: fs.softmax(x, case.axis, out=y)
    return lambda: fs.softmax(x, case.axis)


def scipy_special(case, x):
    return lambda: scipy.special.softmax(x, axis=case.axis)  # has no out=


def torch(case, x):
    import torch

    torch.set_num_threads(1)
    tensor = torch.from_numpy(x)
    if case.out:
        y = torch.empty_like(tensor)
        return lambda: torch.softmax(tensor, case.axis, out=y).numpy()
    return lambda: torch.softmax(tensor, case.axis).numpy()


def onnxruntime(case, x):
    """run() for a new output, io_binding for an existing one."""
    import onnxruntime
    from onnx import TensorProto, helper

    element = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[case.dtype]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=case.axis)],
        "softmax",
        [helper.make_tensor_value_info("x", element, x.shape)],
        [helper.make_tensor_value_info("y", element, x.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if not case.out:
        return lambda: session.run(None, {"x": x})[0]
    y = np.empty_like(x)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, x.dtype, x.shape, y.ctypes.data)

    def call():
        session.run_with_iobinding(binding)
        return y

    return call


def numpy_exp(case, x):
    """A yardstick, not a contender: the exponentials alone."""
    x = -np.abs(x)  # no overflow, as in a softmax
    if case.out:
        y = np.empty_like(x)
        return lambda: np.exp(x, out=y)
    return lambda: np.exp(x)


# Column title: (maker, packages it needs, whether it computes a softmax).
CONTENDERS = {
    "fastsoftmax": (fastsoftmax, (), True),
    "scipy": (scipy_special, (), True),
    "torch": (torch, ("torch",), True),
    "onnxruntime": (onnxruntime, ("onnxruntime", "onnx"), True),
    "np.exp": (numpy_exp, (), False),
}


def available():
    """The contenders whose packages are installed, and the names of the others."""
    present, absent = {}, []
    for name, (maker, packages, is_softmax) in CONTENDERS.items():
        if all(importlib.util.find_spec(package) for package in packages):
            present[name] = (maker, is_softmax)
        else:
            absent.append(name)
    return present, absent
