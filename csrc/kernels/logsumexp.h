/* logsumexp: m + log1p(T/e), by log_family.h. With weights w, m + log|w_m| + log|1 + T/e|, where the maximum's own
 * weight w_m is in e, and the sign of the sum as a second result. */

/* log of a sum of weighted exponentials, and its sign. */
FSM_INLINE_ double FN(log_weighted)(const FN(log_state) * s, int j, double *sign) {
    const int flags = s->flags[j], both = FN(HAS_INF) | FN(HAS_MINUS_INF);
    if (flags & FN(HAS_NAN) || (flags & both) == both) {
        *sign = NAN;
        return NAN;
    }
    if (flags) {
        *sign = flags == FN(HAS_INF) ? 1 : -1;
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

static void FN(logsumexp_finish)(const FN(group) * g, int t, const FN(log_state) * s) {
    const bool weighted = g->args->operands[FSM_WEIGHT].data, signs = g->args->operands[FSM_SIGN].data;
    const int count = FN(entries)(g, t);
    double results[LANES], sign[LANES], tails[LANES];
    FN(log_tails)(s, count, tails);
    if (weighted) {
        for (int j = 0; j < count; j++) {
            results[j] = FN(log_weighted)(s, j, &sign[j]);
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
                results[j] = s->flags[j] & FN(HAS_NAN) ? NAN : INFINITY;
        for (int j = 0; signs && j < count; j++)
            sign[j] = isnan(results[j]) ? NAN : results[j] > -INFINITY;
    }
    FN(store_reduced)(g, FSM_Y, t, results);
    if (signs)
        FN(store_reduced)(g, FSM_SIGN, t, sign);
}

static void FN(logsumexp_rows)(const FN(group) * g) {
    FN(reduce_rows)(g, g->args->operands[FSM_WEIGHT].data ? FN(WEIGHTED) : FN(SUMS), FN(logsumexp_finish));
}

static void FN(logsumexp_short_rows)(const FN(group) * g) {
    FN(reduce_short_rows)(g, FN(logsumexp_finish));
}

static void FN(logsumexp_columns)(const FN(group) * g) {
    FN(reduce_columns)(g, g->args->operands[FSM_WEIGHT].data ? FN(WEIGHTED) : FN(SUMS), FN(logsumexp_finish));
}

static void FN(logsumexp)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    FN(plan) plan = REDUCTION_PLAN;
    if (args->operands[FSM_WEIGHT].data)
        plan.room -= SPARE_AT;
    else
        plan.short_rows = IF_PARTS_PAY(FN(logsumexp_short_rows));
    FN(each_group)(args, begin, end, scratch, plan, FN(logsumexp_rows), FN(logsumexp_columns));
}
