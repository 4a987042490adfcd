"""The oracle: slow, obvious, and more precise than what it judges."""

import mpmath
import numpy as np

_LONG_DOUBLE = np.finfo(np.longdouble).nmant >= 63


def exact_softmax(x, axis=-1):
    """softmax of the given numbers with at least 62 correct bits, as longdouble (or, without one, as object)."""
    if x.shape[axis] == 0 or x.size == 0:
        return x.astype(np.longdouble)
    if not _LONG_DOUBLE and x.dtype == np.float64:
        return np.apply_along_axis(mpmath_softmax, axis, x)
    x = x.astype(np.longdouble)
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        largest = x.max(axis=axis, keepdims=True)
        d = x - largest
        # The rounding error of d, by TwoSum: it would be a relative error of the exponential.
        of_b = d - x
        lost = (x - (d - of_b)) + (-largest - of_b)
        e = np.exp(d) * (1 + np.where(np.isfinite(lost), lost, 0))
        return e / e.sum(axis=axis, keepdims=True)


def mpmath_softmax(row):
    """softmax of one finite row with 200 bits, as an array of mpf."""
    with mpmath.workprec(200):
        e = [mpmath.exp(mpmath.mpf(float(value))) for value in row]
        total = mpmath.fsum(e)
        return np.array([value / total for value in e], dtype=object)


def ulp_error(got, exact):
    """|got - exact| in units in the last place of `exact` as a number of got's dtype; for a subnormal, in units
    of the smallest subnormal."""
    fmt = np.finfo(got.dtype)
    with np.errstate(under="ignore"):
        exponent = np.frexp(np.maximum(exact.astype(np.longdouble), fmt.smallest_normal))[1] - 1
        unit = np.ldexp(np.longdouble(1), exponent - fmt.nmant)
        return (np.abs(got.astype(np.longdouble) - exact) / unit).astype(np.float64)


def bits(a):
    """The bit patterns of a, for exact comparison."""
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def assert_same_bits(a, b, message=""):
    np.testing.assert_array_equal(bits(a), bits(b), message)
