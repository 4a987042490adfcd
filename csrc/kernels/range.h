/* The range of a row: its largest x, where that is, and whether an element is subnormal. */
#ifndef FSM_KERNELS_RANGE_H
#define FSM_KERNELS_RANGE_H

#include "../simd/vec.h"

#include <math.h>
#include <string.h>

/* Elements of four consecutive blocks: one step of the sum (sum.h). */
#define QUAD (4 * LANES)

/* What is left of a row from p on, `count` elements, or a block of it; also where nothing is. Whole blocks go without a
 * mask. */
FSM_INLINE vec load_rest(const real *p, ptrdiff_t count, real fill) {
    if (count >= LANES)
        return vec_load(p);
    return count > 0 ? vec_load_n(p, count, fill) : vec_set1(fill);
}

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

/* n elements, over all lanes. `quad_of_max`, unless it is NULL: for each lane, the first quad that has its largest x.
 */
FSM_INLINE range_t range_of_row_body(const real *x, ptrdiff_t n, vec *quad_of_max) {
    real first;
    memcpy(&first, x, sizeof first);
    range_t range = range_of(vec_set1(first));
    vec quads = vec_set1(0);
    ptrdiff_t i = 0;
    for (; i + QUAD <= n; i += QUAD) {
        const vec quad = vec_set1((real)(i / QUAD));
        FSM_EACH_REGISTER(j) {
            range_t r[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                r[step] = range_of(load_register(x + i + step * LANES, j));
            r[0] = range_join(range_join(r[0], r[1]), range_join(r[2], r[3]));
            if (quad_of_max)
                quads = set_register(quads, j, vec_select_lt(range.max, r[0].max, quad, quads));
            r[0] = range_join(range, r[0]);
            range.max = set_register(range.max, j, r[0].max);
            range.least = set_register(range.least, j, r[0].least);
        }
    }
    for (; i < n; i += LANES) {
        const vec a = load_rest(x + i, n - i, first);
        if (quad_of_max)
            quads = vec_select_lt(range.max, a, vec_set1((real)(i / QUAD)), quads);
        range = range_join(range, range_of(a));
    }
    if (quad_of_max)
        *quad_of_max = quads;
    return range;
}

FSM_OUTLINE range_t range_of_row(const real *x, ptrdiff_t n) {
    return range_of_row_body(x, n, NULL);
}

/* The maximum of up to FSM_CHUNK elements and where it first is, -1 if it is -inf or NaN; returns whether a subnormal
 * is there. */
FSM_OUTLINE bool find_max(const real *x, ptrdiff_t n, real *max, ptrdiff_t *index) {
    vec quad_of_max;
    const range_t range = range_of_row_body(x, n, &quad_of_max);
    const vec none = vec_set1(-FSM_CHUNK);
    *max = vec_hmax(range.max);
    *index = -1;
    const real quad = -vec_hmax(vec_select_lt(range.max, vec_set1(*max), none, vec_sub(vec_set1(0), quad_of_max)));
    for (ptrdiff_t i = (ptrdiff_t)quad * QUAD; i < n && *max > -(real)INFINITY; i += LANES) {
        const int lane = vec_find_eq(load_rest(x + i, n - i, -(real)INFINITY), vec_set1(*max));
        if (lane < LANES) {
            *index = i + lane;
            break;
        }
    }
    return range_has_subnormal(range);
}

#endif
