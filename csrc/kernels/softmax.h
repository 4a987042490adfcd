/* softmax: y = exp(x) / sum(exp(x)).
 *
 * Three passes over a row: the maximum of x, unless that can be guessed; e = exp(x), kept in y or in the scratch, and
 * the sum; y = e/S. Short rows, long rows and panels: see there. A row whose sum is NaN, or whose maximum is infinite
 * (all -inf, or a +inf), is special: fill_special_row(). */
#ifndef FSM_KERNELS_SOFTMAX_H
#define FSM_KERNELS_SOFTMAX_H

#include "scaled_softmax.h"
#include "schedule.h"

/* What the first pass finds: the frame of the exponentials, and whether they are special (in panels, but for subnormal
 * x). */
typedef struct {
    real row_max; /* of a row */
    exp_frame_t frame;
    bool special;
} softmax_plan_t;

/* Where all is -inf the sum is 0, unless a NaN is there too: its frame is that of 0. */
static softmax_plan_t softmax_plan_of_row(range_t range, beta_t beta) {
    const real max = vec_hmax(range.max), finite_max = isfinite(max) ? max : 0;
    const real shift = in_direct_range(finite_max * beta.hi) ? 0 : finite_max;
    return (softmax_plan_t){max, exp_frame_of(vec_set1(finite_max), vec_set1(shift), beta),
                            beta.scaled || shift != 0 || range_has_subnormal(range)};
}

static softmax_plan_t softmax_plan_of_panel(range_t range, beta_t beta) {
    const vec zero = vec_set1(0), max = finite_or(range.max, zero);
    const vec shift = shift_of(max, beta);
    return (softmax_plan_t){0, exp_frame_of(max, shift, beta), beta.scaled || vec_any_lt(zero, vec_abs(shift))};
}

/* What e is multiplied by, of a row, or of a panel. */
FSM_ALWAYS_INLINE divisor_t softmax_divisor(fsm_sum sum) {
    real hi, lo;
    sum_reciprocal(sum, 1, &hi, &lo);
    return (divisor_t){vec_set1(hi), vec_set1(lo)};
}

static divisor_t softmax_divisors(vec_acc sums) {
    double sum_hi[LANES], sum_lo[LANES];
    real hi[LANES], lo[LANES];
    vec_acc_get(sums, sum_hi, sum_lo);
    for (int j = 0; j < LANES; j++)
        sum_reciprocal((fsm_sum){sum_hi[j], sum_lo[j]}, 1, &hi[j], &lo[j]);
    return (divisor_t){vec_load(hi), vec_load(lo)};
}

/* ---- guesses
 *
 * What e is relative to, 2^k, changes no bit. So a row may take the k of another one, or of its first chunk, as long as
 * that is not so far off that e would leave its range. (Terms of 2^-157 of a sum may be kept or not, as k is. A row can
 * be made in which they decide how it is rounded, through exact ties at 2^-53 and 2^-106 of it.) */

/* How far the maximum may be above, or below, the guess, times beta. */
#define GUESS_HIGH 40
#define GUESS_LOW  10

/* How far e may be above 2^k, in powers of two: up to the first, small e times what is left of 1/S after its rounding
 * are normal numbers; up to the second, sums of four e are finite, and small e have to be raised before they are
 * divided. */
#define MAX_ABOVE        20
#define MAX_ABOVE_RAISED 58

/* The least sum that a guess may give: of rows whose maximum is about GUESS_LOW below it, or more. */
#define MIN_SUM (E_FACTOR * (real)0x1p-16)

/* The x whose e is 2^above times 2^k. Larger x become this one, and so may a NaN: the sum is then above E_FACTOR *
 * 2^(above - 1), where a half is left for the rounding of x. */
FSM_ALWAYS_INLINE vec max_x(const exp_frame_t *frame, real above) {
    return vec_add(frame->low, vec_set1((LOWEST + above) * LN2));
}

/* Whether a guess may be near: at twice the maximum rows would still need no shift. */
FSM_ALWAYS_INLINE bool may_be_guessed(const softmax_plan_t *plan) {
    return !plan->special && in_direct_range(2 * plan->row_max);
}

/* Whether an element of the block from x[at] on, of n elements, is subnormal, or 0; moves `at` on to the next block.
 * Those cost nothing but time, so rows, or chunks, that take a guess are not searched for them, but one block of each
 * is looked at, afterwards, when it is in L1: ahead of the pass it would be waited for. */
FSM_ALWAYS_INLINE bool has_subnormal_at(const real *x, ptrdiff_t n, ptrdiff_t *at) {
    const ptrdiff_t begin = *at < n ? *at : 0;
    *at = begin + LANES;
    return vec_any_lt(vec_abs(load_rest(x + begin, n - begin, 1)), vec_set1(MIN_NORMAL));
}

