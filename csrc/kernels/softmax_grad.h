/* softmax_grad: dx = y*(grad - sum(grad*y))/T, from grad (x of the arguments) and y (saved).
 * log_softmax_grad: dx = (grad - exp(logp)*sum(grad))/T, from grad and logp (saved).
 *
 * Two passes: the sum, in the order of sum.h; then the result. On wide rows y and the result are subnormal in places,
 * which as operands and results of arithmetic cost a hundred cycles each on many CPUs. So y and exp(logp) are taken
 * times E_FACTOR, as exponentials are elsewhere, and integers take that off the result (unscale()); in the sum of
 * softmax, y is taken times SUM_MORE too. Rows for which that is too much, or which have a NaN or an infinity, are
 * special: done one by one, without hurry (special_sum(), special_results()). */
#ifndef FSM_KERNELS_SOFTMAX_GRAD_H
#define FSM_KERNELS_SOFTMAX_GRAD_H

#include "rows.h"
#include "schedule.h"

typedef enum { OF_SOFTMAX, OF_LOG_SOFTMAX } gradient_t;

/* What decides how a row is taken: the bits of all y, or of all logp, those below 0 raised to a positive number; the
 * smallest y; of logp, the largest |grad|. */
typedef struct {
    vec saved, least, grad;
} grad_range_t;

FSM_ALWAYS_INLINE grad_range_t grad_range_of_none(void) {
    return (grad_range_t){vec_set1(0), vec_set1(1), vec_set1(0)};
}

FSM_INLINE grad_range_t grad_range_of(vec grad, vec saved, const gradient_t of) {
    if (of == OF_SOFTMAX)
        return (grad_range_t){saved, saved, vec_set1(0)};
    return (grad_range_t){vec_clamp(saved, vec_set1(MIN_NORMAL)), vec_set1(1), vec_abs(grad)};
}

FSM_INLINE grad_range_t grad_range_set_register(grad_range_t a, int j, grad_range_t b) {
    a.saved = set_register(a.saved, j, b.saved);
    a.least = set_register(a.least, j, b.least);
    a.grad = set_register(a.grad, j, b.grad);
    return a;
}

FSM_INLINE grad_range_t grad_range_join(grad_range_t a, grad_range_t b, const gradient_t of) {
    a.saved = vec_bits_or(a.saved, b.saved);
    if (of == OF_SOFTMAX)
        a.least = vec_min(a.least, b.least);
    else
        a.grad = vec_max(a.grad, b.grad);
    return a;
}

/* y times E_FACTOR*more; 0 <= y < 2, and more is 1 or SUM_MORE. Adding to the exponent field does that where y is
 * normal. A subnormal y has no leading 1, but now counts as if it had, and half of what its other bits stand for: the
 * right number is twice that, less the leading 1, which is the smaller one just where y is subnormal. */
FSM_INLINE vec scale(vec y, const real more) {
    const vec normal = vec_bits_sub(y, vec_set1(MINUS_E_FIELD / more));
    return vec_min(normal, vec_fma(normal, vec_set1(2), vec_set1(-E_FACTOR * more * MIN_NORMAL)));
}

/* Terms of the sum have a factor of E_FACTOR*SUM_MORE. Where the sum is below MAX_SUM, no term was infinite, and an fma
 * hides at most twice the largest number: |grad*y|*E_FACTOR is below a half of that, |sum*y|*E_FACTOR, as y < 2, below
 * a quarter. So (grad - sum)*y*E_FACTOR is finite, which saves a search for the largest |grad|. */
#define SUM_MORE ((real)4)

/* Scales register j, or all, of `count` blocks in place, of which `least` has the smallest y, for a sum. */
FSM_INLINE void scale_blocks(vec *y, const int count, vec least, int j) {
    if (FSM_RARELY(any_lt_register(least, vec_set1(MIN_NORMAL), j))) {
        FSM_EACH_BLOCK(i, count)
            y[i] = scale(y[i], SUM_MORE);
    } else {
        FSM_EACH_BLOCK(i, count)
            y[i] = vec_mul(y[i], vec_set1(E_FACTOR * SUM_MORE));
    }
}

/* ---- terms */

/* The term of one block; widens `range`. */
FSM_INLINE vec gradient_term(vec grad, vec saved, grad_range_t *range, const gradient_t of) {
    const grad_range_t here = grad_range_of(grad, saved, of);
    *range = grad_range_join(*range, here, of);
    if (of == OF_LOG_SOFTMAX)
        return grad;
    scale_blocks(&saved, 1, here.least, ALL_REGISTERS);
    return vec_mul(grad, saved);
}

/* Register j of the terms of four blocks, added; widens `range`. Where grad is 0, as it is where there are fewer, saved
 * is of no account. */
