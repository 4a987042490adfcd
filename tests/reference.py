"""The oracles: slow, obvious, and more precise than what they judge.

Each takes what the function of its name takes, and gives the exact result of the very input bits with at least 61
correct bits: as longdouble, or where that is not enough as an object array of mpf with 200 bits.
tests/test_reference.py holds them to the textbook formulas in mpmath.
"""

import mpmath
import numpy as np

LONG = np.longdouble
WIDE = np.finfo(LONG).nmant >= 63
BITS = 200


# ---- normalizers


def exact_softmax(x, axis=-1, *, where=None, temperature=1.0, all_neg_inf="nan"):
    s = Slices(x, axis, where, temperature)
    return s.normalized(lambda: s.e / (1 + s.others), 0, all_neg_inf)


def exact_log_softmax(x, axis=-1, *, where=None, temperature=1.0, all_neg_inf="nan"):
    s = Slices(x, axis, where, temperature)
    return s.normalized(lambda: s.d + (s.lost - log1p(s.others)), -np.inf, all_neg_inf)


# ---- reductions


def exact_logsumexp(a, axis=None, *, b=None, where=None, keepdims=False, return_sign=False):
    s = WeightedSlices(a, axis, b, where)
    value, sign = s.reduced(lambda: s.largest + s.log, keepdims), s.reduced(lambda: s.sign, keepdims)
    return (value, sign) if return_sign else np.where(sign < 0, np.nan, value)


def exact_logmeanexp(a, axis=None, *, where=None, keepdims=False):
    s = WeightedSlices(a, axis, None, where)
    return s.reduced(lambda: np.where(s.count, s.largest + (s.log - s.log_count), np.nan), keepdims)


def exact_softmax_entropy(x, axis=-1, *, where=None, temperature=1.0):
    s = Slices(x, axis, where, temperature)

    def entropy():
        e_times_d = np.where(s.live, s.e * s.d, 0)
        h = log1p(s.others) - e_times_d.sum(axis=1, keepdims=True) / (1 + s.others)
        return np.where(s.spoilt | s.all_neg_inf, np.nan, h)

    return s.reduced(entropy)


# ---- gradients, of the very forward result that is given


def exact_softmax_grad(grad, y, axis=-1, *, temperature=1.0):
    g, y, t, over = gradient_numbers(grad, y, axis, temperature)
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        return y * (g - over(g * y)) / t


def exact_log_softmax_grad(grad, logp, axis=-1, *, temperature=1.0):
    g, logp, t, over = gradient_numbers(grad, logp, axis, temperature)
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        return (g - exp(logp) * over(g)) / t


def gradient_numbers(grad, saved, axis, temperature):
    """The arguments as numbers of enough bits, and the sum over a slice."""
    number = as_long if WIDE and np.result_type(grad, saved) != LONG else as_mpf
    axes = tuple(joined_axes(axis, np.ndim(grad)))
    g, saved, t = number(as_long(grad)), number(as_long(saved)), number(LONG(temperature))[()]
    return g, saved, t, lambda terms: terms.sum(axes, keepdims=True)


def exact_logsumexp_grad(grad, a, axis=None, *, lse=None):
    s = Slices(a, axis)
    grad = s.column(grad)
    if lse is None:
        return s.normalized(lambda: grad * (s.e / (1 + s.others)), 0, "nan")
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        d, lost = two_sum(s.number(s.x), -s.column(lse))
        d, lost = np.where(d > 0, 0, d), np.where((d > 0) | (lost != lost), 0, lost)
        none = np.isnan(s.x) | (s.x == np.inf) | ~np.isfinite(as_long(s.column(lse)))
        return s.shaped(np.where(none, np.nan, grad * (exp(d) * (1 + lost))))


# ---- losses


def exact_cross_entropy(logits, target, axis=-1, **options):
    return Losses(logits, target, axis, **options).loss()


