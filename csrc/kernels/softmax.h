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
    real max[LANES], shift[LANES], finite_max[LANES];
    bool careful = FN(range_has_subnormal)(range) || beta.hi != 1 || beta.lo != 0;
    if (columns) {
        vec_store(max, range.max);
    } else {
        max[0] = vec_hmax(range.max);
        range.max = vec_set1(max[0]);
    }
    for (int j = 0; j < ROWS(columns); j++) {
        finite_max[j] = isfinite(max[j]) ? max[j] : 0; /* of -inf alone the sum is then 0, unless a NaN is there too */
        shift[j] = FN(in_direct_range)(finite_max[j] * beta.hi) ? 0 : finite_max[j];
        careful |= shift[j] != 0;
    }
    const vec maxima = columns ? vec_load(finite_max) : vec_set1(finite_max[0]);
    const vec shifts = columns ? vec_load(shift) : vec_set1(shift[0]);
    return (FN(softmax_plan)){range.max, max[0], FN(exp_frame_of)(maxima, shifts, beta), careful};
}

/* What e is multiplied by. */
FSM_INLINE FN(divisor) FN(softmax_divisor)(const fsm_sum *sums, bool columns) {
    real hi[LANES], lo[LANES];
    for (int j = 0; j < ROWS(columns); j++)
        FN(sum_reciprocal)(sums[j], &hi[j], &lo[j]);
    return columns ? (FN(divisor)){vec_load(hi), vec_load(lo)} : (FN(divisor)){vec_set1(hi[0]), vec_set1(lo[0])};
}

/* ---- rows that lie ready, or are in the scratch */

/* Rows of one chunk are looked at one ahead: the first sweep of the next fills the time that the end of a sum and the
 * division take, and brings the row into L1. (64, 1000) float32 takes 0.22 ns an element instead of 0.25, (1024, 128)
 * 0.33 instead of 0.42 (AVX-512, Zen 5). */
static void FN(softmax_whole_rows)(const FN(group) * g) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const bool look_ahead = n <= FSM_CHUNK;
    const char *x = g->x_ready ? g->row.at[FSM_X] : (char *)g->scratch;
    char *y = g->y_ready ? g->row.at[FSM_Y] : (char *)g->scratch;
    const ptrdiff_t pitch = g->pitch * (ptrdiff_t)sizeof(real);
    const ptrdiff_t x_stride = g->x_ready ? args->operands[FSM_X].across : pitch;
    const ptrdiff_t y_stride = g->y_ready ? args->operands[FSM_Y].across : pitch;
    char special[LANES] = {0}; /* of rows that are stored later: 1: NaN, 2: all -inf */
    FN(softmax_plan) next;
    if (!g->x_ready)
        FN(load_group)(g, 0, n);
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        const real *row_x = (const real *)(x + r * x_stride);
        real *row_y = (real *)(y + r * y_stride);
        if (!look_ahead || r == 0)
            next = FN(softmax_plan_of)(FN(range_rows)(row_x, n, false), g->beta, false);
        const FN(softmax_plan) plan = next;
        fsm_sum sum = {0, 0};
        for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
            const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
            fsm_sum chunk = plan.careful
                                ? FN(sum_row)(row_x + c, row_y + c, count, -1, NULL, &plan.frame, FN(CAREFUL))
                                : FN(sum_row_body)(row_x + c, row_y + c, count, -1, NULL, plan.frame, FN(PLAIN));
            sum = FN(sum_merge)(sum, chunk);
        }
        if (look_ahead && r + 1 < g->rows)
            next =
                FN(softmax_plan_of)(FN(range_rows)((const real *)(x + (r + 1) * x_stride), n, false), g->beta, false);
        if (!isfinite(plan.row_max) || isnan(sum.hi)) {
            const bool all_neg_inf = plan.row_max == -(real)INFINITY && !isnan(sum.hi);
            if (g->y_ready)
                FN(fill_row)(g, r, all_neg_inf, 0);
            else
                special[r] = all_neg_inf ? 2 : 1;
            continue;
        }
        FN(quotient_chunk)(row_y, n, FN(softmax_divisor)(&sum, false));
        if (args->flush_below > 0)
            FN(flush_chunk)(row_y, n, (real)args->flush_below);
    }
    if (g->y_ready)
        return;
    FN(store_group)(g, 0, n);
    for (ptrdiff_t r = 0; r < g->rows; r++)
        if (special[r])
            FN(fill_row)(g, r, special[r] == 2, 0);
}

