/* The loops over panels, once each; an operation gives what happens to a few blocks.
 *
 * A pass over panels goes quad by quad: QUAD elements of every panel, where they lie or packed in the scratch. Within a
 * quad the panels are taken side by side, so that memory is read a few cache lines in a row; where they are packed,
 * each lies in one, and they are taken one after the other. */
#ifndef FSM_KERNELS_COLUMNS_H
#define FSM_KERNELS_COLUMNS_H

#include "batch.h"
#include "sum.h"

FSM_ALWAYS_INLINE vec_acc *lanes_of(const batch_t *b) {
    return (vec_acc *)(b->scratch + LANES_AT);
}

/* A quad of all panels of a batch, or what is left of one: `count` elements, `step` bytes apart, those of the next
 * panel `panel_step` bytes on. */
typedef struct {
    char *at;
    ptrdiff_t step, panel_step, count;
    bool ahead; /* ask for elements ahead of their use */
} panel_quad_t;

/* What a pass reads, and where its results go. */
typedef struct {
    panel_quad_t x, other, y; /* other: a second operand, if there is one */
} quads_t;

FSM_ALWAYS_INLINE real *block_at(panel_quad_t quad, ptrdiff_t t, ptrdiff_t i) {
    return (real *)(quad.at + t * quad.panel_step + i * quad.step);
}

/* Whether an operand's rows lie side by side, as compute numbers. */
FSM_ALWAYS_INLINE bool rows_lie_side_by_side(const fsm_args *args, int which) {
    const fsm_operand *operand = &args->operands[which];
    return args->axes == 1 && operand->storage == STORED_REAL && !operand->swapped &&
           operand->row_stride == sizeof(real);
}

/* Whether an operand can be used where it lies. */
FSM_ALWAYS_INLINE bool lies_in_panels(const batch_t *b, int which) {
    return !b->runs && b->rows == (ptrdiff_t)b->panels * LANES && rows_lie_side_by_side(b->args, which);
}

FSM_ALWAYS_INLINE void ask_for_block(const real *block) {
    for (size_t byte = 0; byte < LANES * sizeof *block; byte += 64)
        FSM_PREFETCH((const char *)block + byte);
}

FSM_ALWAYS_INLINE panel_quad_t quad_where_it_lies(const batch_t *b, int which, ptrdiff_t begin, ptrdiff_t count) {
    const ptrdiff_t step = b->args->operands[which].step[0];
    return (panel_quad_t){b->row.at[which] + begin * step, step, LANES * sizeof(real), count, fsm_asks_ahead(step)};
}

FSM_ALWAYS_INLINE panel_quad_t quad_in_scratch(const batch_t *b, ptrdiff_t begin, ptrdiff_t count) {
    const ptrdiff_t size = sizeof(real);
    return (panel_quad_t){(char *)in_scratch(b, 0, begin), LANES * size, b->pitch * size, count, false};
}

/* A quad of x. `again`: it has been packed before, and nothing has been done to it in the scratch. */
static panel_quad_t quad_of_x(const batch_t *b, ptrdiff_t begin, ptrdiff_t count, bool again) {
    if (x_is_plain(b->args) && lies_in_panels(b, FSM_X))
        return quad_where_it_lies(b, FSM_X, begin, count);
    if (!again || !b->packed)
        pack_x(b, begin, count);
    return quad_in_scratch(b, begin, count);
}

/* A quad of another operand, whose place in the scratch is `at` numbers behind that of x. */
static panel_quad_t quad_of_operand(const batch_t *b, int which, ptrdiff_t begin, ptrdiff_t count, bool again,
                                    ptrdiff_t at) {
    if (lies_in_panels(b, which))
        return quad_where_it_lies(b, which, begin, count);
    if (!again || !(b->packed || b->n <= QUAD))
        pack_panels(b, which, begin, count, in_scratch(b, 0, begin) + at, b->pitch);
    panel_quad_t quad = quad_in_scratch(b, begin, count);
    quad.at += at * (ptrdiff_t)sizeof(real);
    return quad;
}

/* ---- sums */

FSM_ALWAYS_INLINE void clear_lanes(vec_acc *lanes, int sums, int used) {
    for (int k = 0; k < sums; k++)
        for (int j = 0; j < used; j++)
            lanes[k * LANES + j] = vec_acc_zero();
}

/* Brings the quad of elements [begin, begin + count) within reach. */
typedef void load_quad_t(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count);

/* Adds elements i, i + LANES, i + 2*LANES, i + 3*LANES of panel t of the quad to lane i; `all`: they are there. */
typedef void add_lane_t(void *op, int t, ptrdiff_t i, bool all);

/* After a quad; false: the sum has to begin again in another way. */
typedef bool check_quad_t(const batch_t *b, void *op);

/* Elements [begin, end), of one chunk, of all panels. */
FSM_INLINE bool sum_chunk_of_panels(const batch_t *b, void *op, const quads_t *quads, ptrdiff_t begin, ptrdiff_t end,
                                    load_quad_t *load_quad, add_lane_t *add_lane, check_quad_t *check_quad) {
    for (ptrdiff_t c = begin; c < end; c += QUAD) {
        const ptrdiff_t count = fsm_min(end - c, QUAD);
        load_quad(b, op, c, count);
        const panel_quad_t x = quads->x, other = quads->other;
        const int together = x.step == (ptrdiff_t)(LANES * sizeof(real)) ? 1 : b->panels;
        for (int first = 0; first < b->panels; first += together)
            for (ptrdiff_t i = 0; i < LANES && i < count; i++)
                for (int t = first; t < first + together; t++) {
                    for (ptrdiff_t at = i + 1; x.ahead && at < count; at += LANES)
                        ask_for_block(block_at(x, t, at));
                    for (ptrdiff_t at = i + 1; other.ahead && at < count; at += LANES)
                        ask_for_block(block_at(other, t, at));
                    add_lane(op, t, i, count == QUAD);
                }
        if (check_quad && !check_quad(b, op))
            return false;
    }
    return true;
}

