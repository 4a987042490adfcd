/* The operations in long double, for input or results of that type: compiled once, with libm's functions, and outside
 * the promise of equal bits. What they give for which input is what the kernels give (kernels/); the arithmetic is
 * simple instead of fast.
 *
 * A row is read a chunk at a time, twice to sum it and once more to store results of its size. Its leader is the first
 * of its largest terms w*exp(x/T): m its x, e its term. The others' terms sum up to R, and so do D, their terms times
 * (m - x)/T. All are relative to exp(m/T) and to a power of two (exponent, below). Then
 *
 *   log(sum of w*exp(x/T)) = m/T + log|w| + log1p(R/e)        softmax = exp((x - m)/T) / (e + R)
 *   entropy = log1p(R/e) + D/(e + R)                          log_softmax = (x - m)/T - log1p(R/e)
 *
 * Worst errors met are 2.5 ULP, as ops.def counts them (significands of 53, 64 and 113 bits, glibc 2.36). Weights of
 * both signs lose as much more as their terms cancel. */
#include "fsm.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "arrays/half.h"
#include "arrays/strides.h"

/* A sum as hi + lo. */
typedef struct {
    long double hi, lo;
} pair;

/* TwoSum, as fsm_two_sum. */
static pair two_sum(long double a, long double b) {
    const long double hi = a + b, of_b = hi - a;
    return (pair){hi, (a - (hi - of_b)) + (b - of_b)};
}

static pair add(pair sum, long double term) {
    const pair next = two_sum(sum.hi, term);
    return (pair){next.hi, sum.lo + next.lo};
}

/* add(), of terms that may be infinite or NaN, as the sum then is. */
static pair add_any(pair sum, long double term) {
    return isfinite(sum.hi + term) ? add(sum, term) : (pair){sum.hi + term, 0};
}

/* The first half of a's bits, and the rest (Veltkamp; FMA in software takes 1 us). */
static pair split(long double a) {
    const long double c = a * (long double)((UINT64_C(1) << (LDBL_MANT_DIG + 1) / 2) + 1), hi = c - (c - a);
    return (pair){hi, a - hi};
}

/* a*b, exact but for underflow (Dekker). */
static pair product(long double a, long double b) {
    const pair x = split(a), y = split(b);
    const long double hi = a * b;
    return (pair){hi, ((x.hi * y.hi - hi) + x.hi * y.lo + x.lo * y.hi) + x.lo * y.lo};
}

/* ---- elements, as they are stored and as numbers */

/* x rounded to odd, as fsm_f64_to_f32_odd (half.h), before which it may stand. */
static double to_f64_odd(long double x) {
    const double nearest = (double)x;
    const long double back = nearest;
    const uint64_t up = fabsl(back) > fabsl(x), inexact = back < x || back > x;
    uint64_t bits;
    double odd;
    memcpy(&bits, &nearest, sizeof bits);
    bits = (bits - up) | inexact;
    memcpy(&odd, &bits, sizeof odd);
    return odd;
}

/* `count` numbers side by side at `from`, in the machine's byte order. */
static void convert(int storage, const char *from, ptrdiff_t count, long double *to) {
    switch (storage) {
#define HALF(name)                                                                                                     \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            uint16_t bits;                                                                                             \
            memcpy(&bits, from + i * (ptrdiff_t)sizeof bits, sizeof bits);                                             \
            to[i] = fsm_##name##_to_f32(bits);                                                                         \
        }                                                                                                              \
        break;
#define FLOAT(name, type)                                                                                              \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            type number;                                                                                               \
            memcpy(&number, from + i * (ptrdiff_t)sizeof number, sizeof number);                                       \
            to[i] = (long double)number;                                                                               \
        }                                                                                                              \
        break;
#define INTEGER(name, type) FLOAT(name, type)
#include "storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    default:
        break;
    }
}