/* ---- columns, and rows for which there is no room */

typedef struct {
    FN(range) range;
    FN(softmax_plan) plan;
    fsm_sum sums[LANES];
} FN(softmax_state);

/* The second sweep of a chunk; e may be NULL. */
FSM_INLINE void FN(softmax_add)(FN(softmax_state) * s, real *x, real *e, ptrdiff_t count, bool columns) {
    fsm_sum chunk[LANES];
    FN(sum_rows)(x, e, count, &s->plan.frame, s->plan.careful ? FN(CAREFUL) : FN(PLAIN), chunk, columns);
    for (int j = 0; j < ROWS(columns); j++)
        s->sums[j] = FN(sum_merge)(s->sums[j], chunk[j]);
}

FSM_INLINE void FN(softmax_group)(const FN(group) * g, bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, width = ROWS(columns), piece = g->held ? n : FSM_CHUNK;
    FN(softmax_state) states[MAX_TILES];

    for (ptrdiff_t c = 0; c < n; c += piece) {
        const ptrdiff_t count = n - c < piece ? n - c : piece;
        FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            FN(range) range = FN(range_rows)(FN(in_scratch)(g, t, c), count, columns);
            states[t].range = c ? FN(range_join)(states[t].range, range) : range;
        }
    }
    for (int t = 0; t < g->tiles; t++) {
        states[t].plan = FN(softmax_plan_of)(states[t].range, g->beta, columns);
        for (int j = 0; j < width; j++)
            states[t].sums[j] = (fsm_sum){0, 0};
    }
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->held)
            FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            real *x = FN(in_scratch)(g, t, c);
            FN(softmax_add)(&states[t], x, g->held ? x : NULL, count, columns);
        }
    }
    for (ptrdiff_t c = 0; c < n; c += piece) {
        const ptrdiff_t count = n - c < piece ? n - c : piece;
        if (!g->held)
            FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            real *e = FN(in_scratch)(g, t, c);
            if (!g->held) {
                fsm_sum unused[LANES];
                const FN(terms) terms = states[t].plan.careful ? FN(CAREFUL) : FN(PLAIN);
                FN(sum_rows)(e, e, count, &states[t].plan.frame, terms, unused, columns);
            }
            FN(quotient_chunk)(e, count * width, FN(softmax_divisor)(states[t].sums, columns));
            if (args->flush_below > 0)
                FN(flush_chunk)(e, count * width, (real)args->flush_below);
        }
        FN(store_group)(g, c, count);
    }
    for (int t = 0; t < g->tiles; t++) {
        real max[LANES];
        vec_store(max, states[t].plan.max);
        for (int j = 0; j < width && t * LANES + j < g->rows; j++) {
            const bool nan = isnan(states[t].sums[j].hi);
            if (nan || !isfinite(max[j]))
                FN(fill_row)(g, t * LANES + j, max[j] == -(real)INFINITY && !nan, 0);
        }
    }
}

static void FN(softmax_rows)(const FN(group) * g) {
    if ((g->x_ready && g->y_ready) || g->held)
        FN(softmax_whole_rows)(g);
    else
        FN(softmax_group)(g, false);
}

static void FN(softmax_columns)(const FN(group) * g) {
    FN(softmax_group)(g, true);
}

static void FN(softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const FN(plan) plan = {.hold = true, .room = SCRATCH_ROOM, .most_rows = PTRDIFF_MAX};
    FN(each_group)(args, begin, end, scratch, plan, FN(softmax_rows), FN(softmax_columns));
}
