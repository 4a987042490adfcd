/* log_softmax: y = (x - m)*beta - log1p(T/e), by log_sum.h. Both terms are negative or 0, so nothing cancels. */
#ifndef FSM_KERNELS_LOG_SOFTMAX_H
#define FSM_KERNELS_LOG_SOFTMAX_H

#include "log_sum.h"
#include "schedule.h"

/* What the second pass needs of up to LANES rows. A tail that is subnormal counts for the maximum only, which is alone
 * then: as an operand it would slow every element down. That one result is known. */
typedef struct {
    real max[LANES], tail[LANES];
    real unit[LANES]; /* 0.5 if x - max may overflow, else 1; x and max are taken times that */
    known_t alone;    /* the maximum that is alone */
    bool some_alone;
} log_softmax_rows_t;

FSM_OUTLINE void log_softmax_rows_of(log_softmax_rows_t *rows, const log_sum_t *s, int count) {
    double tails[LANES];
    int some_alone = 0;
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const real max = (real)s->max[j], tail = (real)tails[j];
        const bool alone = tails[j] < MIN_NORMAL;
        const bool huge = max > (real)0x1p100 && isfinite(max);
        rows->max[j] = max < MIN_NORMAL && max > -MIN_NORMAL ? 0 : max;
        rows->unit[j] = huge ? (real)0.5 : 1;
        rows->tail[j] = alone ? 0 : tail;
        rows->alone.result[j] = -tail;
        rows->alone.index[j] = alone && tails[j] > 0 ? s->index[j] : -1;
        some_alone |= alone;
    }
    rows->some_alone = some_alone;
    for (int j = count; j < LANES; j++) { /* rows that do not exist */
        rows->max[j] = rows->tail[j] = 0;
        rows->unit[j] = 1;
        rows->alone.index[j] = -1;
    }
}

/* What the second pass works with: max and x times `unit`, beta divided by it. */
typedef struct {
    vec max, minus_tail, unit, beta;
} log_softmax_terms_t;

/* Those of row j, or, if that is negative, of a panel. */
FSM_INLINE log_softmax_terms_t log_softmax_terms_of(const batch_t *b, const log_softmax_rows_t *rows, ptrdiff_t j) {
    const vec max = j < 0 ? vec_load(rows->max) : vec_set1(rows->max[j]);
    const vec tail = j < 0 ? vec_load(rows->tail) : vec_set1(rows->tail[j]);
    const vec unit = j < 0 ? vec_load(rows->unit) : vec_set1(rows->unit[j]);
    return (log_softmax_terms_t){
        .max = vec_mul(max, unit),
        .minus_tail = vec_sub(vec_set1(0), tail),
        .unit = unit,
        .beta = vec_mul(vec_set1(b->beta.hi), vec_sub(vec_set1(3), vec_add(unit, unit))), /* beta / unit */
    };
}

/* x, or 0 for a subnormal one: as vec_flush, but on every CPU, since here bits depend on it. */
FSM_INLINE vec without_subnormal(vec x) {
    return vec_select_lt(vec_abs(x), vec_set1(MIN_NORMAL), vec_set1(0), x);
}

/* A block of results. */
FSM_INLINE vec log_softmax_block(vec x, const log_softmax_terms_t *terms, bool special) {
    if (special)
        x = without_subnormal(vec_mul(without_subnormal(x), terms->unit));
    const vec d = vec_sub(x, terms->max);
    return vec_fma(special ? without_subnormal(d) : d, terms->beta, terms->minus_tail);
}

/* ---- rows */

/* Part of a row as one that is written (write_row()). */
typedef struct {
    const real *x;
    log_softmax_terms_t terms;
    bool special;
} log_softmax_row_t;

FSM_INLINE void log_softmax_results_body(const log_softmax_row_t *row, ptrdiff_t begin, ptrdiff_t count, real *to,
                                         bool nt, const bool special) {
    const real *x = row->x + begin;
    const log_softmax_terms_t terms = row->terms;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        write_block(to + i, log_softmax_block(vec_load(x + i), &terms, special), nt);
    if (i < count)
        vec_store_n(to + i, count - i, log_softmax_block(vec_load_n(x + i, count - i, 1), &terms, special));
}

static void log_softmax_results(const void *op, ptrdiff_t begin, ptrdiff_t count, real *to, bool nt) {
    const log_softmax_row_t *row = op;
    if (row->special)
        log_softmax_results_body(row, begin, count, to, nt, true);
    else
        log_softmax_results_body(row, begin, count, to, nt, false);
}

/* Stores the results of rows of panel t, or of a batch of rows (t = 0), that have no ordinary ones. */
static void log_softmax_special(const batch_t *b, const log_sum_t *s, int t) {
    const int count = rows_in_panel(b, t);
    int some = 0;
    for (int j = 0; j < count; j++) /* no branch: vectorised */
        some |= s->flags[j] | (s->max[j] == -INFINITY);
    for (int j = 0; some && j < count; j++)
        if (s->flags[j] || s->max[j] == -INFINITY)
            fill_special_row(b, t * LANES + j, !s->flags[j], -(real)INFINITY);
}

/* The second pass over rows. */
typedef struct {
    const log_sum_t *sum;
    const log_softmax_rows_t *rows;
} log_softmax_pass_t;