/* The way back. */
static void unconvert(int storage, const long double *from, ptrdiff_t count, char *to) {
    switch (storage) {
#define HALF(name)                                                                                                     \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            const uint16_t bits = fsm_f32_to_##name(fsm_f64_to_f32_odd(to_f64_odd(from[i])));                          \
            memcpy(to + i * (ptrdiff_t)sizeof bits, &bits, sizeof bits);                                               \
        }                                                                                                              \
        break;
#define FLOAT(name, type)                                                                                              \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            const type number = (type)from[i];                                                                         \
            memcpy(to + i * (ptrdiff_t)sizeof number, &number, sizeof number);                                         \
        }                                                                                                              \
        break;
#define INTEGER(name, type)
#include "storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    default:
        break;
    }
}

/* ---- a row, in the scratch */

typedef struct {
    const fsm_args *args;
    fsm_cursor at;
    ptrdiff_t begin, count; /* of the chunk that is loaded */
    long double x[FSM_CHUNK], weight[FSM_CHUNK], c[FSM_CHUNK];
    uint8_t takes_part[FSM_CHUNK];
    char raw[FSM_CHUNK * sizeof(long double)];
} row;

_Static_assert(sizeof(row) <= FSM_SCRATCH, "a chunk of every operand fits");

static void load_operand(row *r, int which, long double *to) {
    fsm_gather(r->args, which, r->at.row.at[which], r->begin, r->count, r->raw);
    convert(r->args->operands[which].storage, r->raw, r->count, to);
}

/* One element of an operand. */
static long double element(const row *r, int which, ptrdiff_t i) {
    char raw[sizeof(long double)];
    long double value;
    fsm_gather(r->args, which, r->at.row.at[which], i, 1, raw);
    convert(r->args->operands[which].storage, raw, 1, &value);
    return value;
}

static long double cap(const row *r, long double x) {
    const long double softcap = r->args->loss.softcap;
    return softcap > 0 ? softcap * tanhl(x / softcap) : x;
}

/* The chunk from `begin` on; false beyond the end of the row. */
static bool load(row *r, ptrdiff_t begin) {
    const fsm_operand *operands = r->args->operands;
    const ptrdiff_t left = r->args->n - begin;
    if (left <= 0)
        return false;
    r->begin = begin;
    r->count = left < FSM_CHUNK ? left : FSM_CHUNK;
    load_operand(r, FSM_X, r->x);
    for (ptrdiff_t i = 0; r->args->loss.softcap > 0 && i < r->count; i++)
        r->x[i] = cap(r, r->x[i]);
    memset(r->takes_part, 1, sizeof r->takes_part);
    if (operands[FSM_MASK].data)
        fsm_gather(r->args, FSM_MASK, r->at.row.at[FSM_MASK], begin, r->count, (char *)r->takes_part);
    if (operands[FSM_WEIGHT].data)
        load_operand(r, FSM_WEIGHT, r->weight);
    for (ptrdiff_t i = 0; i < r->count; i++) {
        if (!operands[FSM_WEIGHT].data)
            r->weight[i] = 1;
        if (r->weight[i] == 0)
            r->takes_part[i] = 0;
    }
    return true;
}

/* Stores x in y, where it may come from. */
static void store(row *r) {
    unconvert(r->args->operands[FSM_Y].storage, r->x, r->count, r->raw);
    fsm_scatter(r->args, FSM_Y, r->at.row.at[FSM_Y], r->begin, r->count, r->raw);
}

/* Stores the one element that a row has in the result of a reduction. */
static void store_reduced(row *r, int which, long double value) {
    const fsm_operand *operand = &r->args->operands[which];
    const int size = fsm_size_of[operand->storage];
    unconvert(operand->storage, &value, 1, r->raw);
    fsm_copy(r->at.row.at[which], size, r->raw, size, 1, size, operand->swapped);
}

/* ---- what is known of a row */

/* A NaN, or an infinity with a weight of either sign, among the elements. */
enum { HAS_NAN = 1, HAS_INF = 2, HAS_MINUS_INF = 4 };

