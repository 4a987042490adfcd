/* The order of summation, which fixes every bit.
 *
 * Chunk c is the FSM_CHUNK elements from c*FSM_CHUNK on; in it lane j takes elements j, j+LANES, j+2*LANES, ... Four
 * consecutive elements of a lane, one from each block of a quad, are added as (s0+s2) + (s1+s3) in the element type,
 * and that joins the lane's float64 accumulator (vec_acc_add). Lanes fold by halves, totals of chunks add in order.
 * Elements that are missing count as +0. A panel keeps as many lanes for each of its rows, in memory instead of side by
 * side in a register; so rows and columns, and any split into chunks, give the same bits. */
#ifndef FSM_KERNELS_SUM_H
#define FSM_KERNELS_SUM_H

#include "../math/exp.h"
#include "range.h"

FSM_INLINE vec add_four(vec s0, vec s1, vec s2, vec s3) {
    return vec_add(vec_add(s0, s2), vec_add(s1, s3));
}

/* The sum over up to FSM_CHUNK elements of a row: `quad` gives the sums of four of one quad, or of those of its
 * `count` elements that are there. */
FSM_INLINE fsm_sum sum_row(ptrdiff_t n, void *op, vec (*quad)(void *op, ptrdiff_t i, ptrdiff_t count)) {
    vec_acc lanes = vec_acc_zero();
    for (ptrdiff_t i = 0; i < n; i += QUAD)
        lanes = vec_acc_add(lanes, quad(op, i, fsm_min(n - i, QUAD)));
    return vec_acc_fold(lanes);
}

/* The fold of a row of a panel, whose lanes lie one after the other: `used` of them, the others are 0 and change
 * nothing. */
static vec_acc fold_lanes(vec_acc *lanes, int used) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int j = 0; j < width && j + width < used; j++)
            lanes[j] = vec_acc_merge(lanes[j], lanes[j + width]);
    return lanes[0];
}

/* ---- exponentials, and their sums */

/* Exponentials of `count` <= 4, a constant, blocks, to `to` unless that is NULL, which may be `from`; returns their
 * sums of four. */