/* Whole panels, `sums` sums each: `totals` has those of panel t from t*sums on, and `lanes` LANES times as many. */
FSM_INLINE bool sum_panels(const batch_t *b, void *op, const quads_t *quads, const int sums, vec_acc *lanes,
                           vec_acc *totals, load_quad_t *load_quad, add_lane_t *add_lane, check_quad_t *check_quad) {
    for (ptrdiff_t chunk = 0; chunk < b->n; chunk += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, chunk);
        const int used = (int)fsm_min(count, LANES);
        clear_lanes(lanes, b->panels * sums, used);
        if (!sum_chunk_of_panels(b, op, quads, chunk, chunk + count, load_quad, add_lane, check_quad))
            return false;
        for (int k = 0; k < b->panels * sums; k++) {
            const vec_acc sum = fold_lanes(lanes + k * LANES, used);
            totals[k] = chunk ? vec_acc_merge(totals[k], sum) : sum;
        }
    }
    return true;
}

/* ---- results */

/* Elements whose results are known otherwise: one of each row, or -1. */
typedef struct {
    ptrdiff_t index[LANES];
    real result[LANES];
} known_t;

/* Results of elements [i, i + count) of panel t of the quad; count is 4, or 1. */
typedef void write_blocks_t(const void *op, int t, ptrdiff_t i, const int count);

/* All results of all panels. `known`: of each panel, or NULL. */
FSM_INLINE void write_panels(const batch_t *b, void *op, quads_t *quads, const known_t *const *known,
                             load_quad_t *load_quad, write_blocks_t *write_blocks) {
    const bool where_they_belong = lies_in_panels(b, FSM_Y);
    for (ptrdiff_t c = 0; c < b->n; c += QUAD) {
        const ptrdiff_t count = fsm_min(b->n - c, QUAD);
        load_quad(b, op, c, count);
        quads->y = where_they_belong ? quad_where_it_lies(b, FSM_Y, c, count) : quad_in_scratch(b, c, count);
        const panel_quad_t x = quads->x, other = quads->other, y = quads->y;
        ptrdiff_t i = 0;
        for (; i + 4 <= count; i += 4)
            for (int t = 0; t < b->panels; t++) {
                for (ptrdiff_t at = i + 4; x.ahead && at < i + 8; at++)
                    ask_for_block(block_at(x, t, at));
                for (ptrdiff_t at = i + 4; other.ahead && at < i + 8; at++)
                    ask_for_block(block_at(other, t, at));
                write_blocks(op, t, i, 4);
            }
        for (; i < count; i++)
            for (int t = 0; t < b->panels; t++)
                write_blocks(op, t, i, 1);
        for (int t = 0; known && t < b->panels; t++)
            for (int j = 0; known[t] && j < LANES; j++) {
                const ptrdiff_t at = known[t]->index[j] - c;
                if (at >= 0 && at < count)
                    memcpy(block_at(y, t, at) + j, &known[t]->result[j], sizeof(real));
            }
        if (!where_they_belong)
            store_results(b, c, count);
    }
}

/* ---- short panels, of n <= LANES elements: each has a lane of the sum to itself, so lanes are folded from the terms
 */

/* The exponentials of panel t of x, to panel t of e. */
static void exp_short_panel(panel_quad_t x, panel_quad_t e, int t, const exp_frame_t *frame, bool special) {
    ptrdiff_t i = 0;
    for (; i + 4 <= x.count; i += 4) {
        const real *from[4];
        real *to[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            from[k] = block_at(x, t, i + k);
            to[k] = block_at(e, t, i + k);
        }
        exp_and_add(from, to, 4, frame, special);
    }
    for (; i < x.count; i++) {
        const real *from = block_at(x, t, i);
        real *to = block_at(e, t, i);
        exp_and_add(&from, &to, 1, frame, special);
    }
}

/* e of an element of the rows, or 0 where it is the one at `at`. */
FSM_INLINE vec leave_out(vec e, ptrdiff_t element, vec at) {
    return select_eq(at, vec_set1((real)element), vec_set1(0), e);
}

/* The sums of panel t of terms; without the elements at `left_out`, unless that is NULL. */
FSM_INLINE vec_acc sum_short_panel(panel_quad_t terms, int t, const vec *left_out) {
    const int used = (int)terms.count;
    vec_acc lanes[LANES / 2];
    int width = LANES / 2;
    while (width > 1 && width >= used)
        width /= 2;
    for (int j = 0; j < width; j++) {
        vec a = vec_load(block_at(terms, t, j));
        lanes[j] = vec_acc_of(left_out ? leave_out(a, j, *left_out) : a);
        if (j + width < used) {
            a = vec_load(block_at(terms, t, j + width));
            lanes[j] = vec_acc_merge(lanes[j], vec_acc_of(left_out ? leave_out(a, j + width, *left_out) : a));
        }
    }
    return fold_lanes(lanes, width);
}

#endif