FSM_INLINE vec gradient_terms(const vec *grad, const vec *saved, grad_range_t *range, const gradient_t of, int j) {
    grad_range_t here = grad_range_of(grad[0], saved[0], of);
    FSM_UNROLL
    for (int i = 1; i < 4; i++)
        here = grad_range_join(here, grad_range_of(grad[i], saved[i], of), of);
    *range = grad_range_set_register(*range, j, grad_range_join(*range, here, of));
    if (of == OF_LOG_SOFTMAX)
        return add_four(grad[0], grad[1], grad[2], grad[3]);
    vec scaled[4] = {saved[0], saved[1], saved[2], saved[3]};
    scale_blocks(scaled, 4, here.least, j);
    const vec even = vec_fma(grad[2], scaled[2], vec_mul(grad[0], scaled[0]));
    const vec odd = vec_fma(grad[3], scaled[3], vec_mul(grad[1], scaled[1]));
    return vec_add(even, odd);
}

/* All registers, of blocks that are anywhere. */
FSM_INLINE vec gradient_terms_at(const real *const *grad, const real *const *saved, grad_range_t *range,
                                 const gradient_t of) {
    vec terms = vec_set1(0);
    FSM_EACH_REGISTER(j) {
        vec a[4], b[4];
        FSM_UNROLL
        for (int step = 0; step < 4; step++) {
            a[step] = load_register(grad[step], j);
            b[step] = load_register(saved[step], j);
        }
        terms = set_register(terms, j, gradient_terms(a, b, range, of, j));
    }
    return terms;
}

/* What grad is where there are fewer than four blocks; saved is then that of any other. */
static const real no_grad[LANES];

/* ---- results */

/* What the second pass needs of a row, or of each row of a panel: the sum (of softmax without its factor), and 1/T. */
typedef struct {
    vec sum;
    real beta, scaled_beta, unit; /* 1/T; the same divided by a power of two, if it is not below 1; of unscale() then */
    bool small;                   /* y, or 1/T, is so small that results may be subnormal */
} gradient_plan_t;

/* The least y, and |grad - sum|: from there on their product is a normal number, and so is that times a 1/T of 2^-6. */
#define MIN_GRAD_FACTOR ((real)0x1p-60)

/* The least temperature of softmax: with one below, scaled_beta might leave too little of E_FACTOR for subnormal
 * results. */
#define MIN_TEMPERATURE (fsm_two_to(MANTISSA_BITS + 2) / E_FACTOR)

static gradient_plan_t gradient_plan_of(vec sum, vec least, beta_t beta) {
    const int exponent = (int)(fsm_f64_bits(beta.hi) >> 52) - 1022;
    const real less = (real)fsm_two_to(exponent > 0 && beta.hi <= 1 / MIN_TEMPERATURE ? -exponent : 0);
    return (gradient_plan_t){
        .sum = sum,
        .beta = beta.hi,
        .scaled_beta = beta.hi * less,
        .unit = E_FACTOR * MIN_NORMAL / 2 * less,
        .small = beta.hi < (real)0x1p-6 || vec_any_lt(least, vec_set1(MIN_GRAD_FACTOR)),
    };
}

/* A result of softmax that may be subnormal, from grad - sum. Adding 0 makes a 0 positive. */
FSM_INLINE vec small_result(vec apart, vec y, const gradient_plan_t *plan) {
    const vec scaled = vec_fma(vec_mul(apart, scale(y, 1)), vec_set1(plan->scaled_beta), vec_set1(0));
    return unscale(scaled, vec_set1(plan->unit));
}

/* Register j, or all, of `count` <= 4 blocks of results of log_softmax, in place of grad. */
FSM_INLINE void log_gradient(vec *grad, const vec *logp, const int count, const gradient_plan_t *plan, int j) {
    const vec zero = vec_set1(0), unit = vec_set1(E_FACTOR * MIN_NORMAL / 2);
    const beta_t one = {1, 0, 0, false};
    const exp_frame_t frame = exp_frame_of(zero, zero, one);
    vec least = vec_set1((real)INFINITY);
    FSM_EACH_BLOCK(i, count) {
        const vec minus_e = vec_sub(zero, exp_block(vec_flush(logp[i]), frame, false));
        const vec scaled = vec_fma(minus_e, plan->sum, vec_mul(grad[i], vec_set1(E_FACTOR)));
        grad[i] = vec_fma(scaled, vec_set1(plan->beta), zero);
        least = vec_min(least, vec_abs(grad[i]));
    }
    const bool normal = !any_lt_register(least, vec_set1(E_FACTOR * MIN_NORMAL), j);
    FSM_EACH_BLOCK(i, count)
        grad[i] = normal ? vec_mul(grad[i], vec_set1(1 / E_FACTOR)) : unscale(grad[i], unit);
}

