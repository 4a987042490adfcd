/* The sweeps over rows that every operation shares, and the order of summation.
 *
 * The sum of a row. Chunk c is the FSM_CHUNK elements from c*FSM_CHUNK on; in it lane j takes elements j,
 * j+LANES, j+2*LANES, ... Four consecutive elements of a lane are added as (s0+s2) + (s1+s3) in the element
 * type, and that joins the lane's float64 accumulator (vec_acc_add). Lanes fold by halves, totals of chunks
 * add in order. Elements that are missing count as +0. A tile of columns (tile.h) keeps the same lanes for each of
 * its columns, in memory instead of side by side in a register; so rows and columns, and any split into chunks, give
 * the same bits. */
#ifndef FSM_KERNELS_PASSES_H
#define FSM_KERNELS_PASSES_H

#include "../math/exp.h"

/* What is left of a row from p on, `count` elements, or a block of it; also where nothing is. Whole blocks go without a
 * mask: softmax_grad of 1000 elements takes 0.97 times as long (AVX2, Zen 3). */
FSM_INLINE vec load_rest(const real *p, ptrdiff_t count, real fill) {
    if (count >= LANES)
        return vec_load(p);
    return count > 0 ? vec_load_n(p, count, fill) : vec_set1(fill);
}

/* ---- the range of x */

/* The largest x, and the smallest |x|, which tells whether any is subnormal. */
typedef struct {
    vec max, least;
} range_t;

FSM_INLINE range_t range_of(vec a) {
    return (range_t){a, vec_abs(a)};
}

FSM_INLINE range_t range_join(range_t a, range_t b) {
    return (range_t){vec_max(a.max, b.max), vec_min(a.least, b.least)};
}

/* Whether a subnormal (or a zero, which needs no care but gets it) is among them. */
FSM_INLINE bool range_has_subnormal(range_t range) {
    return vec_any_lt(range.least, vec_set1(MIN_NORMAL));
}

/* The range of n elements, over all lanes. `where`, unless it is NULL: for each lane, the first group of 4*LANES
 * elements that has its largest x. */
FSM_INLINE range_t range_row(const real *x, ptrdiff_t n, vec *where) {
    real first;
    memcpy(&first, x, sizeof first);
    range_t range = range_of(vec_set1(first));
    vec groups = vec_set1(0);
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const vec group = vec_set1((real)(i / (4 * LANES)));
        FSM_EACH_REGISTER(j) {
            range_t r[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                r[step] = range_of(load_register(x + i + step * LANES, j));
            r[0] = range_join(range_join(r[0], r[1]), range_join(r[2], r[3]));
            if (where)
                groups = set_register(groups, j, vec_select_lt(range.max, r[0].max, group, groups));
            r[0] = range_join(range, r[0]);
            range.max = set_register(range.max, j, r[0].max);
            range.least = set_register(range.least, j, r[0].least);
        }
    }
    for (; i < n; i += LANES) {
        const vec a = load_rest(x + i, n - i, first);
        if (where)
            groups = vec_select_lt(range.max, a, vec_set1((real)(i / (4 * LANES))), groups);
        range = range_join(range, range_of(a));
    }
    if (where)
        *where = groups;
    return range;
}

/* ---- sums */

/* What is summed: exponentials of x, of x that need care, or x itself. */
typedef enum { PLAIN, CAREFUL, GIVEN } terms_t;

/* Four consecutive elements of every lane. */
FSM_INLINE vec add_four(vec s0, vec s1, vec s2, vec s3) {
    return vec_add(vec_add(s0, s2), vec_add(s1, s3));
}

/* The terms of a lane, of `count` <= 4*LANES elements. */
typedef struct {
    real of_skipped, sum; /* of the element that is left out; of the others */
} lane_terms_t;

FSM_INLINE lane_terms_t
    lane_without(const real *x, ptrdiff_t count, ptrdiff_t skip, exp_frame_t frame, terms_t terms) {
    real s[LANES];
    const ptrdiff_t lane = skip % LANES, left_out = skip / LANES;
    vec_store(s, vec_set1(0));
    for (int step = 0; step < 4; step++)
        if (lane + step * LANES < count)
            memcpy(&s[step], x + lane + step * LANES, sizeof *s);
        else
            s[step] = terms == GIVEN ? 0 : -(real)INFINITY;
    if (terms != GIVEN)
        vec_store(s, exp_block(vec_load(s), frame, terms == CAREFUL));
    const real of_skipped = s[left_out];
    s[left_out] = 0;
    return (lane_terms_t){of_skipped, (s[0] + s[2]) + (s[1] + s[3])};
}