def exact_cross_entropy_grad(logits, target, axis=-1, **options):
    return Losses(logits, target, axis, **options).gradient()


def plain_cross_entropy(
    logits,
    target,
    axis=-1,
    *,
    weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    reduction="mean",
    z_loss=0.0,
    softcap=None,
):
    """The loss and its gradient by the textbook, in the arithmetic of the logits: to compare with, not to judge by."""
    x, target = np.moveaxis(np.asarray(logits), axis, -1), np.asarray(target)
    classes = x.shape[-1]
    if target.dtype.kind in "iu":
        kept = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
        label = np.where(kept, target, 0).astype(int)
        q = label[..., None] == np.arange(classes)
    else:
        kept = np.ones(x.shape[:-1], bool)
        q = np.moveaxis(target, axis, -1)
    w = np.ones(classes, x.dtype) if weight is None else np.asarray(weight, x.dtype)
    with np.errstate(all="ignore"):
        capped = x if softcap is None else softcap * np.tanh(x / softcap)
        slope = 1 if softcap is None else 1 - (capped / softcap) ** 2
        lse = np.logaddexp.reduce(capped, -1, keepdims=True)
        c = w * ((1 - label_smoothing) * q + label_smoothing / classes)
        scale = z_scale = x.dtype.type(1)
        if reduction == "mean":
            z_scale = 1 / kept.sum(dtype=x.dtype)
            scale = 1 / w[label][kept].sum() if target.dtype.kind in "iu" else z_scale
        loss = np.where(c == 0, 0, c * (lse - capped)).sum(-1) * scale + z_loss * lse[..., 0] ** 2 * z_scale
        factor = c.sum(-1, keepdims=True) * scale + 2 * z_loss * lse * z_scale
        gradient = (factor * np.exp(capped - lse) - c * scale) * slope
    loss, gradient = np.where(kept, loss, 0), np.where(kept[..., None], gradient, 0)
    if reduction != "none":
        loss = loss.sum() if reduction == "sum" or kept.any() else x.dtype.type(np.nan)
    return loss[()], np.moveaxis(gradient, -1, axis)


ORACLES = {
    "softmax": exact_softmax,
    "log_softmax": exact_log_softmax,
    "logsumexp": exact_logsumexp,
    "logmeanexp": exact_logmeanexp,
    "softmax_entropy": exact_softmax_entropy,
    "softmax_grad": exact_softmax_grad,
    "log_softmax_grad": exact_log_softmax_grad,
    "logsumexp_grad": exact_logsumexp_grad,
    "cross_entropy": exact_cross_entropy,
}


# ---- the largest term of a sum that may cancel: what the error of its result is measured by


def largest_term_of_logsumexp(a, axis=None, *, b=None, where=None, keepdims=False):
    s = WeightedSlices(a, axis, b, where)
    return s.reduced(lambda: np.maximum(abs(s.largest), abs(s.log)), keepdims)


def largest_term_of_logmeanexp(a, axis=None, *, where=None, keepdims=False):
    s = WeightedSlices(a, axis, None, where)
    return s.reduced(lambda: np.maximum(np.maximum(abs(s.largest), abs(s.log)), s.log_count), keepdims)


def largest_term_of_softmax_grad(grad, y, axis=-1, *, temperature=1.0):
    g, y, t, over = gradient_numbers(grad, y, axis, temperature)
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        return abs(y) * np.maximum(abs(g), over(abs(g * y))) / t


def largest_term_of_log_softmax_grad(grad, logp, axis=-1, *, temperature=1.0):
    g, logp, t, over = gradient_numbers(grad, logp, axis, temperature)
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        return np.maximum(abs(g), exp(logp) * over(abs(g))) / t


def largest_term_of_cross_entropy(logits, target, axis=-1, **options):
    return Losses(logits, target, axis, **options).largest_term_of_loss()


