/* The sweeps over rows that every operation shares, and the order of summation.
 *
 * The sum of a row. Chunk c is the FSM_CHUNK elements from c*FSM_CHUNK on; in it lane j takes elements j,
 * j+LANES, j+2*LANES, ... Four consecutive elements of a lane are added as (s0+s2) + (s1+s3) in the element
 * type, and that joins the lane's float64 accumulator (vec_acc_add). Lanes fold by halves, totals of chunks
 * add in order. Elements that are missing count as +0. A tile of columns (tile.h) keeps the same lanes for each of
 * its columns, in memory instead of side by side in a register; so rows and columns, and any split into chunks, give
 * the same bits. */

/* ---- the range of x */

/* The largest x, and the smallest |x|, which tells whether any is subnormal. */
typedef struct {
    vec max, least;
} FN(range);

FSM_INLINE FN(range) FN(range_of)(vec a) {
    return (FN(range)){a, vec_abs(a)};
}

FSM_INLINE FN(range) FN(range_join)(FN(range) a, FN(range) b) {
    return (FN(range)){vec_max(a.max, b.max), vec_min(a.least, b.least)};
}

/* Whether a subnormal (or a zero, which needs no care but gets it) is among them. */
FSM_INLINE bool FN(range_has_subnormal)(FN(range) range) {
    return vec_any_lt(range.least, vec_set1(MIN_NORMAL));
}

/* The range of n elements, over all lanes. */
FSM_INLINE FN(range) FN(range_row)(const real *x, ptrdiff_t n) {
    real first;
    memcpy(&first, x, sizeof first);
    FN(range) range = FN(range_of)(vec_set1(first));
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        FSM_EACH_REGISTER(j) {
            FN(range) r[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                r[step] = FN(range_of)(FN(load_register)(x + i + step * LANES, j));
            r[0] = FN(range_join)(FN(range_join)(r[0], r[1]), FN(range_join)(r[2], r[3]));
            r[0] = FN(range_join)(range, r[0]);
            range.max = FN(set_register)(range.max, j, r[0].max);
            range.least = FN(set_register)(range.least, j, r[0].least);
        }
    }
    for (; i + LANES <= n; i += LANES)
        range = FN(range_join)(range, FN(range_of)(vec_load(x + i)));
    if (i < n)
        range = FN(range_join)(range, FN(range_of)(vec_load_n(x + i, n - i, first)));
    return range;
}

/* ---- sums */

/* What is summed: exponentials of x, of x that need care, or x itself. */
typedef enum { FN(PLAIN), FN(CAREFUL), FN(GIVEN) } FN(terms);

FSM_INLINE vec FN(term)(vec x, FN(exp_frame) frame, FN(terms) terms) {
    return terms == FN(GIVEN) ? x : FN(exp)(x, frame, terms == FN(CAREFUL));
}

/* Four consecutive elements of every lane. */
FSM_INLINE vec FN(add_four)(vec s0, vec s1, vec s2, vec s3) {
    return vec_add(vec_add(s0, s2), vec_add(s1, s3));
}

/* a with 0 in one lane, whose term goes to `taken`. */
FSM_INLINE vec FN(take_out)(vec a, ptrdiff_t lane, real *taken) {
    real lanes[LANES];
    vec_store(lanes, a);
    *taken = lanes[lane];
    lanes[lane] = 0;
    return vec_load(lanes);
}

/* Sums up to FSM_CHUNK terms of a row, without that of element `skip`, which goes to `skipped`, unless skip is
 * negative. They are stored in e unless that is NULL; e may be x. */
FSM_INLINE fsm_sum FN(sum_row_body)(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                                    FN(exp_frame) frame, FN(terms) terms) {
    const real none = terms == FN(GIVEN) ? 0 : -(real)INFINITY;
    vec_acc lanes = vec_acc_zero();
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        const ptrdiff_t count = n - i < 4 * LANES ? n - i : 4 * LANES;
        vec s[4];
        if (count == 4 * LANES) {
            FSM_UNROLL
            for (int step = 0; step < 4; step++) {
                s[step] = FN(term)(vec_load(x + i + step * LANES), frame, terms);
                if (e)
                    vec_store(e + i + step * LANES, s[step]);
            }
        } else {
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                s[step] = vec_set1(0);
            for (int step = 0; step * LANES < count; step++) {
                const ptrdiff_t left = count - step * LANES, lanes_left = left < LANES ? left : LANES;
                s[step] = FN(term)(vec_load_n(x + i + step * LANES, lanes_left, none), frame, terms);
                if (e)
                    vec_store_n(e + i + step * LANES, lanes_left, s[step]);
            }
        }
        if (skip >= i && skip < i + count) {
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                if ((skip - i) / LANES == step)
                    s[step] = FN(take_out)(s[step], (skip - i) % LANES, skipped);
        }
        lanes = vec_acc_add(lanes, FN(add_four)(s[0], s[1], s[2], s[3]));
    }
    return vec_acc_fold(lanes);
}

/* vec_acc_fold of columns, whose lanes lie one after the other: `used` of them, the others are 0 and change nothing. */
static vec_acc FN(fold_columns)(vec_acc *lanes, int used) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int j = 0; j < width && j + width < used; j++)
            lanes[j] = vec_acc_merge(lanes[j], lanes[j + width]);
    return lanes[0];
}

