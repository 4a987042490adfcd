/* log_softmax: y = (x - m) - log1p(T/e), by log_family.h. Both terms are negative or 0, so nothing cancels. */

/* What a tile's second sweep needs. A tail that is subnormal counts for the maximum only, which is alone then: as an
 * operand it would slow every element down. That one result is put in its place. */
typedef struct {
    vec max, tail;
    real alone[LANES];
    ptrdiff_t index[LANES]; /* of the maximum that is alone, or -1 */
} FN(log_softmax_plan);

/* y = (x - max)*beta - tail */
FSM_INLINE vec FN(log_softmax_of)(vec x, vec max, vec minus_tail, vec beta, bool careful) {
    const vec d = careful ? vec_flush(vec_sub(vec_flush(x), max)) : vec_sub(x, max);
    return vec_fma(d, beta, minus_tail);
}

/* The second sweep of a chunk. y may be x. */
FSM_OUTLINE_ void FN(log_softmax_chunk)(const real *x, real *y, ptrdiff_t n, const FN(log_softmax_plan) * plan,
                                        real beta, bool careful) {
    const vec max = plan->max, minus_tail = vec_sub(vec_set1(0), plan->tail), scale = vec_set1(beta);
    ptrdiff_t i = 0;
    if (!careful)
        for (; i + LANES <= n; i += LANES)
            vec_store(y + i, FN(log_softmax_of)(vec_load(x + i), max, minus_tail, scale, false));
    for (; i + LANES <= n; i += LANES)
        vec_store(y + i, FN(log_softmax_of)(vec_load(x + i), max, minus_tail, scale, true));
    if (i < n)
        vec_store_n(y + i, n - i, FN(log_softmax_of)(vec_load_n(x + i, n - i, 1), max, minus_tail, scale, careful));
}

FSM_INLINE FN(log_softmax_plan) FN(log_softmax_plan_of)(const FN(log_state) * s, bool columns) {
    FN(log_softmax_plan) plan;
    double tails[LANES];
    real max[LANES], tail[LANES];
    FN(log_tails)(s, tails, columns);
    for (int j = 0; j < ROWS(columns); j++) {
        const bool alone = tails[j] < MIN_NORMAL;
        max[j] = (real)s->max[j];
        tail[j] = alone ? 0 : (real)tails[j];
        plan.index[j] = alone && tails[j] > 0 ? s->index[j] : -1;
        plan.alone[j] = alone ? (real)-tails[j] : 0;
    }
    plan.max = vec_flush(columns ? vec_load(max) : vec_set1(max[0]));
    plan.tail = columns ? vec_load(tail) : vec_set1(tail[0]);
    return plan;
}

FSM_INLINE void FN(log_softmax_group)(const FN(group) * g, bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, width = ROWS(columns), piece = FSM_CHUNK;
    const bool masked = args->operands[FSM_MASK].data;
    const bool x_ready = !columns && FN(lies_ready)(args, FSM_X) && !masked;
    const bool y_ready = !columns && FN(lies_ready)(args, FSM_Y);
    const bool loaded = !x_ready && (g->held || n <= FSM_CHUNK); /* by the first sweep, to stay */
    const FN(beta) beta = FN(beta_of)(args->temperature);
    FN(log_state) states[MAX_TILES];
    FN(log_softmax_plan) plans[MAX_TILES];
    FN(log_sweep)(g, states, NULL, beta, columns);
    for (int t = 0; t < g->tiles; t++)
        plans[t] = FN(log_softmax_plan_of)(&states[t], columns);
    for (ptrdiff_t c = 0; c < n; c += piece) {
        const ptrdiff_t count = n - c < piece ? n - c : piece;
        if (!x_ready && !loaded)
            FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            const FN(log_softmax_plan) *plan = &plans[t];
            real *scratch = FN(tile_chunk)(g, t, c);
            const real *x = x_ready ? (const real *)g->cursor.at[FSM_X] + c : scratch;
            real *y = y_ready ? (real *)g->cursor.at[FSM_Y] + c : scratch;
            FN(log_softmax_chunk)(x, y, count * width, plan, beta.hi, states[t].careful);
            for (int j = 0; j < width; j++)
                if (plan->index[j] >= c && plan->index[j] < c + count)
                    memcpy(y + (plan->index[j] - c) * width + j, &plan->alone[j], sizeof *y);
        }
        if (!y_ready && !g->held)
            FN(store_group)(g, c, count);
    }
    if (!y_ready && g->held)
        FN(store_group)(g, 0, n);
    for (ptrdiff_t row = 0; row < (columns ? g->columns : 1); row++) {
        const FN(log_state) *s = &states[row / LANES];
        const int j = (int)(row % LANES);
        if (s->flags[j] || s->max[j] == -INFINITY) {
            const fsm_cursor here = FN(row_of)(g, row);
            FN(fill_row)(args, &here, !s->flags[j], -(real)INFINITY);
        }
    }
}

static void FN(log_softmax_row)(const FN(group) * g) {
    FN(log_softmax_group)(g, false);
}

static void FN(log_softmax_columns)(const FN(group) * g) {
    FN(log_softmax_group)(g, true);
}

static void FN(log_softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (begin < end)
        FN(each_group)(args, begin, end, scratch, true, SCRATCH_ROOM, FN(log_softmax_row), FN(log_softmax_columns));
}
