/* softmax: y = exp(x) / sum(exp(x)).
 *
 * Three sweeps over a row: the maximum of x, unless that can be guessed; e = exp(x), kept in y or in the scratch, and
 * the sum; y = e/S. Short rows, long rows and columns: see there. A row whose sum is NaN, or whose maximum is infinite
 * (all -inf, or a +inf), is special: fill_row(). */
#ifndef FSM_KERNELS_SOFTMAX_H
#define FSM_KERNELS_SOFTMAX_H

#include "log_family.h"
#include "shares.h"
#include "short_rows.h"

#define SOFTMAX_TILES FSM_MOST_STRIPS

/* Numbers in the scratch; the rest of it is for the lanes of tiles of columns. */
#define SOFTMAX_ROOM (SCRATCH_ROOM - (ptrdiff_t)(SOFTMAX_TILES * LANES * sizeof(vec_acc) / sizeof(real)))
_Static_assert(SOFTMAX_ROOM * sizeof(real) % 64 == 0, "lanes are aligned");

/* What the first sweep finds: the frame of the exponentials, and whether they need care (in columns, but for subnormal
 * x). */
typedef struct {
    real row_max; /* of a row */
    exp_frame_t frame;
    bool careful;
} softmax_plan_t;

/* Of -inf alone the sum is 0, unless a NaN is there too: its frame is that of 0. */
FSM_INLINE softmax_plan_t softmax_plan_of(range_t range, beta_t beta, bool columns) {
    const bool scaled = beta.scaled;
    if (!columns) {
        const real max = vec_hmax(range.max), finite_max = isfinite(max) ? max : 0;
        const real shift = in_direct_range(finite_max * beta.hi) ? 0 : finite_max;
        return (softmax_plan_t){max, exp_frame_of(vec_set1(finite_max), vec_set1(shift), beta),
                                  scaled || shift != 0 || range_has_subnormal(range)};
    }
    const vec zero = vec_set1(0), max = finite_or(range.max, zero);
    const vec shift = shift_of(max, beta);
    return (softmax_plan_t){0, exp_frame_of(max, shift, beta), scaled || vec_any_lt(zero, vec_abs(shift))};
}

/* What e is multiplied by. */
FSM_INLINE divisor_t softmax_divisor(fsm_sum sum) {
    real hi, lo;
    sum_reciprocal(sum, 1, &hi, &lo);
    return (divisor_t){vec_set1(hi), vec_set1(lo)};
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
#define MOST_ABOVE        20
#define MOST_ABOVE_RAISED 58

/* The least sum that a guess may give: of rows whose maximum is about GUESS_LOW below it, or more. */
#define LEAST_SUM (E_FACTOR * (real)0x1p-16)

/* The x whose e is 2^above times 2^k. Larger x become this one, and so may a NaN: the sum is then above E_FACTOR *
 * 2^(above - 1), where a half is left for the rounding of x. */
FSM_INLINE vec most_x(const exp_frame_t *frame, real above) {
    return vec_add(frame->low, vec_set1((LOWEST + above) * LN2));
}

/* Whether a guess may be near: at twice the maximum rows would still need no shift. */
FSM_INLINE bool may_be_guessed(const softmax_plan_t *plan) {
    return !plan->careful && in_direct_range(2 * plan->row_max);
}

/* Whether an element of the block from x[at] on, of n elements, is subnormal, or 0; moves `at` on to the next block.
 * Those cost nothing but time, so rows, or chunks, that take a guess are not searched for them, but one block of each
 * is looked at, afterwards, when it is in L1: ahead of the sweep it would be waited for. */
FSM_INLINE bool has_subnormal_at(const real *x, ptrdiff_t n, ptrdiff_t *at) {
    const ptrdiff_t begin = *at < n ? *at : 0;
    *at = begin + LANES;
    return vec_any_lt(vec_abs(load_rest(x + begin, n - begin, 1)), vec_set1(MIN_NORMAL));
}

/* ---- rows that lie ready, or are in the scratch */

typedef struct {
    const real *e;
    divisor_t divisor;
} softmax_quotient_t;

FSM_INLINE void softmax_results(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const softmax_quotient_t *quotient = of;
    quotients(quotient->e + begin, to, count, quotient->divisor, NULL, stream);
}

/* The sum of row r, whose e go to `e`, which may be x. `most`, of a plan that is not careful: see most_x(). Rows of
 * several chunks that have to be loaded are asked for ahead: (128, 32000) float16 takes 0.35 ns an element instead of
 * 0.48 (AVX-512, Zen 5). */
FSM_INLINE fsm_sum softmax_row_sum(const group_t *g, ptrdiff_t r, const real *x, real *e,
                                       const softmax_plan_t *plan, const vec *most) {
    const ptrdiff_t n = g->args->n;
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (n > FSM_CHUNK && !g->x_ready)
            prefetch_row(g, r + 1, c, count);
        const fsm_sum chunk = plan->careful
                                  ? sum_row(x + c, e + c, count, -1, NULL, &plan->frame, CAREFUL)
                                  : sum_row_body(x + c, e + c, count, -1, NULL, plan->frame, PLAIN, most);
        sum = sum_merge(sum, chunk);
    }
    return sum;
}