/* The result of one block. */
FSM_INLINE vec gradient_block_body(vec grad, vec saved, const gradient_plan_t *plan, const gradient_t of) {
    if (of == OF_LOG_SOFTMAX) {
        log_gradient(&grad, &saved, 1, plan, ALL_REGISTERS);
        return grad;
    }
    const vec apart = vec_sub(grad, plan->sum);
    if (plan->small || vec_any_lt(vec_abs(apart), vec_set1(MIN_GRAD_FACTOR)))
        return small_result(apart, saved, plan);
    return vec_mul(vec_mul(apart, saved), vec_set1(plan->beta));
}

/* A register of small results, from element `at` of a block on. */
FSM_OUTLINE void small_register(const real *grad, const real *saved, real *y, ptrdiff_t at,
                                const gradient_plan_t *plan) {
    const vec sum = load_register((const real *)&plan->sum + at, 0);
    const vec apart = vec_sub(load_register(grad + at, 0), sum);
    store_register(y + at, 0, small_result(apart, load_register(saved + at, 0), plan));
}

/* Results of four blocks. y may be grad, or saved. What few registers of ordinary rows need is done elsewhere, so that
 * it takes no registers here; `in_memory` is the plan again. */
FSM_INLINE void gradient_quad(const real *const *grad, const real *const *saved, real *const *y, gradient_plan_t plan,
                              const gradient_plan_t *in_memory, const gradient_t of) {
    FSM_EACH_REGISTER(j) {
        vec a[4], b[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            a[k] = load_register(grad[k], j);
            b[k] = load_register(saved[k], j);
        }
        if (of == OF_LOG_SOFTMAX) {
            log_gradient(a, b, 4, &plan, j);
        } else {
            vec least = vec_set1(0);
            FSM_UNROLL
            for (int k = 0; k < 4; k++) {
                a[k] = vec_sub(a[k], plan.sum);
                least = k ? vec_min(least, vec_abs(a[k])) : vec_abs(a[k]);
            }
            if (any_lt_register(least, vec_set1(MIN_GRAD_FACTOR), j)) {
                FSM_UNROLL
                for (int k = 0; k < 4; k++)
                    small_register(grad[k], saved[k], y[k], j * (LANES / FSM_REGISTERS), in_memory);
                continue;
            }
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                a[k] = vec_mul(vec_mul(a[k], b[k]), vec_set1(plan.beta));
        }
        FSM_UNROLL
        for (int k = 0; k < 4; k++)
            store_register(y[k], j, a[k]);
    }
}

/* Results of four blocks of softmax that may all be small. */
FSM_INLINE void small_quad(const real *const *grad, const real *const *saved, real *const *y, gradient_plan_t plan) {
    FSM_EACH_REGISTER(j) {
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            const vec apart = vec_sub(load_register(grad[k], j), plan.sum);
            store_register(y[k], j, small_result(apart, load_register(saved[k], j), &plan));
        }
    }
}

/* A total of terms without the factor that they have. */
FSM_ALWAYS_INLINE real without_factor(double total, const gradient_t of) {
    return (real)(of == OF_SOFTMAX ? total * (1 / (double)(E_FACTOR * SUM_MORE)) : total);
}

/* ---- special rows */

/* The sum over row r. */
FSM_OUTLINE double special_sum(const batch_t *b, ptrdiff_t r, gradient_t of) {
    const fsm_row row = row_of(b, r);
    real grad[FSM_CHUNK], saved[FSM_CHUNK];
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        load(b->args, FSM_X, row.at[FSM_X], c, count, grad);
        load(b->args, FSM_SAVED, row.at[FSM_SAVED], c, count, saved);
        for (ptrdiff_t i = 0; i < count; i++) {
            const double factor = of == OF_SOFTMAX ? saved[i] : 1, term = grad[i] * factor;
            const fsm_sum next = fsm_two_sum(sum, (fsm_sum){term, fma(grad[i], factor, -term)});
            sum = isfinite(next.hi) ? next : (fsm_sum){sum.hi + term, 0};
        }
    }
    return sum.hi + sum.lo;
}

/* exp(logp) * sum. */
FSM_ALWAYS_INLINE double special_product(real logp, double sum) {
    const double half = logp / 2.0, root = half <= 0 ? fsm_exp(half) : 1 / fsm_exp(-half);
    if (half < -700) { /* where fsm_exp() gives 0; a large sum makes up for as much as exp(-709) */
        const double quarter = fsm_exp(half / 2);
        return quarter * (quarter * (quarter * (sum * quarter)));
    }
    const double scale = fabs(sum) < 0x1p-900 ? 0x1p200 : 1; /* so that no part is subnormal, if the result is not */
    return root * (sum * scale) * root / scale;
}

/* (a - sum)*b/temperature, where a part of that could be too small, or too large. */
FSM_ALWAYS_INLINE double special_result(double a, double sum, double b, double temperature) {
    int of_apart, of_b, of_temperature, half = 0;
    double apart = a - sum;
    if (isinf(apart) && isfinite(a) && isfinite(sum)) {
        apart = a / 2 - sum / 2;
        half = 1;
    }
    if (!isfinite(apart) || !isfinite(b) || !isfinite(temperature))
        return apart * b / temperature;
    const double fraction = frexp(apart, &of_apart) * frexp(b, &of_b) / frexp(temperature, &of_temperature);
    return ldexp(fraction, of_apart + half + of_b - of_temperature);
}

