/* What log_softmax, logsumexp, logmeanexp and softmax_entropy share: the logarithm of a sum of exponentials, in one
 * sweep and to full relative accuracy.
 *
 * Each chunk leaves out the first occurrence of its own maximum and keeps
 *
 *   m   the maximum             e   its exponential, by the kernel's own exp
 *   T   the sum of the others   D   for the entropy, the sum of exp(x) * (m - x) * beta
 *
 * e and T relative to 2^k, or to exp(shift) for a maximum of 2^21 and more, or with weights. Chunks merge in index
 * order: the one with the larger maximum stays, and the other's e joins its T. In the end log(sum exp(x)) = m +
 * log1p(T/e), which loses nothing where one element is nearly all of the sum. */

/* A NaN, or an infinity with a weight of either sign, among the elements. */
enum { FN(HAS_NAN) = 1, FN(HAS_INF) = 2, FN(HAS_MINUS_INF) = 4 };

#define LOG_TILES 4

/* Of up to LANES rows, or the columns of a tile. */
typedef struct {
    double max[LANES];    /* of the x that take part; -inf: nothing does, or nothing else */
    double e[LANES];      /* times its weight */
    double weight[LANES]; /* of the maximum */
    double k[LANES], shift[LANES];
    fsm_sum others[LANES];   /* T */
    fsm_sum distance[LANES]; /* D */
    ptrdiff_t index[LANES];  /* of the maximum */
    int flags[LANES];
    bool careful[LANES]; /* in some chunk: a subnormal x, a shift, a temperature; of columns, the first is for all */
} FN(log_state);

/* ---- one chunk */

/* The maximum of each row and where it first is, -1 if it is -inf or NaN; returns whether a subnormal is there. */
FSM_INLINE bool FN(find_max)(const real *x, ptrdiff_t n, real *max, ptrdiff_t *index, bool columns) {
    if (!columns) {
        const FN(range) range = FN(range_rows)(x, n, false);
        max[0] = vec_hmax(range.max);
        index[0] = -1;
        for (ptrdiff_t i = 0; i < n && max[0] > -(real)INFINITY; i += LANES) {
            const ptrdiff_t left = n - i;
            const vec a = left < LANES ? vec_load_n(x + i, left, -(real)INFINITY) : vec_load(x + i);
            const int lane = vec_find_eq(a, vec_set1(max[0]));
            if (lane < LANES) {
                index[0] = i + lane;
                break;
            }
        }
        return FN(range_has_subnormal)(range);
    }
    vec largest = vec_set1(-(real)INFINITY), least = vec_set1(1), at = vec_set1(-1);
    for (ptrdiff_t i = 0; i < n; i++) {
        const vec a = vec_load(x + i * LANES);
        at = vec_select_lt(largest, a, vec_set1((real)i), at);
        largest = vec_max(largest, a);
        least = vec_min(least, vec_abs(a));
    }
    real first[LANES];
    vec_store(max, largest);
    vec_store(first, at);
    for (int j = 0; j < LANES; j++)
        index[j] = (ptrdiff_t)first[j];
    return vec_any_lt(least, vec_set1(MIN_NORMAL));
}

/* What a chunk with an infinity or a weight that is no number in it holds (w: weights, or NULL for 1). */
static int FN(infinities)(const real *x, const real *w, ptrdiff_t n, ptrdiff_t step) {
    int flags = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        real value, weight = 1;
        memcpy(&value, x + i * step, sizeof value);
        if (w)
            weight = w[i * step];
        if (isnan(value) || isnan(weight) || (isinf(weight) && value == -(real)INFINITY))
            flags |= FN(HAS_NAN);
        else if (value == (real)INFINITY || isinf(weight))
            flags |= weight > 0 ? FN(HAS_INF) : FN(HAS_MINUS_INF);
    }
    return flags;
}

/* x = e * (max - x) * beta, where e > 0. */
FSM_OUTLINE_ void FN(distances)(real *x, const real *e, ptrdiff_t n, vec max, real beta) {
    const vec zero = vec_set1(0), scale = vec_set1(beta);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t left = n - i < LANES ? n - i : LANES;
        const vec a = vec_load_n(x + i, left, 0), b = vec_load_n(e + i, left, 0);
        vec_store_n(x + i, left, vec_select_lt(zero, b, vec_mul(b, vec_mul(vec_sub(max, a), scale)), b));
    }
}

