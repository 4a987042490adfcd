/* logmeanexp: m + (log1p(T/e) - log(count)), by log_family.h; count is the number of elements that take part. Where
 * these two nearly cancel, as in a row of nearly equal elements, it is m + log1p((T/e - (count - 1)) / count) instead.
 */
#ifndef FSM_KERNELS_LOGMEANEXP_H
#define FSM_KERNELS_LOGMEANEXP_H

#include "reduction.h"

static void logmeanexp_finish(const group_t *g, int t, const log_state_t *s) {
    const int entries = rows_in_tile(g, t);
    double results[LANES], tails[LANES];
    log_tails(s, entries, tails);
    for (int j = 0; j < entries; j++) {
        const fsm_row row = row_of(g, t * LANES + j);
        const double count = (double)count_parts(g->args, &row);
        const double u = (s->others[j].hi + s->others[j].lo) / s->e[j];
        const double tail = 1 + u > count / 2 ? fsm_log1p((u - (count - 1)) / count) : tails[j] - fsm_log(count);
        results[j] = s->max[j] > -INFINITY ? s->max[j] + tail : -INFINITY;
        if (s->flags[j])
            results[j] = s->flags[j] & HAS_NAN ? NAN : INFINITY;
        if (count == 0)
            results[j] = NAN;
    }
    store_reduced(g, FSM_Y, t, results);
}

static void logmeanexp_rows(const group_t *g) {
    reduce_rows(g, SUMS, logmeanexp_finish);
}

static void logmeanexp_short_rows(const group_t *g) {
    reduce_short_rows(g, logmeanexp_finish);
}

static void logmeanexp_columns(const group_t *g) {
    reduce_columns(g, SUMS, logmeanexp_finish);
}

static void logmeanexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    plan_t plan = REDUCTION_PLAN;
    plan.short_rows = IF_PARTS_PAY(logmeanexp_short_rows);
    each_group(args, begin, end, scratch, plan, logmeanexp_rows, logmeanexp_columns);
}

#endif
