/* log_softmax: y = (x - m)*beta - log1p(T/e), by log_family.h. Both terms are negative or 0, so nothing cancels. */

/* What the second sweep of up to LANES rows needs. A tail that is subnormal counts for the maximum only, which is alone
 * then: as an operand it would slow every element down. That one result is put in its place. */
typedef struct {
    real max[LANES], tail[LANES], alone[LANES];
    ptrdiff_t index[LANES]; /* of the maximum that is alone, or -1 */
    bool some_alone;
    real unit[LANES]; /* 0.5 if x - max may overflow, else 1; x and max are taken times that */
} FN(log_softmax_plan);

FSM_OUTLINE_ void FN(log_softmax_plan_of)(FN(log_softmax_plan) * plan, const FN(log_state) * s, int count) {
    double tails[LANES];
    int some_alone = 0;
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
        some_alone |= alone;
    }
    plan->some_alone = some_alone;
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

/* The second sweep of a chunk. y may be x, unless it is streamed. */
FSM_INLINE void FN(log_softmax_body)(const real *x, real *y, ptrdiff_t n, FN(log_softmax_terms) terms, bool careful,
                                     bool stream) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        FN(put)(y + i, FN(log_softmax_of)(vec_load(x + i), terms, careful), stream);
    if (i < n)
        vec_store_n(y + i, n - i, FN(log_softmax_of)(vec_load_n(x + i, n - i, 1), terms, careful));
}

FSM_OUTLINE_ void FN(log_softmax_careful)(const real *x, real *y, ptrdiff_t n, const FN(log_softmax_terms) * terms) {
    FN(log_softmax_body)(x, y, n, *terms, true, false);
}

/* A chunk as a row that is written (FN(write_row)). */
typedef struct {
    const real *x;
    FN(log_softmax_terms) terms;
} FN(log_softmax_row);

FSM_INLINE void FN(log_softmax_results)(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const FN(log_softmax_row) *row = of;
    FN(log_softmax_body)(row->x + begin, to, count, row->terms, false, stream);
}

/* Of row j, or of the columns of a tile. */
FSM_INLINE FN(log_softmax_terms)
    FN(log_softmax_terms_of)(const FN(group) * g, const FN(log_softmax_plan) * plan, ptrdiff_t j, bool columns) {
    const vec max = columns ? vec_load(plan->max) : vec_set1(plan->max[j]);
    const vec tail = columns ? vec_load(plan->tail) : vec_set1(plan->tail[j]);
    const vec unit = columns ? vec_load(plan->unit) : vec_set1(plan->unit[j]);
    return (FN(log_softmax_terms)){
        .max = vec_mul(max, unit),
        .minus_tail = vec_sub(vec_set1(0), tail),
        .unit = unit,
        .beta = vec_mul(vec_set1(g->beta.hi), vec_sub(vec_set1(3), vec_add(unit, unit))), /* beta / unit */
    };
}

/* Rows of a state, or columns of a tile, without a result. */
static void FN(log_softmax_special)(const FN(group) * g, const FN(log_state) * s, int t) {
    const int count = FN(entries)(g, t);
    int some = 0;
    for (int j = 0; j < count; j++) /* no branch: vectorised */
        some |= s->flags[j] | (s->max[j] == -INFINITY);
    for (int j = 0; some && j < count; j++)
        if (s->flags[j] || s->max[j] == -INFINITY)
            FN(fill_row)(g, t * LANES + j, !s->flags[j], -(real)INFINITY);
}

/* The second sweep of rows, chunks [begin, end). */
typedef struct {
    const FN(log_state) * state;
    const FN(log_softmax_plan) * plan;
} FN(log_softmax_sweep);

static void FN(log_softmax_chunks)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    const FN(log_softmax_sweep) *sweep = of;
    const FN(log_softmax_plan) *plan = sweep->plan;
    const ptrdiff_t n = g->args->n;
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->x_ready && !g->held)
            FN(load_group)(g, c, count);
        for (ptrdiff_t r = 0; r < g->rows; r++) {
            const real *x = g->x_ready ? FN(in_place)(g, FSM_X, r, c) : FN(in_scratch)(g, r, c);
            real *y = g->y_ready ? FN(in_place)(g, FSM_Y, r, c) : FN(in_scratch)(g, r, c);
            const FN(log_softmax_row) row = {x, FN(log_softmax_terms_of)(g, plan, r, false)};
            if (sweep->state->careful[r])
                FN(log_softmax_careful)(x, y, count, &row.terms);
            else
                FN(write_row)(plan->index[r] < 0 ? FN(stream_of)(g) : NULL, y, count, FN(log_softmax_results), &row);
            if (plan->index[r] >= c && plan->index[r] < c + count)
                memcpy(y + (plan->index[r] - c), &plan->alone[r], sizeof *y);
        }
        if (!g->y_ready && !g->held)
            FN(store_group)(g, c, count);
    }
}