/* What one chunk gives: elements [begin, begin + n), at x, of tile or row t. `x` may be overwritten if it has columns,
 * weights or a spare; `w` holds its weights, or is NULL; `spare`, of the size of x, asks for the distances, or is
 * NULL. */
FSM_INLINE void FN(log_chunk)(const FN(group) * g, ptrdiff_t t, FN(log_state) * s, real *x, const real *w, real *spare,
                              ptrdiff_t n, ptrdiff_t begin, bool columns) {
    const FN(beta) beta = g->beta;
    const ptrdiff_t j = columns ? 0 : t;
    const ptrdiff_t rows = ROWS(columns);
    real max[LANES], finite_max[LANES], shift[LANES], e[LANES], k[LANES];
    ptrdiff_t *index = s->index + j;
    fsm_sum *others = s->others + j;
    bool careful = FN(find_max)(x, n, max, index, columns) || beta.hi != 1 || beta.lo != 0;
    for (ptrdiff_t i = 0; i < rows; i++) {
        finite_max[i] = isfinite(max[i]) ? max[i] : 0;
        shift[i] = FN(in_direct_range)(finite_max[i] * beta.hi) ? 0 : finite_max[i];
        if (w) /* e of a maximum is then a power of two, so that weights that cancel leave 0 */
            shift[i] = finite_max[i];
        careful |= shift[i] != 0;
    }
    const vec maxima = columns ? vec_load(finite_max) : vec_set1(finite_max[0]);
    const vec shifts = columns ? vec_load(shift) : vec_set1(shift[0]);
    const FN(exp_frame) frame = FN(exp_frame_of)(maxima, shifts, beta);
    const FN(terms) terms = careful ? FN(CAREFUL) : FN(PLAIN);
    vec_store(k, FN(exp_frame_k)(&frame));
    if (!columns && g->args->n > FSM_CHUNK)
        FN(prefetch_row)(g, t + g->rows, begin, n);

    bool weights_finite = true;
    for (ptrdiff_t i = 0; w && i < n * rows; i++)
        weights_finite &= w[i] - w[i] == 0;
    for (ptrdiff_t i = 0; i < rows; i++) {
        s->flags[j + i] = 0;
        if (max[i] == (real)INFINITY || !weights_finite)
            s->flags[j + i] = FN(infinities)(x + i, w ? w + i : NULL, n, rows);
        s->weight[j + i] = w && index[i] >= 0 ? w[index[i] * rows + i] : 1;
    }
    if (w) {
        FN(sum_rows)(x, x, n, &frame, terms, others, columns);
        for (ptrdiff_t i = 0; i < n * rows; i++)
            x[i] *= w[i];
        FN(sum_rows_without)(x, n, index, e, &frame, FN(GIVEN), others, columns);
    } else if (spare) {
        FN(sum_rows)(x, spare, n, &frame, terms, others, columns);
        FN(sum_rows_without)(spare, n, index, e, &frame, FN(GIVEN), others, columns);
        FN(distances)(x, spare, n * rows, maxima, beta.hi);
        FN(sum_rows)(x, NULL, n, &frame, FN(GIVEN), s->distance + j, columns);
    } else if (columns || careful) {
        FN(sum_rows_without)(x, n, index, e, &frame, terms, others, columns);
    } else {
        e[0] = 0;
        others[0] = FN(sum_row_body)(x, NULL, n, index[0], e, frame, FN(PLAIN));
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        s->max[j + i] = max[i];
        s->e[j + i] = e[i];
        s->k[j + i] = k[i];
        s->shift[j + i] = shift[i];
        if (!spare)
            s->distance[j + i] = (fsm_sum){0, 0};
        s->careful[j + i] = careful;
        if (index[i] >= 0)
            index[i] += begin;
        if (isnan(max[i]) || (!s->flags[j + i] && isnan(others[i].hi)))
            s->flags[j + i] = FN(HAS_NAN);
    }
}

/* ---- chunks merged */

/* A factor of 1 or less as a product of two, each of which is a normal number where the factor times 2^200 is one. */
typedef struct {
    double a, b;
} FN(ratio);

/* 2^d for an integer d <= 0, or 0 where that is subnormal. */
FSM_INLINE_ double FN(power_of_two)(double d) {
    return d < -1022 ? 0 : fsm_f64_of_bits((uint64_t)(1023 + (int)d) << 52);
}