/* The results of `count` elements, which need not be aligned. y may be grad, or saved. */
FSM_OUTLINE void special_results(const real *grad, const real *saved, real *y, ptrdiff_t count, double sum,
                                 double temperature, gradient_t of) {
    const real_bits nan_bits = QUIET_NAN_BITS;
    for (ptrdiff_t i = 0; i < count; i++) {
        real a, b;
        memcpy(&a, grad + i, sizeof a);
        memcpy(&b, saved + i, sizeof b);
        a = (real)(of == OF_SOFTMAX ? special_result(a, sum, b, temperature)
                                    : (a - special_product(b, sum)) / temperature);
        if (isnan(a))
            memcpy(&a, &nan_bits, sizeof a);
        memcpy(y + i, &a, sizeof a);
    }
}

/* Whether a row may be taken times E_FACTOR, from what its range, or that of others too, says. A y below 0, -0
 * included, a y or logp of 2 or more and a NaN have one of the two highest bits. A NaN of grad shows in the sum. A
 * subnormal sum has lost bits, which a temperature below 1 would bring to light. */
FSM_ALWAYS_INLINE bool is_ordinary(const batch_t *b, real grad, real_bits saved, double sum, const gradient_t of) {
    const double temperature = b->args->temperature, size = fabs(sum);
    bool in_range;
    if (of == OF_SOFTMAX) {
        const bool whole = temperature >= 1 || size == 0 || size >= MIN_NORMAL * (double)E_FACTOR * SUM_MORE;
        in_range = size < MAX_SUM && temperature > MIN_TEMPERATURE && whole;
    } else {
        const double limit = temperature < 1 ? MAX_GRAD * temperature : MAX_GRAD;
        in_range = size < limit && grad < limit;
    }
    return (saved >> (8 * sizeof saved - 2) == 0) & in_range;
}

/* The bits of all lanes. */
static real_bits bits_of(vec a) {
    real lanes[LANES];
    real_bits each[LANES], bits = 0;
    vec_store(lanes, a);
    memcpy(each, lanes, sizeof each);
    for (int j = 0; j < LANES; j++)
        bits |= each[j];
    return bits;
}

/* ---- rows */

/* The sum over a chunk; widens `range`. */
typedef struct {
    const real *grad, *saved;
    grad_range_t range;
    real last_grad[LANES], last_saved[LANES]; /* of a block that is not whole */
} gradient_sum_t;

/* `count` > 0 elements at p as a whole block: where it lies, or filled up in `room`. */
FSM_ALWAYS_INLINE const real *whole_block(const real *p, ptrdiff_t count, real fill, real *room) {
    if (count >= LANES)
        return p;
    vec_store(room, vec_load_n(p, count, fill));
    return room;
}

FSM_INLINE vec gradient_sum_quad(void *op, ptrdiff_t i, ptrdiff_t count, const gradient_t of) {
    gradient_sum_t *sum = op;
    const real *a[4], *b[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        const ptrdiff_t left = count - step * LANES;
        a[step] = sum->grad + i + step * LANES;
        b[step] = sum->saved + i + step * LANES;
        if (count < QUAD) {
            a[step] = left > 0 ? whole_block(a[step], left, 0, sum->last_grad) : no_grad;
            b[step] = left > 0 ? whole_block(b[step], left, 1, sum->last_saved) : b[0];
        }
    }
    return gradient_terms_at(a, b, &sum->range, of);
}

FSM_INLINE vec softmax_grad_sum_quad(void *op, ptrdiff_t i, ptrdiff_t count) {
    return gradient_sum_quad(op, i, count, OF_SOFTMAX);
}

FSM_INLINE vec log_softmax_grad_sum_quad(void *op, ptrdiff_t i, ptrdiff_t count) {
    return gradient_sum_quad(op, i, count, OF_LOG_SOFTMAX);
}

FSM_OUTLINE fsm_sum softmax_grad_sum(const real *grad, const real *saved, ptrdiff_t n, grad_range_t *range) {
    gradient_sum_t op = {.grad = grad, .saved = saved, .range = *range};
    const fsm_sum sum = sum_row(n, &op, softmax_grad_sum_quad);
    *range = op.range;
    return sum;
}

FSM_OUTLINE fsm_sum log_softmax_grad_sum(const real *grad, const real *saved, ptrdiff_t n, grad_range_t *range) {
    gradient_sum_t op = {.grad = grad, .saved = saved, .range = *range};
    const fsm_sum sum = sum_row(n, &op, log_softmax_grad_sum_quad);
    *range = op.range;
    return sum;
}