/* So many rows in turn have a maximum that near that of the row before; the next ones then take a guess. */
#define ALIKE_WITHIN 2
#define ALIKE_ROWS   2

/* Rows of one array are mostly alike. Once they are, a row takes the k of the last one whose maximum was searched for.
 * The search takes time, most of it where x comes from memory, since that has nothing to do while the arithmetic goes
 * on: without, (1024, 1024) float32 takes 0.8 times as long, (16384, 1024) 0.75 times (AVX2, Zen 3).
 *
 * Rows of one chunk that are searched are looked at one ahead: the first sweep of the next fills the time that the end
 * of a sum and the division take, and brings the row into L1. (64, 1000) float32 took 0.22 ns an element instead of
 * 0.25 when all were (AVX-512, Zen 5). */
static void softmax_whole_rows(const group_t *g) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const char *x = g->x_ready ? g->row.at[FSM_X] : (char *)g->scratch;
    char *y = g->y_ready ? g->row.at[FSM_Y] : (char *)g->scratch;
    const ptrdiff_t pitch = g->pitch * (ptrdiff_t)sizeof(real);
    const ptrdiff_t x_stride = g->x_ready ? args->operands[FSM_X].across : pitch;
    const ptrdiff_t y_stride = g->y_ready ? args->operands[FSM_Y].across : pitch;
    stream_t *stream = n <= FSM_CHUNK && args->flush_below == 0 ? stream_of(g) : NULL;
    char special[LANES] = {0}; /* of rows that are stored later: 1: NaN, 2: all -inf */
    softmax_plan_t plan, next;
    double last = NAN;       /* plan.row_max */
    ptrdiff_t searched = -1; /* the row that `next` is of */
    ptrdiff_t looked_at = 0;
    int alike = 0;
    if (!g->x_ready)
        load_group(g, 0, n);
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        const real *row_x = (const real *)(x + r * x_stride);
        real *row_y = (real *)(y + r * y_stride);
        real *e = !stream ? row_y : g->x_ready ? g->scratch + within_line(row_y) : (real *)row_x;
        const bool guess = alike >= ALIKE_ROWS;
        fsm_sum sum = {0, 0};
        if (guess) {
            const vec most = most_x(&plan.frame, MOST_ABOVE);
            sum = softmax_row_sum(g, r, row_x, e, &plan, &most);
            if (has_subnormal_at(row_x, n, &looked_at))
                alike = 0;
        }
        if (!(sum.hi > LEAST_SUM && sum.hi < E_FACTOR * fsm_two_to(MOST_ABOVE - 1))) {
            if (searched < r)
                next = softmax_plan_of(range_row(row_x, n, NULL), g->beta, false);
            const bool near = may_be_guessed(&next) && fabs(next.row_max - last) < ALIKE_WITHIN;
            alike = guess || !near || e == row_x ? 0 : alike + 1;
            plan = next;
            last = plan.row_max;
            sum = softmax_row_sum(g, r, row_x, e, &plan, NULL);
            if (n <= FSM_CHUNK && alike < ALIKE_ROWS && r + 1 < g->rows) {
                next =
                    softmax_plan_of(range_row((const real *)(x + (r + 1) * x_stride), n, NULL), g->beta, false);
                searched = r + 1;
            }
            if (!isfinite(plan.row_max) || isnan(sum.hi)) {
                const bool all_neg_inf = plan.row_max == -(real)INFINITY && !isnan(sum.hi);
                if (g->y_ready)
                    fill_row(g, r, all_neg_inf, 0);
                else
                    special[r] = all_neg_inf ? 2 : 1;
                continue;
            }
        }
        const softmax_quotient_t quotient = {e, softmax_divisor(sum)};
        write_row(stream, row_y, n, softmax_results, &quotient);
        if (args->flush_below > 0)
            flush_chunk(row_y, n, (real)args->flush_below);
    }
    if (g->y_ready)
        return;
    store_group(g, 0, n);
    for (ptrdiff_t r = 0; r < g->rows; r++)
        if (special[r])
            fill_row(g, r, special[r] == 2, 0);
}

/* The e that gives 0 for certain: 2^-172 of the power of two of the maximum, or of the guess if that is larger. Those
 * that are smaller, as the maximum is larger than the guess, might become subnormal in a product with 1/S. */
FSM_INLINE vec softmax_least(vec max, const exp_frame_t *guess, beta_t beta) {
    const vec finite = finite_or(max, vec_set1(0));
    const exp_frame_t frame = exp_frame_of(finite, shift_of(finite, beta), beta);
    const vec above = vec_sub(exp_frame_k(&frame), exp_frame_k(guess));
    return vec_mul(vec_set1(EXP_SCALE), vec_pow2(vec_add(vec_set1(ROUND_TO_INT + 1), vec_max(above, vec_set1(0)))));
}

/* ---- short rows */