/* a == b ? yes : no, where a and b are integers. */
FSM_INLINE vec select_eq(vec a, vec b, vec yes, vec no) {
    return vec_select_lt(vec_abs(vec_sub(a, b)), vec_set1((real)0.5), yes, no);
}

/* a with another number in one lane. */
FSM_INLINE vec set_lane(vec a, ptrdiff_t lane, real number) {
    real number_of[LANES];
    for (int j = 0; j < LANES; j++)
        number_of[j] = (real)j;
    return select_eq(vec_load(number_of), vec_set1((real)lane), vec_set1(number), a);
}

/* Sums up to FSM_CHUNK terms of a row, without that of element `skip`, which goes to `skipped`, unless skip is
 * negative. They are stored in e unless that is NULL; e may be x. `most`, unless it is NULL, the
 * same in all lanes: larger x become that. */
FSM_INLINE fsm_sum sum_row_body(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                                    exp_frame_t frame, terms_t terms, const vec *most) {
    const real none = terms == GIVEN ? 0 : -(real)INFINITY;
    const vec zero = vec_set1(0), bound = most ? uniform(*most) : zero;
    vec_acc lanes = vec_acc_zero();
    frame.magic = uniform(frame.magic);
    frame.low = uniform(frame.low);
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        const ptrdiff_t count = n - i < 4 * LANES ? n - i : 4 * LANES;
        const bool skips = skip >= i && skip < i + count;
        vec sum = zero;
        lane_terms_t lane = {0, 0};
        if (skips)
            lane = lane_without(x + i, count, skip - i, frame, terms);
        if (count == 4 * LANES) {
            FSM_EACH_REGISTER(j) {
                vec s[4];
                FSM_UNROLL
                for (int step = 0; step < 4; step++)
                    s[step] = load_register(x + i + step * LANES, j);
                FSM_UNROLL
                for (int step = 0; most && step < 4; step++)
                    s[step] = vec_min(s[step], bound);
                if (terms != GIVEN)
                    exp_four(s, &frame, terms == CAREFUL);
                FSM_UNROLL
                for (int step = 0; step < 4; step++)
                    if (e)
                        store_register(e + i + step * LANES, j, s[step]);
                sum = set_register(sum, j, add_four(s[0], s[1], s[2], s[3]));
            }
        } else {
            vec s[4] = {zero, zero, zero, zero};
            for (int step = 0; step * LANES < count; step++) {
                const ptrdiff_t left = count - step * LANES;
                vec a = load_rest(x + i + step * LANES, left, none);
                if (most)
                    a = vec_min(a, bound);
                if (terms != GIVEN)
                    a = exp_block(a, frame, terms == CAREFUL);
                if (e && left < LANES)
                    vec_store_n(e + i + step * LANES, left, a);
                else if (e)
                    vec_store(e + i + step * LANES, a);
                s[step] = a;
            }
            sum = add_four(s[0], s[1], s[2], s[3]);
        }
        if (skips) {
            *skipped = lane.of_skipped;
            sum = set_lane(sum, (skip - i) % LANES, lane.sum);
        }
        lanes = vec_acc_add(lanes, sum);
    }
    return vec_acc_fold(lanes);
}

/* Exponentials of `count` <= 4, a constant, blocks, to `to` unless that is NULL, which may be `from`; returns their
 * sums of four. Fewer blocks have their registers go through the steps together by themselves. */
FSM_INLINE vec exp_and_add(const real *const *from, real *const *to, const int count, const exp_frame_t *frame,
                               bool careful) {
    const vec zero = vec_set1(0);
    vec sum = zero;
    if (count == 4 && !careful) {
        FSM_EACH_REGISTER(j) {
            vec a[4];
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                a[k] = load_register(from[k], j);
            exp_four(a, frame, false);
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                if (to)
                    store_register(to[k], j, a[k]);
            sum = set_register(sum, j, add_four(a[0], a[1], a[2], a[3]));
        }
        return sum;
    }
    vec a[4] = {zero, zero, zero, zero};
    FSM_EACH_BLOCK(k, count)
        a[k] = vec_load(from[k]);
    exp_blocks(a, count, frame, careful);
    FSM_UNROLL
    for (int k = 0; k < 4; k++)
        if (to && k < count)
            vec_store(to[k], a[k]);
    return count == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
}