/* ---- rows that are contiguous, or packed whole */

/* What is below `limit` becomes 0. */
static void flush_to_zero(real *y, ptrdiff_t n, real limit) {
    const vec zero = vec_set1(0);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec a = vec_load(y + i);
        vec_store(y + i, vec_select_lt(a, vec_set1(limit), zero, a));
    }
    if (i < n) {
        const vec a = vec_load_n(y + i, n - i, 0);
        vec_store_n(y + i, n - i, vec_select_lt(a, vec_set1(limit), zero, a));
    }
}

/* y = e/S in place; `least`: smaller e become that, unless it is NULL. */
FSM_INLINE void quotients_body(real *y, ptrdiff_t n, divisor_t divisor, const vec *least) {
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec a = vec_load(y + i);
        vec_store(y + i, quotient(least ? vec_max(a, *least) : a, divisor));
    }
    if (i < n) {
        const vec a = vec_load_n(y + i, n - i, 0);
        vec_store_n(y + i, n - i, quotient(least ? vec_max(a, *least) : a, divisor));
    }
}

FSM_OUTLINE void quotients(real *y, ptrdiff_t n, fsm_sum sum) {
    quotients_body(y, n, softmax_divisor(sum), NULL);
}

/* e so small that y is 0 for certain are raised to one that also gives 0, since products with 1/S might be subnormal.
 */
FSM_OUTLINE void quotients_raised(real *y, ptrdiff_t n, fsm_sum sum) {
    const vec least = vec_set1((real)(sum.hi * MIN_NORMAL * fsm_two_to(-MANTISSA_BITS - 3)));
    quotients_body(y, n, softmax_divisor(sum), &least);
}

/* The sum of a row, whose e go to `e`, which may be x. `limit`, of a plan that is not special: see max_x(). */
static fsm_sum softmax_sum_row(const real *x, real *e, ptrdiff_t n, const softmax_plan_t *plan, const vec *limit) {
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = fsm_min(n - c, FSM_CHUNK);
        fsm_sum chunk;
        if (plan->special)
            chunk = sum_exp_special(x + c, e + c, count, -1, NULL, &plan->frame);
        else if (limit)
            chunk = sum_exp_limited(x + c, e + c, count, &plan->frame, *limit);
        else
            chunk = sum_exp_kept(x + c, e + c, count, -1, NULL, &plan->frame);
        sum = sum_merge(sum, chunk);
    }
    return sum;
}

/* So many rows in turn have a maximum that near that of the row before; the next ones then take a guess. */
#define ALIKE_WITHIN 2
#define ALIKE_ROWS   2

/* Rows of one array are mostly alike. Once they are, a row takes the k of the last one whose maximum was searched for.
 * The search takes time, most of it where x comes from memory, since that has nothing to do while the arithmetic goes
 * on.
 *
 * Rows of one chunk that are searched are looked at one ahead: the first pass of the next fills the time that the end
 * of a sum and the division take, and brings the row into L1. */
static void softmax_whole_rows(const batch_t *b) {
    const fsm_args *args = b->args;
    const ptrdiff_t n = b->n, pitch = b->pitch * (ptrdiff_t)sizeof(real);
    const char *x = b->x_contiguous ? b->row.at[FSM_X] : (char *)b->scratch;
    char *y = b->y_contiguous ? b->row.at[FSM_Y] : (char *)b->scratch;
    const ptrdiff_t x_stride = b->x_contiguous ? args->operands[FSM_X].row_stride : pitch;
    const ptrdiff_t y_stride = b->y_contiguous ? args->operands[FSM_Y].row_stride : pitch;
    char special[LANES] = {0}; /* of rows that are stored later: 1: NaN, 2: all -inf */
    softmax_plan_t plan, next;
    double last = NAN;       /* plan.row_max */
    ptrdiff_t searched = -1; /* the row that `next` is of */
    ptrdiff_t looked_at = 0;
    int alike = 0;
    if (!b->x_contiguous)
        pack_x(b, 0, n);
    for (ptrdiff_t r = 0; r < b->rows; r++) {
        const real *row_x = (const real *)(x + r * x_stride);
        real *row_y = (real *)(y + r * y_stride);
        const bool guess = alike >= ALIKE_ROWS;
        fsm_sum sum = {0, 0};
        if (guess) {
            const vec limit = max_x(&plan.frame, MAX_ABOVE);
            sum = softmax_sum_row(row_x, row_y, n, &plan, &limit);
            if (has_subnormal_at(row_x, n, &looked_at))
                alike = 0;
        }
        if (!(sum.hi > MIN_SUM && sum.hi < E_FACTOR * fsm_two_to(MAX_ABOVE - 1))) {
            if (searched < r)
                next = softmax_plan_of_row(range_of_row(row_x, n), b->beta);
            const bool near = may_be_guessed(&next) && fabs(next.row_max - last) < ALIKE_WITHIN;
            alike = guess || !near || row_y == row_x ? 0 : alike + 1;
            plan = next;
            last = plan.row_max;
            sum = softmax_sum_row(row_x, row_y, n, &plan, NULL);
            if (n <= FSM_CHUNK && alike < ALIKE_ROWS && r + 1 < b->rows) {
                next = softmax_plan_of_row(range_of_row((const real *)(x + (r + 1) * x_stride), n), b->beta);
                searched = r + 1;
            }
            if (!isfinite(plan.row_max) || isnan(sum.hi)) {
                const bool all_neg_inf = plan.row_max == -(real)INFINITY && !isnan(sum.hi);
                if (b->y_contiguous)
                    fill_special_row(b, r, all_neg_inf, 0);
                else
                    special[r] = all_neg_inf ? 2 : 1;
                continue;
            }
        }
        quotients(row_y, n, sum);
        if (args->flush_below > 0)
            flush_to_zero(row_y, n, (real)args->flush_below);
    }
    if (b->y_contiguous)
        return;
    store_results(b, 0, n);
    for (ptrdiff_t r = 0; r < b->rows; r++)
        if (special[r])
            fill_special_row(b, r, special[r] == 2, 0);
}

