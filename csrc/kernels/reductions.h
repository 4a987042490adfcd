/* The operations that give one number a row, by log_sum.h.
 *
 * logsumexp: m + log1p(T/e). With weights w, m + log|w_m| + log|1 + T/e|, where the maximum's own weight w_m is in e,
 * and the sign of the sum as a second result.
 *
 * logmeanexp: m + (log1p(T/e) - log(count)); count is the number of elements that take part. Where these two nearly
 * cancel, as in a row of nearly equal elements, m + log1p((T/e - (count - 1)) / count).
 *
 * softmax_entropy: -sum(y * log y) of y = softmax(x), in nats: log1p(T/e) + D/(e + T). Both terms are positive or 0, so
 * nothing cancels. */
#ifndef FSM_KERNELS_REDUCTIONS_H
#define FSM_KERNELS_REDUCTIONS_H

#include "log_sum.h"
#include "schedule.h"

/* Stores the results of panel t, or of a batch of rows (t = 0), from what is known of them. */
typedef void finish_t(const batch_t *b, int t, const log_sum_t *s);

FSM_INLINE void reduce_rows(const batch_t *b, log_kind_t kind, finish_t *finish) {
    log_sum_t sum;
    log_sum_rows(b, &sum, kind);
    finish(b, 0, &sum);
}

FSM_INLINE void reduce_short_rows(const batch_t *b, finish_t *finish) {
    log_sum_t sum;
    real e[SHORT_ROOM];
    if (!log_sum_short_rows(b, &sum, e))
        log_sum_rows(b, &sum, SUMS);
    finish(b, 0, &sum);
}

FSM_INLINE void reduce_panels(const batch_t *b, log_kind_t kind, finish_t *finish) {
    log_sum_t sums[LOG_PANELS];
    log_sum_panels(b, sums, kind);
    for (int t = 0; t < b->panels; t++)
        finish(b, t, &sums[t]);
}

/* How the batches of a reduction are taken; `short_rows` is for SUMS. */
static plan_t reduction_plan(log_kind_t kind, batch_kernel_t *rows, batch_kernel_t *panels,
                             batch_kernel_t *short_rows) {
    return (plan_t){
        .rows = rows,
        .panels = panels,
        .short_rows = kind == SUMS ? IF_PARTS_PAY(short_rows) : NULL,
        .operands = BIT(FSM_X),
        .transposes = true,
        .room = kind == WEIGHTED ? SPARE_AT : LANES_AT,
        .max_panels = LOG_PANELS,
        .max_rows = LANES,
    };
}

/* ---- logsumexp */

/* The logarithm of a sum of weighted exponentials, and its sign. */
FSM_ALWAYS_INLINE double log_weighted(const log_sum_t *s, int j, double *sign) {
    const int flags = s->flags[j], both = HAS_INF | HAS_MINUS_INF;
    if (flags & HAS_NAN || (flags & both) == both) {
        *sign = NAN;
        return NAN;
    }
    if (flags) {
        *sign = flags == HAS_INF ? 1 : -1;
        return INFINITY;
    }
    if (s->max[j] == -INFINITY) {
        *sign = 0;
        return -INFINITY;
    }
    const double u = (s->others[j].hi + s->others[j].lo) / s->e[j], own = s->weight[j] > 0 ? 1 : -1;
    if (u == -1) {
        *sign = 0;
        return -INFINITY;
    }
    *sign = u > -1 ? own : -own;
    /* The logarithms of a small weight and of what makes up for it would cancel; their product does not. */
    const double size = fabs(s->weight[j]);
    return s->max[j] + (fabs(u) < 0.5 ? fsm_log(size) + fsm_log1p(u) : fsm_log(size * fabs(1 + u)));
}

