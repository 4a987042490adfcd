/* What log_softmax, logsumexp, logmeanexp and softmax_entropy share: the logarithm of a sum of exponentials, in one sweep
 * and to full relative accuracy.
 *
 * Each chunk leaves out the first occurrence of its own maximum and keeps
 *
 *   m   the maximum             e   its exponential, by the kernel's own exp
 *   T   the sum of the others   D   for the entropy, the sum of exp(x) * (m - x), x not yet times beta
 *
 * e and T relative to 2^k, or to exp(shift) for a maximum of 2^21 and more. Chunks merge in index order: the one with the
 * larger maximum stays, and the other's e joins its T. In the end log(sum exp(x)) = m + log1p(T/e), which loses nothing
 * where one element is nearly all of the sum. */

/* A NaN, or an infinity with a weight of either sign, among the elements. */
enum { FN(HAS_NAN) = 1, FN(HAS_INF) = 2, FN(HAS_MINUS_INF) = 4 };

typedef struct {
    double max[LANES];   /* of the x that take part; -inf: nothing does, or nothing else */
    double e[LANES];     /* with its weight */
    double weight[LANES];
    double k[LANES], shift[LANES];
    fsm_sum others[LANES];   /* T */
    fsm_sum distance[LANES]; /* D */
    ptrdiff_t index[LANES];  /* of the maximum */
    int flags[LANES];
    bool careful; /* in some chunk: a subnormal x, a shift */
} FN(log_state);

/* ---- one chunk */