LARGEST_TERMS = {
    "logsumexp": largest_term_of_logsumexp,
    "logmeanexp": largest_term_of_logmeanexp,
    "softmax_grad": largest_term_of_softmax_grad,
    "log_softmax_grad": largest_term_of_log_softmax_grad,
    "cross_entropy": largest_term_of_cross_entropy,
}


# ---- what they share


class Slices:
    """The slices of x along the joined axes, each in C order over these, as the rows of matrices:

    take      which elements take part
    live      those of them that are finite
    largest   m, the largest live one, or 0
    d + lost  (x - m) / temperature to twice the precision; -inf where an element is not live
    e         exp(d + lost)
    first     where the first largest one stands
    others    the sum of e without its e, which is 1
    """

    def __init__(self, x, axis, where=None, temperature=1.0):
        x = np.asarray(x)
        if x.dtype.kind in "biu":
            x = x.astype(np.float64)
        wide_enough = x.dtype != LONG and (WIDE or (x.dtype != np.float64 and temperature == 1))
        self.number = as_long if wide_enough else as_mpf
        self.shape = x.shape
        self.joined = joined_axes(axis, x.ndim)
        self.order = [i for i in range(x.ndim) if i not in self.joined] + self.joined

        self.take = take = self.rows(True if where is None else where)
        self.count = take.sum(axis=1, keepdims=True)
        x = as_long(self.rows(x))
        self.live = live = take & np.isfinite(x)
        self.spoilt = (take & (np.isnan(x) | (x == np.inf))).any(axis=1, keepdims=True)
        self.all_neg_inf = (self.count > 0) & (~take | (x == -np.inf)).all(axis=1, keepdims=True)
        self.x = x

        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            x = np.where(live, self.number(x), -np.inf)
            largest = x.max(axis=1, keepdims=True, initial=-np.inf)
            self.largest = largest = np.where(live.any(axis=1, keepdims=True), largest, 0)
            d, lost = divide(*two_sum(x, -largest), temperature)
            self.d, self.lost = np.where(live, d, -np.inf), np.where(live, lost, 0)
            self.e = exp(self.d) * (1 + self.lost)
            self.first = live & (x == largest)
            self.first &= self.first.cumsum(axis=1) == 1
            self.others = np.where(self.first, 0, self.e).sum(axis=1, keepdims=True)

    def rows(self, a):
        """A matrix of what broadcasts to the shape of x."""
        a = np.broadcast_to(a, self.shape).transpose(self.order)
        kept = len(self.shape) - len(self.joined)
        return np.ascontiguousarray(a).reshape(np.prod(a.shape[:kept], dtype=int), np.prod(a.shape[kept:], dtype=int))

    def normalized(self, formula, absent, all_neg_inf):
        """An array in the shape of x of the rows that formula() gives. absent: of elements that take no part."""
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            y = np.where(self.spoilt, np.nan, formula())
        y = np.where(self.all_neg_inf, np.nan if all_neg_inf == "nan" else absent, y)
        return self.shaped(np.where(self.take, y, absent))

    def shaped(self, y):
        """An array in the shape of x of its rows."""
        return y.reshape([self.shape[i] for i in self.order]).transpose(np.argsort(self.order))

    def column(self, a):
        """A column of what has the shape of x without the joined axes, or with them as 1."""
        return self.number(as_long(a).reshape(-1, 1))

    def reduced(self, formula, keepdims=False):
        """An array of the column that formula() gives, in the shape of x without the joined axes."""
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            y = formula()
        kept = [1 if i in self.joined else n for i, n in enumerate(self.shape) if keepdims or i not in self.joined]
        return y.reshape(kept)