/* Part of a row as one that is written (write_row()). */
typedef struct {
    const real *grad, *saved;
    gradient_plan_t plan;
} gradient_row_t;

FSM_INLINE void gradient_results(const gradient_row_t *row, ptrdiff_t begin, ptrdiff_t n, real *y, bool nt,
                                 const gradient_t of) {
    const real *grad = row->grad + begin, *saved = row->saved + begin;
    gradient_plan_t plan = row->plan;
    plan.sum = uniform(plan.sum);
    ptrdiff_t i = 0;
    for (; !nt && i + QUAD <= n; i += QUAD) {
        const real *a[4], *b[4];
        real *to[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            a[k] = grad + i + k * LANES;
            b[k] = saved + i + k * LANES;
            to[k] = y + i + k * LANES;
        }
        if (of == OF_SOFTMAX && plan.small)
            small_quad(a, b, to, plan);
        else
            gradient_quad(a, b, to, plan, &row->plan, of);
    }
    for (; i + LANES <= n; i += LANES)
        write_block(y + i, gradient_block_body(vec_load(grad + i), vec_load(saved + i), &plan, of), nt);
    if (i < n) {
        const vec a = vec_load_n(grad + i, n - i, 0), b = vec_load_n(saved + i, n - i, 0);
        vec_store_n(y + i, n - i, gradient_block_body(a, b, &plan, of));
    }
}

static void softmax_grad_results(const void *op, ptrdiff_t begin, ptrdiff_t n, real *y, bool nt) {
    gradient_results(op, begin, n, y, nt, OF_SOFTMAX);
}

static void log_softmax_grad_results(const void *op, ptrdiff_t begin, ptrdiff_t n, real *y, bool nt) {
    gradient_results(op, begin, n, y, nt, OF_LOG_SOFTMAX);
}

/* Elements [c, c + count) of the saved row of a batch of one, loaded if need be: with x packed whole, that is as well.
 */
FSM_ALWAYS_INLINE const real *saved_chunk(const batch_t *b, ptrdiff_t c, ptrdiff_t count) {
    if (is_contiguous(b->args, FSM_SAVED))
        return element_at(b, FSM_SAVED, 0, c);
    if (!b->packed)
        load(b->args, FSM_SAVED, b->row.at[FSM_SAVED], c, count, spare_of(b));
    return spare_of(b);
}

/* Chunks that threads share, known at a time. */
#define GRADIENT_CHUNKS 64

/* A row, whose sum is made of chunks, and whose results follow. */
typedef struct {
    segment_t segment;
    gradient_t of;
    fsm_sum chunks[GRADIENT_CHUNKS], sum;
    grad_range_t ranges[GRADIENT_CHUNKS], range;
    bool ordinary;
    double total; /* if it is not */
    gradient_plan_t plan;
} gradient_fold_t;

static fsm_sum gradient_sum_of(const batch_t *b, gradient_t of, ptrdiff_t c, grad_range_t *range) {
    const ptrdiff_t count = chunk_length(b, c);
    if (!b->x_contiguous && !b->packed)
        pack_x(b, c, count);
    const real *grad = b->x_contiguous ? element_at(b, FSM_X, 0, c) : in_scratch(b, 0, c);
    const real *saved = saved_chunk(b, c, count);
    return of == OF_SOFTMAX ? softmax_grad_sum(grad, saved, count, range)
                            : log_softmax_grad_sum(grad, saved, count, range);
}

static void gradient_sum_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    gradient_fold_t *fold = op;
    for (ptrdiff_t i = begin; i < end; i++) {
        grad_range_t *range = &fold->ranges[i - fold->segment.first];
        *range = grad_range_of_none();
        fold->chunks[i - fold->segment.first] = gradient_sum_of(b, fold->of, i * FSM_CHUNK, range);
    }
}

static void gradient_join_chunk(const batch_t *b, void *op, ptrdiff_t i) {
    gradient_fold_t *fold = op;
    (void)b;
    fold->sum = sum_merge(fold->sum, fold->chunks[i]);
    fold->range = grad_range_join(fold->range, fold->ranges[i], fold->of);
}

static void gradient_write_chunk(const batch_t *b, const void *op, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count,
                                 const real *x, real *y) {
    const gradient_fold_t *fold = op;
    const gradient_row_t row = {x, saved_chunk(b, c, count), fold->plan};
    (void)r;
    if (!fold->ordinary)
        special_results(x, row.saved, y, count, fold->total, b->args->temperature, fold->of);
    else if (fold->of == OF_SOFTMAX)
        write_row(b->nt, y, count, softmax_grad_results, &row);
    else
        write_row(b->nt, y, count, log_softmax_grad_results, &row);
}

static void gradient_write_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    write_rows(b, op, begin, end, gradient_write_chunk);
}

