/* softmax: y = exp(x) / sum(exp(x)).
 *
 * Three sweeps over a row: the maximum of x; e = exp(x), kept in y, and the sum; y = e/S. A row whose sum is NaN, or
 * whose maximum is infinite (all -inf, or a +inf), is NaN throughout. */

/* First sweep: the frame of a row's exponentials, and whether they need care. */
typedef struct {
    FN(exp_frame) frame;
    bool careful;
    bool finite;
} FN(softmax_plan);

FSM_INLINE FN(softmax_plan) FN(softmax_plan_row)(const fsm_args *args, const real *x, real *buffer) {
    const ptrdiff_t n = args->n, step = args->x_step;
    real first;
    memcpy(&first, x, sizeof first);
    FN(range) range = FN(range_of)(vec_set1(first));
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        range = FN(range_chunk)(range, FN(load_chunk)(x + c * step, step, count, buffer), count, first);
    }
    const real max = vec_hmax(range.max);
    const real shift = FN(in_direct_range)(max) ? 0 : max;
    return (FN(softmax_plan)){
        .frame = FN(exp_frame_of)(vec_set1(max), vec_set1(shift)),
        .careful = shift != 0 || FN(range_has_subnormal)(range),
        .finite = isfinite(max),
    };
}

/* Second sweep. The exponentials go to y if that is contiguous; else those of the last chunk are in the buffer. */
FSM_INLINE fsm_sum FN(softmax_exp_row)(const fsm_args *args, const real *x, real *y, const FN(softmax_plan) * plan,
                                       real *buffer) {
    const ptrdiff_t n = args->n, step = args->x_step;
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        const real *chunk = FN(load_chunk)(x + c * step, step, count, buffer);
        real *e = args->y_step == 1 ? y + c : buffer;
        sum = FN(sum_merge)(sum, FN(exp_chunk)(chunk, e, count, &plan->frame, plan->careful));
    }
    return sum;
}

/* Third sweep. Exponentials that were not kept are computed again. */
FSM_INLINE void FN(softmax_divide_row)(const fsm_args *args, const real *x, real *y, const FN(softmax_plan) * plan,
                                       fsm_sum sum, real *buffer) {
    const ptrdiff_t n = args->n, x_step = args->x_step, y_step = args->y_step;
    real hi, lo;
    FN(sum_reciprocal)(sum, &hi, &lo);
    const FN(divisor) divisor = {vec_set1(hi), vec_set1(lo)};
    if (y_step == 1) {
        FN(quotient_chunk)(y, n, divisor);
        return;
    }
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (n > FSM_CHUNK) {
            const real *chunk = FN(load_chunk)(x + c * x_step, x_step, count, buffer);
            FN(exp_chunk_careful)(chunk, buffer, count, &plan->frame);
        }
        FN(quotient_chunk)(buffer, count, divisor);
        FN(store_chunk)(y + c * y_step, y_step, count, buffer);
    }
}

/* Rows of one chunk are looked at one ahead: the first sweep of the next fills the time that the end of a sum and the
 * division take, and brings the row into L1. (64, 1000) float32 takes 0.22 ns an element instead of 0.25, (1024, 128)
 * 0.33 instead of 0.42 (AVX-512, Zen 5). */
static void FN(softmax_rows)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end) {
    const bool look_ahead = args->n <= FSM_CHUNK && args->x_step == 1;
    real buffer[FSM_CHUNK];
    FN(cursor) cursor;
    FN(cursor_to)(&cursor, args, begin);
    FN(softmax_plan) next = FN(softmax_plan_row)(args, cursor.x, buffer);
    for (ptrdiff_t row = begin; row < end; row++) {
        const real *x = cursor.x;
        real *y = cursor.y;
        const FN(softmax_plan) plan = next;
        const fsm_sum sum = FN(softmax_exp_row)(args, x, y, &plan, buffer);
        FN(cursor_next)(&cursor, args);
        if (look_ahead && row + 1 < end)
            next = FN(softmax_plan_row)(args, cursor.x, buffer);
        if (plan.finite && !isnan(sum.hi))
            FN(softmax_divide_row)(args, x, y, &plan, sum, buffer);
        else
            FN(fill_nan)(y, args->y_step, args->n);
        if (!look_ahead && row + 1 < end)
            next = FN(softmax_plan_row)(args, cursor.x, buffer);
    }
}

/* The same for `count` columns side by side. */
FSM_INLINE void FN(softmax_strip)(const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t n,
                                  ptrdiff_t count) {
    FN(range) range = FN(range_strip)(x, x_step, n, count);
    real max[LANES], shift[LANES];
    vec_store(max, range.max);
    bool careful = FN(range_has_subnormal)(range);
    for (int j = 0; j < LANES; j++) {
        shift[j] = FN(in_direct_range)(max[j]) || !isfinite(max[j]) ? 0 : max[j];
        careful |= shift[j] != 0;
    }
    const FN(exp_frame) frame = FN(exp_frame_of)(range.max, vec_load(shift));
    const vec_acc sums = FN(exp_strip)(x, x_step, y, y_step, n, count, &frame, careful);

    double sum_hi[LANES], sum_lo[LANES];
    vec_acc_get(sums, sum_hi, sum_lo);
    real hi[LANES], lo[LANES];
    for (int j = 0; j < LANES; j++)
        FN(sum_reciprocal)((fsm_sum){sum_hi[j], sum_lo[j]}, &hi[j], &lo[j]);
    FN(quotient_strip)(y, y_step, n, count, (FN(divisor)){vec_load(hi), vec_load(lo)});
    for (int j = 0; j < count; j++)
        if (!isfinite(max[j]) || isnan(sum_hi[j]))
            FN(fill_nan)(y + j, y_step, n);
}

static void FN(softmax)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end) {
    if (begin == end)
        return;
    if (!args->columns) {
        FN(softmax_rows)(args, begin, end);
        return;
    }
    FN(cursor) cursor;
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
