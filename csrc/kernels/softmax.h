/* softmax: y = exp(x) / sum(exp(x)).
 *
 * Three sweeps: the extremes of x; e = exp(x), kept in y, and their sum; y = e/S. A row whose sum is NaN, or
 * whose maximum is infinite (all -inf, or a +inf), is NaN throughout. */

static void FN(softmax_row)(const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t n) {
    real buffer[FSM_CHUNK];
    real first;
    memcpy(&first, x, sizeof first);
    FN(range) range = {vec_set1(first), vec_set1(first)};
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        range = FN(range_chunk)(range, FN(load_chunk)(x + c * x_step, x_step, count, buffer), count, first);
    }
    real max = vec_hmax(range.max);
    if (!isfinite(max)) {
        FN(fill_nan)(y, y_step, n);
        return;
    }

    const bool shifted = !FN(in_direct_range)(max);
    const FN(exp_frame) frame = FN(exp_frame_of)(vec_set1(max), vec_set1(shifted ? max : 0));
    const bool in_y = y_step == 1; /* else the exponentials of one chunk stay in the buffer */
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        const real *chunk = FN(load_chunk)(x + c * x_step, x_step, count, buffer);
        real *e = in_y ? y + c : buffer;
        sum = FN(sum_merge)(sum, shifted ? FN(exp_chunk)(chunk, e, count, frame, true)
                                         : FN(exp_chunk)(chunk, e, count, frame, false));
    }
    if (isnan(sum.hi)) {
        FN(fill_nan)(y, y_step, n);
        return;
    }

    real hi, lo;
    FN(sum_reciprocal)(sum, &hi, &lo);
    const bool narrow = FN(is_narrow)(max, vec_hmin(range.min), sum.hi);
    const FN(divisor) divisor = FN(divisor_of)(vec_set1(hi), vec_set1(lo), narrow);
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        real *e = in_y ? y + c : buffer;
        if (!in_y && n > FSM_CHUNK) {
            const real *chunk = FN(load_chunk)(x + c * x_step, x_step, count, buffer);
            if (shifted)
                FN(exp_chunk)(chunk, e, count, frame, true);
            else
                FN(exp_chunk)(chunk, e, count, frame, false);
        }
        if (narrow)
            FN(quotient_chunk)(e, count, divisor, true);
        else
            FN(quotient_chunk)(e, count, divisor, false);
        if (!in_y)
            FN(store_chunk)(y + c * y_step, y_step, count, buffer);
    }
}

/* The same for `count` columns side by side. */
FSM_INLINE void FN(softmax_strip)(const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t n, ptrdiff_t count) {
    FN(range) range = FN(range_strip)(x, x_step, n, count);
    real max[LANES], min[LANES], shift[LANES];
    vec_store(max, range.max);
    vec_store(min, range.min);
    bool shifted = false;
    for (int j = 0; j < LANES; j++) {
        bool direct = FN(in_direct_range)(max[j]) || !isfinite(max[j]);
        shift[j] = direct ? 0 : max[j];
        shifted |= !direct;
    }

    const FN(exp_frame) frame = FN(exp_frame_of)(range.max, vec_load(shift));
    vec_acc sums = shifted ? FN(exp_strip)(x, x_step, y, y_step, n, count, frame, true)
                           : FN(exp_strip)(x, x_step, y, y_step, n, count, frame, false);

    double sum_hi[LANES], sum_lo[LANES];
    vec_acc_get(sums, sum_hi, sum_lo);
    real hi[LANES], lo[LANES];
    bool narrow = true;
    for (int j = 0; j < LANES; j++) {
        FN(sum_reciprocal)((fsm_sum){sum_hi[j], sum_lo[j]}, &hi[j], &lo[j]);
        narrow &= FN(is_narrow)(max[j], min[j], sum_hi[j]);
    }
    const FN(divisor) divisor = FN(divisor_of)(vec_load(hi), vec_load(lo), narrow);
    if (narrow)
        FN(quotient_strip)(y, y_step, n, count, divisor, true);
    else
        FN(quotient_strip)(y, y_step, n, count, divisor, false);
    for (int j = 0; j < count; j++)
        if (!isfinite(max[j]) || isnan(sum_hi[j]))
            FN(fill_nan)(y + j, y_step, n);
}

static void FN(softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end) {
    FN(cursor) cursor;
    if (!args->columns) {
        FN(cursor_to)(&cursor, args, begin);
        for (ptrdiff_t row = begin; row < end; row++) {
            FN(softmax_row)(cursor.x, args->x_step, cursor.y, args->y_step, args->n);
            FN(cursor_next)(&cursor, args);
        }
        return;
    }
    const ptrdiff_t strips = (args->columns - 1) / LANES + 1;
    FN(cursor_to)(&cursor, args, begin / strips);
    for (ptrdiff_t unit = begin; unit < end; unit++) {
        ptrdiff_t column = unit % strips * LANES;
        ptrdiff_t count = args->columns - column;
        const real *x = cursor.x + column;
        real *y = cursor.y + column;
        if (count >= LANES)
            FN(softmax_strip)(x, args->x_step, y, args->y_step, args->n, LANES);
        else
            FN(softmax_strip)(x, args->x_step, y, args->y_step, args->n, count);
        if (unit % strips == strips - 1)
            FN(cursor_next)(&cursor, args);
    }
}