/* ---- short rows */

/* What is known of LANES rows. */
typedef struct {
    real limit;                    /* larger x are too far above what e is relative to */
    real magic[LANES], low[LANES]; /* the frames of the exponentials */
    double hi[LANES], lo[LANES];   /* sums */
    real e[SHORT_ROOM];            /* then the results */
} softmax_short_t;

/* The frames of rows that need no shift. False: one does, or its maximum is not finite. `alike`: whether the maxima lie
 * near each other. */
FSM_INLINE bool softmax_short_frames(const real *x, short_t s, beta_t beta, softmax_short_t *rows, bool *alike) {
    real max[LANES];
    maxima_of_short(x, s, max);
    real high = max[0], low = max[0];
    for (ptrdiff_t r = 0; r < LANES; r++) {
        high = max[r] > high ? max[r] : high;
        low = max[r] < low ? max[r] : low;
    }
    const exp_frame_t frame = exp_frame_of(vec_load(max), vec_set1(0), beta);
    vec_store(rows->magic, frame.magic);
    vec_store(rows->low, frame.low);
    rows->limit = high + GUESS_LOW / beta.hi;
    high *= beta.hi;
    low *= beta.hi;
    *alike = high - low < GUESS_LOW && in_direct_range(2 * high) && in_direct_range(2 * low);
    return in_direct_range(high) && in_direct_range(low);
}

/* Exponentials and sums. `same`: in the frame of row 0. False: the frame of some row does not do for it. */
FSM_INLINE bool softmax_short_sums(const real *x, short_t s, beta_t beta, bool same, softmax_short_t *rows) {
    real *e = rows->e;
    vec largest = vec_set1(-(real)INFINITY);
    exp_frame_t frame = {vec_set1(rows->magic[0]), vec_set1(rows->low[0]), vec_set1(0), beta};
    for (ptrdiff_t r = 0; r < s.rows; r += s.in_block, e += s.blocks * LANES) {
        if (!same) {
            frame.magic = spread_over_rows(rows->magic, s, r);
            frame.low = spread_over_rows(rows->low, s, r);
        }
        const vec zero = vec_set1(0);
        vec a[MAX_BLOCKS] = {zero, zero, zero, zero}, least = vec_set1(MIN_NORMAL), sum;
        FSM_EACH_BLOCK(k, s.blocks) {
            a[k] = load_short(x, s, r, k, -(real)INFINITY);
            largest = vec_max(largest, a[k]);
            least = vec_min(least, vec_abs(a[k]));
        }
        const bool special = beta.scaled || vec_any_lt(least, vec_set1(MIN_NORMAL));
        if (s.blocks == MAX_BLOCKS) {
            const real *from[MAX_BLOCKS];
            real *to[MAX_BLOCKS];
            FSM_UNROLL
            for (int k = 0; k < MAX_BLOCKS; k++) {
                to[k] = e + k * LANES;
                from[k] = x + r * s.n + k * LANES;
                if (count_in_block(s, k) < LANES) {
                    vec_store(to[k], a[k]);
                    from[k] = to[k];
                }
            }
            sum = exp_and_add(from, to, 4, &frame, special);
        } else {
            exp_blocks(a, s.blocks, &frame, special);
            FSM_EACH_BLOCK(k, s.blocks)
                vec_store(e + k * LANES, a[k]);
            sum = s.blocks == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
        }
        fold_short(vec_acc_of(sum), s, r, rows->hi, rows->lo);
    }
    int off = same && vec_any_lt(vec_set1(rows->limit), largest);
    for (ptrdiff_t i = 0; i < s.rows; i++)
        off |= !(rows->hi[i] > MIN_SUM);
    return !off;
}

