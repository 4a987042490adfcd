/* log_softmax: y = (x - m)*beta - log1p(T/e), by log_family.h. Both terms are negative or 0, so nothing cancels. */
#ifndef FSM_KERNELS_LOG_SOFTMAX_H
#define FSM_KERNELS_LOG_SOFTMAX_H

#include "log_sweep.h"

/* What the second sweep of up to LANES rows needs. A tail that is subnormal counts for the maximum only, which is alone
 * then: as an operand it would slow every element down. That one result is put in its place. */
typedef struct {
    real max[LANES], tail[LANES], alone[LANES];
    ptrdiff_t index[LANES]; /* of the maximum that is alone, or -1 */
    bool some_alone;
    real unit[LANES]; /* 0.5 if x - max may overflow, else 1; x and max are taken times that */
} log_softmax_plan_t;

FSM_OUTLINE_ void log_softmax_plan_of(log_softmax_plan_t *plan, const log_state_t *s, int count) {
    double tails[LANES];
    int some_alone = 0;
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const real max = (real)s->max[j], tail = (real)tails[j];
        const bool alone = tails[j] < MIN_NORMAL;
        const bool huge = max > (real)0x1p100 && isfinite(max);
        plan->max[j] = max < MIN_NORMAL && max > -MIN_NORMAL ? 0 : max;
        plan->unit[j] = huge ? (real)0.5 : 1;
        plan->tail[j] = alone ? 0 : tail;
        plan->alone[j] = -tail;
        plan->index[j] = alone && tails[j] > 0 ? s->index[j] : -1;
        some_alone |= alone;
    }
    plan->some_alone = some_alone;
    for (int j = count; j < LANES; j++) { /* columns that do not exist */
        plan->max[j] = plan->tail[j] = 0;
        plan->unit[j] = 1;
        plan->index[j] = -1;
    }
}

/* What the second sweep works with: max and x times `unit`, beta divided by it. */
typedef struct {
    vec max, minus_tail, unit, beta;
} log_softmax_terms_t;

/* x, or 0 for a subnormal one: as vec_flush, but on every CPU, since here bits depend on it. */
FSM_INLINE vec without_subnormal(vec x) {
    return vec_select_lt(vec_abs(x), vec_set1(MIN_NORMAL), vec_set1(0), x);
}

FSM_INLINE vec log_softmax_of(vec x, log_softmax_terms_t terms, bool careful) {
    if (careful)
        x = without_subnormal(vec_mul(without_subnormal(x), terms.unit));
    const vec d = vec_sub(x, terms.max);
    return vec_fma(careful ? without_subnormal(d) : d, terms.beta, terms.minus_tail);
}

/* The second sweep of a chunk. y may be x, unless it is streamed. */
FSM_INLINE void log_softmax_body(const real *x, real *y, ptrdiff_t n, log_softmax_terms_t terms, bool careful,
                                     bool stream) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        put(y + i, log_softmax_of(vec_load(x + i), terms, careful), stream);
    if (i < n)
        vec_store_n(y + i, n - i, log_softmax_of(vec_load_n(x + i, n - i, 1), terms, careful));
}

FSM_OUTLINE_ void log_softmax_careful(const real *x, real *y, ptrdiff_t n, const log_softmax_terms_t *terms) {
    log_softmax_body(x, y, n, *terms, true, false);
}

/* A chunk as a row that is written (write_row). */
typedef struct {
    const real *x;
    log_softmax_terms_t terms;
} log_softmax_row_t;

FSM_INLINE void log_softmax_results(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const log_softmax_row_t *row = of;
    log_softmax_body(row->x + begin, to, count, row->terms, false, stream);
}

/* Of row j, or of the columns of a tile. */
FSM_INLINE log_softmax_terms_t
    log_softmax_terms_of(const group_t *g, const log_softmax_plan_t *plan, ptrdiff_t j, bool columns) {
    const vec max = columns ? vec_load(plan->max) : vec_set1(plan->max[j]);
    const vec tail = columns ? vec_load(plan->tail) : vec_set1(plan->tail[j]);
    const vec unit = columns ? vec_load(plan->unit) : vec_set1(plan->unit[j]);
    return (log_softmax_terms_t){
        .max = vec_mul(max, unit),
        .minus_tail = vec_sub(vec_set1(0), tail),
        .unit = unit,
        .beta = vec_mul(vec_set1(g->beta.hi), vec_sub(vec_set1(3), vec_add(unit, unit))), /* beta / unit */
    };
}

/* Rows of a state, or columns of a tile, without a result. */
static void log_softmax_special(const group_t *g, const log_state_t *s, int t) {
    const int count = rows_in_tile(g, t);
    int some = 0;
    for (int j = 0; j < count; j++) /* no branch: vectorised */
        some |= s->flags[j] | (s->max[j] == -INFINITY);
    for (int j = 0; some && j < count; j++)
        if (s->flags[j] || s->max[j] == -INFINITY)
            fill_row(g, t * LANES + j, !s->flags[j], -(real)INFINITY);
}

/* The second sweep of rows, chunks [begin, end). */
typedef struct {
    const log_state_t *state;
    const log_softmax_plan_t *plan;
} log_softmax_sweep_t;

