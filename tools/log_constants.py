"""Constants of the logarithm in csrc/math/scalar_math.h, and the worst errors of its functions.

With ``s = f / (2 + f)``, ``log(1+f) = log((1+s) / (1-s)) = s * P(s**2)``, for ``1+f`` between
sqrt(1/2) and sqrt(2), where ``s**2 <= 0.0295``. P is the minimax polynomial of the relative error with
the constant term 2, its other coefficients rounded as in exp_constants.py.

Run ``python tools/log_constants.py`` (a minute; it compiles the header with ``cc``);
``tests/test_constants.py`` compares the constants with the header.
"""

import ctypes
import subprocess
import tempfile
from pathlib import Path

import mpmath as mp
import numpy as np
from exp_constants import rounded_polynomial

S2_MAX = mp.mpf("0.0295")
DEGREE = 7


def log_ratio(s2):
    """log((1+s) / (1-s)) / s as a function of s**2."""
    s = mp.sqrt(s2)
    return 2 * mp.atanh(s) / s if s else mp.mpf(2)


def constants():
    """The coefficients of P from the constant term on, and its largest relative error in ULP (of 1)."""
    coefficients, worst = rounded_polynomial(log_ratio, {0: 2}, DEGREE, mp.mpf(0), S2_MAX, np.float64)
    return [float(c) for c in coefficients], float(worst * 2**52)


class Functions:
    """fsm_log1p, fsm_log and fsm_exp of csrc/math/scalar_math.h, on arrays of float64."""

    def __init__(self):
        csrc = Path(__file__).resolve().parent.parent / "csrc"
        with tempfile.TemporaryDirectory() as directory:
            source, library = Path(directory, "functions.c"), Path(directory, "functions.so")
            lines = ['#include "math/scalar_math.h"']
            for name in ("log1p", "log", "exp"):
                loop = f"for (ptrdiff_t i = 0; i < n; i++) y[i] = fsm_{name}(x[i]);"
                lines.append(f"void {name}_of(const double *x, double *y, ptrdiff_t n) {{ {loop} }}")
            source.write_text("\n".join([*lines, ""]))
            flags = ["-std=c11", "-O2", "-ffp-contract=off", "-shared", "-fPIC", f"-I{csrc}"]
            subprocess.run(["cc", *flags, source, "-lm", "-o", library], check=True)
            self._library = ctypes.CDLL(str(library))

    def __call__(self, name, x):
        y = np.empty_like(x)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, y)]
        getattr(self._library, f"{name}_of")(*pointers, ctypes.c_ssize_t(len(x)))
        return y


def samples(name, count, rng):
    """Numbers of every magnitude, and more of them where errors are largest; the functions are smooth elsewhere."""
    near = np.concatenate(
        [rng.uniform(0.5, 3, count), 1 + rng.uniform(-1, 1, count) * 2.0 ** rng.uniform(-50, 0, count)]
    )
    wide = np.exp2(rng.uniform(-1021, 1023, count))
    return {
        "log": np.concatenate([near, wide]),
        "log1p": np.concatenate([near - 1, wide, -np.exp2(-rng.exponential(3, count))]),
        "exp": -np.concatenate([rng.uniform(0, 2, count), rng.uniform(0, 700, count)]),
    }[name]


def worst_error(functions, name, rounds=20, count=1_000_000):
    """Largest error in ULP of the exact result, and its x. A long double has 11 bits more: it is off by 2**-11 ULP."""
    worst, rng = (0.0, 0.0), np.random.default_rng(0)
    for _ in range(rounds):
        x = samples(name, count, rng)
        exact = getattr(np, name)(x.astype(np.longdouble))
        unit = np.ldexp(np.longdouble(1), np.frexp(exact)[1] - 53)
        error = np.abs(functions(name, x) - exact) / unit
        worst = max(worst, (float(error.max()), float(x[error.argmax()])))
    return worst


def main():
    coefficients, polynomial = constants()
    print(f"polynomial within {polynomial:.3f} ULP; highest power first")
    print(", ".join(c.hex() for c in reversed(coefficients)))
    functions = Functions()
    for name in ("log1p", "log", "exp"):
        error, x = worst_error(functions, name)
        print(f"{name} within {error:.3f} ULP, at x = {x!r}")


if __name__ == "__main__":
    main()