/* The sums of the rows from `first` on, each in its own frame. */
FSM_OUTLINE bool softmax_short_apart(const batch_t *b, ptrdiff_t first, softmax_short_t *rows, bool *alike) {
    const real *x = element_at(b, FSM_X, first, 0);
    bool done;
    WITH_BLOCKS(b, {
        const short_t s = short_of(b, first, in_block, blocks);
        done = softmax_short_frames(x, s, b->beta, rows, alike) && softmax_short_sums(x, s, b->beta, false, rows);
    });
    return done;
}

/* The results, and where they belong. */
FSM_INLINE void softmax_write_short(const batch_t *b, ptrdiff_t first, short_t s, softmax_short_t *rows) {
    const real flush_below = (real)b->args->flush_below;
    const real *e = rows->e;
    real hi[LANES], lo[LANES];
    for (int i = 0; i < LANES; i++)
        sum_reciprocal((fsm_sum){rows->hi[i], rows->lo[i]}, 1, &hi[i], &lo[i]);
    real *results = short_results(b, first, s, rows->e);
    for (ptrdiff_t r = 0; r < s.rows; r += s.in_block, e += s.blocks * LANES) {
        const divisor_t divisor = {spread_over_rows(hi, s, r), spread_over_rows(lo, s, r)};
        FSM_EACH_BLOCK(k, s.blocks)
            store_short(results, s, r, k, quotient(vec_load(e + k * LANES), divisor));
    }
    if (flush_below > 0)
        flush_to_zero(results, s.rows * s.n, flush_below);
    store_short_results(b, first, s, results);
}

/* Rows of one array are mostly alike: if the maxima of LANES of them lie near each other, the next ones take their
 * frame, which spares them the maxima. No bit depends on that, as k changes none. LANES rows with one that needs more
 * than this are done row by row. */
FSM_INLINE void softmax_short(const batch_t *b, const int in_block, const int blocks) {
    softmax_short_t rows;
    bool alike = false;
    for (ptrdiff_t i = 0; i < LANES; i++) { /* also of rows that are not there, whose reciprocals are harmless */
        rows.hi[i] = 1;
        rows.lo[i] = 0;
    }
    for (ptrdiff_t r = 0; r < b->rows; r += LANES) {
        const short_t s = short_of(b, r, in_block, blocks);
        const real *x = element_at(b, FSM_X, r, 0);
        if ((alike && softmax_short_sums(x, s, b->beta, true, &rows)) || softmax_short_apart(b, r, &rows, &alike)) {
            softmax_write_short(b, r, s, &rows);
            continue;
        }
        const batch_t others = part_of_batch(b, r, s.rows);
        softmax_whole_rows(&others);
    }
}

static void softmax_short_rows(const batch_t *b) {
    WITH_SHAPE(b, softmax_short(b, in_block, blocks));
}

/* ---- long rows
 *
 * A row for which there is no room, or that threads share, a chunk at a time. The first pass keeps of each chunk the
 * sum relative to its own maximum, which is a power of two away from that relative to the row's; the second computes e
 * again. So x is read twice and y is written once, where three passes read or write it in memory five or six times. But
 * arithmetic is doubled; so where one thread is alone and y is contiguous, it keeps e there (softmax_long_kept). */

/* Chunks that are known at a time. */
#define SOFTMAX_CHUNKS 512

typedef struct {
    fsm_sum sum;
    real max, k;
    bool special, shifted;
} softmax_chunk_t;

/* What the first pass finds of a row. */
typedef struct {
    real max;
    double k;
    fsm_sum sum; /* relative to 2^k, or as the frame that was given has it */
    bool some;   /* finite sum has been met */
    bool special;
    bool shifted; /* some chunk would be, so the sum is not right without a frame */
} softmax_total_t;

typedef struct {
    segment_t segment;
    const exp_frame_t *frame; /* of all chunks; or NULL, then each has its own */
    softmax_chunk_t *chunks;
    softmax_total_t total;
} softmax_fold_t;

/* Chunk i of x, packed if need be, and the number of its elements. */
FSM_ALWAYS_INLINE const real *chunk_of_x(const batch_t *b, ptrdiff_t i, ptrdiff_t *count) {
    *count = chunk_length(b, i * FSM_CHUNK);
    if (b->x_contiguous)
        return element_at(b, FSM_X, 0, i * FSM_CHUNK);
    pack_x(b, i * FSM_CHUNK, *count);
    return b->scratch;
}