class WeightedSlices(Slices):
    """With the sum of b * exp(x) over each row as sign * exp(m + log); cancelled: how many times larger the sum of the
    sizes of its terms is."""

    def __init__(self, x, axis, b, where):
        if b is not None:
            x, b = np.broadcast_arrays(x, b)
            where = (b != 0) & (True if where is None else where)
        super().__init__(x, axis, where)
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            w = np.where(self.take, 1 if b is None else self.number(as_long(self.rows(b))), 0)
            e = np.where(self.take & ~self.live & (self.x != -np.inf), self.x, self.e)  # NaN and inf are their own
            total = (w * e).sum(axis=1, keepdims=True)
            excess = np.where(self.first, w - 1, w * e).sum(axis=1, keepdims=True)  # total - 1, small terms kept
            near_1 = self.live.any(axis=1, keepdims=True) & (abs(excess) < 0.5)
            self.log = np.where(near_1, log1p(np.where(near_1, excess, 0)), log(abs(total)))
            sizes, none = abs(w * e).sum(axis=1, keepdims=True), total == 0
            self.cancelled = np.where(none & (sizes != 0), np.inf, sizes / np.where(none, 1, abs(total)))
            self.sign = np.where(total > 0, 1, np.where(total < 0, -1, np.where(total == 0, 0, np.nan)))
            self.log_count = log(self.number(as_long(self.count)))


class Losses(Slices):
    """Of cross_entropy, each row, of capped logits if there is a softcap, rounded to the dtype of the logits:

    kept    whether it counts
    p       softmax; not_p is 1 - p without cancellation
    c       the coefficients, and their sizes, with negative probabilities as positive; the sums of both; rest: the sum
            of c without the label's
    lse     logsumexp; lse_terms is the sum of the sizes of its terms
    own     where the label stands
    scale   of what the coefficients are factors of; z_scale of the rest
    slope   of the cap; lost_by_cap: the size of the capped logits, whose last digits are off, as are those of the slope
    """

    def __init__(
        self,
        logits,
        target,
        axis=-1,
        *,
        weight=None,
        ignore_index=None,
        label_smoothing=0.0,
        reduction="mean",
        z_loss=0.0,
        softcap=None,
    ):
        if softcap is not None:
            logits = (softcap * np.tanh(as_long(logits) / softcap)).astype(np.asarray(logits).dtype)
        super().__init__(logits, axis)
        self.reduction = reduction
        rows, classes = self.x.shape
        one, target = self.number(LONG(1))[()], np.asarray(target)
        self.kept = np.ones((rows, 1), bool)
        self.own = np.zeros((rows, classes), bool)
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            w = self.number(as_long(np.ones(classes) if weight is None else weight))
            if target.dtype.kind in "iu":
                label = target.reshape(-1, 1)
                self.kept = self.kept if ignore_index is None else label != ignore_index
                self.own = q = self.kept & (label == np.arange(classes))
                weights = np.where(self.own, w, 0).sum() if self.kept.any() else one
            else:
                q, weights = self.number(as_long(self.rows(target))), one * max(rows, 1)
            eps, self.z = (self.number(LONG(value))[()] for value in (label_smoothing, z_loss))
            uniform = eps / (one * classes)
            self.c = c = np.where(self.kept, w * ((1 - eps) * q + uniform), 0 * one)
            self.sizes = np.where(self.kept, abs(w) * ((1 - eps) * abs(one * q) + uniform), 0 * one)
            self.sum = c.sum(axis=1, keepdims=True)
            self.sum_of_sizes = self.sizes.sum(axis=1, keepdims=True)
            self.rest = np.where(self.own, 0, c).sum(axis=1, keepdims=True)  # of them but the label's
            total, log_total = 1 + self.others, log1p(self.others)
            self.p = self.e / total
            self.not_p = np.where(self.first, self.others, total - self.e) / total
            self.slope, self.lost_by_cap, self.lost_by_slope = one, 0 * one, 0
            if softcap is not None:
                self.slope = 1 - (self.x / softcap) ** 2
                self.lost_by_cap, self.lost_by_slope = abs(self.x).max(axis=1, keepdims=True), 1
            self.lse = self.largest + log_total
            self.lse_terms = abs(self.largest) + log_total
            self.distance = log_total - (self.d + self.lost)  # lse - x
            self.scale = self.z_scale = one
            if reduction == "mean":
                self.scale, self.z_scale = one / weights, one / max(int(self.kept.sum()), 1)

    def loss(self):
        with np.errstate(all="ignore"):
            losses = self.sum_of_terms(self.c, self.distance, self.lse, self.scale)
            return self.total(np.where(self.spoilt | self.all_neg_inf, np.nan, losses))

    def largest_term_of_loss(self):
        sizes, lse = abs(self.distance) + self.lost_by_cap, self.lse_terms + self.lost_by_cap
        return self.total(self.sum_of_terms(self.sizes, sizes, lse, abs(self.scale)))

    def sum_of_terms(self, c, distance, lse, scale):
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            terms = np.where(c == 0, 0, c * distance).sum(axis=1, keepdims=True)
            return scale * terms + self.z_scale * (self.z * lse**2)

    def total(self, losses):
        losses = np.where(self.kept, losses, 0)
        if self.reduction == "none":
            return self.reduced(lambda: losses)
        none = self.reduction == "mean" and not self.kept.any()
        with mpmath.workprec(BITS):
            return losses.dtype.type(np.nan) if none else np.asarray(losses.sum())[()]

    def gradient(self):
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            of_z = self.z_scale * (2 * self.z * self.lse * self.p)
            own = of_z + self.scale * (self.rest * self.p - self.c * self.not_p)
            y = np.where(self.own, own, of_z + self.scale * (self.sum * self.p - self.c)) * self.slope
            y = np.where(self.spoilt | self.all_neg_inf, np.nan, y)
            return self.shaped(np.where(self.kept, y, 0))

    def largest_term_of_gradient(self):
        """Of an element, the largest of the terms that make it; of the label's own without what cancels exactly."""
        with mpmath.workprec(BITS), np.errstate(all="ignore"):
            of_z = abs(self.z_scale * (2 * self.z * self.lse_terms * self.p))
            of_sum = np.where(self.own, self.sum_of_sizes - self.sizes, self.sum_of_sizes) * self.p
            of_c = np.where(self.own, self.sizes * self.not_p, self.sizes)
            y = np.maximum(of_z, abs(self.scale) * np.maximum(of_sum, of_c))
            y = y * (1 + self.lost_by_cap) * (1 + self.lost_by_slope)
            return self.shaped(np.where(self.kept, y, 0))

    def negligible(self, dtype):
        """Elements that are but a factor times a probability below the smallest number of `dtype`."""
        smallest = self.number(as_long(np.finfo(dtype).smallest_subnormal))[()]
        return self.shaped(np.asarray((self.p < smallest) & (self.c == 0), bool))


