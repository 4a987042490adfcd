/* log_softmax: y = (x - m)*beta - log1p(T/e), by log_family.h. Both terms are negative or 0, so nothing cancels. */

/* What the second sweep of up to LANES rows needs. A tail that is subnormal counts for the maximum only, which is alone
 * then: as an operand it would slow every element down. That one result is put in its place. */
typedef struct {
    real max[LANES], tail[LANES], alone[LANES];
    ptrdiff_t index[LANES]; /* of the maximum that is alone, or -1 */
    real unit[LANES];       /* 0.5 if x - max may overflow, else 1; x and max are taken times that */
} FN(log_softmax_plan);

FSM_OUTLINE_ void FN(log_softmax_plan_of)(FN(log_softmax_plan) * plan, const FN(log_state) * s, int count) {
    double tails[LANES];
    FN(log_tails)(s, count, tails);
    for (int j = 0; j < count; j++) {
        const real max = (real)s->max[j], tail = (real)tails[j];
        const bool alone = tails[j] < MIN_NORMAL;
        const bool huge = max > (real)0x1p100 && isfinite(max);
        plan->max[j] = max < MIN_NORMAL && max > -MIN_NORMAL ? 0 : max;
        plan->unit[j] = huge ? (real)0.5 : 1;
        plan->tail[j] = alone ? 0 : tail;
        plan->alone[j] = -tail;
        plan->index[j] = alone && tails[j] > 0 ? s->index[j] : -1;
    }
    for (int j = count; j < LANES; j++) { /* columns that do not exist */
        plan->max[j] = plan->tail[j] = 0;
        plan->unit[j] = 1;
        plan->index[j] = -1;
    }
}

/* What the second sweep works with: max and x times `unit`, beta divided by it. */
typedef struct {
    vec max, minus_tail, unit, beta;
} FN(log_softmax_terms);

/* x, or 0 for a subnormal one: as vec_flush, but on every CPU, since here bits depend on it. */
FSM_INLINE vec FN(without_subnormal)(vec x) {
    return vec_select_lt(vec_abs(x), vec_set1(MIN_NORMAL), vec_set1(0), x);
}

FSM_INLINE vec FN(log_softmax_of)(vec x, FN(log_softmax_terms) terms, bool careful) {
    if (careful)
        x = FN(without_subnormal)(vec_mul(FN(without_subnormal)(x), terms.unit));
    const vec d = vec_sub(x, terms.max);
    return vec_fma(careful ? FN(without_subnormal)(d) : d, terms.beta, terms.minus_tail);
}

/* The second sweep of a chunk. y may be x. */
FSM_INLINE void FN(log_softmax_body)(const real *x, real *y, ptrdiff_t n, FN(log_softmax_terms) terms, bool careful) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(y + i, FN(log_softmax_of)(vec_load(x + i), terms, careful));
    if (i < n)
        vec_store_n(y + i, n - i, FN(log_softmax_of)(vec_load_n(x + i, n - i, 1), terms, careful));
}

FSM_OUTLINE_ void FN(log_softmax_careful)(const real *x, real *y, ptrdiff_t n, const FN(log_softmax_terms) * terms) {
    FN(log_softmax_body)(x, y, n, *terms, true);
}

FSM_INLINE void FN(log_softmax_group)(const FN(group) * g, FN(log_state) * states, bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, width = ROWS(columns), parts = columns ? g->tiles : g->rows;
    const bool x_ready = !columns && g->x_ready, y_ready = !columns && g->y_ready;
    const bool stays = x_ready || g->held; /* what the first sweep has loaded */
    FN(log_softmax_plan) plans[LOG_TILES];
    if (columns)
        FN(log_sweep_columns)(g, states, NULL);
    else
        FN(log_sweep_rows)(g, states, NULL);
    for (int t = 0; t < g->tiles; t++)
        FN(log_softmax_plan_of)(&plans[t], &states[t], FN(entries)(g, t));
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!stays)
            FN(load_group)(g, c, count);
        for (ptrdiff_t t = 0; t < parts; t++) {
            const ptrdiff_t j = columns ? 0 : t;
            const FN(log_softmax_plan) *plan = columns ? &plans[t] : plans;
            const FN(log_state) *state = columns ? &states[t] : states;
            const real *x = x_ready ? FN(in_place)(g, FSM_X, t, c) : FN(in_scratch)(g, t, c);
            real *y = y_ready ? FN(in_place)(g, FSM_Y, t, c) : FN(in_scratch)(g, t, c);
            const vec max = columns ? vec_load(plan->max) : vec_set1(plan->max[j]);
            const vec tail = columns ? vec_load(plan->tail) : vec_set1(plan->tail[j]);
            const vec unit = columns ? vec_load(plan->unit) : vec_set1(plan->unit[j]);
            const FN(log_softmax_terms) terms = {
                .max = vec_mul(max, unit),
                .minus_tail = vec_sub(vec_set1(0), tail),
                .unit = unit,
                .beta = vec_mul(vec_set1(g->beta.hi), vec_sub(vec_set1(3), vec_add(unit, unit))), /* beta / unit */
            };
            if (state->careful[j])
                FN(log_softmax_careful)(x, y, count * width, &terms);
            else
                FN(log_softmax_body)(x, y, count * width, terms, false);
            for (ptrdiff_t i = 0; i < width; i++)
                if (plan->index[j + i] >= c && plan->index[j + i] < c + count)
                    memcpy(y + (plan->index[j + i] - c) * width + i, &plan->alone[j + i], sizeof *y);
        }
        if (!y_ready && !g->held)
            FN(store_group)(g, c, count);
    }
    if (!y_ready && g->held)
        FN(store_group)(g, 0, n);
    for (int t = 0; t < g->tiles; t++)
        for (int j = 0; j < FN(entries)(g, t); j++)
            if (states[t].flags[j] || states[t].max[j] == -INFINITY)
                FN(fill_row)(g, t * LANES + j, !states[t].flags[j], -(real)INFINITY);
}

static void FN(log_softmax_rows)(const FN(group) * g) {
    FN(log_state) state;
    FN(log_softmax_group)(g, &state, false);
}

static void FN(log_softmax_columns)(const FN(group) * g) {
    FN(log_state) states[LOG_TILES];
    FN(log_softmax_group)(g, states, true);
}

static void FN(log_softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const FN(plan)
        plan = {.hold = true, .room = SCRATCH_ROOM, .tiles = LOG_TILES, .piece = FSM_CHUNK, .most_rows = LANES};
    FN(each_group)(args, begin, end, scratch, plan, FN(log_softmax_rows), FN(log_softmax_columns));
}