static void softmax_sum_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    const softmax_fold_t *fold = op;
    for (ptrdiff_t i = begin; i < end; i++) {
        softmax_chunk_t *chunk = &fold->chunks[i - fold->segment.first];
        ptrdiff_t count;
        const real *x = chunk_of_x(b, i, &count);
        softmax_plan_t plan = softmax_plan_of_row(range_of_row(x, count), b->beta);
        if (fold->frame)
            plan.frame = *fold->frame;
        real k[LANES];
        vec_store(k, exp_frame_k(&plan.frame));
        chunk->max = plan.row_max;
        chunk->k = k[0];
        chunk->special = plan.special;
        chunk->shifted = isfinite(plan.row_max) && !in_direct_range(plan.row_max * b->beta.hi);
        chunk->sum = plan.special || fold->frame ? sum_exp_special(x, NULL, count, -1, NULL, &plan.frame)
                                                 : sum_exp(x, count, -1, NULL, &plan.frame);
    }
}

static void softmax_join_chunk(const batch_t *b, void *op, ptrdiff_t i) {
    softmax_fold_t *fold = op;
    softmax_total_t *total = &fold->total;
    const softmax_chunk_t *chunk = &fold->chunks[i];
    (void)b;
    total->special |= chunk->special;
    total->shifted |= chunk->shifted;
    total->max = chunk->max > total->max ? chunk->max : total->max;
    if (chunk->sum.hi == 0) /* of -inf alone, or too small to count */
        return;
    const double k = total->some && chunk->k < total->k ? total->k : chunk->k;
    if (total->some)
        total->sum = scaled(total->sum, power_of_two(total->k - k));
    total->sum = sum_merge(total->sum, scaled(chunk->sum, power_of_two(chunk->k - k)));
    total->k = k;
    total->some = true;
}

static softmax_total_t softmax_long_sum(const batch_t *b, const exp_frame_t *frame) {
    softmax_chunk_t chunks[SOFTMAX_CHUNKS];
    softmax_fold_t fold = {{0}, frame, chunks, {.max = -(real)INFINITY}};
    fold_chunks(b, softmax_sum_chunks, &fold.segment, SOFTMAX_CHUNKS, softmax_join_chunk);
    return fold.total;
}

/* The second pass. */
static void softmax_write_chunk(const batch_t *b, const void *op, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count,
                                const real *x, real *y) {
    const scaled_row_t row = {x, x, op, SCALED};
    const real flush_below = (real)b->args->flush_below;
    (void)r, (void)c;
    scaled_results(&row, 0, count, y, false);
    if (flush_below > 0)
        flush_to_zero(y, count, flush_below);
}

static void softmax_write_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    write_rows(b, op, begin, end, softmax_write_chunk);
}

static void softmax_long_row(const batch_t *b) {
    softmax_total_t total = softmax_long_sum(b, NULL);
    const bool finite = isfinite(total.max);
    const vec max = vec_set1(finite ? total.max : 0);
    const exp_frame_t frame = exp_frame_of(max, shift_of(max, b->beta), b->beta);
    if (finite && total.shifted)
        total = softmax_long_sum(b, &frame);
    if (!finite || isnan(total.sum.hi)) {
        fill_special_row(b, 0, total.max == -(real)INFINITY && !isnan(total.sum.hi), 0);
        return;
    }
    scaled_terms_t terms = {
        .frame = frame,
        .divisor = softmax_divisor(total.sum),
        .unit = vec_set1(Y_UNIT),
        .off = vec_set1(Y_UNIT),
        .special = total.special,
    };
    parallel_chunks(b, softmax_write_chunks, &terms, 0, chunks_in_row(b));
}

/* One pass over x that leaves e in y, relative to the largest element of the first chunk, and a second one over y, on
 * one thread. False, and x is as it was: that guess is off by too much, or the row is special. */
static bool softmax_long_kept(const batch_t *b) {
    const ptrdiff_t chunks = chunks_in_row(b);
    real *y = element_at(b, FSM_Y, 0, 0);
    softmax_plan_t first;
    vec limit = vec_set1(0);
    fsm_sum sum = {0, 0};
    ptrdiff_t looked_at = 0;
    bool searched = true;
    for (ptrdiff_t c = 0; c < chunks; c++) {
        ptrdiff_t count;
        const real *x = chunk_of_x(b, c, &count);
        real *e = y + c * FSM_CHUNK;
        fsm_sum of_chunk;
        if (searched) {
            const softmax_plan_t plan = softmax_plan_of_row(range_of_row(x, count), b->beta);
            if (c == 0) {
                first = plan;
                limit = max_x(&first.frame, MAX_ABOVE_RAISED);
                searched = !may_be_guessed(&first);
            }
            const real max = plan.row_max > first.row_max ? plan.row_max : first.row_max;
            if (!in_direct_range(max * b->beta.hi) || !((max - first.row_max) * b->beta.hi <= GUESS_HIGH))
                return false;
            of_chunk = plan.special ? sum_exp_special(x, e, count, -1, NULL, &first.frame)
                                    : sum_exp_kept(x, e, count, -1, NULL, &first.frame);
        } else {
            of_chunk = sum_exp_limited(x, e, count, &first.frame, limit);
            searched = has_subnormal_at(x, count, &looked_at);
            if (!(of_chunk.hi < E_FACTOR * fsm_two_to(MAX_ABOVE_RAISED - 1)))
                return false;
        }
        sum = sum_merge(sum, of_chunk);
    }
    if (isnan(sum.hi))
        return false;
    quotients_raised(y, b->n, sum);
    if (b->args->flush_below > 0)
        flush_to_zero(y, b->n, (real)b->args->flush_below);
    return true;
}