def joined_axes(axis, ndim):
    if axis is None or ndim == 0:
        return list(range(ndim))
    return sorted(i % ndim for i in ((axis,) if np.ndim(axis) == 0 and not isinstance(axis, tuple) else axis))


# ---- arithmetic on arrays of longdouble and on object arrays of mpf


def as_long(a):
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(a).astype(LONG)


def _exactly(value):
    """A real number as an mpf, exactly: a longdouble in pieces that are doubles."""
    mantissa, exponent = np.frexp(LONG(value))
    if not np.isfinite(mantissa):
        return mpmath.mpf(float(value))
    pieces = []
    while mantissa:
        pieces.append(mpmath.mpf(float(mantissa)))
        mantissa -= LONG(float(mantissa))
    with mpmath.workprec(BITS):
        return mpmath.ldexp(mpmath.fsum(pieces), int(exponent))


_as_mpf = np.frompyfunc(_exactly, 1, 1)
_still_mpf = np.frompyfunc(lambda value: value if isinstance(value, mpmath.mpf) else mpmath.mpf(value), 1, 1)


def as_mpf(a):
    a = np.asarray(a)
    return np.asarray((_still_mpf if a.dtype == object else _as_mpf)(a), dtype=object)


def _either(name):
    of_mpf = np.frompyfunc(getattr(mpmath, name), 1, 1)
    return lambda a: of_mpf(a) if a.dtype == object else getattr(np, name)(a)