/* Of a batch. */
typedef struct {
    real limit;                    /* larger x are too far above what e is relative to */
    real magic[LANES], low[LANES]; /* the frames of the exponentials */
    double hi[LANES], lo[LANES];   /* sums */
    real e[BATCH_ROOM];            /* then the results */
} short_terms_t;

/* The frames of rows that need no shift. False: one does, or its maximum is not finite. `alike`: whether the maxima lie
 * near each other. */
FSM_INLINE bool softmax_frames(const real *x, batch_t batch, beta_t beta, short_terms_t *terms,
                                   bool *alike) {
    real max[LANES];
    batch_maxima(x, batch, max);
    real high = max[0], low = max[0];
    for (ptrdiff_t r = 0; r < LANES; r++) {
        high = max[r] > high ? max[r] : high;
        low = max[r] < low ? max[r] : low;
    }
    const exp_frame_t frame = exp_frame_of(vec_load(max), vec_set1(0), beta);
    vec_store(terms->magic, frame.magic);
    vec_store(terms->low, frame.low);
    terms->limit = high + GUESS_LOW / beta.hi;
    high *= beta.hi;
    low *= beta.hi;
    *alike = high - low < GUESS_LOW && in_direct_range(2 * high) && in_direct_range(2 * low);
    return in_direct_range(high) && in_direct_range(low);
}

/* Exponentials and sums. `same`: in the frame of row 0. False: the frame of some row does not do for it. */
FSM_INLINE bool softmax_short_terms(const real *x, batch_t batch, beta_t beta, const bool same,
                                        short_terms_t *terms) {
    real *e = terms->e;
    vec most = vec_set1(-(real)INFINITY);
    exp_frame_t frame = {vec_set1(terms->magic[0]), vec_set1(terms->low[0]), vec_set1(0), beta};
    for (ptrdiff_t r = 0; r < batch.rows; r += batch.parts, e += batch.blocks * LANES) {
        if (!same) {
            frame.magic = vec_set_parts(terms->magic + r, batch.parts);
            frame.low = vec_set_parts(terms->low + r, batch.parts);
        }
        const vec zero = vec_set1(0);
        vec a[FSM_MOST_BLOCKS] = {zero, zero, zero, zero}, least = vec_set1(MIN_NORMAL), sum;
        FSM_EACH_BLOCK(k, batch.blocks) {
            a[k] = load_short_block(x, batch, r, k, -(real)INFINITY);
            most = same ? vec_max(most, a[k]) : most;
            least = vec_min(least, vec_abs(a[k]));
        }
        const bool careful = beta.scaled || vec_any_lt(least, vec_set1(MIN_NORMAL));
        if (batch.blocks == FSM_MOST_BLOCKS) { /* two blocks, this way, take 1.05 times as long (AVX2, Zen 3) */
            const real *from[FSM_MOST_BLOCKS];
            real *to[FSM_MOST_BLOCKS];
            FSM_UNROLL
            for (int k = 0; k < FSM_MOST_BLOCKS; k++) {
                to[k] = e + k * LANES;
                from[k] = x + r * batch.n + k * LANES;
                if (count_in_block(batch, k) < LANES) {
                    vec_store(to[k], a[k]);
                    from[k] = to[k];
                }
            }
            sum = exp_and_add(from, to, 4, &frame, careful);
        } else {
            exp_blocks(a, batch.blocks, &frame, careful);
            FSM_EACH_BLOCK(k, batch.blocks)
                vec_store(e + k * LANES, a[k]);
            sum = batch.blocks == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
        }
        vec_acc_fold_parts(vec_acc_of(sum), batch.parts, terms->hi + r, terms->lo + r);
    }
    int off = vec_any_lt(vec_set1(terms->limit), most);
    for (ptrdiff_t i = 0; i < batch.rows; i++)
        off |= !(terms->hi[i] > LEAST_SUM);
    return !off;
}

/* The results, and where they belong. */
FSM_INLINE void softmax_short_results(const group_t *g, ptrdiff_t first, batch_t batch,
                                          short_terms_t *terms) {
    const real flush_below = (real)g->args->flush_below;
    const real *e = terms->e;
    real hi[LANES], lo[LANES];
    for (int i = 0; i < LANES; i++)
        sum_reciprocal((fsm_sum){terms->hi[i], terms->lo[i]}, 1, &hi[i], &lo[i]);
    real *results = batch_results(g, first, batch, terms->e);
    for (ptrdiff_t r = 0; r < batch.rows; r += batch.parts, e += batch.blocks * LANES) {
        const divisor_t divisor = {vec_set_parts(hi + r, batch.parts), vec_set_parts(lo + r, batch.parts)};
        FSM_EACH_BLOCK(k, batch.blocks) {
            const vec a = quotient(vec_load(e + k * LANES), divisor);
            store_short_block(results, batch, r, k, a);
        }
    }
    if (flush_below > 0)
        flush_chunk(results, batch.rows * batch.n, flush_below);
    store_batch(g, first, batch, results);
}

/* Rows of one array are mostly alike: if the maxima of a batch lie near each other, the next batch takes its frame,
 * which spares it the maxima. No bit depends on that, as k changes none. A batch with a row that needs more than this
 * is done row by row. */