/* The one row of a batch. */
static void gradient_of_row(const batch_t *b, gradient_t of) {
    gradient_fold_t fold;
    fold.of = of;
    fold.sum = (fsm_sum){0, 0};
    fold.range = grad_range_of_none();
    if (b->args->helpers > 0)
        fold_chunks(b, gradient_sum_chunks, &fold.segment, GRADIENT_CHUNKS, gradient_join_chunk);
    else
        for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK)
            fold.sum = sum_merge(fold.sum, gradient_sum_of(b, of, c, &fold.range));
    const double total = fold.sum.hi + fold.sum.lo;
    fold.ordinary = is_ordinary(b, vec_hmax(fold.range.grad), bits_of(fold.range.saved), total, of);
    fold.total = fold.ordinary ? total : special_sum(b, 0, of);
    fold.plan = gradient_plan_of(vec_set1(without_factor(total, of)), fold.range.least, b->beta);
    parallel_chunks(b, gradient_write_chunks, &fold, 0, chunks_in_row(b));
}

/* A row at a time, since its second pass finds it in the cache. One of a chunk that has to be packed stays so. */
static void gradient_rows(const batch_t *b, gradient_t of) {
    batch_t row = part_of_batch(b, 0, 1);
    row.pitch = fsm_min(b->n, FSM_CHUNK);
    for (ptrdiff_t r = 0; r < b->rows; r++, row.row = fsm_row_across(row.row, b->args, 1)) {
        row.packed = false;
        if (b->n <= FSM_CHUNK && b->args->helpers == 0) {
            if (!b->x_contiguous)
                pack_x(&row, 0, b->n);
            saved_chunk(&row, 0, b->n);
            row.packed = true;
        }
        gradient_of_row(&row, of);
        store_packed(&row);
    }
}

/* ---- short rows */

/* LANES at a time, which are all ordinary; else they are taken one by one. */
FSM_INLINE void gradient_short_rows(const batch_t *b, const int in_block, const int blocks, const gradient_t of) {
    double hi[LANES] = {0}, lo[LANES] = {0};
    real sums[LANES], room[SHORT_ROOM];
    for (ptrdiff_t first = 0; first < b->rows; first += LANES) {
        const short_t s = short_of(b, first, in_block, blocks);
        const real *grad = element_at(b, FSM_X, first, 0), *saved = element_at(b, FSM_SAVED, first, 0);
        grad_range_t range = grad_range_of_none();
        for (ptrdiff_t r = 0; r < s.rows; r += s.in_block) {
            const vec zero = vec_set1(0), one = vec_set1(1);
            vec a[MAX_BLOCKS] = {zero, zero, zero, zero}, of_saved[MAX_BLOCKS] = {one, one, one, one};
            FSM_EACH_BLOCK(k, blocks) {
                a[k] = load_short(grad, s, r, k, 0);
                of_saved[k] = load_short(saved, s, r, k, 1);
            }
            vec terms = zero;
            if (blocks == 1)
                terms = gradient_term(a[0], of_saved[0], &range, of);
            else
                FSM_EACH_REGISTER(j)
                    terms = set_register(terms, j, gradient_terms(a, of_saved, &range, of, j));
            fold_short(vec_acc_of(terms), s, r, hi, lo);
        }
        const real largest = vec_hmax(range.grad);
        const real_bits bits = bits_of(range.saved);
        bool ordinary = true;
        for (ptrdiff_t r = 0; r < LANES; r++) {
            const double total = hi[r] + lo[r];
            sums[r] = without_factor(total, of);
            ordinary = ordinary & (is_ordinary(b, largest, bits, total, of) | (r >= s.rows));
        }
        if (!ordinary) {
            const batch_t others = part_of_batch(b, first, s.rows);
            gradient_rows(&others, of);
            continue;
        }
        gradient_plan_t plan = gradient_plan_of(vec_set1(0), range.least, b->beta);
        real *results = short_results(b, first, s, room);
        for (ptrdiff_t r = 0; r < s.rows; r += s.in_block) {
            plan.sum = spread_over_rows(sums, s, r);
            if (of == OF_SOFTMAX && blocks == MAX_BLOCKS) { /* a loop is as fast, and shorter */
                const int whole = (int)(s.n / LANES);
                for (int k = 0; k < whole; k++) {
                    const ptrdiff_t at = r * s.n + k * LANES;
                    const vec a = vec_load(grad + at), of_saved = vec_load(saved + at);
                    vec_store(results + at, gradient_block_body(a, of_saved, &plan, of));
                }
                if (whole * LANES < s.n) {
                    const vec a = load_short(grad, s, r, whole, 0), of_saved = load_short(saved, s, r, whole, 1);
                    store_short(results, s, r, whole, gradient_block_body(a, of_saved, &plan, of));
                }
                continue;
            }
            FSM_EACH_BLOCK(k, blocks) {
                const vec a = load_short(grad, s, r, k, 0), of_saved = load_short(saved, s, r, k, 1);
                store_short(results, s, r, k, gradient_block_body(a, of_saved, &plan, of));
            }
        }
        store_short_results(b, first, s, results);
    }
}

