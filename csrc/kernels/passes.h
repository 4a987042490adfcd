/* The sweeps that every operation shares, over rows and over strips of columns, and the order of summation.
 *
 * The sum of a row. Chunk c is the FSM_CHUNK elements from c*FSM_CHUNK on; in it lane j takes elements j,
 * j+LANES, j+2*LANES, ... Four consecutive elements of a lane are added as (s0+s2) + (s1+s3) in the element
 * type, and that joins the lane's float64 accumulator (vec_acc_add). Lanes fold by halves, totals of chunks
 * add in order. Elements that are missing count as +0. A strip keeps the same lanes for each of its columns, in
 * memory instead of side by side in a register; so rows and columns, and any split into chunks, give the same
 * bits. */

/* ---- where the rows are */

typedef struct {
    const real *x;
    real *y;
    ptrdiff_t index[FSM_MAX_DIMS];
} FN(cursor);

/* Row (or group of `columns` rows) number `row`, in C order of the dimensions of args. */
FSM_INLINE void FN(cursor_to)(FN(cursor) * cursor, const fsm_args *args, ptrdiff_t row) {
    cursor->x = args->x;
    cursor->y = args->y;
    for (int d = args->ndim - 1; d >= 0; d--) {
        ptrdiff_t i = row % args->shape[d];
        row /= args->shape[d];
        cursor->index[d] = i;
        cursor->x += i * args->x_stride[d];
        cursor->y += i * args->y_stride[d];
    }
}

FSM_INLINE void FN(cursor_next)(FN(cursor) * cursor, const fsm_args *args) {
    for (int d = args->ndim - 1; d >= 0; d--) {
        cursor->x += args->x_stride[d];
        cursor->y += args->y_stride[d];
        if (++cursor->index[d] < args->shape[d])
            return;
        cursor->index[d] = 0;
        cursor->x -= args->shape[d] * args->x_stride[d];
        cursor->y -= args->shape[d] * args->y_stride[d];
    }
}

/* ---- rows: one at a time, by chunks of at most FSM_CHUNK contiguous elements */

/* What the first sweep finds: the largest x, and the smallest |x|, which tells whether any is subnormal. */
typedef struct {
    vec max, least;
} FN(range);

FSM_INLINE FN(range) FN(range_of)(vec a) {
    return (FN(range)){a, vec_abs(a)};
}

FSM_INLINE FN(range) FN(range_join)(FN(range) a, FN(range) b) {
    return (FN(range)){vec_max(a.max, b.max), vec_min(a.least, b.least)};
}

/* Whether a subnormal (or a zero, which needs no care but gets it) is among them. */
FSM_INLINE bool FN(range_has_subnormal)(FN(range) range) {
    return vec_any_lt(range.least, vec_set1(MIN_NORMAL));
}

/* Widens `range` by n elements of x; `member` is any number in it. */
FSM_INLINE FN(range) FN(range_chunk)(FN(range) range, const real *x, ptrdiff_t n, real member) {
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        FN(range) a = FN(range_of)(vec_load(x + i)), b = FN(range_of)(vec_load(x + i + LANES));
        FN(range) c = FN(range_of)(vec_load(x + i + 2 * LANES)), d = FN(range_of)(vec_load(x + i + 3 * LANES));
        range = FN(range_join)(range, FN(range_join)(FN(range_join)(a, b), FN(range_join)(c, d)));
    }
    for (; i + LANES <= n; i += LANES)
        range = FN(range_join)(range, FN(range_of)(vec_load(x + i)));
    if (i < n)
        range = FN(range_join)(range, FN(range_of)(vec_load_n(x + i, n - i, member)));
    return range;
}

FSM_INLINE fsm_sum FN(exp_chunk_body)(const real *x, real *e, ptrdiff_t n, FN(exp_frame) frame, bool careful) {
    vec_acc lanes = vec_acc_zero();
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        vec s0 = FN(exp)(vec_load(x + i), frame, careful);
        vec s1 = FN(exp)(vec_load(x + i + LANES), frame, careful);
        vec s2 = FN(exp)(vec_load(x + i + 2 * LANES), frame, careful);
        vec s3 = FN(exp)(vec_load(x + i + 3 * LANES), frame, careful);
        vec_store(e + i, s0);
        vec_store(e + i + LANES, s1);
        vec_store(e + i + 2 * LANES, s2);
        vec_store(e + i + 3 * LANES, s3);
        lanes = vec_acc_add(lanes, vec_add(vec_add(s0, s2), vec_add(s1, s3)));
    }
    if (i < n) {
        vec s[4] = {vec_set1(0), vec_set1(0), vec_set1(0), vec_set1(0)};
        for (int step = 0; i < n; step++, i += LANES) {
            ptrdiff_t count = n - i < LANES ? n - i : LANES;
            s[step] = FN(exp)(vec_load_n(x + i, count, -INFINITY), frame, careful);
            vec_store_n(e + i, count, s[step]);
        }
        lanes = vec_acc_add(lanes, vec_add(vec_add(s[0], s[2]), vec_add(s[1], s[3])));
    }
    return vec_acc_fold(lanes);
}

/* The careful form is right for every row; one copy of it is enough. A row with a zero takes 1.07 to 1.16 times the
 * time of one without (n = 1000, float64 and float32, AVX2 and AVX-512, Zen 5). */
static fsm_sum FN(exp_chunk_careful)(const real *x, real *e, ptrdiff_t n, const FN(exp_frame) * frame) {
    return FN(exp_chunk_body)(x, e, n, *frame, true);
}