FSM_INLINE void softmax_batches(const group_t *g, const int parts, const int blocks) {
    short_terms_t terms;
    bool alike = false;
    for (ptrdiff_t i = 0; i < LANES; i++) { /* also of rows that are not there, whose reciprocals are harmless */
        terms.hi[i] = 1;
        terms.lo[i] = 0;
    }
    for (ptrdiff_t r = 0; r < g->rows; r += LANES) {
        const batch_t batch = batch_of(g, r, parts, blocks);
        const real *x = element_at(g, FSM_X, r, 0);
        if ((alike && softmax_short_terms(x, batch, g->beta, true, &terms)) ||
            (softmax_frames(x, batch, g->beta, &terms, &alike) &&
             softmax_short_terms(x, batch, g->beta, false, &terms))) {
            softmax_short_results(g, r, batch, &terms);
            continue;
        }
        const group_t others = part_of_group(g, r, batch.rows);
        softmax_whole_rows(&others);
    }
}

static void softmax_short_rows(const group_t *g) {
    WITH_PARTS(g, softmax_batches(g, parts, blocks));
}

/* ---- long rows
 *
 * A row for which there is no room, or that threads share, a chunk at a time. The first sweep keeps of each chunk the
 * sum relative to its own maximum, which is a power of two away from that relative to the row's; the second computes e
 * again. So x is read twice and y is written once, where three sweeps read or write it in memory five or six times. But
 * arithmetic is doubled: where y stays in the cache, one thread takes 0.50 ns an element of 1,000,000 float32, and 0.33
 * with three sweeps, past the caches, of 16,000,000, 0.61 and 0.65; so if it is alone and y lies ready, it keeps e
 * there (softmax_long_kept). To go backwards in the second sweep, or to ask for chunks ahead, costs up to half as much
 * again (AVX-512, Zen 4). */

/* Chunks between two merges; what is known of them lies on the stack. */
#define SEGMENT 512

/* Of a chunk. */
typedef struct {
    fsm_sum sum;
    real max, k;
    bool careful, shifted;
} softmax_part_t;

/* The first sweep of a segment, or the second of all. */
typedef struct {
    ptrdiff_t first; /* chunk of the segment */
    softmax_part_t *parts;
    const exp_frame_t *frame; /* of all chunks; or NULL, then each has its own */
    const share_terms_t *terms;
} softmax_long_t;

/* Chunk i of x, loaded if need be, and the number of its elements. */
FSM_INLINE_ const real *long_chunk(const group_t *g, ptrdiff_t i, ptrdiff_t *count) {
    const ptrdiff_t begin = i * FSM_CHUNK, left = g->args->n - begin;
    *count = left < FSM_CHUNK ? left : FSM_CHUNK;
    if (g->x_ready)
        return element_at(g, FSM_X, 0, begin);
    load_group(g, begin, *count);
    return g->scratch;
}

static void softmax_part_sums(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    const softmax_long_t *sweep = of;
    for (ptrdiff_t i = begin; i < end; i++) {
        softmax_part_t *part = &sweep->parts[i - sweep->first];
        ptrdiff_t count;
        const real *x = long_chunk(g, i, &count);
        softmax_plan_t plan = softmax_plan_of(range_row(x, count, NULL), g->beta, false);
        if (sweep->frame)
            plan.frame = *sweep->frame;
        real k[LANES];
        vec_store(k, exp_frame_k(&plan.frame));
        part->max = plan.row_max;
        part->k = k[0];
        part->careful = plan.careful;
        part->shifted = isfinite(plan.row_max) && !in_direct_range(plan.row_max * g->beta.hi);
        part->sum = plan.careful || sweep->frame
                        ? sum_row(x, NULL, count, -1, NULL, &plan.frame, CAREFUL)
                        : sum_row_body(x, NULL, count, -1, NULL, plan.frame, PLAIN, NULL);
    }
}

static void softmax_part_results(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    const softmax_long_t *sweep = of;
    const real flush_below = (real)g->args->flush_below;
    for (ptrdiff_t i = begin; i < end; i++) {
        ptrdiff_t count;
        const real *x = long_chunk(g, i, &count);
        real *y = g->y_ready ? element_at(g, FSM_Y, 0, i * FSM_CHUNK) : g->scratch;
        const share_row_t row = {x, x, sweep->terms, SHARES};
        write_row(flush_below == 0 ? stream_of(g) : NULL, y, count, share_results, &row);
        if (flush_below > 0)
            flush_chunk(y, count, flush_below);
        if (!g->y_ready)
            store_group(g, i * FSM_CHUNK, count);
    }
}

/* What the first sweep finds of a row. */
typedef struct {
    real max;
    double k;
    fsm_sum sum; /* relative to 2^k, or as the frame that was given has it */
    bool careful;
    bool shifted; /* some chunk would be, so the sum is not right without a frame */
} softmax_total_t;

