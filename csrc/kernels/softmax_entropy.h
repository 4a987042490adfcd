/* softmax_entropy: the entropy of y = softmax(x) in nats, -sum(y * log y) = log1p(T/e) + D/(e + T), by log_family.h. Both
 * terms are positive or 0, so nothing cancels. */

FSM_INLINE void FN(softmax_entropy_group)(const FN(group) * g, bool columns) {
    const FN(beta) beta = FN(beta_of)(g->args->temperature);
    FN(log_state) states[MAX_TILES];
    FN(log_sweep)(g, states, FN(spare_of)(g), beta, columns);
    for (int t = 0; t < g->tiles; t++) {
        const FN(log_state) *s = &states[t];
        const ptrdiff_t left = g->columns - t * LANES, here = columns ? (left < LANES ? left : LANES) : 1;
        double results[LANES], tails[LANES];
        FN(log_tails)(s, tails, columns);
        for (ptrdiff_t j = 0; j < here; j++) {
            const double sum = s->e[j] + (s->others[j].hi + s->others[j].lo);
            const double distance = s->distance[j].hi + s->distance[j].lo;
            results[j] = tails[j] + distance / sum / g->args->temperature;
            if (s->flags[j])
                results[j] = NAN;
            if (s->max[j] == -INFINITY) {
                const fsm_cursor row = FN(row_of)(g, t * LANES + j);
                results[j] = s->flags[j] || FN(takes_part)(g->args, &row) ? NAN : 0;
            }
        }
        FN(store_reduced)(g, FSM_Y, t, results, columns);
    }
}

static void FN(softmax_entropy_row)(const FN(group) * g) {
    FN(softmax_entropy_group)(g, false);
}

static void FN(softmax_entropy_columns)(const FN(group) * g) {
    FN(softmax_entropy_group)(g, true);
}

static void FN(softmax_entropy)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (begin < end)
        FN(each_group)(args, begin, end, scratch, false, REDUCTION_ROOM, FN(softmax_entropy_row),
                       FN(softmax_entropy_columns));
}