static void log_softmax_chunks(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    const log_softmax_sweep_t *sweep = of;
    const log_softmax_plan_t *plan = sweep->plan;
    const ptrdiff_t n = g->args->n;
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->x_ready && !g->held)
            load_group(g, c, count);
        for (ptrdiff_t r = 0; r < g->rows; r++) {
            const real *x = g->x_ready ? element_at(g, FSM_X, r, c) : in_scratch(g, r, c);
            real *y = g->y_ready ? element_at(g, FSM_Y, r, c) : in_scratch(g, r, c);
            const log_softmax_row_t row = {x, log_softmax_terms_of(g, plan, r, false)};
            if (sweep->state->careful[r])
                log_softmax_careful(x, y, count, &row.terms);
            else
                write_row(plan->index[r] < 0 ? stream_of(g) : NULL, y, count, log_softmax_results, &row);
            if (plan->index[r] >= c && plan->index[r] < c + count)
                memcpy(y + (plan->index[r] - c), &plan->alone[r], sizeof *y);
        }
        if (!g->y_ready && !g->held)
            store_group(g, c, count);
    }
}

static void log_softmax_rows(const group_t *g) {
    log_state_t state;
    log_softmax_plan_t plan;
    log_sweep_rows(g, &state, SUMS);
    log_softmax_plan_of(&plan, &state, (int)g->rows);
    share_chunks(g, log_softmax_chunks, &(log_softmax_sweep_t){&state, &plan}, 0, chunks_of(g));
    if (!g->y_ready && g->held)
        store_group(g, 0, g->args->n);
    log_softmax_special(g, &state, 0);
}

/* The second sweep of a batch; `room` for its results. */
FSM_INLINE void log_softmax_batch(const group_t *g, const int parts, const int blocks,
                                      const log_softmax_plan_t *plan, bool careful, real *room) {
    const batch_t batch = batch_of(g, 0, parts, blocks);
    real *results = batch_results(g, 0, batch, room);
    const real *x = element_at(g, FSM_X, 0, 0);
    log_softmax_terms_t terms = {.unit = vec_set1(1), .beta = vec_set1(g->beta.hi)};
    real minus_tail[LANES];
    for (int j = 0; j < LANES; j++)
        minus_tail[j] = -plan->tail[j];
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        terms.max = vec_set_parts(plan->max + r, parts);
        terms.minus_tail = vec_set_parts(minus_tail + r, parts);
        FSM_EACH_BLOCK(k, blocks) {
            const vec a = log_softmax_of(load_short_block(x, batch, r, k, 1), terms, careful);
            store_short_block(results, batch, r, k, a);
        }
    }
    for (ptrdiff_t r = 0; plan->some_alone && r < batch.rows; r++)
        if (plan->index[r] >= 0)
            results[r * batch.n + plan->index[r]] = plan->alone[r];
    store_batch(g, 0, batch, results);
}

static void log_softmax_short_rows(const group_t *g) {
    log_state_t state;
    log_softmax_plan_t plan;
    real room[BATCH_ROOM];
    bool ordinary = log_sweep_short(g, &state, room);
    if (ordinary) {
        log_softmax_plan_of(&plan, &state, (int)g->rows);
        for (int j = 0; j < LANES; j++)
            ordinary &= plan.unit[j] == 1;
    }
    if (!ordinary) {
        log_softmax_rows(g);
        return;
    }
    WITH_PARTS(g, log_softmax_batch(g, parts, blocks, &plan, state.careful[0], room));
}

/* The second sweep of blocks [i, i + 4), or those that are there, of tile t of a piece. */
FSM_INLINE void log_softmax_blocks(piece_t x, piece_t y, ptrdiff_t t, ptrdiff_t i, log_softmax_terms_t terms,
                                       bool careful) {
    for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++)
        log_softmax_body(in_piece(x, t, k), in_piece(y, t, k), LANES, terms, careful, false);
}

static void log_softmax_columns(const group_t *g) {
    const ptrdiff_t n = g->args->n;
    const bool in_place = lies_in_tiles(g, FSM_Y);
    log_state_t states[LOG_TILES];
    log_softmax_plan_t plans[LOG_TILES];
    log_softmax_terms_t terms[LOG_TILES];
    log_sweep_columns(g, states, SUMS);
    for (int t = 0; t < g->tiles; t++) {
        log_softmax_plan_of(&plans[t], &states[t], rows_in_tile(g, t));
        terms[t] = log_softmax_terms_of(g, &plans[t], 0, true);
    }
    for (ptrdiff_t c = 0; c < n; c += PIECE) {
        const piece_t x = piece_of_x(g, c, n - c < PIECE ? n - c : PIECE, true);
        const piece_t y = in_place ? piece_in_place(g, FSM_Y, c, x.count) : piece_in_scratch(g, c, x.count);
        for (ptrdiff_t i = 0; i < x.count; i += 4)
            for (int t = 0; t < g->tiles; t++)
                log_softmax_blocks(x, y, t, i, terms[t], states[t].careful[0]);
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; plans[t].some_alone && j < LANES; j++) {
                const ptrdiff_t i = plans[t].index[j] - c;
                if (i >= 0 && i < x.count)
                    memcpy(in_piece(y, t, i) + j, &plans[t].alone[j], sizeof(real));
            }
        if (!in_place)
            store_group(g, c, x.count);
    }
    for (int t = 0; t < g->tiles; t++)
        log_softmax_special(g, &states[t], t);
}

static void log_softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = {.hold_rows = true,
                           .room = LOG_ROOM,
                           .tiles = LOG_TILES,
                           .most_rows = LANES,
                           .short_rows = IF_PARTS_PAY(log_softmax_short_rows),
                           .may_turn = true,
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    each_group(args, begin, end, scratch, plan, log_softmax_rows, log_softmax_columns);
}

#endif