/* The first sweep. */
static softmax_total_t softmax_long_sum(const group_t *g, const exp_frame_t *frame) {
    const ptrdiff_t chunks = chunks_of(g);
    softmax_part_t parts[SEGMENT];
    softmax_total_t total = {-(real)INFINITY, 0, {0, 0}, false, false};
    bool some = false; /* of what is finite */
    for (ptrdiff_t begin = 0; begin < chunks; begin += SEGMENT) {
        const ptrdiff_t end = chunks - begin < SEGMENT ? chunks : begin + SEGMENT;
        const softmax_long_t segment = {.first = begin, .parts = parts, .frame = frame};
        share_chunks(g, softmax_part_sums, &segment, begin, end);
        for (ptrdiff_t i = 0; i < end - begin; i++) {
            fsm_sum sum = parts[i].sum;
            total.careful |= parts[i].careful;
            total.shifted |= parts[i].shifted;
            total.max = parts[i].max > total.max ? parts[i].max : total.max;
            if (sum.hi == 0) /* of -inf alone, or too small to count */
                continue;
            const double k = some && parts[i].k < total.k ? total.k : parts[i].k;
            if (some)
                total.sum = scaled(total.sum, power_of_two(total.k - k));
            sum = scaled(sum, power_of_two(parts[i].k - k));
            total.sum = sum_merge(total.sum, sum);
            total.k = k;
            some = true;
        }
    }
    return total;
}

/* The same in one sweep over x that leaves e in y, relative to the largest element of the first chunk, and a second one
 * over y, on one thread. False, and x is as it was: that guess is off by too much, or the row is special. Rows of 32000
 * float32 took 0.66 to 0.8 times as long as with three sweeps, in memory and in the cache (AVX-512, Zen 4). e so small
 * that y is 0 for certain are raised to one that also gives 0, since products with 1/S might be subnormal. */
static bool softmax_long_kept(const group_t *g) {
    const ptrdiff_t chunks = chunks_of(g);
    real *y = element_at(g, FSM_Y, 0, 0);
    softmax_plan_t first;
    vec most = vec_set1(0);
    fsm_sum sum = {0, 0};
    ptrdiff_t looked_at = 0;
    bool searched = true;
    for (ptrdiff_t c = 0; c < chunks; c++) {
        ptrdiff_t count;
        const real *x = long_chunk(g, c, &count);
        real *e = y + c * FSM_CHUNK;
        fsm_sum of_chunk;
        if (searched) {
            const softmax_plan_t plan = softmax_plan_of(range_row(x, count, NULL), g->beta, false);
            if (c == 0) {
                first = plan;
                most = most_x(&first.frame, MOST_ABOVE_RAISED);
                searched = !may_be_guessed(&first);
            }
            const real max = plan.row_max > first.row_max ? plan.row_max : first.row_max;
            if (!in_direct_range(max * g->beta.hi) || !((max - first.row_max) * g->beta.hi <= GUESS_HIGH))
                return false;
            of_chunk = sum_row(x, e, count, -1, NULL, &first.frame, plan.careful ? CAREFUL : PLAIN);
        } else {
            of_chunk = sum_row_body(x, e, count, -1, NULL, first.frame, PLAIN, &most);
            searched = has_subnormal_at(x, count, &looked_at);
            if (!(of_chunk.hi < E_FACTOR * fsm_two_to(MOST_ABOVE_RAISED - 1)))
                return false;
        }
        sum = sum_merge(sum, of_chunk);
    }
    if (isnan(sum.hi))
        return false;
    const vec least = vec_set1((real)(sum.hi * MIN_NORMAL * fsm_two_to(-MANTISSA_BITS - 3)));
    quotients(y, y, g->args->n, softmax_divisor(sum), &least, false);
    if (g->args->flush_below > 0)
        flush_chunk(y, g->args->n, (real)g->args->flush_below);
    return true;
}

static void softmax_long_row(const group_t *g) {
    softmax_total_t total = softmax_long_sum(g, NULL);
    const bool finite = isfinite(total.max);
    const vec max = vec_set1(finite ? total.max : 0);
    const exp_frame_t frame = exp_frame_of(max, shift_of(max, g->beta), g->beta);
    if (finite && total.shifted)
        total = softmax_long_sum(g, &frame);
    if (!finite || isnan(total.sum.hi)) {
        fill_row(g, 0, total.max == -(real)INFINITY && !isnan(total.sum.hi), 0);
        return;
    }
    const share_terms_t terms = {
        .frame = frame,
        .divisor = softmax_divisor(total.sum),
        .unit = vec_set1(Y_UNIT),
        .off = vec_set1(Y_UNIT),
        .careful = total.careful,
    };
    share_chunks(g, softmax_part_results, &(softmax_long_t){.terms = &terms}, 0, chunks_of(g));
}

/* Shorter rows are as fast, or faster, in three sweeps. */
#define KEEP_FROM (4 * FSM_CHUNK)

static void softmax_rows(const group_t *g) {
    const bool shared = g->args->helpers > 0;
    const bool kept = g->y_ready && g->row.at[FSM_Y] != g->row.at[FSM_X] && g->args->n > KEEP_FROM;
    const bool whole = (g->x_ready && g->y_ready) || g->held;
    if (!shared && !kept && whole) {
        softmax_whole_rows(g);
        return;
    }
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        group_t row = part_of_group(g, r, 1);
        row.held = false;
        row.pitch = FSM_CHUNK;
        if (!kept || shared || !softmax_long_kept(&row))
            softmax_long_row(&row);
    }
}

