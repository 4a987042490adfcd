/* logmeanexp: m + (log1p(T/e) - log(count)), by log_family.h; count is the number of elements that take part. */

/* How many elements of a row take part. */
static ptrdiff_t FN(count_parts)(const fsm_args *args, const fsm_cursor *row) {
    if (!args->operands[FSM_MASK].data)
        return args->n;
    uint8_t takes_part[FSM_CHUNK];
    ptrdiff_t parts = 0;
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        fsm_gather(args, FSM_MASK, row->at[FSM_MASK], c, count, (char *)takes_part);
        for (ptrdiff_t i = 0; i < count; i++)
            parts += takes_part[i] != 0;
    }
    return parts;
}

FSM_INLINE void FN(logmeanexp_group)(const FN(group) * g, bool columns) {
    FN(log_state) states[MAX_TILES];
    FN(log_sweep)(g, states, NULL, FN(beta_of)(1), columns);
    for (int t = 0; t < g->tiles; t++) {
        const FN(log_state) *s = &states[t];
        const ptrdiff_t left = g->columns - t * LANES, here = columns ? (left < LANES ? left : LANES) : 1;
        double results[LANES], tails[LANES];
        FN(log_tails)(s, tails, columns);
        for (ptrdiff_t j = 0; j < here; j++) {
            const fsm_cursor row = FN(row_of)(g, t * LANES + j);
            const ptrdiff_t parts = FN(count_parts)(g->args, &row);
            results[j] = s->max[j] > -INFINITY ? s->max[j] + (tails[j] - fsm_log((double)parts)) : -INFINITY;
            if (s->flags[j])
                results[j] = s->flags[j] & FN(HAS_NAN) ? NAN : INFINITY;
            if (parts == 0)
                results[j] = NAN;
        }
        FN(store_reduced)(g, FSM_Y, t, results, columns);
    }
}

static void FN(logmeanexp_row)(const FN(group) * g) {
    FN(logmeanexp_group)(g, false);
}

static void FN(logmeanexp_columns)(const FN(group) * g) {
    FN(logmeanexp_group)(g, true);
}

static void FN(logmeanexp)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (begin < end)
        FN(each_group)(args, begin, end, scratch, false, REDUCTION_ROOM, FN(logmeanexp_row), FN(logmeanexp_columns));
}
