/* softmax_entropy: the entropy of y = softmax(x) in nats, -sum(y * log y) = log1p(T/e) + D/(e + T), by log_family.h.
 * Both terms are positive or 0, so nothing cancels. */

static void FN(softmax_entropy_finish)(const FN(group) * g, int t, const FN(log_state) * s) {
    const int count = FN(entries)(g, t);
    double results[LANES], tails[LANES];
    FN(log_tails)(s, count, tails);
    for (int j = 0; j < count; j++) {
        const double sum = s->e[j] + (s->others[j].hi + s->others[j].lo);
        const double distance = s->distance[j].hi + s->distance[j].lo;
        results[j] = tails[j] + distance / sum;
        if (s->flags[j]) {
            results[j] = NAN;
        } else if (s->max[j] == -INFINITY) {
            const fsm_row row = FN(row_of)(g, t * LANES + j);
            results[j] = FN(count_parts)(g->args, &row) > 0 ? NAN : 0;
        }
    }
    FN(store_reduced)(g, FSM_Y, t, results);
}

static void FN(softmax_entropy_rows)(const FN(group) * g) {
    FN(reduce_rows)(g, FN(DISTANCES), FN(softmax_entropy_finish));
}

static void FN(softmax_entropy_columns)(const FN(group) * g) {
    FN(reduce_columns)(g, FN(DISTANCES), FN(softmax_entropy_finish));
}

static void FN(softmax_entropy)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    FN(each_group)(args, begin, end, scratch, REDUCTION_PLAN, FN(softmax_entropy_rows), FN(softmax_entropy_columns));
}