/* ---- columns
 *
 * One sweep over x, a piece at a time, finds the maximum, e and the sum: e is relative to the largest element of the
 * column's first piece, which may be off by GUESS_HIGH without harm. If it is off by more, the group starts again, with
 * a sweep for the maximum alone ahead; and so do the groups after it, until that sweep finds that their guesses would
 * have done. No bit depends on any of that, as k changes none.
 *
 * e stays in the scratch if there is room for it, else it is computed again. (1024, 1024) float32 takes 0.27 ns an
 * element, where a sweep for the maximum ahead made that a quarter more, as did a copy of x in the scratch; without
 * room for e, (32000, 128) takes 0.35 (AVX-512, Zen 5; along the last axis: 0.21 and 0.28). */

typedef struct {
    range_t range; /* of what has been read */
    vec guess;       /* the largest of the first piece, or 0 */
    softmax_plan_t plan;
    vec_acc *lanes; /* of a chunk, LANES of them */
    vec_acc sum;
    divisor_t divisor;
    vec least; /* e below this give 0 */
} softmax_tile_t;

/* The first sweep over a piece, where it is a sweep of its own. */
static void softmax_range(softmax_tile_t *tiles, int count, piece_t x, bool first) {
    for (int t = 0; first && t < count; t++)
        tiles[t].range = range_of(vec_load(in_piece(x, t, 0)));
    for (ptrdiff_t i = 0; i < x.count; i += 4)
        for (int t = 0; t < count; t++) {
            range_t range = tiles[t].range;
            for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++)
                range = range_join(range, range_of(vec_load(in_piece(x, t, k))));
            tiles[t].range = range;
        }
    for (int t = 0; first && t < count; t++)
        tiles[t].guess = finite_or(tiles[t].range.max, vec_set1(0));
}

/* Whether the maxima of all that has been read are near the guesses. What is not finite has no sum, whatever k is. */
static bool softmax_guessed(const softmax_tile_t *tiles, int count, beta_t beta) {
    bool off = false;
    for (int t = 0; t < count; t++) {
        const vec scale = vec_set1(beta.hi), max = finite_or(tiles[t].range.max, tiles[t].guess);
        const vec above = vec_mul(vec_sub(max, tiles[t].guess), scale);
        off |= vec_any_lt(vec_set1(GUESS_HIGH), above) || vec_any_lt(above, vec_set1(-GUESS_LOW)) ||
               vec_any_lt(vec_set1(DIRECT / 2), vec_abs(vec_mul(max, scale)));
    }
    return !off;
}

/* The range of `count` <= 4, a constant, blocks. */
FSM_INLINE range_t range_of_blocks(const real *const *x, const int count) {
    range_t range = range_of(vec_load(x[0]));
    FSM_EACH_BLOCK(k, count - 1)
        range = range_join(range, range_of(vec_load(x[k + 1])));
    return range;
}

/* Exponentials of `count` <= 4, a constant, blocks of a tile, to `e` unless that is NULL, which may be x; returns their
 * sums of four. The range of x joins `range`. */
FSM_INLINE vec softmax_terms(const softmax_tile_t *tile, const real *const *x, real *const *e, const int count,
                                 range_t *range) {
    const range_t here = range_of_blocks(x, count);
    *range = range_join(*range, here);
    return exp_and_add(x, e, count, &tile->plan.frame, tile->plan.careful || range_has_subnormal(here));
}

/* Elements i, i + LANES, ... of a piece of a tile: 4 of them, or those that are there. e may be x. */
FSM_INLINE void softmax_add_lane(softmax_tile_t *tile, piece_t x, piece_t e, bool keep, ptrdiff_t t,
                                     ptrdiff_t i, const bool all) {
    const real *from[4];
    real *to[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        from[step] = in_piece(x, t, i + step * LANES);
        to[step] = in_piece(e, t, i + step * LANES);
    }
    vec sum;
    if (all) {
        FSM_UNROLL
        for (int step = 0; step < 4; step++)
            prefetch_block(in_piece(x, t, i + step * LANES + 1));
        sum = softmax_terms(tile, from, keep ? to : NULL, 4, &tile->range);
    } else {
        const vec zero = vec_set1(0);
        vec s[4] = {zero, zero, zero, zero};
        FSM_UNROLL
        for (int step = 0; step < 4; step++)
            if (i + step * LANES < x.count)
                s[step] = softmax_terms(tile, from + step, keep ? to + step : NULL, 1, &tile->range);
        sum = add_four(s[0], s[1], s[2], s[3]);
    }
    tile->lanes[i] = vec_acc_add(tile->lanes[i], sum);
}