exp, log, log1p = _either("exp"), _either("log"), _either("log1p")


def two_sum(a, b):
    """a + b as a sum and its rounding error (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def halves(a, splitter):
    """a as a sum of two numbers that have half its bits (Veltkamp)."""
    shifted = a * splitter
    high = shifted - (shifted - a)
    return high, a - high


def divide(d, lost, t):
    """(d + lost) / t as a quotient and its rounding error."""
    if t == 1:
        return d, lost
    if t == np.inf:
        return d * 0, lost * 0
    splitter = 2 ** (np.finfo(LONG).nmant // 2 + 1) + 1
    t = _exactly(t) if d.dtype == object else LONG(t)
    q = d / t
    product = q * t
    (q1, q2), (t1, t2) = halves(q, splitter), halves(t, splitter)
    error = ((q1 * t1 - product) + q1 * t2 + q2 * t1) + q2 * t2  # of the product (Dekker)
    return q, ((d - product) - error + lost) / t


# ---- comparison


def ulp_error(got, exact, largest_term=None):
    """|got - exact| in units in the last place of `exact` as a number of got's dtype, or of `largest_term` if that is
    given; for a subnormal, in units of the smallest subnormal. An infinity for a finite number counts as the number
    that would follow the dtype's largest. Between two NaN or equal infinities: 0; between one of them and anything
    else: inf."""
    shape = np.shape(got)
    got, exact = np.atleast_1d(got), np.atleast_1d(exact)
    largest_term = None if largest_term is None else np.atleast_1d(largest_term)
    fmt = np.finfo(got.dtype)
    number = as_mpf if got.dtype == LONG or exact.dtype == object else as_long
    with mpmath.workprec(BITS), np.errstate(all="ignore"):
        got, exact, most, least = map(number, (got, exact, fmt.max, fmt.smallest_normal))
        same = (got == exact) | ((got != got) & (exact != exact))
        next_one = most + number(np.ldexp(LONG(1), fmt.maxexp - 1 - fmt.nmant))
        got, exact = (np.where(abs(exact) < np.inf, clipped(a, next_one), a) for a in (got, exact))
        magnitude = abs(exact if largest_term is None else number(largest_term))
        magnitude = np.where((magnitude > least) & (magnitude < np.inf), magnitude, least)
        unit = np.ldexp(LONG(1), exponent(magnitude) - fmt.nmant)
        error = (abs(got - exact) / number(unit)).astype(np.float64)
    return np.where(same, 0, np.where(np.isnan(error), np.inf, error)).reshape(shape)[()]


def clipped(a, most):
    return np.where(a > most, most, np.where(a < -most, -most, a))


_exponent_of_mpf = np.frompyfunc(lambda value: mpmath.frexp(value)[1], 1, 1)


def exponent(a):
    """floor(log2(a))."""
    return (_exponent_of_mpf(a).astype(int) if a.dtype == object else np.frexp(a)[1]) - 1


def bits(a):
    """The bit patterns of a, for exact comparison."""
    a = np.ascontiguousarray(a)
    if a.dtype.newbyteorder("=") == LONG:
        a = a.astype(LONG).view(np.uint8).reshape(*a.shape, LONG().itemsize)
        return a[..., : np.finfo(LONG).nmant // 8 + 3]  # the others are padding
    return a.view(f"u{a.dtype.itemsize}")


def assert_same_bits(a, b, message=""):
    a, b = bits(a), bits(b)
    if a.shape != b.shape or not (a == b).all():
        np.testing.assert_array_equal(a, b, message)  # says where, but takes many times as long to find nothing