/* The unit of `lose` in that of `win`, whose maximum is larger: 2^k or exp(shift) each. */
FSM_INLINE_ FN(ratio)
    FN(log_ratio)(const FN(log_state) * lose, const FN(log_state) * win, ptrdiff_t j, double temperature) {
    const double k = lose->k[j] - win->k[j];
    if (lose->shift[j] == win->shift[j]) {
        const double half = (double)(int64_t)(k / 2);
        return (FN(ratio)){FN(power_of_two)(half), FN(power_of_two)(k - half)};
    }
    /* exp(hi + lo) for shifts that are near each other, or one that is near k*LN2; both differences are exact. */
    const double apart = lose->shift[j] - win->shift[j], d = apart / temperature;
    const fsm_sum d_rest = {d, fma(-d, temperature, apart) / temperature}, of_k = {k * FSM_LN2_HI, 0};
    const fsm_sum sum = fsm_two_sum(d_rest, of_k);
    const fsm_sum exponent = fsm_two_sum((fsm_sum){sum.hi, 0}, (fsm_sum){sum.lo + k * FSM_LN2_LO, 0});
    const double root = fsm_exp(exponent.hi / 2);
    return (FN(ratio)){root, root + root * exponent.lo};
}

FSM_INLINE_ fsm_sum FN(scaled)(fsm_sum s, double factor) {
    return (fsm_sum){s.hi * factor, s.lo * factor};
}

/* a + b*ratio */
FSM_INLINE_ fsm_sum FN(add_scaled)(fsm_sum a, fsm_sum b, FN(ratio) ratio) {
    return FN(sum_merge)(a, FN(scaled)(FN(scaled)(b, ratio.a), ratio.b));
}

/* Entries [j, j + rows) of s, and then the later chunk's. */
FSM_OUTLINE_ void FN(log_merge)(FN(log_state) * s, const FN(log_state) * chunk, ptrdiff_t j, ptrdiff_t rows,
                                double temperature) {
    for (const ptrdiff_t end = j + rows; j < end; j++) {
        s->careful[j] |= chunk->careful[j];
        s->flags[j] |= chunk->flags[j];
        if (s->flags[j] || chunk->max[j] == -INFINITY)
            continue;
        const bool later = chunk->max[j] > s->max[j];
        const FN(log_state) *win = later ? chunk : s, *lose = later ? s : chunk;
        fsm_sum others = win->others[j], distance = win->distance[j];
        const FN(ratio) ratio = FN(log_ratio)(lose, win, j, temperature);
        if (lose->max[j] > -INFINITY && ratio.a > 0) {
            const fsm_sum all = FN(sum_merge)(lose->others[j], (fsm_sum){lose->e[j], 0});
            const fsm_sum further = FN(scaled)(all, (win->max[j] - lose->max[j]) / temperature);
            others = FN(add_scaled)(others, all, ratio);
            distance = FN(add_scaled)(distance, FN(sum_merge)(lose->distance[j], further), ratio);
        }
        s->others[j] = others;
        s->distance[j] = distance;
        if (later) {
            s->max[j] = chunk->max[j];
            s->e[j] = chunk->e[j];
            s->weight[j] = chunk->weight[j];
            s->k[j] = chunk->k[j];
            s->shift[j] = chunk->shift[j];
            s->index[j] = chunk->index[j];
        }
    }
}

/* ---- the sweep of a group */

/* Loads the weights w of a tile, or of a row, whose x is loaded. What has a weight of 0, or takes no part, has both: a
 * weight of 0 and x = -inf. A weight that might overflow, or vanish, in a product with e joins x, but for its sign. */
FSM_INLINE void FN(load_weights)(const FN(group) * g, ptrdiff_t t, ptrdiff_t begin, ptrdiff_t count, real *x, real *w,
                                 bool columns) {
    const fsm_args *args = g->args;
    const fsm_row first = fsm_row_across(g->row, args, columns ? t * LANES : t);
    const bool masked = args->operands[FSM_MASK].data;
    if (columns) {
        const ptrdiff_t left = g->rows - t * LANES, here = left < LANES ? left : LANES;
        FN(load_columns)(args, FSM_WEIGHT, first.at[FSM_WEIGHT], begin, count, here, w, 0);
        if (masked)
            FN(blank_columns)(args, first.at[FSM_MASK], begin, count, here, w, 0, 0);
    } else {
        FN(load)(args, FSM_WEIGHT, first.at[FSM_WEIGHT], begin, count, w);
        if (masked)
            FN(blank)(args, first.at[FSM_MASK], begin, count, w, 0);
    }
    for (ptrdiff_t i = 0; i < count * ROWS(columns); i++) {
        const real size = w[i] < 0 ? -w[i] : w[i];
        if (size == 0) {
            x[i] = -(real)INFINITY;
        } else if ((size < (real)0x1p-100 || size > (real)0x1p100) && isfinite(size) && isfinite(x[i])) {
            x[i] += (real)fsm_log(size);
            w[i] = w[i] < 0 ? -1 : 1;
        }
    }
}