FSM_INLINE void softmax_add_piece(softmax_tile_t *tiles, int count, piece_t x, piece_t e, bool keep) {
    if (x.count == PIECE) {
        for (ptrdiff_t i = 0; i < LANES; i++)
            for (int t = 0; t < count; t++)
                softmax_add_lane(&tiles[t], x, e, keep, t, i, true);
        return;
    }
    for (ptrdiff_t i = 0; i < LANES && i < x.count; i++)
        for (int t = 0; t < count; t++)
            softmax_add_lane(&tiles[t], x, e, keep, t, i, false);
}

/* The first sweep: the maxima alone. */
static void softmax_survey(const group_t *g, softmax_tile_t *tiles) {
    const ptrdiff_t n = g->args->n;
    for (ptrdiff_t c = 0; c < n; c += PIECE)
        softmax_range(tiles, g->tiles, piece_of_x(g, c, n - c < PIECE ? n - c : PIECE, false), c == 0);
    *g->survey = !softmax_guessed(tiles, g->tiles, g->beta);
    for (int t = 0; t < g->tiles; t++)
        tiles[t].plan = softmax_plan_of(tiles[t].range, g->beta, true);
}

/* The sweep for the sums, and for e if there is room. False: a guess was off by too much. */
static bool softmax_sums(const group_t *g, softmax_tile_t *tiles, bool surveyed) {
    const ptrdiff_t n = g->args->n;
    for (ptrdiff_t chunk = 0; chunk < n; chunk += FSM_CHUNK) {
        const ptrdiff_t end = n - chunk < FSM_CHUNK ? n : chunk + FSM_CHUNK;
        const int used = end - chunk < LANES ? (int)(end - chunk) : LANES;
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; j < used; j++)
                tiles[t].lanes[j] = vec_acc_zero();
        for (ptrdiff_t c = chunk; c < end; c += PIECE) {
            const piece_t x = piece_of_x(g, c, end - c < PIECE ? end - c : PIECE, surveyed);
            if (c == 0 && !surveyed) {
                softmax_range(tiles, g->tiles, x, true);
                for (int t = 0; t < g->tiles; t++)
                    tiles[t].plan = softmax_plan_of(tiles[t].range, g->beta, true);
            }
            if (g->held)
                softmax_add_piece(tiles, g->tiles, x, piece_in_scratch(g, c, x.count), true);
            else
                softmax_add_piece(tiles, g->tiles, x, x, false);
            if (!surveyed && !softmax_guessed(tiles, g->tiles, g->beta))
                return false;
        }
        for (int t = 0; t < g->tiles; t++) {
            const vec_acc sum = fold_columns(tiles[t].lanes, used);
            tiles[t].sum = chunk ? vec_acc_merge(tiles[t].sum, sum) : sum;
        }
    }
    return true;
}

FSM_INLINE divisor_t softmax_divisors(vec_acc sums) {
    double sum_hi[LANES], sum_lo[LANES];
    real hi[LANES], lo[LANES];
    vec_acc_get(sums, sum_hi, sum_lo);
    for (int j = 0; j < LANES; j++)
        sum_reciprocal((fsm_sum){sum_hi[j], sum_lo[j]}, 1, &hi[j], &lo[j]);
    return (divisor_t){vec_load(hi), vec_load(lo)};
}

/* `count` <= 4, a constant, blocks of a tile: y = e/S, from e or from x. y may be either. */
FSM_INLINE void softmax_quotients(const softmax_tile_t *tile, piece_t from, bool from_x, piece_t y,
                                      ptrdiff_t t, ptrdiff_t i, real flush_below, const int count) {
    const real *e[4];
    real *to[4];
    FSM_UNROLL
    for (int k = 0; k < 4; k++) {
        e[k] = in_piece(from, t, i + k);
        to[k] = in_piece(y, t, i + k);
        if (from_x && k < count)
            prefetch_block(in_piece(from, t, i + k + 4));
    }
    if (from_x) {
        range_t unused = range_of(vec_set1(1));
        softmax_terms(tile, e, to, count, &unused);
    }
    FSM_EACH_BLOCK(k, count) {
        const vec a = vec_max(vec_load(from_x ? to[k] : e[k]), tile->least);
        vec b = quotient(a, tile->divisor);
        if (flush_below > 0)
            b = vec_select_lt(b, vec_set1(flush_below), vec_set1(0), b);
        vec_store(to[k], b);
    }
}

FSM_INLINE void softmax_finish_piece(const softmax_tile_t *tiles, int count, piece_t from, bool from_x,
                                         piece_t y, real flush_below) {
    ptrdiff_t i = 0;
    for (; i + 4 <= from.count; i += 4)
        for (int t = 0; t < count; t++)
            softmax_quotients(&tiles[t], from, from_x, y, t, i, flush_below, 4);
    for (; i < from.count; i++)
        for (int t = 0; t < count; t++)
            softmax_quotients(&tiles[t], from, from_x, y, t, i, flush_below, 1);
}