typedef struct {
    int flags;
    ptrdiff_t parts;  /* how many elements take part */
    ptrdiff_t leader; /* its index; -1: all that take part are -inf. The rest has no meaning then, or with flags. */
    long double max;  /* m */
    long double log_weight;
    int exponent;        /* terms are relative to 2^exponent, 64 below |w|: normal where results are */
    long double sum;     /* e + R */
    long double tail;    /* log|1 + R/e| */
    long double average; /* D/(e + R) */
} summary;

/* The first sweep: all but the sums. */
static summary find_leader(row *r) {
    summary s = {.leader = -1};
    for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
        for (ptrdiff_t i = 0; i < r->count; i++) {
            const long double x = r->x[i], w = r->weight[i];
            if (!r->takes_part[i])
                continue;
            s.parts++;
            if (isnan(x) || isnan(w) || (isinf(w) && x == -INFINITY)) {
                s.flags |= HAS_NAN;
            } else if (x == INFINITY || isinf(w)) {
                s.flags |= w > 0 ? HAS_INF : HAS_MINUS_INF;
            } else if (x > -INFINITY) {
                const long double log_weight = w == 1 ? 0 : logl(fabsl(w));
                if (s.leader < 0 || (x - s.max) + (log_weight - s.log_weight) > 0) {
                    s.leader = c + i;
                    s.max = x;
                    s.log_weight = log_weight;
                    frexpl(w, &s.exponent);
                    s.exponent -= 64;
                }
            }
        }
    }
    return s;
}

/* (x - m)/T: above 0 only where the leader's weight makes up for it. */
static pair from_max(long double x, long double max, double temperature) {
    pair d = two_sum(x, -max);
    if (d.hi == -INFINITY)
        return (pair){-INFINITY, 0};
    if (temperature != 1) {
        const long double t = temperature, hi = d.hi / t;
        const pair back = product(hi, t);
        d = (pair){hi, (((d.hi - back.hi) - back.lo) + d.lo) / t};
    }
    return (pair){d.hi, isfinite(d.lo) ? d.lo : 0}; /* not finite: d.hi, or T, is infinite */
}

/* w * exp(d) / 2^exponent, where exp(d) = 2^n * exp(t), |t| <= ln(2)/2: whatever w and d are, only the result can
 * underflow. n*ln2_hi is exact. */
static long double term(pair d, long double w, int exponent) {
    const long double log2e = 0x1.71547652b82fe1777d0ffda0d23ap+0L;
    const long double ln2_hi = 0x1.62e42fefap-1L;
    const long double ln2_lo = 0x1.cf79abc9e3b39803f2f6af40f343p-40L;
    if (d.hi < -100000)
        return 0; /* whatever the format, and the weight */
    const long double n = floorl(d.hi * log2e + 0.5L);
    const long double t = (d.hi - n * ln2_hi) + (d.lo - n * ln2_lo);
    int own;
    const long double fraction = frexpl(w, &own);
    return ldexpl(fraction * expl(t), (int)n + own - exponent);
}

static summary summarize(row *r, double temperature) {
    summary s = find_leader(r);
    if (s.flags || s.leader < 0)
        return s;
    pair others = {0, 0}, distances = {0, 0};
    long double own = 0;
    for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
        for (ptrdiff_t i = 0; i < r->count; i++) {
            if (!r->takes_part[i])
                continue;
            const pair d = from_max(r->x[i], s.max, temperature);
            const long double e = term(d, r->weight[i], s.exponent);
            if (c + i == s.leader)
                own = e;
            else
                others = add(others, e);
            if (e > 0)
                distances = add(distances, e * -d.hi);
        }
    }
    const long double u = (others.hi + others.lo) / own;
    const pair sum = add(others, own);
    s.sum = sum.hi + sum.lo;
    s.average = (distances.hi + distances.lo) / s.sum;
    if (s.sum == 0)
        s.tail = -INFINITY;
    else
        s.tail = u > -0.5L ? log1pl(u) : logl(fabsl(s.sum / own));
    return s;
}

/* ---- operations */

static row *first_row(const fsm_args *args, ptrdiff_t begin, void *scratch) {
    row *r = scratch;
    r->args = args;
    fsm_cursor_to(&r->at, args, begin);
    return r;
}