/* ---- panels */

/* What the second pass needs of a panel. */
typedef struct {
    gradient_plan_t plan;
    bool all_ordinary, ordinary[LANES];
    double totals[LANES]; /* of rows that are not ordinary */
} gradient_panel_t;

typedef struct {
    quads_t quads; /* grad and saved */
    vec_acc *lanes;
    grad_range_t ranges[MAX_PANELS];
    gradient_panel_t panels[MAX_PANELS];
    double temperature;
    bool again; /* what has to be packed, has been */
} gradient_pass_t;

static void gradient_load_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    gradient_pass_t *pass = op;
    pass->quads.x = quad_of_operand(b, FSM_X, begin, count, pass->again, 0);
    pass->quads.other = quad_of_operand(b, FSM_SAVED, begin, count, pass->again, SPARE_AT);
}

FSM_INLINE void gradient_add_lane(void *op, int t, ptrdiff_t i, bool all, const gradient_t of) {
    gradient_pass_t *pass = op;
    const panel_quad_t grad = pass->quads.x, saved = pass->quads.other;
    vec_acc *lane = &pass->lanes[t * LANES + i];
    const real *a[4], *b[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        a[step] = block_at(grad, t, i + step * LANES);
        b[step] = block_at(saved, t, i + step * LANES);
    }
    for (int step = 1; !all && step < 4; step++)
        if (i + step * LANES >= grad.count) {
            a[step] = no_grad;
            b[step] = b[0];
        }
    *lane = vec_acc_add(*lane, gradient_terms_at(a, b, &pass->ranges[t], of));
}

FSM_INLINE void softmax_grad_add_lane(void *op, int t, ptrdiff_t i, bool all) {
    gradient_add_lane(op, t, i, all, OF_SOFTMAX);
}

FSM_INLINE void log_softmax_grad_add_lane(void *op, int t, ptrdiff_t i, bool all) {
    gradient_add_lane(op, t, i, all, OF_LOG_SOFTMAX);
}

/* The sums of short panels (columns.h). */
FSM_INLINE void gradient_sum_short_panels(const batch_t *b, gradient_pass_t *pass, vec_acc *sums, const gradient_t of) {
    real room[LANES * LANES];
    const panel_quad_t terms = {(char *)room, LANES * sizeof(real), 0, b->n, false};
    gradient_load_quad(b, pass, 0, b->n);
    for (int t = 0; t < b->panels; t++) {
        grad_range_t range = pass->ranges[t];
        for (ptrdiff_t i = 0; i < b->n; i++) {
            const vec a = vec_load(block_at(pass->quads.x, t, i)), saved = vec_load(block_at(pass->quads.other, t, i));
            vec_store(block_at(terms, 0, i), gradient_term(a, saved, &range, of));
        }
        pass->ranges[t] = range;
        sums[t] = sum_short_panel(terms, 0, NULL);
    }
}

static void gradient_finish_panel(const batch_t *b, gradient_pass_t *pass, int t, vec_acc sums, gradient_t of) {
    gradient_panel_t *panel = &pass->panels[t];
    const grad_range_t *range = &pass->ranges[t];
    const int count = rows_in_panel(b, t);
    double hi[LANES], lo[LANES];
    real sum[LANES], grad[LANES];
    real_bits saved[LANES];
    vec_acc_get(sums, hi, lo);
    vec_store(grad, range->grad);
    memcpy(saved, &range->saved, sizeof saved);
    int odd = 0;
    for (int j = 0; j < LANES; j++) {
        const double total = hi[j] + lo[j];
        panel->ordinary[j] = is_ordinary(b, grad[j], saved[j], total, of) | (j >= count);
        odd |= !panel->ordinary[j];
        panel->totals[j] = total;
        sum[j] = without_factor(total, of);
    }
    for (int j = 0; odd && j < count; j++)
        if (!panel->ordinary[j]) {
            panel->totals[j] = special_sum(b, t * LANES + j, of);
            sum[j] = 0;
        }
    panel->all_ordinary = !odd;
    panel->plan = gradient_plan_of(vec_load(sum), range->least, b->beta);
}

/* One block, whatever it needs. */
FSM_INLINE vec gradient_any_block_body(vec grad, vec saved, const gradient_panel_t *panel, double temperature,
                                       const gradient_t of) {
    const vec y = gradient_block_body(grad, saved, &panel->plan, of);
    if (panel->all_ordinary)
        return y;
    real from[LANES], of_saved[LANES], to[LANES];
    vec_store(from, grad);
    vec_store(of_saved, saved);
    vec_store(to, y);
    for (int j = 0; j < LANES; j++)
        if (!panel->ordinary[j])
            special_results(from + j, of_saved + j, to + j, 1, panel->totals[j], temperature, of);
    return vec_load(to);
}