/* The last sweep. */
static void softmax_finish(const group_t *g, softmax_tile_t *tiles) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const bool in_place = lies_in_tiles(g, FSM_Y);
    for (int t = 0; t < g->tiles; t++) {
        tiles[t].divisor = softmax_divisors(tiles[t].sum);
        tiles[t].least = softmax_least(tiles[t].range.max, &tiles[t].plan.frame, g->beta);
    }
    for (ptrdiff_t c = 0; c < n; c += PIECE) {
        const ptrdiff_t count = n - c < PIECE ? n - c : PIECE;
        const piece_t in_scratch = piece_in_scratch(g, c, count);
        const piece_t y = in_place ? piece_in_place(g, FSM_Y, c, count) : in_scratch;
        if (g->held)
            softmax_finish_piece(tiles, g->tiles, in_scratch, false, y, (real)args->flush_below);
        else
            softmax_finish_piece(tiles, g->tiles, piece_of_x(g, c, count, false), true, y,
                                     (real)args->flush_below);
        if (!in_place)
            store_group(g, c, count);
    }
}

/* ---- short columns, one element to a lane of their sums: the maximum is known when the first exponential is computed,
 * and the sum is folded from e itself. The tiles of a group are taken a step at a time, as batches are (short_rows.h).
 */

static void softmax_short_columns(const group_t *g) {
    const ptrdiff_t n = g->args->n;
    const real flush_below = (real)g->args->flush_below;
    const bool in_place = lies_in_tiles(g, FSM_Y);
    const piece_t x = piece_of_x(g, 0, n, false), e = piece_in_scratch(g, 0, n);
    const piece_t y = in_place ? piece_in_place(g, FSM_Y, 0, n) : e;
    softmax_plan_t plans[SOFTMAX_TILES];
    vec max[SOFTMAX_TILES];
    divisor_t divisors[SOFTMAX_TILES];
    for (int t = 0; t < g->tiles; t++) {
        range_t range = range_of(vec_load(in_piece(x, t, 0)));
        for (ptrdiff_t i = 1; i < n; i++)
            range = range_join(range, range_of(vec_load(in_piece(x, t, i))));
        max[t] = range.max;
        plans[t] = softmax_plan_of(range, g->beta, true);
        plans[t].careful |= range_has_subnormal(range);
    }
    for (int t = 0; t < g->tiles; t++) {
        exp_column(x, e, t, &plans[t].frame, plans[t].careful);
    }
    bool special = false;
    for (int t = 0; t < g->tiles; t++) {
        const vec zero = vec_set1(0), one = vec_set1(1);
        divisors[t] = softmax_divisors(sum_short_column(e, t, NULL));
        const vec odd = vec_mul(zero, vec_add(max[t], divisors[t].hi)); /* NaN where a column is special */
        special |= vec_any_lt(zero, vec_select_lt(odd, one, zero, one));
    }
    for (int t = 0; t < g->tiles; t++)
        for (ptrdiff_t i = 0; i < n; i++) {
            vec a = quotient(vec_load(in_piece(e, t, i)), divisors[t]);
            vec_store(in_piece(y, t, i), a);
        }
    if (flush_below > 0)
        for (int t = 0; t < g->tiles; t++)
            for (ptrdiff_t i = 0; i < n; i++)
                flush_chunk(in_piece(y, t, i), LANES, flush_below);
    if (!in_place)
        store_group(g, 0, n);
    for (int t = 0; special && t < g->tiles; t++) {
        real most[LANES], hi[LANES];
        vec_store(most, max[t]);
        vec_store(hi, divisors[t].hi);
        for (int j = 0; j < rows_in_tile(g, t); j++)
            if (isnan(hi[j]) || !isfinite(most[j]))
                fill_row(g, t * LANES + j, most[j] == -(real)INFINITY && !isnan(hi[j]), 0);
    }
}

static void softmax_columns(const group_t *g) {
    if (g->held && g->args->n <= LANES) {
        softmax_short_columns(g);
        return;
    }
    softmax_tile_t tiles[SOFTMAX_TILES];
    for (int t = 0; t < g->tiles; t++)
        tiles[t].lanes = (vec_acc *)(g->scratch + SOFTMAX_ROOM) + t * LANES;
    if (*g->survey || !softmax_sums(g, tiles, false)) {
        softmax_survey(g, tiles);
        softmax_sums(g, tiles, true);
    }
    softmax_finish(g, tiles);
    for (int t = 0; t < g->tiles; t++) {
        double sum[LANES], unused[LANES];
        real max[LANES];
        vec_acc_get(tiles[t].sum, sum, unused);
        vec_store(max, tiles[t].range.max);
        for (int j = 0; j < rows_in_tile(g, t); j++)
            if (isnan(sum[j]) || !isfinite(max[j]))
                fill_row(g, t * LANES + j, max[j] == -(real)INFINITY && !isnan(sum[j]), 0);
    }
}

static void softmax(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    bool survey = false;
    const plan_t plan = {.hold_rows = true,
                           .room = SOFTMAX_ROOM,
                           .tiles = SOFTMAX_TILES,
                           .most_rows = PTRDIFF_MAX,
                           .survey = &survey,
                           .short_rows = IF_PARTS_PAY(softmax_short_rows),
                           .may_turn = true,
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    each_group(args, begin, end, scratch, plan, softmax_rows, softmax_columns);
}

#endif
