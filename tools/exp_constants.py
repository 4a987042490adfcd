"""Constants of the exponential in csrc/simd/f32.h and, for float64, csrc/math/scalar_math.h.

``exp(t) = 1 + t + t**2 * q(t)`` on ``|t| <= 0.375``: the reduced argument stays within ln2/2 = 0.347
for ordinary rows; the rounded log2(e) widens that to 0.374 for float32 at ``|x| = 2**21``. q is the
minimax polynomial of the relative error. Its coefficients are rounded to the format
one at a time, the most significant first, each time refitting those that are still free (Brisebarre
and Chevillard, "Efficient polynomial L-infinity approximations", 2007, describe the problem; this is
its simplest good answer).

Run ``python tools/exp_constants.py`` (ten seconds); ``tests/test_constants.py`` compares its
output with the headers.
"""

import mpmath as mp
import numpy as np

mp.mp.prec = 200
T_MAX = mp.mpf("0.375")


def rounded(value, fmt):
    """`value` (mpf) rounded to nearest in `fmt`, exactly, as an mpf."""
    mantissa = {np.float32: 24, np.float64: 53}[fmt]
    with mp.workprec(mantissa):
        return +value


def minimax(function, fixed, free, low, high):
    """Coefficients {power: value} for `free`, close to the least max |1 - sum(c[i] t**i) / function(t)|.

    Lawson's iteration: weighted least squares, each weight multiplied by the error at its point. It
    needs no alternating error curve, which the rounded coefficients in `fixed` would spoil.
    """
    grid = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * i + 1) / 240) for i in range(120)]
    values = [function(t) for t in grid]
    rows = [[t**power / value for power in free] for t, value in zip(grid, values, strict=True)]
    goal = [1 - sum(c * t**i for i, c in fixed.items()) / value for t, value in zip(grid, values, strict=True)]
    weights = [mp.mpf(1)] * len(grid)
    best, coefficients = mp.inf, None
    for _ in range(60):
        size = len(free)
        normal = mp.matrix(size, size)
        rhs = mp.matrix(size, 1)
        for i in range(size):
            rhs[i] = mp.fsum(w * r[i] * g for w, r, g in zip(weights, rows, goal, strict=True))
            for j in range(i + 1):
                normal[i, j] = mp.fsum(w * r[i] * r[j] for w, r in zip(weights, rows, strict=True))
                normal[j, i] = normal[i, j]
        solution = mp.lu_solve(normal, rhs)
        errors = [
            abs(g - mp.fsum(s * v for s, v in zip(solution, r, strict=True))) for g, r in zip(goal, rows, strict=True)
        ]
        if max(errors) < best:
            best, coefficients = max(errors), dict(zip(free, solution, strict=True))
        weights = [w * e for w, e in zip(weights, errors, strict=True)]
        total = mp.fsum(weights)
        weights = [w / total for w in weights]
    return coefficients


def rounded_polynomial(function, fixed, degree, low, high, fmt):
    """Rounded coefficients c[0..degree], of which `fixed` are given, of `function` on low <= t <= high, and the
    largest relative error."""
    fixed = {power: mp.mpf(value) for power, value in fixed.items()}
    for power in range(len(fixed), degree + 1):
        fixed[power] = rounded(minimax(function, fixed, range(power, degree + 1), low, high)[power], fmt)
    grid = [low + (high - low) * mp.mpf(i) / 4000 for i in range(4001)]
    worst = max(abs(1 - sum(c * t**i for i, c in fixed.items()) / function(t)) for t in grid)
    return [fixed[i] for i in range(degree + 1)], worst


def short(value, bits):
    """`value` truncated to `bits` significant bits."""
    exponent = int(mp.floor(mp.log(value, 2)))
    scale = mp.mpf(2) ** (bits - 1 - exponent)
    return mp.floor(value * scale) / scale


def constants(fmt):
    """{C macro name: float} for one precision, and the polynomial's error in ULP (of 1)."""
    degree, mantissa, hi_bits = {np.float32: (6, 24, 24), np.float64: (11, 53, 31)}[fmt]
    ln2 = mp.log(2)
    # float32: the product n*LN2_HI is exact inside the FMA. float64: short enough (31 bits, and 22 of n) to be
    # exact even without one.
    ln2_hi = rounded(ln2, fmt) if hi_bits == mantissa else short(ln2, hi_bits)
    table = {
        "LOG2E": rounded(1 / ln2, fmt),
        "LN2": rounded(ln2, fmt),
        "LN2_HI": ln2_hi,
        "LN2_LO": rounded(ln2 - ln2_hi, fmt),
    }
    coefficients, worst = rounded_polynomial(mp.exp, {0: 1, 1: 1}, degree, -T_MAX, T_MAX, fmt)
    for power, coefficient in enumerate(coefficients):
        table[f"EXP_C{power}"] = coefficient
    return {name: float(value) for name, value in table.items()}, float(worst * 2 ** (mantissa - 1))


def worst_error(table, fmt, samples=4_000_000):
    """Largest error in ULP of the exponential that csrc/math/exp.h computes from `table`, and its x.

    x is spread evenly over all that has a normal exponential below 1. A fused multiply-add is emulated in a wider
    format; the rounding to that one first changes no result by more than 2**-11 ULP.
    """
    wide = {np.float32: np.float64, np.float64: np.longdouble}[fmt]

    def fma(a, b, c):
        return (wide(a) * wide(b) + wide(c)).astype(fmt)

    x = np.linspace(np.finfo(fmt).minexp * np.log(2), 0, samples).astype(fmt)
    n = np.rint(fma(x, fmt(table["LOG2E"]), fmt(0)))
    t = fma(n, fmt(-table["LN2_LO"]), fma(n, fmt(-table["LN2_HI"]), x))
    coefficients = [fmt(value) for name, value in table.items() if name.startswith("EXP_C")]
    p = np.full_like(t, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        p = fma(p, t, coefficient)
    exact = np.exp(x.astype(np.longdouble)) / np.ldexp(np.longdouble(1), n.astype(int))
    unit = np.ldexp(np.longdouble(1), np.frexp(exact)[1] - 1 - np.finfo(fmt).nmant)
    error = np.abs(p - exact) / unit
    return float(error.max()), float(x[error.argmax()])


def main():
    for fmt in (np.float32, np.float64):
        table, polynomial = constants(fmt)
        error, x = worst_error(table, fmt)
        suffix = "f" if fmt is np.float32 else ""
        print(f"{fmt.__name__}: polynomial within {polynomial:.3f} ULP; exp within {error:.3f} ULP, at x = {x!r}")
        for name, value in table.items():
            print(f"#define {name} {value.hex()}{suffix}")


if __name__ == "__main__":
    main()