/* Shorter rows are as fast, or faster, in three passes. */
#define KEEP_FROM (4 * FSM_CHUNK)

static void softmax_rows(const batch_t *b) {
    const bool shared = b->args->helpers > 0;
    const bool kept = b->y_contiguous && b->row.at[FSM_Y] != b->row.at[FSM_X] && b->n > KEEP_FROM;
    const bool whole = (b->x_contiguous && b->y_contiguous) || b->packed;
    if (!shared && !kept && whole) {
        softmax_whole_rows(b);
        return;
    }
    for (ptrdiff_t r = 0; r < b->rows; r++) {
        batch_t row = part_of_batch(b, r, 1);
        row.packed = false;
        row.pitch = FSM_CHUNK;
        if (!kept || shared || !softmax_long_kept(&row))
            softmax_long_row(&row);
    }
}

/* ---- panels
 *
 * One pass over x, a quad at a time, finds the maximum, e and the sum: e is relative to the largest element of the
 * row's first quad, which may be off by GUESS_HIGH without harm. If it is off by more, the batch starts again, with a
 * pass for the maximum alone ahead (a rescan); and so do the batches after it, until that pass finds that their guesses
 * would have done. No bit depends on any of that, as k changes none.
 *
 * e stays in the scratch if there is room for it, else it is computed again. */

typedef struct {
    range_t range; /* of what has been read */
    vec guess;     /* the largest of the first quad, or 0 */
    softmax_plan_t plan;
    divisor_t divisor;
    vec least; /* e below this give 0 */
} softmax_panel_t;

typedef struct {
    quads_t quads; /* x; y: where e is kept */
    softmax_panel_t *panels;
    vec_acc *lanes;
    beta_t beta;
    bool keeps;     /* e, in the scratch */
    bool rescanned; /* the ranges are known */
    real flush_below;
} softmax_pass_t;

/* The ranges of a quad join those of the panels; `first`: nothing has been read before. */
static void softmax_scan(const batch_t *b, softmax_panel_t *panels, panel_quad_t x, bool first) {
    for (int t = 0; first && t < b->panels; t++)
        panels[t].range = range_of(vec_load(block_at(x, t, 0)));
    for (ptrdiff_t i = 0; i < x.count; i += 4)
        for (int t = 0; t < b->panels; t++) {
            range_t range = panels[t].range;
            for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++)
                range = range_join(range, range_of(vec_load(block_at(x, t, k))));
            panels[t].range = range;
        }
    for (int t = 0; first && t < b->panels; t++)
        panels[t].guess = finite_or(panels[t].range.max, vec_set1(0));
}

/* Whether the maxima of all that has been read are near the guesses. What is not finite has no sum, whatever k is. */
static bool softmax_guessed(const batch_t *b, const softmax_panel_t *panels) {
    bool off = false;
    for (int t = 0; t < b->panels; t++) {
        const vec scale = vec_set1(b->beta.hi), max = finite_or(panels[t].range.max, panels[t].guess);
        const vec above = vec_mul(vec_sub(max, panels[t].guess), scale);
        off |= vec_any_lt(vec_set1(GUESS_HIGH), above) || vec_any_lt(above, vec_set1(-GUESS_LOW)) ||
               vec_any_lt(vec_set1(DIRECT / 2), vec_abs(vec_mul(max, scale)));
    }
    return !off;
}

/* The first pass of a rescan: the maxima alone. */
static void softmax_rescan(const batch_t *b, softmax_panel_t *panels) {
    for (ptrdiff_t c = 0; c < b->n; c += QUAD)
        softmax_scan(b, panels, quad_of_x(b, c, fsm_min(b->n - c, QUAD), false), c == 0);
    *b->rescan = !softmax_guessed(b, panels);
    for (int t = 0; t < b->panels; t++)
        panels[t].plan = softmax_plan_of_panel(panels[t].range, b->beta);
}