/* 2^d for an integer d <= 1023, or 0 where that is subnormal. */
FSM_INLINE_ double FN(power_of_two)(double d) {
    const uint64_t bits = d < -1022 ? 0 : (uint64_t)(1023 + (int)d) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* The maximum of each row and where it first is, -1 if it is -inf or NaN. */
FSM_INLINE bool FN(find_max)(const real *x, ptrdiff_t n, real *max, ptrdiff_t *index, bool columns) {
    if (!columns) {
        const FN(range) range = FN(range_rows)(x, n, false);
        max[0] = vec_hmax(range.max);
        index[0] = -1;
        for (ptrdiff_t i = 0; i < n && max[0] > -(real)INFINITY; i += LANES) {
            const ptrdiff_t left = n - i;
            const vec a = left < LANES ? vec_load_n(x + i, left, -(real)INFINITY) : vec_load(x + i);
            const int lane = vec_find_eq(a, range.max);
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

/* The exponent of the largest weight of a chunk, if it is so large or small that products with e might overflow or
 * underflow, else 0; INT_MAX if there is one that is infinite or NaN. */
static int FN(weight_exponent)(const real *w, ptrdiff_t n) {
    real largest = 0;
    bool finite = true;
    for (ptrdiff_t i = 0; i < n; i++) {
        const real size = w[i] < 0 ? -w[i] : w[i];
        finite &= size < (real)INFINITY;
        largest = size > largest ? size : largest;
    }
    if (!finite)
        return INT_MAX;
    int exponent = 0;
    for (; largest >= (real)0x1p50; largest *= (real)0x1p-50)
        exponent += 50;
    for (; largest > 0 && largest < (real)0x1p-50; largest *= (real)0x1p50)
        exponent -= 50;
    return exponent;
}

/* x = e * (max - x), where e > 0. */
FSM_OUTLINE_ void FN(distances)(real *x, const real *e, ptrdiff_t n, vec max) {
    const vec zero = vec_set1(0);
    ptrdiff_t i = 0;
    for (; i < n; i += LANES) {
        const ptrdiff_t left = n - i < LANES ? n - i : LANES;
        const vec a = vec_load_n(x + i, left, 0), b = vec_load_n(e + i, left, 0);
        vec_store_n(x + i, left, vec_select_lt(zero, b, vec_mul(b, vec_sub(max, a)), b));
    }
}

/* What one chunk gives. `x` is in the scratch, unless there are neither columns nor `spare`, and may be overwritten;
 * `w` holds its weights, or is NULL; `spare`, of its size, asks for the distances, or is NULL. */
FSM_INLINE void FN(log_chunk)(FN(log_state) * s, real *x, const real *w, real *spare, ptrdiff_t n, ptrdiff_t begin,
                              FN(beta) beta, bool columns) {
    const int rows = ROWS(columns);
    const ptrdiff_t step = columns ? LANES : 1;
    real max[LANES], finite_max[LANES], shift[LANES], e[LANES], k[LANES];
    const int exponent = w ? FN(weight_exponent)(w, n * step) : 0;
    const bool weights_finite = exponent != INT_MAX;
    const double unit = FN(power_of_two)(weights_finite ? -exponent / 2 : 0);
    s->careful = FN(find_max)(x, n, max, s->index, columns) || beta.hi != 1 || beta.lo != 0;
    for (int j = 0; j < rows; j++) {
        finite_max[j] = isfinite(max[j]) ? max[j] : 0;
        shift[j] = FN(in_direct_range)(finite_max[j] * beta.hi) ? 0 : finite_max[j];
        s->careful |= shift[j] != 0;
    }
    const vec maxima = columns ? vec_load(finite_max) : vec_set1(finite_max[0]);
    const vec shifts = columns ? vec_load(shift) : vec_set1(shift[0]);
    const FN(exp_frame) frame = FN(exp_frame_of)(maxima, shifts, beta);
    vec_store(e, FN(exp)(maxima, frame, true));
    vec_store(k, FN(exp_frame_k)(&frame));

    const FN(terms) terms = s->careful ? FN(CAREFUL) : FN(PLAIN);
    for (int j = 0; j < rows; j++) {
        s->flags[j] = 0;
        if (max[j] == (real)INFINITY || !weights_finite)
            s->flags[j] = FN(infinities)(x + j, w ? w + j : NULL, n, step);
        s->weight[j] = 1;
        if (w && s->index[j] >= 0)
            s->weight[j] = w[s->index[j] * step + j];
    }
    if (w) {
        FN(sum_rows)(x, x, n, NULL, &frame, terms, s->others, columns);
        for (ptrdiff_t i = 0; i < n * step; i++)
            x[i] *= w[i] * (real)unit * (real)unit;
        FN(sum_rows)(x, NULL, n, s->index, &frame, FN(GIVEN), s->others, columns);
    } else if (spare) {
        FN(sum_rows)(x, spare, n, NULL, &frame, terms, s->distance, columns);
        FN(sum_rows)(spare, NULL, n, s->index, &frame, FN(GIVEN), s->others, columns);
        FN(distances)(x, spare, n * step, maxima);
        FN(sum_rows)(x, NULL, n, NULL, &frame, FN(GIVEN), s->distance, columns);
    } else {
        FN(sum_rows)(x, NULL, n, s->index, &frame, terms, s->others, columns);
    }
    for (int j = 0; j < rows; j++) {
        s->max[j] = max[j];
        s->e[j] = e[j] * (s->weight[j] * unit * unit);
        s->k[j] = k[j] + (weights_finite ? exponent : 0);
        s->shift[j] = shift[j];
        if (s->index[j] >= 0)
            s->index[j] += begin;
        if (isnan(max[j]) || (!s->flags[j] && isnan(s->others[j].hi)))
            s->flags[j] = FN(HAS_NAN);
    }
}

/* ---- chunks merged */

/* 2^k, or exp(shift), of `from` in units of that of `to`, where from <= to. */
FSM_INLINE_ double FN(log_ratio)(const FN(log_state) * from, const FN(log_state) * to, int j, double beta) {
    if (from->shift[j] == to->shift[j])
        return FN(power_of_two)(from->k[j] - to->k[j]);
    /* k*LN2_HI is exact, and so is its difference to a shift that is near. */
    const double d = (from->shift[j] - to->shift[j]) * beta;
    const double k = from->k[j] - to->k[j];
    const double ln2_hi = 0x1.62e42fecp-1, ln2_lo = 0x1.d1cf79abc9e3bp-32;
    return fsm_exp((d + k * ln2_hi) + k * ln2_lo);
}

/* s = s and then the later chunk c. */
FSM_INLINE_ void FN(log_merge)(FN(log_state) * s, const FN(log_state) * c, int rows, double beta) {
    s->careful |= c->careful;
    for (int j = 0; j < rows; j++) {
        s->flags[j] |= c->flags[j];
        if (s->flags[j] || c->max[j] == -INFINITY)
            continue;
        const bool later = c->max[j] > s->max[j];
        const FN(log_state) *win = later ? c : s, *lose = later ? s : c;
        fsm_sum others = win->others[j], distance = win->distance[j];
        if (lose->max[j] > -INFINITY) {
            const double ratio = FN(log_ratio)(lose, win, j, beta);
            const fsm_sum all = FN(sum_merge)(lose->others[j], (fsm_sum){lose->e[j], 0});
            others = FN(sum_merge)(others, (fsm_sum){all.hi * ratio, all.lo * ratio});
            const double apart = win->max[j] - lose->max[j];
            const fsm_sum further = FN(sum_merge)(lose->distance[j], (fsm_sum){all.hi * apart, all.lo * apart});
            distance = FN(sum_merge)(distance, (fsm_sum){further.hi * ratio, further.lo * ratio});
        }
        s->others[j] = others;
        s->distance[j] = distance;
        if (later) {
            s->max[j] = c->max[j];
            s->e[j] = c->e[j];
            s->weight[j] = c->weight[j];
            s->k[j] = c->k[j];
            s->shift[j] = c->shift[j];
            s->index[j] = c->index[j];
        }
    }
}

/* ---- the sweep of a group */

FSM_INLINE void FN(load_weights)(const FN(group) * g, int t, ptrdiff_t begin, ptrdiff_t count, real *x, real *w,
                                 bool columns) {
    const fsm_args *args = g->args;
    const fsm_cursor first = fsm_cursor_column(&g->cursor, args, t * LANES);
    const bool masked = args->operands[FSM_MASK].data;
    if (columns) {
        const ptrdiff_t left = g->columns - t * LANES, here = left < LANES ? left : LANES;
        FN(load_columns)(args, FSM_WEIGHT, first.at[FSM_WEIGHT], begin, count, here, w, 0);
        if (masked)
            FN(blank_columns)(args, first.at[FSM_MASK], begin, count, here, w, 0, 0);
    } else {
        FN(load)(args, FSM_WEIGHT, first.at[FSM_WEIGHT], begin, count, w);
        if (masked)
            FN(blank)(args, first.at[FSM_MASK], begin, count, w, 0);
    }
    for (ptrdiff_t i = 0; i < count * ROWS(columns); i++)
        x[i] = w[i] != 0 ? x[i] : -(real)INFINITY;
}

/* The states of all tiles of a group. `spare`: room for a tile's chunk, where there are weights or distances are asked
 * for, else NULL. */
FSM_INLINE void FN(log_sweep_body)(const FN(group) * g, FN(log_state) * states, real *spare, FN(beta) beta,
                                   bool columns) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const bool weighted = args->operands[FSM_WEIGHT].data;
    const bool ready = !columns && !spare && FN(lies_ready)(args, FSM_X) && !args->operands[FSM_MASK].data;
    if (g->held && !ready)
        FN(load_group)(g, 0, n);
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->held && !ready)
            FN(load_group)(g, c, count);
        for (int t = 0; t < g->tiles; t++) {
            real *x = ready ? (real *)g->cursor.at[FSM_X] + c : FN(tile_chunk)(g, t, c);
            if (weighted)
                FN(load_weights)(g, t, c, count, x, spare, columns);
            FN(log_state) chunk, *s = c == 0 ? &states[t] : &chunk;
            FN(log_chunk)(s, x, weighted ? spare : NULL, weighted ? NULL : spare, count, c, beta, columns);
            if (c > 0)
                FN(log_merge)(&states[t], &chunk, ROWS(columns), beta.hi);
        }
    }
}

FSM_OUTLINE_ void FN(log_sweep_row)(const FN(group) * g, FN(log_state) * states, real *spare, FN(beta) beta) {
    FN(log_sweep_body)(g, states, spare, beta, false);
}

FSM_OUTLINE_ void FN(log_sweep_columns)(const FN(group) * g, FN(log_state) * states, real *spare, FN(beta) beta) {
    FN(log_sweep_body)(g, states, spare, beta, true);
}

FSM_INLINE void FN(log_sweep)(const FN(group) * g, FN(log_state) * states, real *spare, FN(beta) beta, bool columns) {
    if (columns)
        FN(log_sweep_columns)(g, states, spare, beta);
    else
        FN(log_sweep_row)(g, states, spare, beta);
}

/* ---- results */

/* log1p(T/e): what the others add to the maximum. */
FSM_INLINE void FN(log_tails)(const FN(log_state) * s, double *tails, bool columns) {
    for (int j = 0; j < ROWS(columns); j++)
        tails[j] = fsm_log1p((s->others[j].hi + s->others[j].lo) / s->e[j]);
}

/* Stores the results of tile t of a reduction. */
FSM_INLINE void FN(store_reduced)(const FN(group) * g, int which, int t, const double *results, bool columns) {
    const fsm_operand *operand = &g->args->operands[which];
    const real_bits nan_bits = QUIET_NAN_BITS;
    const ptrdiff_t left = g->columns - t * LANES, here = columns ? (left < LANES ? left : LANES) : 1;
    real values[LANES];
    for (ptrdiff_t j = 0; j < here; j++) {
        values[j] = (real)results[j];
        if (isnan(results[j]))
            memcpy(&values[j], &nan_bits, sizeof nan_bits);
    }
    FN(store_across)(operand, g->cursor.at[which] + t * LANES * operand->column, operand->column, here, values);
}

/* A reduction: half of the scratch is for x, the other half is spare. */
#define REDUCTION_ROOM (SCRATCH_ROOM / 2)

FSM_INLINE real *FN(spare_of)(const FN(group) * g) {
    return g->scratch + REDUCTION_ROOM;
}