static void logsumexp_finish(const batch_t *b, int t, const log_sum_t *s) {
    const bool weighted = b->args->operands[FSM_WEIGHT].data, signs = b->args->operands[FSM_SIGN].data;
    const int count = rows_in_panel(b, t);
    double results[LANES], sign[LANES], tails[LANES];
    log_tails(s, count, tails);
    if (weighted) {
        for (int j = 0; j < count; j++) {
            results[j] = log_weighted(s, j, &sign[j]);
            if (!signs && sign[j] < 0)
                results[j] = NAN;
        }
    } else {
        int flags = 0;
        for (int j = 0; j < count; j++) { /* no branch: vectorised */
            results[j] = fsm_select(s->max[j] > -INFINITY, s->max[j] + tails[j], -INFINITY);
            flags |= s->flags[j];
        }
        for (int j = 0; flags && j < count; j++)
            if (s->flags[j])
                results[j] = s->flags[j] & HAS_NAN ? NAN : INFINITY;
        for (int j = 0; signs && j < count; j++)
            sign[j] = isnan(results[j]) ? NAN : results[j] > -INFINITY;
    }
    store_one_a_row(b, FSM_Y, t, results);
    if (signs)
        store_one_a_row(b, FSM_SIGN, t, sign);
}

FSM_ALWAYS_INLINE log_kind_t logsumexp_kind(const fsm_args *args) {
    return args->operands[FSM_WEIGHT].data ? WEIGHTED : SUMS;
}

static void logsumexp_rows(const batch_t *b) {
    reduce_rows(b, logsumexp_kind(b->args), logsumexp_finish);
}

static void logsumexp_short_rows(const batch_t *b) {
    reduce_short_rows(b, logsumexp_finish);
}

static void logsumexp_panels(const batch_t *b) {
    reduce_panels(b, logsumexp_kind(b->args), logsumexp_finish);
}

static void logsumexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = reduction_plan(logsumexp_kind(args), logsumexp_rows, logsumexp_panels, logsumexp_short_rows);
    each_batch(args, begin, end, scratch, &plan);
}

/* ---- logmeanexp */

static void logmeanexp_finish(const batch_t *b, int t, const log_sum_t *s) {
    const int rows = rows_in_panel(b, t);
    double results[LANES], tails[LANES];
    log_tails(s, rows, tails);
    for (int j = 0; j < rows; j++) {
        const fsm_row row = row_of(b, t * LANES + j);
        const double count = (double)count_taking_part(b, &row);
        const double u = (s->others[j].hi + s->others[j].lo) / s->e[j];
        const double tail = 1 + u > count / 2 ? fsm_log1p((u - (count - 1)) / count) : tails[j] - fsm_log(count);
        results[j] = s->max[j] > -INFINITY ? s->max[j] + tail : -INFINITY;
        if (s->flags[j])
            results[j] = s->flags[j] & HAS_NAN ? NAN : INFINITY;
        if (count == 0)
            results[j] = NAN;
    }
    store_one_a_row(b, FSM_Y, t, results);
}

static void logmeanexp_rows(const batch_t *b) {
    reduce_rows(b, SUMS, logmeanexp_finish);
}

static void logmeanexp_short_rows(const batch_t *b) {
    reduce_short_rows(b, logmeanexp_finish);
}

static void logmeanexp_panels(const batch_t *b) {
    reduce_panels(b, SUMS, logmeanexp_finish);
}

static void logmeanexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = reduction_plan(SUMS, logmeanexp_rows, logmeanexp_panels, logmeanexp_short_rows);
    each_batch(args, begin, end, scratch, &plan);
}

/* ---- softmax_entropy */

static void softmax_entropy_finish(const batch_t *b, int t, const log_sum_t *s) {
    const int count = rows_in_panel(b, t);
    double results[LANES], tails[LANES];
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const double sum = s->e[j] + (s->others[j].hi + s->others[j].lo);
        const double distance = s->distance[j].hi + s->distance[j].lo;
        results[j] = tails[j] + distance / sum;
        if (s->flags[j]) {
            results[j] = NAN;
        } else if (s->max[j] == -INFINITY) {
            const fsm_row row = row_of(b, t * LANES + j);
            results[j] = count_taking_part(b, &row) > 0 ? NAN : 0;
        }
    }
    store_one_a_row(b, FSM_Y, t, results);
}

static void softmax_entropy_rows(const batch_t *b) {
    reduce_rows(b, DISTANCES, softmax_entropy_finish);
}

static void softmax_entropy_panels(const batch_t *b) {
    reduce_panels(b, DISTANCES, softmax_entropy_finish);
}

static void softmax_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = reduction_plan(DISTANCES, softmax_entropy_rows, softmax_entropy_panels, NULL);
    each_batch(args, begin, end, scratch, &plan);
}

#endif