static void softmax_load_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    softmax_pass_t *pass = op;
    pass->quads.x = quad_of_x(b, begin, count, pass->rescanned);
    pass->quads.y = pass->keeps ? quad_in_scratch(b, begin, count) : pass->quads.x;
    if (begin == 0 && !pass->rescanned) {
        softmax_scan(b, pass->panels, pass->quads.x, true);
        for (int t = 0; t < b->panels; t++)
            pass->panels[t].plan = softmax_plan_of_panel(pass->panels[t].range, b->beta);
    }
}

/* Exponentials of `count` <= 4, a constant, blocks of a panel, to `e` unless that is NULL, which may be x; returns
 * their sums of four. The range of x joins that of the panel. */
FSM_INLINE vec softmax_terms(softmax_panel_t *panel, const real *const *x, real *const *e, const int count) {
    range_t range = range_of(vec_load(x[0]));
    FSM_EACH_BLOCK(k, count - 1)
        range = range_join(range, range_of(vec_load(x[k + 1])));
    panel->range = range_join(panel->range, range);
    return exp_and_add(x, e, count, &panel->plan.frame, panel->plan.special || range_has_subnormal(range));
}

/* One block. */
FSM_OUTLINE vec softmax_term(softmax_panel_t *panel, const real *x, real *e) {
    return softmax_terms(panel, &x, e ? &e : NULL, 1);
}

FSM_INLINE void softmax_add_lane(void *op, int t, ptrdiff_t i, bool all) {
    softmax_pass_t *pass = op;
    softmax_panel_t *panel = &pass->panels[t];
    vec_acc *lane = &pass->lanes[t * LANES + i];
    const panel_quad_t x = pass->quads.x, e = pass->quads.y;
    const real *from[4];
    real *to[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        from[step] = block_at(x, t, i + step * LANES);
        to[step] = block_at(e, t, i + step * LANES);
    }
    if (all) {
        *lane = vec_acc_add(*lane, softmax_terms(panel, from, pass->keeps ? to : NULL, 4));
        return;
    }
    vec s[4];
    for (int step = 0; step < 4; step++) {
        s[step] = vec_set1(0);
        if (i + step * LANES < x.count)
            s[step] = softmax_term(panel, from[step], pass->keeps ? to[step] : NULL);
    }
    *lane = vec_acc_add(*lane, add_four(s[0], s[1], s[2], s[3]));
}

static bool softmax_check_quad(const batch_t *b, void *op) {
    const softmax_pass_t *pass = op;
    return pass->rescanned || softmax_guessed(b, pass->panels);
}

/* The pass for the sums, and for e if there is room. False: a guess was off by too much. */
static bool softmax_sum_panels(const batch_t *b, softmax_pass_t *pass, vec_acc *sums) {
    return sum_panels(b, pass, &pass->quads, 1, pass->lanes, sums, softmax_load_quad, softmax_add_lane,
                      softmax_check_quad);
}

/* The e that gives 0 for certain: 2^-172 of the power of two of the maximum, or of the guess if that is larger. Those
 * that are smaller, as the maximum is larger than the guess, might become subnormal in a product with 1/S. */
static vec softmax_least(vec max, const exp_frame_t *guess, beta_t beta) {
    const vec finite = finite_or(max, vec_set1(0));
    const exp_frame_t frame = exp_frame_of(finite, shift_of(finite, beta), beta);
    const vec above = vec_sub(exp_frame_k(&frame), exp_frame_k(guess));
    return vec_mul(vec_set1(EXP_SCALE), vec_pow2(vec_add(vec_set1(ROUND_TO_INT + 1), vec_max(above, vec_set1(0)))));
}

/* The last pass, from e or from x. */
static void softmax_load_last_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    softmax_pass_t *pass = op;
    pass->quads.x = pass->keeps ? quad_in_scratch(b, begin, count) : quad_of_x(b, begin, count, false);
}

FSM_INLINE void softmax_write_blocks(const void *op, int t, ptrdiff_t i, const int count) {
    const softmax_pass_t *pass = op;
    softmax_panel_t *panel = &pass->panels[t];
    const real *e[4];
    real *to[4];
    FSM_UNROLL
    for (int k = 0; k < 4; k++) { /* some of which may not be there */
        e[k] = block_at(pass->quads.x, t, i + k);
        to[k] = block_at(pass->quads.y, t, i + k);
    }
    if (!pass->keeps && count == 4)
        softmax_terms(panel, e, to, 4);
    else if (!pass->keeps)
        softmax_term(panel, e[0], to[0]);
    FSM_EACH_BLOCK(k, count) {
        const vec a = vec_max(vec_load(pass->keeps ? e[k] : to[k]), panel->least);
        vec y = quotient(a, panel->divisor);
        if (pass->flush_below > 0)
            y = vec_select_lt(y, vec_set1(pass->flush_below), vec_set1(0), y);
        vec_store(to[k], y);
    }
}

