/* softmax: y = exp(x) / sum(exp(x)).
 *
 * Three sweeps over a row: the maximum of x; e = exp(x), kept in y or in the scratch, and the sum; y = e/S. Rows for
 * which there is no room are loaded three times, and e is computed twice. A row whose sum is NaN, or whose maximum is
 * infinite (all -inf, or a +inf), is special: fill_row(). */

/* What the first sweep finds: the frame of the exponentials, and whether they need care. */
typedef struct {
    vec max;
    real row_max; /* of a row: max in every lane */
    FN(exp_frame) frame;
    bool careful;
} FN(softmax_plan);

FSM_INLINE FN(softmax_plan) FN(softmax_plan_of)(FN(range) range, FN(beta) beta, bool columns) {
    real max[LANES], shift[LANES];
    bool careful = FN(range_has_subnormal)(range) || beta.hi != 1 || beta.lo != 0;
    if (columns) {
        vec_store(max, range.max);
    } else {
        max[0] = vec_hmax(range.max);
        range.max = vec_set1(max[0]);
    }
    for (int j = 0; j < ROWS(columns); j++) {
        shift[j] = FN(in_direct_range)(max[j] * beta.hi) || !isfinite(max[j]) ? 0 : max[j];
        careful |= shift[j] != 0;
    }
    const vec shifts = columns ? vec_load(shift) : vec_set1(shift[0]);
    return (FN(softmax_plan)){range.max, max[0], FN(exp_frame_of)(range.max, shifts, beta), careful};
}

/* What e is multiplied by. */
FSM_INLINE FN(divisor) FN(softmax_divisor)(const fsm_sum *sums, bool columns) {
    real hi[LANES], lo[LANES];
    for (int j = 0; j < ROWS(columns); j++)
        FN(sum_reciprocal)(sums[j], &hi[j], &lo[j]);
    return columns ? (FN(divisor)){vec_load(hi), vec_load(lo)} : (FN(divisor)){vec_set1(hi[0]), vec_set1(lo[0])};
}

/* ---- rows whose x and y lie ready */

FSM_INLINE FN(range) FN(softmax_range)(const real *x, ptrdiff_t n) {
    real first;
    memcpy(&first, x, sizeof first);
    return FN(range_chunk)(FN(range_of)(vec_set1(first)), x, n, first);
}

/* Rows of one chunk are looked at one ahead: the first sweep of the next fills the time that the end of a sum and the
 * division take, and brings the row into L1. (64, 1000) float32 takes 0.22 ns an element instead of 0.25, (1024, 128)
 * 0.33 instead of 0.42 (AVX-512, Zen 5). */
static void FN(softmax_ready)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end) {
    const ptrdiff_t n = args->n;
    const bool look_ahead = n <= FSM_CHUNK;
    const FN(beta) beta = FN(beta_of)(args->temperature);
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin);
    FN(softmax_plan) next;
    for (ptrdiff_t row = begin; row < end; row++) {
        const real *x = (const real *)cursor.at[FSM_X];
        real *y = (real *)cursor.at[FSM_Y];
        if (!look_ahead || row == begin)
            next = FN(softmax_plan_of)(FN(softmax_range)(x, n), beta, false);
        const FN(softmax_plan) plan = next;
        fsm_sum sum = {0, 0};
        for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
            const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
            fsm_sum chunk = plan.careful ? FN(sum_row)(x + c, y + c, count, -1, &plan.frame, FN(CAREFUL))
                                         : FN(sum_row_body)(x + c, y + c, count, -1, plan.frame, FN(PLAIN));
            sum = FN(sum_merge)(sum, chunk);
        }
        const fsm_cursor here = cursor;
        fsm_cursor_next(&cursor, args);
        if (look_ahead && row + 1 < end)
            next = FN(softmax_plan_of)(FN(softmax_range)((const real *)cursor.at[FSM_X], n), beta, false);
        if (!isfinite(plan.row_max) || isnan(sum.hi)) {
            FN(fill_row)(args, &here, plan.row_max == -(real)INFINITY, 0);
            continue;
        }
        FN(quotient_chunk)(y, n, FN(softmax_divisor)(&sum, false));
        if (args->flush_below > 0)
            FN(flush_chunk)(y, n, (real)args->flush_below);
    }
}