/* e = exp(x) for the n elements of one chunk, in the frame's scale, and their sum. e may be x. */
FSM_INLINE fsm_sum FN(exp_chunk)(const real *x, real *e, ptrdiff_t n, const FN(exp_frame) * frame, bool careful) {
    return careful ? FN(exp_chunk_careful)(x, e, n, frame) : FN(exp_chunk_body)(x, e, n, *frame, false);
}

/* y = e/S in place for n elements (FN(quotient)). */
FSM_INLINE void FN(quotient_chunk)(real *y, ptrdiff_t n, FN(divisor) divisor) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vec_store(y + i, FN(quotient)(vec_load(y + i), divisor));
    if (i < n)
        vec_store_n(y + i, n - i, FN(quotient)(vec_load_n(y + i, n - i, 0), divisor));
}

/* The one NaN that results hold: propagated ones differ between CPUs. */
FSM_INLINE void FN(fill_nan)(real *y, ptrdiff_t step, ptrdiff_t n) {
    const real_bits bits = QUIET_NAN_BITS;
    for (ptrdiff_t i = 0; i < n; i++)
        memcpy(y + i * step, &bits, sizeof bits);
}

/* ---- strips: up to LANES columns at a time, along the axis; `count` of them exist */

/* Columns that do not exist hold 1, which needs no care. */
FSM_INLINE vec FN(load_columns)(const real *x, ptrdiff_t count) {
    return count == LANES ? vec_load(x) : vec_load_n(x, count, 1);
}

FSM_INLINE void FN(store_columns)(real *y, ptrdiff_t count, vec a) {
    if (count == LANES)
        vec_store(y, a);
    else
        vec_store_n(y, count, a);
}

FSM_INLINE FN(range) FN(range_strip)(const real *x, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count) {
    FN(range) range = FN(range_of)(FN(load_columns)(x, count));
    for (ptrdiff_t i = 1; i < n; i++)
        range = FN(range_join)(range, FN(range_of)(FN(load_columns)(x + i * step, count)));
    return range;
}

/* e = exp(x) for one row of the strip, or +0 beyond its end. */
FSM_INLINE vec FN(exp_columns)(const real *x, ptrdiff_t x_step, real *e, ptrdiff_t e_step, ptrdiff_t i, ptrdiff_t n,
                               ptrdiff_t count, FN(exp_frame) frame, bool careful) {
    if (i >= n)
        return vec_set1(0);
    vec a = FN(exp)(FN(load_columns)(x + i * x_step, count), frame, careful);
    FN(store_columns)(e + i * e_step, count, a);
    return a;
}

FSM_INLINE vec_acc FN(exp_strip_body)(const real *x, ptrdiff_t x_step, real *e, ptrdiff_t e_step, ptrdiff_t n,
                                      ptrdiff_t count, FN(exp_frame) frame, bool careful) {
    vec_acc total = vec_acc_zero();
    for (ptrdiff_t chunk = 0; chunk < n; chunk += FSM_CHUNK) {
        ptrdiff_t end = n - chunk < FSM_CHUNK ? n : chunk + FSM_CHUNK;
        int used = end - chunk < LANES ? (int)(end - chunk) : LANES;
        vec_acc lanes[LANES];
        for (int j = 0; j < used; j++)
            lanes[j] = vec_acc_zero();
        for (ptrdiff_t group = chunk; group < end; group += 4 * LANES) {
            for (int j = 0; j < used && group + j < end; j++) {
                ptrdiff_t i = group + j;
                vec s0 = FN(exp_columns)(x, x_step, e, e_step, i, end, count, frame, careful);
                vec s1 = FN(exp_columns)(x, x_step, e, e_step, i + LANES, end, count, frame, careful);
                vec s2 = FN(exp_columns)(x, x_step, e, e_step, i + 2 * LANES, end, count, frame, careful);
                vec s3 = FN(exp_columns)(x, x_step, e, e_step, i + 3 * LANES, end, count, frame, careful);
                lanes[j] = vec_acc_add(lanes[j], vec_add(vec_add(s0, s2), vec_add(s1, s3)));
            }
        }
        /* vec_acc_fold, but across memory; a lane that was never used is 0 and changes nothing. */
        for (int width = LANES / 2; width > 0; width /= 2)
            for (int j = 0; j < width && j + width < used; j++)
                lanes[j] = vec_acc_merge(lanes[j], lanes[j + width]);
        total = vec_acc_merge(total, lanes[0]);
    }
    return total;
}

static vec_acc FN(exp_strip_careful)(const real *x, ptrdiff_t x_step, real *e, ptrdiff_t e_step, ptrdiff_t n,
                                     ptrdiff_t count, const FN(exp_frame) * frame) {
    return FN(exp_strip_body)(x, x_step, e, e_step, n, count, *frame, true);
}

/* e = exp(x) for a strip, and the sums of its columns. e may be x. Strips that are not full take the careful form. */
FSM_INLINE vec_acc FN(exp_strip)(const real *x, ptrdiff_t x_step, real *e, ptrdiff_t e_step, ptrdiff_t n,
                                 ptrdiff_t count, const FN(exp_frame) * frame, bool careful) {
    return careful || count < LANES ? FN(exp_strip_careful)(x, x_step, e, e_step, n, count, frame)
                                    : FN(exp_strip_body)(x, x_step, e, e_step, n, LANES, *frame, false);
}

/* y = e/S in place for a strip (FN(quotient)). */
FSM_INLINE void FN(quotient_strip)(real *y, ptrdiff_t step, ptrdiff_t n, ptrdiff_t count, FN(divisor) divisor) {
    for (ptrdiff_t i = 0; i < n; i++) {
        vec e = FN(load_columns)(y + i * step, count);
        FN(store_columns)(y + i * step, count, FN(quotient)(e, divisor));
    }
}