/* Short panels: the maximum is known when the first exponential is computed, and the sum is folded from e itself. The
 * panels of a batch are taken a step at a time, as short rows are (short_rows.h). */
static void softmax_short_panels(const batch_t *b) {
    const ptrdiff_t n = b->n;
    const real flush_below = (real)b->args->flush_below;
    const bool where_they_belong = lies_in_panels(b, FSM_Y);
    const panel_quad_t x = quad_of_x(b, 0, n, false), e = quad_in_scratch(b, 0, n);
    const panel_quad_t y = where_they_belong ? quad_where_it_lies(b, FSM_Y, 0, n) : e;
    softmax_plan_t plans[MAX_PANELS];
    vec max[MAX_PANELS];
    divisor_t divisors[MAX_PANELS];
    for (int t = 0; t < b->panels; t++) {
        range_t range = range_of(vec_load(block_at(x, t, 0)));
        for (ptrdiff_t i = 1; i < n; i++)
            range = range_join(range, range_of(vec_load(block_at(x, t, i))));
        max[t] = range.max;
        plans[t] = softmax_plan_of_panel(range, b->beta);
        plans[t].special |= range_has_subnormal(range);
    }
    for (int t = 0; t < b->panels; t++)
        exp_short_panel(x, e, t, &plans[t].frame, plans[t].special);
    bool special = false;
    for (int t = 0; t < b->panels; t++) {
        const vec zero = vec_set1(0), one = vec_set1(1);
        divisors[t] = softmax_divisors(sum_short_panel(e, t, NULL));
        const vec odd = vec_mul(zero, vec_add(max[t], divisors[t].hi)); /* NaN where a row is special */
        special |= vec_any_lt(zero, vec_select_lt(odd, one, zero, one));
    }
    for (int t = 0; t < b->panels; t++)
        for (ptrdiff_t i = 0; i < n; i++)
            vec_store(block_at(y, t, i), quotient(vec_load(block_at(e, t, i)), divisors[t]));
    for (int t = 0; flush_below > 0 && t < b->panels; t++)
        for (ptrdiff_t i = 0; i < n; i++)
            flush_to_zero(block_at(y, t, i), LANES, flush_below);
    if (!where_they_belong)
        store_results(b, 0, n);
    for (int t = 0; special && t < b->panels; t++) {
        real largest[LANES], hi[LANES];
        vec_store(largest, max[t]);
        vec_store(hi, divisors[t].hi);
        for (int j = 0; j < rows_in_panel(b, t); j++)
            if (isnan(hi[j]) || !isfinite(largest[j]))
                fill_special_row(b, t * LANES + j, largest[j] == -(real)INFINITY && !isnan(hi[j]), 0);
    }
}

static void softmax_panels(const batch_t *b) {
    if (b->packed && b->n <= LANES) {
        softmax_short_panels(b);
        return;
    }
    softmax_panel_t panels[MAX_PANELS];
    vec_acc sums[MAX_PANELS];
    softmax_pass_t pass = {
        .panels = panels,
        .lanes = lanes_of(b),
        .beta = b->beta,
        .keeps = b->packed,
        .flush_below = (real)b->args->flush_below,
    };
    if (*b->rescan || !softmax_sum_panels(b, &pass, sums)) {
        softmax_rescan(b, panels);
        pass.rescanned = true;
        softmax_sum_panels(b, &pass, sums);
    }
    for (int t = 0; t < b->panels; t++) {
        panels[t].divisor = softmax_divisors(sums[t]);
        panels[t].least = softmax_least(panels[t].range.max, &panels[t].plan.frame, b->beta);
    }
    write_panels(b, &pass, &pass.quads, NULL, softmax_load_last_quad, softmax_write_blocks);
    for (int t = 0; t < b->panels; t++) {
        double sum[LANES], unused[LANES];
        real max[LANES];
        vec_acc_get(sums[t], sum, unused);
        vec_store(max, panels[t].range.max);
        for (int j = 0; j < rows_in_panel(b, t); j++)
            if (isnan(sum[j]) || !isfinite(max[j]))
                fill_special_row(b, t * LANES + j, max[j] == -(real)INFINITY && !isnan(sum[j]), 0);
    }
}

static void softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = {
        .rows = softmax_rows,
        .panels = softmax_panels,
        .short_rows = IF_PARTS_PAY(softmax_short_rows),
        .operands = BIT(FSM_X) | BIT(FSM_Y),
        .transposes = true,
        .packs_rows = true,
        .room = LANES_AT,
        .max_panels = MAX_PANELS,
        .max_rows = PTRDIFF_MAX,
    };
    each_batch(args, begin, end, scratch, &plan);
}

#endif