/* ---- other rows, and columns */

typedef struct {
    FN(range) range;
    FN(softmax_plan) plan;
    fsm_sum sums[LANES];
} FN(softmax_state);

/* The second sweep of a chunk; e may be NULL. */
FSM_INLINE void FN(softmax_add)(FN(softmax_state) * s, real *x, real *e, ptrdiff_t count, bool columns) {
    fsm_sum chunk[LANES];
    FN(sum_rows)(x, e, count, NULL, &s->plan.frame, s->plan.careful ? FN(CAREFUL) : FN(PLAIN), chunk, columns);
    for (int j = 0; j < ROWS(columns); j++)
        s->sums[j] = FN(sum_merge)(s->sums[j], chunk[j]);
}

FSM_INLINE void FN(softmax_group)(const FN(group) * g, bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, width = ROWS(columns), piece = g->held ? n : FSM_CHUNK;
    const FN(beta) beta = FN(beta_of)(args->temperature);
    FN(softmax_state) states[MAX_TILES];

    for (ptrdiff_t c = 0; c < n; c += piece) {
        const ptrdiff_t count = n - c < piece ? n - c : piece;
        FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            FN(range) range = FN(range_rows)(FN(tile_chunk)(g, t, c), count, columns);
            states[t].range = c ? FN(range_join)(states[t].range, range) : range;
        }
    }
    for (int t = 0; t < g->tiles; t++) {
        states[t].plan = FN(softmax_plan_of)(states[t].range, beta, columns);
        for (int j = 0; j < LANES; j++)
            states[t].sums[j] = (fsm_sum){0, 0};
    }
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->held && n > FSM_CHUNK)
            FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            real *x = FN(tile_chunk)(g, t, c);
            FN(softmax_add)(&states[t], x, g->held || n <= FSM_CHUNK ? x : NULL, count, columns);
        }
    }
    for (ptrdiff_t c = 0; c < n; c += piece) {
        const ptrdiff_t count = n - c < piece ? n - c : piece;
        if (!g->held && n > FSM_CHUNK) {
            FN(load_group)(g, c, count);
            for (int t = 0; t < g->tiles; t++) {
                real *x = FN(tile_chunk)(g, t, c);
                fsm_sum unused[LANES];
                FN(sum_rows)(x, x, count, NULL, &states[t].plan.frame, FN(CAREFUL), unused, columns);
            }
        }
        for (int t = 0; t < g->tiles; t++) {
            real *e = FN(tile_chunk)(g, t, c);
            FN(quotient_chunk)(e, count * width, FN(softmax_divisor)(states[t].sums, columns));
            if (args->flush_below > 0)
                FN(flush_chunk)(e, count * width, (real)args->flush_below);
        }
        FN(store_group)(g, c, count);
    }
    for (ptrdiff_t row = 0; row < (columns ? g->columns : 1); row++) {
        real max[LANES];
        vec_store(max, states[row / LANES].plan.max);
        if (!isfinite(max[row % LANES]) || isnan(states[row / LANES].sums[row % LANES].hi)) {
            const fsm_cursor here = FN(row_of)(g, row);
            FN(fill_row)(args, &here, max[row % LANES] == -(real)INFINITY, 0);
        }
    }
}

static void FN(softmax_row)(const FN(group) * g) {
    FN(softmax_group)(g, false);
}

static void FN(softmax_columns)(const FN(group) * g) {
    FN(softmax_group)(g, true);
}

static void FN(softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    if (begin == end)
        return;
    if (FN(lies_ready)(args, FSM_X) && FN(lies_ready)(args, FSM_Y) && !args->operands[FSM_MASK].data)
        FN(softmax_ready)(args, begin, end);
    else
        FN(each_group)(args, begin, end, scratch, true, SCRATCH_ROOM, FN(softmax_row), FN(softmax_columns));
}