/* vec_acc_fold of columns, whose lanes lie one after the other: `used` of them, the others are 0 and change nothing. */
static vec_acc fold_columns(vec_acc *lanes, int used) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int j = 0; j < width && j + width < used; j++)
            lanes[j] = vec_acc_merge(lanes[j], lanes[j + width]);
    return lanes[0];
}

static fsm_sum sum_row(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                           const exp_frame_t *frame, terms_t terms) {
    if (terms == PLAIN)
        return sum_row_body(x, e, n, skip, skipped, *frame, PLAIN, NULL);
    if (terms == CAREFUL)
        return sum_row_body(x, e, n, skip, skipped, *frame, CAREFUL, NULL);
    return sum_row_body(x, e, n, skip, skipped, *frame, GIVEN, NULL);
}

/* ---- results */

/* A whole block of results. `stream`: past the caches. */
FSM_INLINE void put(real *y, vec a, bool stream) {
    if (stream)
        vec_stream(y, a);
    else
        vec_store(y, a);
}

/* y = e/S (quotient); `least`: smaller e become that, unless it is NULL. y may be e, unless it is streamed. */
FSM_INLINE void quotients(const real *e, real *y, ptrdiff_t n, divisor_t divisor, const vec *least, bool stream) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec a = vec_load(e + i);
        put(y + i, quotient(least ? vec_max(a, *least) : a, divisor), stream);
    }
    if (i < n) {
        const vec a = vec_load_n(e + i, n - i, 0);
        vec_store_n(y + i, n - i, quotient(least ? vec_max(a, *least) : a, divisor));
    }
}

/* What is below `limit` becomes 0. */
static void flush_chunk(real *y, ptrdiff_t n, real limit) {
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
} stream_t;

/* Results of elements [begin, begin + count), of a row that `of` describes, to `to`; `stream`: past the caches. */
typedef void results_t(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream);

FSM_INLINE_ ptrdiff_t within_line(const real *y) {
    return (ptrdiff_t)((uintptr_t)y % 64 / sizeof *y);
}

/* Writes what waits for its line. */
static void stream_flush(stream_t *s) {
    if (s->held == 0)
        return;
    real *y = s->at - s->held;
    memcpy(y, s->line + within_line(y), (size_t)s->held * sizeof *y);
    s->held = 0;
}

/* Writes the first line, if results reach its end: whole, or as much as there is of it. */
FSM_OUTLINE_ void stream_line(stream_t *s, real *y, ptrdiff_t within, ptrdiff_t count) {
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
FSM_INLINE void stream_row(stream_t *s, real *y, ptrdiff_t n, results_t *results, const void *of) {
    if (s->held > 0 && y != s->at)
        stream_flush(s);
    s->at = y + n;
    for (ptrdiff_t i = 0, count; i < n; i += count) {
        const ptrdiff_t within = within_line(y + i), left = n - i, rest = LINE - within;
        const bool blocks = within == 0 && left >= LANES;
        count = blocks ? left / LANES * LANES : within > 0 && left > rest ? rest : left;
        results(of, i, count, blocks ? y + i : s->line + within, blocks);
        if (!blocks) {
            s->held += count;
            stream_line(s, y + i, within, count);
        }
    }
}

/* The same past the caches by `s`, or, if that is NULL, as usual. */
FSM_INLINE void write_row(stream_t *s, real *y, ptrdiff_t n, results_t *results, const void *of) {
    if (s)
        stream_row(s, y, n, results, of);
    else
        results(of, 0, n, y, false);
}

/* Results that are there. */
FSM_INLINE void copied(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const real *from = (const real *)of + begin;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        put(to + i, vec_load(from + i), stream);
    if (i < count)
        vec_store_n(to + i, count - i, vec_load_n(from + i, count - i, 0));
}

FSM_OUTLINE_ void stream_copy(stream_t *s, real *y, const real *from, ptrdiff_t n) {
    stream_row(s, y, n, copied, from);
}

#endif