static void FN(log_softmax_rows)(const FN(group) * g) {
    FN(log_state) state;
    FN(log_softmax_plan) plan;
    FN(log_sweep_rows)(g, &state, FN(SUMS));
    FN(log_softmax_plan_of)(&plan, &state, (int)g->rows);
    FN(share_chunks)(g, FN(log_softmax_chunks), &(FN(log_softmax_sweep)){&state, &plan}, 0, FN(chunks_of)(g));
    if (!g->y_ready && g->held)
        FN(store_group)(g, 0, g->args->n);
    FN(log_softmax_special)(g, &state, 0);
}

/* The second sweep of a batch; `room` for its results. */
FSM_INLINE void FN(log_softmax_batch)(const FN(group) * g, const int parts, const int blocks,
                                      const FN(log_softmax_plan) * plan, bool careful, real *room) {
    const FN(batch) batch = FN(batch_of)(g, 0, parts, blocks);
    real *results = FN(batch_results)(g, 0, batch, room);
    const real *x = FN(in_place)(g, FSM_X, 0, 0);
    FN(log_softmax_terms) terms = {.unit = vec_set1(1), .beta = vec_set1(g->beta.hi)};
    real minus_tail[LANES];
    for (int j = 0; j < LANES; j++)
        minus_tail[j] = -plan->tail[j];
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        terms.max = vec_set_parts(plan->max + r, parts);
        terms.minus_tail = vec_set_parts(minus_tail + r, parts);
        FSM_EACH_BLOCK(k, blocks) {
            const vec a = FN(log_softmax_of)(FN(load_short_block)(x, batch, r, k, 1), terms, careful);
            FN(store_short_block)(results, batch, r, k, a);
        }
    }
    for (ptrdiff_t r = 0; plan->some_alone && r < batch.rows; r++)
        if (plan->index[r] >= 0)
            results[r * batch.n + plan->index[r]] = plan->alone[r];
    FN(store_batch)(g, 0, batch, results);
}

static void FN(log_softmax_short_rows)(const FN(group) * g) {
    FN(log_state) state;
    FN(log_softmax_plan) plan;
    real room[BATCH_ROOM];
    bool ordinary = FN(log_sweep_short)(g, &state, room);
    if (ordinary) {
        FN(log_softmax_plan_of)(&plan, &state, (int)g->rows);
        for (int j = 0; j < LANES; j++)
            ordinary &= plan.unit[j] == 1;
    }
    if (!ordinary) {
        FN(log_softmax_rows)(g);
        return;
    }
    WITH_PARTS(g, FN(log_softmax_batch)(g, parts, blocks, &plan, state.careful[0], room));
}

/* The second sweep of blocks [i, i + 4), or those that are there, of tile t of a piece. */
FSM_INLINE void FN(log_softmax_blocks)(FN(piece) x, FN(piece) y, ptrdiff_t t, ptrdiff_t i, FN(log_softmax_terms) terms,
                                       bool careful) {
    for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++)
        FN(log_softmax_body)(FN(in_piece)(x, t, k), FN(in_piece)(y, t, k), LANES, terms, careful, false);
}

static void FN(log_softmax_columns)(const FN(group) * g) {
    const ptrdiff_t n = g->args->n;
    const bool in_place = FN(lies_in_tiles)(g, FSM_Y);
    FN(log_state) states[LOG_TILES];
    FN(log_softmax_plan) plans[LOG_TILES];
    FN(log_softmax_terms) terms[LOG_TILES];
    FN(log_sweep_columns)(g, states, FN(SUMS));
    for (int t = 0; t < g->tiles; t++) {
        FN(log_softmax_plan_of)(&plans[t], &states[t], FN(entries)(g, t));
        terms[t] = FN(log_softmax_terms_of)(g, &plans[t], 0, true);
    }
    for (ptrdiff_t c = 0; c < n; c += PIECE) {
        const FN(piece) x = FN(piece_of_x)(g, c, n - c < PIECE ? n - c : PIECE, true);
        const FN(piece) y = in_place ? FN(piece_in_place)(g, FSM_Y, c, x.count) : FN(piece_in_scratch)(g, c, x.count);
        for (ptrdiff_t i = 0; i < x.count; i += 4)
            for (int t = 0; t < g->tiles; t++)
                FN(log_softmax_blocks)(x, y, t, i, terms[t], states[t].careful[0]);
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; plans[t].some_alone && j < LANES; j++) {
                const ptrdiff_t i = plans[t].index[j] - c;
                if (i >= 0 && i < x.count)
                    memcpy(FN(in_piece)(y, t, i) + j, &plans[t].alone[j], sizeof(real));
            }
        if (!in_place)
            FN(store_group)(g, c, x.count);
    }
    for (int t = 0; t < g->tiles; t++)
        FN(log_softmax_special)(g, &states[t], t);
}

static void FN(log_softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const FN(plan) plan = {.hold_rows = true,
                           .room = LOG_ROOM,
                           .tiles = LOG_TILES,
                           .most_rows = LANES,
                           .short_rows = IF_PARTS_PAY(FN(log_softmax_short_rows)),
                           .may_turn = true,
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    FN(each_group)(args, begin, end, scratch, plan, FN(log_softmax_rows), FN(log_softmax_columns));
}