/* The states of a group: one for all its rows, or one a tile of columns. `spare`: room for a chunk of a row or tile,
 * where there are weights or distances are asked for, else NULL. */
FSM_INLINE void FN(log_sweep_body)(const FN(group) * g, FN(log_state) * states, real *spare, bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, parts = columns ? g->tiles : g->rows;
    const bool weighted = args->operands[FSM_WEIGHT].data, ready = !columns && g->x_ready && !spare;
    if (g->held && !ready)
        FN(load_group)(g, 0, n);
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->held && !ready)
            FN(load_group)(g, c, count);
        for (ptrdiff_t t = 0; t < parts; t++) {
            real *x = ready ? FN(in_place)(g, FSM_X, t, c) : FN(in_scratch)(g, t, c);
            if (weighted)
                FN(load_weights)(g, t, c, count, x, spare, columns);
            FN(log_state) chunk, *state = columns ? &states[t] : states, *s = c == 0 ? state : &chunk;
            FN(log_chunk)(g, t, s, x, weighted ? spare : NULL, weighted ? NULL : spare, count, c, columns);
            if (c > 0)
                FN(log_merge)(state, &chunk, columns ? 0 : t, ROWS(columns), args->temperature);
        }
    }
}

FSM_OUTLINE_ void FN(log_sweep_rows)(const FN(group) * g, FN(log_state) * states, real *spare) {
    if (spare)
        FN(log_sweep_body)(g, states, spare, false);
    else
        FN(log_sweep_body)(g, states, NULL, false);
}

FSM_OUTLINE_ void FN(log_sweep_columns)(const FN(group) * g, FN(log_state) * states, real *spare) {
    FN(log_sweep_body)(g, states, spare, true);
}

/* ---- results, the same for rows and columns */

/* log1p(T/e): what the others add to the maximum. */
FSM_OUTLINE_ void FN(log_tails)(const FN(log_state) * s, int count, double *tails) {
    for (int j = 0; j < count; j++)
        tails[j] = fsm_log1p((s->others[j].hi + s->others[j].lo) / s->e[j]);
}

/* Stores the results of tile t of a reduction. */
FSM_OUTLINE_ void FN(store_reduced)(const FN(group) * g, int which, int t, const double *results) {
    const fsm_operand *operand = &g->args->operands[which];
    const real_bits nan_bits = QUIET_NAN_BITS;
    const int count = FN(entries)(g, t);
    real values[LANES];
    for (int j = 0; j < count; j++) {
        values[j] = (real)results[j];
        if (isnan(results[j]))
            memcpy(&values[j], &nan_bits, sizeof nan_bits);
    }
    FN(store_across)(operand, g->row.at[which] + t * LANES * operand->across, operand->across, count, values);
}

/* A reduction: half of the scratch is for x, the other half is spare. */
#define REDUCTION_ROOM (SCRATCH_ROOM / 2)

FSM_INLINE real *FN(spare_of)(const FN(group) * g) {
    return g->scratch + REDUCTION_ROOM;
}

/* Walks through the groups of a reduction. `finish` stores the results of tile t from its state. */
typedef void FN(log_finish)(const FN(group) *, int t, const FN(log_state) *);

FSM_INLINE void FN(reduce_rows)(const FN(group) * g, bool spare, FN(log_finish) * finish) {
    FN(log_state) state;
    FN(log_sweep_rows)(g, &state, spare ? FN(spare_of)(g) : NULL);
    finish(g, 0, &state);
}

FSM_INLINE void FN(reduce_columns)(const FN(group) * g, bool spare, FN(log_finish) * finish) {
    FN(log_state) states[LOG_TILES];
    FN(log_sweep_columns)(g, states, spare ? FN(spare_of)(g) : NULL);
    for (int t = 0; t < g->tiles; t++)
        finish(g, t, &states[t]);
}

#define REDUCTION_PLAN                                                                                                 \
    ((FN(plan)){.hold = false, .room = REDUCTION_ROOM, .tiles = LOG_TILES, .piece = FSM_CHUNK, .most_rows = LANES})
