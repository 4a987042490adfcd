/* logmeanexp: m + (log1p(T/e) - log(count)), by log_family.h; count is the number of elements that take part. Where
 * these two nearly cancel, as in a row of nearly equal elements, it is m + log1p((T/e - (count - 1)) / count) instead.
 */

static void FN(logmeanexp_finish)(const FN(group) * g, int t, const FN(log_state) * s) {
    const int entries = FN(entries)(g, t);
    double results[LANES], tails[LANES];
    FN(log_tails)(s, entries, tails);
    for (int j = 0; j < entries; j++) {
        const fsm_row row = FN(row_of)(g, t * LANES + j);
        const double count = (double)FN(count_parts)(g->args, &row);
        const double u = (s->others[j].hi + s->others[j].lo) / s->e[j];
        const double tail = 1 + u > count / 2 ? fsm_log1p((u - (count - 1)) / count) : tails[j] - fsm_log(count);
        results[j] = s->max[j] > -INFINITY ? s->max[j] + tail : -INFINITY;
        if (s->flags[j])
            results[j] = s->flags[j] & FN(HAS_NAN) ? NAN : INFINITY;
        if (count == 0)
            results[j] = NAN;
    }
    FN(store_reduced)(g, FSM_Y, t, results);
}

static void FN(logmeanexp_rows)(const FN(group) * g) {
    FN(reduce_rows)(g, FN(SUMS), FN(logmeanexp_finish));
}

static void FN(logmeanexp_short_rows)(const FN(group) * g) {
    FN(reduce_short_rows)(g, FN(logmeanexp_finish));
}

static void FN(logmeanexp_columns)(const FN(group) * g) {
    FN(reduce_columns)(g, FN(SUMS), FN(logmeanexp_finish));
}

static void FN(logmeanexp)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    FN(plan) plan = REDUCTION_PLAN;
    plan.short_rows = IF_PARTS_PAY(FN(logmeanexp_short_rows));
    FN(each_group)(args, begin, end, scratch, plan, FN(logmeanexp_rows), FN(logmeanexp_columns));
}