FSM_INLINE vec exp_and_add(const real *const *from, real *const *to, const int count, const exp_frame_t *frame,
                           bool special) {
    const vec zero = vec_set1(0);
    vec sum = zero;
    if (count == 4 && !special) {
        FSM_EACH_REGISTER(j) {
            vec a[4];
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                a[k] = load_register(from[k], j);
            exp_four(a, frame, false);
            if (to) {
                FSM_UNROLL
                for (int k = 0; k < 4; k++)
                    store_register(to[k], j, a[k]);
            }
            sum = set_register(sum, j, add_four(a[0], a[1], a[2], a[3]));
        }
        return sum;
    }
    vec a[4] = {zero, zero, zero, zero};
    FSM_EACH_BLOCK(k, count)
        a[k] = vec_load(from[k]);
    exp_blocks(a, count, frame, special);
    FSM_UNROLL
    for (int k = 0; k < 4; k++)
        if (to && k < count)
            vec_store(to[k], a[k]);
    return count == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
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

/* What is summed: exponentials of x, of x off the fast path (exp_together()), or x itself. */
typedef enum { EXP, EXP_SPECIAL, GIVEN } terms_t;

typedef struct {
    const real *x;
    real *e;        /* where the exponentials go; may be x */
    ptrdiff_t quad; /* where the quad begins of which an element is left out, or a negative number */
    ptrdiff_t skip; /* that element's lane, whose sum of four without it is ... */
    real lane;      /* ... this */
    exp_frame_t frame;
    vec limit; /* larger x become this, the same in all lanes */
} exp_sum_t;

/* Element `skip` of n at x: the sum of four of its lane in its quad, without it; its own term goes to `skipped`. A
 * negative one: 0, and there is none. */
FSM_OUTLINE real lane_without(const real *x, ptrdiff_t n, ptrdiff_t skip, const exp_frame_t *frame, terms_t terms,
                              real *skipped) {
    if (skip < 0)
        return 0;
    real s[LANES];
    const ptrdiff_t quad = skip / QUAD * QUAD, count = n - quad;
    const ptrdiff_t lane = skip % LANES, left_out = (skip - quad) / LANES;
    x += quad;
    vec_store(s, vec_set1(0));
    for (int step = 0; step < 4; step++)
        if (lane + step * LANES < count)
            memcpy(&s[step], x + lane + step * LANES, sizeof *s);
        else
            s[step] = terms == GIVEN ? 0 : -(real)INFINITY;
    if (terms != GIVEN)
        vec_store(s, exp_block(vec_load(s), *frame, terms == EXP_SPECIAL));
    *skipped = s[left_out];
    s[left_out] = 0;
    return (s[0] + s[2]) + (s[1] + s[3]);
}

FSM_INLINE vec exp_quad(const exp_sum_t *op, ptrdiff_t i, ptrdiff_t count, const terms_t terms, const bool stores,
                        const bool limited) {
    const real none = terms == GIVEN ? 0 : -(real)INFINITY;
    const real *x = op->x + i;
    real *e = stores ? op->e + i : NULL;
    const vec zero = vec_set1(0);
    vec sum = zero;
    if (count == QUAD) {
        FSM_EACH_REGISTER(j) {
            vec s[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                s[step] = load_register(x + step * LANES, j);
            FSM_UNROLL
            for (int step = 0; limited && step < 4; step++)
                s[step] = vec_min(s[step], op->limit);
            if (terms != GIVEN)
                exp_four(s, &op->frame, terms == EXP_SPECIAL);
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                if (stores)
                    store_register(e + step * LANES, j, s[step]);
            sum = set_register(sum, j, add_four(s[0], s[1], s[2], s[3]));
        }
    } else {
        vec s[4] = {zero, zero, zero, zero};
        for (int step = 0; step * LANES < count; step++) {
            const ptrdiff_t left = count - step * LANES;
            vec a = load_rest(x + step * LANES, left, none);
            if (limited)
                a = vec_min(a, op->limit);
            if (terms != GIVEN)
                a = exp_block(a, op->frame, terms == EXP_SPECIAL);
            if (stores && left < LANES)
                vec_store_n(e + step * LANES, left, a);
            else if (stores)
                vec_store(e + step * LANES, a);
            s[step] = a;
        }
        sum = add_four(s[0], s[1], s[2], s[3]);
    }
    return i == op->quad ? set_lane(sum, op->skip, op->lane) : sum;
}

FSM_INLINE vec quad_of_sum(void *op, ptrdiff_t i, ptrdiff_t count) {
    return exp_quad(op, i, count, EXP, false, false);
}

FSM_INLINE vec quad_of_kept(void *op, ptrdiff_t i, ptrdiff_t count) {
    return exp_quad(op, i, count, EXP, true, false);
}

FSM_INLINE vec quad_of_limited(void *op, ptrdiff_t i, ptrdiff_t count) {
    return exp_quad(op, i, count, EXP, true, true);
}

FSM_INLINE vec quad_of_special(void *op, ptrdiff_t i, ptrdiff_t count) {
    return exp_quad(op, i, count, EXP_SPECIAL, true, false);
}

FSM_INLINE vec quad_of_given(void *op, ptrdiff_t i, ptrdiff_t count) {
    return exp_quad(op, i, count, GIVEN, false, false);
}

static exp_sum_t exp_sum_of(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                            const exp_frame_t *frame, terms_t terms) {
    exp_sum_t op = {.x = x, .e = e, .quad = skip < 0 ? -1 : skip / QUAD * QUAD, .skip = skip % LANES};
    op.lane = lane_without(x, n, skip, frame, terms, skipped);
    if (frame) {
        op.frame = *frame;
        op.frame.magic = uniform(frame->magic);
        op.frame.low = uniform(frame->low);
    }
    return op;
}

/* The sum of up to FSM_CHUNK exponentials of a row, without that of element `skip`, which goes to `skipped`, unless
 * skip is negative. */
FSM_OUTLINE fsm_sum sum_exp(const real *x, ptrdiff_t n, ptrdiff_t skip, real *skipped, const exp_frame_t *frame) {
    exp_sum_t op = exp_sum_of(x, NULL, n, skip, skipped, frame, EXP);
    return sum_row(n, &op, quad_of_sum);
}

/* That sum, and the exponentials, which go to `e`; it may be x. */
FSM_OUTLINE fsm_sum sum_exp_kept(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                                 const exp_frame_t *frame) {
    exp_sum_t op = exp_sum_of(x, e, n, skip, skipped, frame, EXP);
    return sum_row(n, &op, quad_of_kept);
}

/* All of them; x larger than `limit`, which is the same in all lanes, become that. */
FSM_OUTLINE fsm_sum sum_exp_limited(const real *x, real *e, ptrdiff_t n, const exp_frame_t *frame, vec limit) {
    exp_sum_t op = exp_sum_of(x, e, n, -1, NULL, frame, EXP);
    op.limit = uniform(limit);
    return sum_row(n, &op, quad_of_limited);
}

/* Exponentials off the fast path; `e` may be NULL. */
FSM_OUTLINE fsm_sum sum_exp_special(const real *x, real *e, ptrdiff_t n, ptrdiff_t skip, real *skipped,
                                    const exp_frame_t *frame) {
    real room[FSM_CHUNK];
    exp_sum_t op = exp_sum_of(x, e ? e : room, n, skip, skipped, frame, EXP_SPECIAL);
    return sum_row(n, &op, quad_of_special);
}

/* Up to FSM_CHUNK numbers as they are. */
FSM_OUTLINE fsm_sum sum_given(const real *x, ptrdiff_t n, ptrdiff_t skip, real *skipped) {
    exp_sum_t op = exp_sum_of(x, NULL, n, skip, skipped, NULL, GIVEN);
    return sum_row(n, &op, quad_of_given);
}

#endif