FSM_OUTLINE vec softmax_grad_any_block(vec grad, vec saved, const gradient_panel_t *panel, double temperature) {
    return gradient_any_block_body(grad, saved, panel, temperature, OF_SOFTMAX);
}

FSM_OUTLINE vec log_softmax_grad_any_block(vec grad, vec saved, const gradient_panel_t *panel, double temperature) {
    return gradient_any_block_body(grad, saved, panel, temperature, OF_LOG_SOFTMAX);
}

FSM_INLINE void gradient_write_blocks(const void *op, int t, ptrdiff_t i, const int count, const gradient_t of) {
    const gradient_pass_t *pass = op;
    const gradient_panel_t *panel = &pass->panels[t];
    const panel_quad_t grad = pass->quads.x, saved = pass->quads.other, y = pass->quads.y;
    const real *a[4], *b[4];
    real *to[4];
    FSM_EACH_BLOCK(k, count) {
        a[k] = block_at(grad, t, i + k);
        b[k] = block_at(saved, t, i + k);
        to[k] = block_at(y, t, i + k);
    }
    if (count < 4 || !panel->all_ordinary) {
        for (int k = 0; k < count; k++) {
            const vec of_grad = vec_load(a[k]), of_saved = vec_load(b[k]);
            vec_store(to[k], of == OF_SOFTMAX
                                 ? softmax_grad_any_block(of_grad, of_saved, panel, pass->temperature)
                                 : log_softmax_grad_any_block(of_grad, of_saved, panel, pass->temperature));
        }
    } else if (of == OF_SOFTMAX && panel->plan.small) {
        small_quad(a, b, to, panel->plan);
    } else {
        gradient_quad(a, b, to, panel->plan, &panel->plan, of);
    }
}

FSM_INLINE void softmax_grad_write_blocks(const void *op, int t, ptrdiff_t i, const int count) {
    gradient_write_blocks(op, t, i, count, OF_SOFTMAX);
}

FSM_INLINE void log_softmax_grad_write_blocks(const void *op, int t, ptrdiff_t i, const int count) {
    gradient_write_blocks(op, t, i, count, OF_LOG_SOFTMAX);
}

FSM_INLINE void gradient_panels(const batch_t *b, const gradient_t of, add_lane_t *add_lane,
                                write_blocks_t *write_blocks) {
    gradient_pass_t pass;
    vec_acc sums[MAX_PANELS];
    pass.lanes = lanes_of(b);
    pass.temperature = b->args->temperature;
    pass.again = false;
    for (int t = 0; t < b->panels; t++)
        pass.ranges[t] = grad_range_of_none();
    if (b->n <= LANES)
        gradient_sum_short_panels(b, &pass, sums, of);
    else
        sum_panels(b, &pass, &pass.quads, 1, pass.lanes, sums, gradient_load_quad, add_lane, NULL);
    for (int t = 0; t < b->panels; t++)
        gradient_finish_panel(b, &pass, t, sums[t], of);
    pass.again = true;
    write_panels(b, &pass, &pass.quads, NULL, gradient_load_quad, write_blocks);
}

/* ---- the two */

static plan_t gradient_plan(batch_kernel_t *rows, batch_kernel_t *panels, batch_kernel_t *short_rows) {
    return (plan_t){
        .rows = rows,
        .panels = panels,
        .short_rows = IF_PARTS_PAY(short_rows),
        .operands = BIT(FSM_X) | BIT(FSM_SAVED) | BIT(FSM_Y),
        .writes_once = true,
        .room = SPARE_AT,
        .max_panels = MAX_PANELS,
        .max_rows = PTRDIFF_MAX,
    };
}

static void softmax_grad_rows(const batch_t *b) {
    gradient_rows(b, OF_SOFTMAX);
}

static void softmax_grad_short_rows(const batch_t *b) {
    WITH_SHAPE(b, gradient_short_rows(b, in_block, blocks, OF_SOFTMAX));
}

static void softmax_grad_panels(const batch_t *b) {
    gradient_panels(b, OF_SOFTMAX, softmax_grad_add_lane, softmax_grad_write_blocks);
}

static void softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = gradient_plan(softmax_grad_rows, softmax_grad_panels, softmax_grad_short_rows);
    each_batch(args, begin, end, scratch, &plan);
}

static void log_softmax_grad_rows(const batch_t *b) {
    gradient_rows(b, OF_LOG_SOFTMAX);
}

static void log_softmax_grad_short_rows(const batch_t *b) {
    WITH_SHAPE(b, gradient_short_rows(b, in_block, blocks, OF_LOG_SOFTMAX));
}

static void log_softmax_grad_panels(const batch_t *b) {
    gradient_panels(b, OF_LOG_SOFTMAX, log_softmax_grad_add_lane, log_softmax_grad_write_blocks);
}

static void log_softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = gradient_plan(log_softmax_grad_rows, log_softmax_grad_panels, log_softmax_grad_short_rows);
    each_batch(args, begin, end, scratch, &plan);
}

#endif
