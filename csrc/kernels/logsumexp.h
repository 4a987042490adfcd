/* logsumexp: m + log1p(T/e), by log_family.h. With weights w, m + log|w_m| + log|1 + T/e|, where the maximum's own
 * weight w_m is in e, and the sign of the sum as a second result. */
#ifndef FSM_KERNELS_LOGSUMEXP_H
#define FSM_KERNELS_LOGSUMEXP_H

#include "reduction.h"

/* log of a sum of weighted exponentials, and its sign. */
FSM_INLINE_ double log_weighted(const log_state_t *s, int j, double *sign) {
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

static void logsumexp_finish(const group_t *g, int t, const log_state_t *s) {
    const bool weighted = g->args->operands[FSM_WEIGHT].data, signs = g->args->operands[FSM_SIGN].data;
    const int count = rows_in_tile(g, t);
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
    store_reduced(g, FSM_Y, t, results);
    if (signs)
        store_reduced(g, FSM_SIGN, t, sign);
}

static void logsumexp_rows(const group_t *g) {
    reduce_rows(g, g->args->operands[FSM_WEIGHT].data ? WEIGHTED : SUMS, logsumexp_finish);
}

static void logsumexp_short_rows(const group_t *g) {
    reduce_short_rows(g, logsumexp_finish);
}

static void logsumexp_columns(const group_t *g) {
    reduce_columns(g, g->args->operands[FSM_WEIGHT].data ? WEIGHTED : SUMS, logsumexp_finish);
}

static void logsumexp(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    plan_t plan = REDUCTION_PLAN;
    if (args->operands[FSM_WEIGHT].data)
        plan.room -= SPARE_AT;
    else
        plan.short_rows = IF_PARTS_PAY(logsumexp_short_rows);
    each_group(args, begin, end, scratch, plan, logsumexp_rows, logsumexp_columns);
}

#endif