/* softmax or log_softmax. What takes no part gives `blank`. */
static void normalize(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, bool logarithm) {
    const long double blank = logarithm ? -INFINITY : 0;
    const bool to_own = args->operands[FSM_Y].storage == FSM_STORAGE_longdouble;
    const long double limit = to_own && args->flush_below > 0 ? LDBL_MIN : args->flush_below;
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        const summary s = summarize(r, args->temperature);
        const long double without_leader = s.flags || !args->zero_if_all_neg_inf ? NAN : blank;
        for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
            for (ptrdiff_t i = 0; i < r->count; i++) {
                if (!r->takes_part[i]) {
                    r->x[i] = blank;
                } else if (s.flags || s.leader < 0) {
                    r->x[i] = without_leader;
                } else {
                    const pair d = from_max(r->x[i], s.max, args->temperature);
                    const long double y = logarithm ? d.hi + (d.lo - s.tail) : term(d, 1, s.exponent) / s.sum;
                    r->x[i] = !logarithm && y < limit ? 0 : y;
                }
            }
            store(r);
        }
    }
}

static void softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    normalize(args, begin, end, scratch, false);
}

static void log_softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    normalize(args, begin, end, scratch, true);
}

static void logsumexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        const summary s = summarize(r, 1);
        const bool signs = args->operands[FSM_SIGN].data;
        long double y, sign;
        if (s.flags) {
            sign = s.flags == HAS_INF ? 1 : s.flags == HAS_MINUS_INF ? -1 : NAN;
            y = isnan(sign) ? NAN : INFINITY;
        } else if (s.leader < 0) {
            sign = 0;
            y = -INFINITY;
        } else {
            sign = (s.sum > 0) - (s.sum < 0);
            y = s.max + (s.log_weight + s.tail);
        }
        store_reduced(r, FSM_Y, sign < 0 && !signs ? NAN : y);
        if (signs)
            store_reduced(r, FSM_SIGN, sign);
    }
}

static void logmeanexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        const summary s = summarize(r, 1);
        long double y;
        if (s.parts == 0 || s.flags)
            y = s.flags == HAS_INF ? INFINITY : NAN;
        else
            y = s.leader < 0 ? -INFINITY : s.max + (s.tail - logl((long double)s.parts));
        store_reduced(r, FSM_Y, y);
    }
}

static void softmax_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        const summary s = summarize(r, args->temperature);
        long double y;
        if (s.flags || s.leader < 0)
            y = s.flags || s.parts ? NAN : 0;
        else
            y = s.tail + s.average;
        store_reduced(r, FSM_Y, y);
    }
}

/* The gradients: the saved result takes the place of weights. */
static void gradient(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, bool logarithm) {
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        pair sum = {0, 0};
        for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
            load_operand(r, FSM_SAVED, r->weight);
            for (ptrdiff_t i = 0; i < r->count; i++)
                sum = add_any(sum, logarithm ? r->x[i] : r->x[i] * r->weight[i]);
        }
        const long double total = sum.hi + sum.lo;
        for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
            load_operand(r, FSM_SAVED, r->weight);
            for (ptrdiff_t i = 0; i < r->count; i++) {
                const long double y = logarithm ? expl(r->weight[i]) : r->weight[i];
                r->x[i] = (logarithm ? r->x[i] - y * total : y * (r->x[i] - total)) / args->temperature;
            }
            store(r);
        }
    }
}

static void softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    gradient(args, begin, end, scratch, false);
}

static void log_softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    gradient(args, begin, end, scratch, true);
}

/* grad*softmax(x), or grad*exp(x - lse), where no x counts as more than lse. */
static void logsumexp_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const bool saved = args->operands[FSM_SAVED].data;
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        const long double grad = element(r, FSM_GRAD, 0), lse = saved ? element(r, FSM_SAVED, 0) : 0;
        const summary s = saved ? (summary){0} : summarize(r, 1);
        const bool none = isnan(grad) || !isfinite(lse) || s.flags || s.leader < 0;
        for (ptrdiff_t c = 0; load(r, c); c += FSM_CHUNK) {
            for (ptrdiff_t i = 0; i < r->count; i++) {
                const long double x = r->x[i];
                if (none)
                    r->x[i] = NAN;
                else if (saved)
                    r->x[i] = x < lse ? grad * term(from_max(x, lse, 1), 1, 0) : x < INFINITY ? grad : NAN;
                else
                    r->x[i] = grad * (term(from_max(x, s.max, 1), 1, s.exponent) / s.sum);
            }
            store(r);
        }
    }
}