static fsm_sum FN(sum_row)(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                           const FN(exp_frame) * frame, FN(terms) terms) {
    if (terms == FN(PLAIN))
        return FN(sum_row_body)(x, e, n, skip, skipped, *frame, FN(PLAIN));
    if (terms == FN(CAREFUL))
        return FN(sum_row_body)(x, e, n, skip, skipped, *frame, FN(CAREFUL));
    return FN(sum_row_body)(x, e, n, skip, skipped, *frame, FN(GIVEN));
}

/* ---- results */

/* A whole block of results. `stream`: past the caches. */
FSM_INLINE void FN(put)(real *y, vec a, bool stream) {
    if (stream)
        vec_stream(y, a);
    else
        vec_store(y, a);
}

/* y = e/S (FN(quotient)); `least`: smaller e become that, unless it is NULL. y may be e, unless it is streamed. */
FSM_INLINE void FN(quotients)(const real *e, real *y, ptrdiff_t n, FN(divisor) divisor, const vec *least, bool stream) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec a = vec_load(e + i);
        FN(put)(y + i, FN(quotient)(least ? vec_max(a, *least) : a, divisor), stream);
    }
    if (i < n) {
        const vec a = vec_load_n(e + i, n - i, 0);
        vec_store_n(y + i, n - i, FN(quotient)(least ? vec_max(a, *least) : a, divisor));
    }
}

/* What is below `limit` becomes 0. */
static void FN(flush_chunk)(real *y, ptrdiff_t n, real limit) {
    const vec zero = vec_set1(0);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec a = vec_load(y + i);
        vec_store(y + i, vec_select_lt(a, vec_set1(limit), zero, a));
    }
    if (i < n) {
        const vec a = vec_load_n(y + i, n - i, 0);
        vec_store_n(y + i, n - i, vec_select_lt(a, vec_set1(limit), zero, a));
    }
}

/* ---- results past the caches
 *
 * To change a part of a cache line, a CPU has to read it from memory first; whole lines can be written as they are. So
 * they are where results are larger than the caches: (16384, 1024) float32 softmax takes 0.75 to 0.9 times as long
 * (AVX-512 and AVX2, Zen 4). Rows of NumPy arrays mostly begin within a line: what a row leaves of its last line waits
 * for the next row, since one line a row written in parts, which the stores after it wait for, costs more than all that
 * is gained. */

#define LINE ((ptrdiff_t)(64 / sizeof(real)))

typedef struct {
    _Alignas(64) real line[LANES]; /* of which the last `held` numbers before `at` are not written yet */
    real *at;                      /* where the next result is expected */
    ptrdiff_t held;
} FN(stream);

/* Results of elements [begin, begin + count), of a row that `of` describes, to `to`; `stream`: past the caches. */
typedef void FN(results)(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream);

FSM_INLINE_ ptrdiff_t FN(within_line)(const real *y) {
    return (ptrdiff_t)((uintptr_t)y % 64 / sizeof *y);
}

/* Writes what waits for its line. */
static void FN(stream_flush)(FN(stream) * s) {
    if (s->held == 0)
        return;
    real *y = s->at - s->held;
    memcpy(y, s->line + FN(within_line)(y), (size_t)s->held * sizeof *y);
    s->held = 0;
}

/* Writes the first line, if results reach its end: whole, or as much as there is of it. */
FSM_OUTLINE_ void FN(stream_line)(FN(stream) * s, real *y, ptrdiff_t within, ptrdiff_t count) {
    const ptrdiff_t begin = within + count - s->held;
    if (within + count < LINE)
        return;
    if (begin == 0)
        vec_stream_line(y - within, s->line);
    else
        memcpy(y - within + begin, s->line + begin, (size_t)(LINE - begin) * sizeof *y);
    s->held -= LINE - begin;
    memcpy(s->line, s->line + LINE, (LANES - LINE) * sizeof *y);
}

/* n results to y, which is a multiple of its size. What begins or ends within a line goes to s->line. */
FSM_INLINE void FN(stream_row)(FN(stream) * s, real *y, ptrdiff_t n, FN(results) * results, const void *of) {
    if (s->held > 0 && y != s->at)
        FN(stream_flush)(s);
    s->at = y + n;
    for (ptrdiff_t i = 0, count; i < n; i += count) {
        const ptrdiff_t within = FN(within_line)(y + i), left = n - i, rest = LINE - within;
        const bool blocks = within == 0 && left >= LANES;
        count = blocks ? left / LANES * LANES : within > 0 && left > rest ? rest : left;
        results(of, i, count, blocks ? y + i : s->line + within, blocks);
        if (!blocks) {
            s->held += count;
            FN(stream_line)(s, y + i, within, count);
        }
    }
}

/* The same past the caches by `s`, or, if that is NULL, as usual. */
FSM_INLINE void FN(write_row)(FN(stream) * s, real *y, ptrdiff_t n, FN(results) * results, const void *of) {
    if (s)
        FN(stream_row)(s, y, n, results, of);
    else
        results(of, 0, n, y, false);
}

/* Results that are there. */
FSM_INLINE void FN(copied)(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const real *from = (const real *)of + begin;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        FN(put)(to + i, vec_load(from + i), stream);
    if (i < count)
        vec_store_n(to + i, count - i, vec_load_n(from + i, count - i, 0));
}

FSM_OUTLINE_ void FN(stream_copy)(FN(stream) * s, real *y, const real *from, ptrdiff_t n) {
    FN(stream_row)(s, y, n, FN(copied), from);
}