static void log_softmax_write_chunk(const batch_t *b, const void *op, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count,
                                    const real *x, real *y) {
    const log_softmax_pass_t *pass = op;
    const known_t *alone = &pass->rows->alone;
    const log_softmax_row_t row = {x, log_softmax_terms_of(b, pass->rows, r), pass->sum->special[r]};
    write_row(alone->index[r] < 0 && !row.special ? b->nt : NULL, y, count, log_softmax_results, &row);
    if (alone->index[r] >= c && alone->index[r] < c + count)
        memcpy(y + (alone->index[r] - c), &alone->result[r], sizeof *y);
}

static void log_softmax_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    write_rows(b, op, begin, end, log_softmax_write_chunk);
}

static void log_softmax_rows(const batch_t *b) {
    log_sum_t sum;
    log_softmax_rows_t rows;
    log_sum_rows(b, &sum, SUMS);
    log_softmax_rows_of(&rows, &sum, (int)b->rows);
    parallel_chunks(b, log_softmax_chunks, &(log_softmax_pass_t){&sum, &rows}, 0, chunks_in_row(b));
    store_packed(b);
    log_softmax_special(b, &sum, 0);
}

/* ---- short rows */

/* The second pass; `room` for the results. */
FSM_INLINE void log_softmax_write_short(const batch_t *b, int in_block, const int blocks,
                                        const log_softmax_rows_t *rows, bool special, real *room) {
    const short_t s = short_of(b, 0, in_block, blocks);
    real *results = short_results(b, 0, s, room);
    const real *x = element_at(b, FSM_X, 0, 0);
    log_softmax_terms_t terms = {.unit = vec_set1(1), .beta = vec_set1(b->beta.hi)};
    real minus_tail[LANES];
    for (int j = 0; j < LANES; j++)
        minus_tail[j] = -rows->tail[j];
    for (ptrdiff_t r = 0; r < s.rows; r += s.in_block) {
        terms.max = spread_over_rows(rows->max, s, r);
        terms.minus_tail = spread_over_rows(minus_tail, s, r);
        FSM_EACH_BLOCK(k, blocks)
            store_short(results, s, r, k, log_softmax_block(load_short(x, s, r, k, 1), &terms, special));
    }
    for (ptrdiff_t r = 0; rows->some_alone && r < s.rows; r++)
        if (rows->alone.index[r] >= 0)
            results[r * s.n + rows->alone.index[r]] = rows->alone.result[r];
    store_short_results(b, 0, s, results);
}

static void log_softmax_short_rows(const batch_t *b) {
    log_sum_t sum;
    log_softmax_rows_t rows;
    real room[SHORT_ROOM];
    bool ordinary = log_sum_short_rows(b, &sum, room);
    if (ordinary) {
        log_softmax_rows_of(&rows, &sum, (int)b->rows);
        for (int j = 0; j < LANES; j++)
            ordinary &= rows.unit[j] == 1;
    }
    if (!ordinary) {
        log_softmax_rows(b);
        return;
    }
    WITH_BLOCKS(b, log_softmax_write_short(b, in_block, blocks, &rows, sum.special[0], room));
}

/* ---- panels */

typedef struct {
    quads_t quads;
    log_softmax_terms_t terms[LOG_PANELS];
    bool special[LOG_PANELS];
} log_softmax_panels_t;

static void log_softmax_load_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    log_softmax_panels_t *pass = op;
    pass->quads.x = quad_of_x(b, begin, count, true);
}

FSM_INLINE void log_softmax_write_blocks(const void *op, int t, ptrdiff_t i, const int count) {
    const log_softmax_panels_t *pass = op;
    for (int k = 0; k < count; k++) {
        const vec x = vec_load(block_at(pass->quads.x, t, i + k));
        vec_store(block_at(pass->quads.y, t, i + k), log_softmax_block(x, &pass->terms[t], pass->special[t]));
    }
}

static void log_softmax_panels(const batch_t *b) {
    log_sum_t sums[LOG_PANELS];
    log_softmax_rows_t rows[LOG_PANELS];
    const known_t *known[LOG_PANELS];
    log_softmax_panels_t pass;
    pass.quads.other.ahead = false;
    log_sum_panels(b, sums, SUMS);
    for (int t = 0; t < b->panels; t++) {
        log_softmax_rows_of(&rows[t], &sums[t], rows_in_panel(b, t));
        pass.terms[t] = log_softmax_terms_of(b, &rows[t], -1);
        pass.special[t] = sums[t].special[0];
        known[t] = rows[t].some_alone ? &rows[t].alone : NULL;
    }
    write_panels(b, &pass, &pass.quads, known, log_softmax_load_quad, log_softmax_write_blocks);
    for (int t = 0; t < b->panels; t++)
        log_softmax_special(b, &sums[t], t);
}

static void log_softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = {
        .rows = log_softmax_rows,
        .panels = log_softmax_panels,
        .short_rows = IF_PARTS_PAY(log_softmax_short_rows),
        .operands = BIT(FSM_X) | BIT(FSM_Y),
        .transposes = true,
        .writes_once = true,
        .packs_rows = true,
        .room = LANES_AT,
        .max_panels = LOG_PANELS,
        .max_rows = LANES,
    };
    each_batch(args, begin, end, scratch, &plan);
}

#endif