/* The coefficients c of kernels/cross_entropy.h, of the chunk that is loaded, in place of the weights. */
static void load_c(row *r, ptrdiff_t named) {
    const fsm_args *args = r->args;
    const bool names = fsm_has_integers(&args->operands[FSM_TARGET]);
    const long double smoothing = args->loss.smoothing;
    if (args->operands[FSM_CLASS_WEIGHT].data)
        load_operand(r, FSM_CLASS_WEIGHT, r->weight);
    if (!names)
        load_operand(r, FSM_TARGET, r->c);
    for (ptrdiff_t i = 0; i < r->count; i++) {
        const long double q = names ? r->begin + i == named : r->c[i];
        const long double part = (1 - smoothing) * q + smoothing / args->n;
        r->c[i] = part == 0 ? 0 : part * (args->operands[FSM_CLASS_WEIGHT].data ? r->weight[i] : 1);
    }
}

static void cross_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const fsm_loss *loss = &args->loss;
    const long double softcap = loss->softcap, of_z = loss->z / (long double)loss->z_divisor;
    row *r = first_row(args, begin, scratch);
    for (; begin < end; begin++, fsm_cursor_advance(&r->at, args, 1)) {
        int64_t named = -1;
        if (fsm_has_integers(&args->operands[FSM_TARGET]))
            fsm_load_integers(&args->operands[FSM_TARGET], r->at.row.at[FSM_TARGET], 0, 1, &named);
        const bool ignored = loss->ignores && named == loss->ignore_index;
        const summary s = ignored ? (summary){.leader = 0} : summarize(r, 1);
        const bool none = s.flags || s.leader < 0;
        const long double lse = s.max + s.tail, slope = 2 * of_z * lse;
        long double own = 0;                     /* the c of the class that is named */
        pair others = {0, 0}, distance = {0, 0}; /* the sums of the other c, and of c*(m - x) */
        for (ptrdiff_t c = 0; !ignored && !none && load(r, c); c += FSM_CHUNK) {
            load_c(r, named);
            for (ptrdiff_t i = 0; i < r->count; i++) {
                if (c + i == named)
                    own = r->c[i];
                else
                    others = add_any(others, r->c[i]);
                if (r->c[i] != 0)
                    distance = add_any(distance, r->c[i] * (s.max - r->x[i]));
            }
        }
        const long double other = others.hi + others.lo;
        const long double value = distance.hi + distance.lo + (other + own) * s.tail + of_z * loss->divisor * lse * lse;
        store_reduced(r, FSM_LOSS, ignored ? 0 : none ? NAN : value);
        for (ptrdiff_t c = 0; args->operands[FSM_Y].data && load(r, c); c += FSM_CHUNK) {
            if (!ignored && !none)
                load_c(r, named);
            for (ptrdiff_t i = 0; i < r->count; i++) {
                const long double x = r->x[i];
                if (ignored || none) {
                    r->x[i] = ignored ? 0 : NAN;
                    continue;
                }
                const long double p = term(from_max(x, s.max, 1), 1, s.exponent) / s.sum;
                long double y = (other + own) * p - r->c[i];
                if (c + i == named)
                    y = other * p - own * (named == s.leader ? -expm1l(-s.tail) : 1 - p);
                y = y / loss->divisor + slope * p;
                r->x[i] = softcap > 0 ? y * (1 - (x / softcap) * (x / softcap)) : y;
            }
            store(r);
        }
    }
}

fsm_kernel *const fsm_longdouble_kernels[FSM_OPS] = {
#define OP(name, max_ulp, kind) name,
#include "ops.def"
#undef OP
};
