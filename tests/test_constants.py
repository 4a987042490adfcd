"""The constants in the headers are those that tools/ computes."""

import re
import sys

import numpy as np
import pytest
from toolchains import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import exp_constants
import log_constants

NUMBER = r"-?0x[0-9a-f.]+p[+-]\d+"


def polynomial(name, header):
    """The coefficients that a header lists, highest power first."""
    listed = re.search(rf"#define (?:FSM_)?{name}\s*\{{([^}}]*)\}}", header.replace("\\\n", ""))[1]
    return [float.fromhex(value) for value in re.findall(rf"{NUMBER}|\b[01]\b", listed)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("fmt", [np.float32, np.float64])
def test_exponential(fmt):
    header = (ROOT / "csrc/simd" / f"f{np.dtype(fmt).itemsize * 8}.h").read_text()
    if fmt is np.float64:  # those that kernels share with the functions of scalars
        header += (ROOT / "csrc/math/scalar_math.h").read_text()
    expected, worst = exp_constants.constants(fmt)
    for name in ("LOG2E", "LN2", "LN2_HI", "LN2_LO"):
        written = re.search(rf"#define (?:FSM_)?{name}\s+({NUMBER})", header)[1]
        assert float.fromhex(written) == expected[name]
    assert polynomial("EXP_POLYNOMIAL", header) == [
        expected[f"EXP_C{power}"] for power in reversed(range(len(expected) - 4))
    ]
    stated = float(re.search(r"within ([0-9.]+) ULP for \|t\|", header)[1])
    assert worst <= stated


def test_logarithm():
    header = (ROOT / "csrc/math/scalar_math.h").read_text()
    expected, worst = log_constants.constants()
    assert expected[0] == 2
    assert polynomial("LOG_POLYNOMIAL", header) == [*expected[:0:-1], 0]
    assert worst <= float(re.search(r"R\(s\^2\)\) within ([0-9.]+) ULP", header)[1])


def test_the_clamp_is_exact_for_every_reference():
    """x = low gives an exponent field of exactly 0, for every k that a float32 row can have (math/exp.h)."""
    header = (ROOT / "csrc/simd/f32.h").read_text()

    def value(name):
        return np.float32(float.fromhex(re.search(rf"#define {name}\s+(\S+?)f?\s", header)[1]))

    k = np.arange(-int(2**21 * 1.45), int(2**21 * 1.45)).astype(np.float32)
    bias = np.float32(re.search(r"#define LOWEST\s+(\d+)", header)[1])
    magic = (np.float32(1.5 * 2**23) + bias) - k
    low = (k - bias) * value("LN2")
    z = (low.astype(np.float64) * np.float64(value("LOG2E")) + magic).astype(np.float32)  # exact, then rounded
    np.testing.assert_array_equal(z.view(np.uint32) << 23, 0)
