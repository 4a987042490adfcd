/* softmax_grad: dx = y*(grad - sum(grad*y))/T, from grad (x of the arguments) and y (saved).
 * log_softmax_grad: dx = (grad - exp(logp)*sum(grad))/T, from grad and logp (saved).
 *
 * Two sweeps: the sum, in the order of passes.h; then the result. On wide rows y and the result are subnormal in
 * places, which as operands and results of arithmetic cost a hundred cycles each on many CPUs. So y and exp(logp) are
 * taken times E_FACTOR, as exponentials are elsewhere, and integers take that off the result (unscale()); in the sum of
 * softmax, y is taken times SUM_MORE too. Rows for which that is too much, or which have a NaN or an infinity, are done
 * one by one, without hurry (plain_sum(), plain_results()). */
#ifndef FSM_KERNELS_GRADIENTS_H
#define FSM_KERNELS_GRADIENTS_H

#include "short_rows.h"

typedef enum { OF_SOFTMAX, OF_LOG_SOFTMAX } gradient_t;

/* What decides how a row is taken: the bits of all y, or of all logp, those below 0 raised to a positive number; the
 * smallest y; of logp, the largest |grad|. */
typedef struct {
    vec saved, least, grad;
} reach_t;

FSM_INLINE reach_t reach_of_none(void) {
    return (reach_t){vec_set1(0), vec_set1(1), vec_set1(0)};
}

FSM_INLINE reach_t reach_of(vec grad, vec saved, gradient_t of) {
    if (of == OF_SOFTMAX)
        return (reach_t){saved, saved, vec_set1(0)};
    return (reach_t){vec_clamp(saved, vec_set1(MIN_NORMAL)), vec_set1(1), vec_abs(grad)};
}

FSM_INLINE reach_t reach_set_register(reach_t a, int j, reach_t b) {
    a.saved = set_register(a.saved, j, b.saved);
    a.least = set_register(a.least, j, b.least);
    a.grad = set_register(a.grad, j, b.grad);
    return a;
}

FSM_INLINE reach_t reach_join(reach_t a, reach_t b, gradient_t of) {
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

/* Terms of the sum have a factor of E_FACTOR*SUM_MORE. Where the sum is below MOST_SUM, no term was infinite, and an
 * fma hides at most twice the largest number: |grad*y|*E_FACTOR is below a half of that, |sum*y|*E_FACTOR, as y < 2,
 * below a quarter. So (grad - sum)*y*E_FACTOR is finite, which saves a search for the largest |grad|. */
#define SUM_MORE ((real)4)

/* The same of register j, or all, of `count` blocks in place, of which `least` has the smallest y, for a sum. */
FSM_INLINE void scale_blocks(vec *y, const int count, vec least, int j) {
    if (FSM_RARELY(any_lt_register(least, vec_set1(MIN_NORMAL), j))) {
        FSM_EACH_BLOCK(i, count)
            y[i] = scale(y[i], SUM_MORE);
    } else {
        FSM_EACH_BLOCK(i, count)
            y[i] = vec_mul(y[i], vec_set1(E_FACTOR * SUM_MORE));
    }
}

/* ---- sums */

/* The term of a block; widens `reach`. */
FSM_INLINE vec gradient_term(vec grad, vec saved, reach_t *reach, gradient_t of) {
    const reach_t here = reach_of(grad, saved, of);
    *reach = reach_join(*reach, here, of);
    if (of == OF_LOG_SOFTMAX)
        return grad;
    scale_blocks(&saved, 1, here.least, ALL_REGISTERS);
    return vec_mul(grad, saved);
}

/* Register j of the terms of 4 blocks of a lane; widens `reach`. Where grad is 0, as it is where there are fewer, saved
 * is of no account. */
FSM_INLINE vec gradient_terms(const vec *grad, const vec *saved, reach_t *reach, gradient_t of, int j) {
    reach_t here = reach_of(grad[0], saved[0], of);
    FSM_UNROLL
    for (int i = 1; i < 4; i++)
        here = reach_join(here, reach_of(grad[i], saved[i], of), of);
    *reach = reach_set_register(*reach, j, reach_join(*reach, here, of));
    if (of == OF_LOG_SOFTMAX)
        return add_four(grad[0], grad[1], grad[2], grad[3]);
    vec scaled[4] = {saved[0], saved[1], saved[2], saved[3]};
    scale_blocks(scaled, 4, here.least, j);
    const vec even = vec_fma(grad[2], scaled[2], vec_mul(grad[0], scaled[0]));
    const vec odd = vec_fma(grad[3], scaled[3], vec_mul(grad[1], scaled[1]));
    return vec_add(even, odd);
}

/* The same of all registers, of blocks that are anywhere. */
FSM_INLINE vec gradient_terms_at(const real *const *grad, const real *const *saved, reach_t *reach,
                                     gradient_t of) {
    vec terms = vec_set1(0);
    FSM_EACH_REGISTER(j) {
        vec a[4], b[4];
        FSM_UNROLL
        for (int step = 0; step < 4; step++) {
            a[step] = load_register(grad[step], j);
            b[step] = load_register(saved[step], j);
        }
        terms = set_register(terms, j, gradient_terms(a, b, reach, of, j));
    }
    return terms;
}

/* Where there are fewer than 4 blocks, grad is this, and saved that of any other. */
static const real no_grad[LANES];

/* `count` > 0 elements at p as a whole block: in place, or filled up in `room`. */
FSM_INLINE const real *whole_block(const real *p, ptrdiff_t count, real fill, real *room) {
    if (count >= LANES)
        return p;
    vec_store(room, vec_load_n(p, count, fill));
    return room;
}

/* The sum over a chunk of a row; widens `reach`. `ahead`: asks for what is 4 KB on in the row, or in the next one.
 * (4096, 1024) float32 then takes 0.74 times as long, (64, 1000) 0.95 (AVX-512, Zen 5). With AVX2 (Zen 3) both take 1.1
 * times as long, so rows of one chunk go without (FSM_ASKS_AHEAD), but (128, 32000) 0.95 times. */
FSM_INLINE fsm_sum gradient_sum_row(const real *grad, const real *saved, ptrdiff_t n, bool ahead, reach_t *reach,
                                        gradient_t of) {
    vec_acc lanes = vec_acc_zero();
    reach_t all = *reach;
    const real *a[4], *b[4];
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        FSM_UNROLL
        for (int step = 0; step < 4; step++) {
            a[step] = grad + i + step * LANES;
            b[step] = saved + i + step * LANES;
            if (ahead) {
                prefetch_block(a[step] + 4096 / sizeof(real));
                prefetch_block(b[step] + 4096 / sizeof(real));
            }
        }
        lanes = vec_acc_add(lanes, gradient_terms_at(a, b, &all, of));
    }
    if (i < n) {
        real last_grad[LANES], last_saved[LANES];
        for (int step = 0; step < 4; step++) {
            const ptrdiff_t at = i + step * LANES;
            a[step] = at < n ? whole_block(grad + at, n - at, 0, last_grad) : no_grad;
            b[step] = at < n ? whole_block(saved + at, n - at, 1, last_saved) : b[0];
        }
        lanes = vec_acc_add(lanes, gradient_terms_at(a, b, &all, of));
    }
    *reach = all;
    return vec_acc_fold(lanes);
}

/* ---- results */

/* What the second sweep needs of a row, or of each column: the sum (of softmax without its factor), and 1/T. */
typedef struct {
    vec sum;
    real beta, scaled_beta, unit; /* 1/T; the same divided by a power of two, if it is not below 1; of unscale() then */
    bool small;                   /* y, or 1/T, is so small that results may be subnormal */
} gradient_plan_t;

/* Of y, and of |grad - sum|: from there on their product is a normal number, and so is that times a 1/T of 2^-6. */
#define LEAST_FACTOR ((real)0x1p-60)

/* Of softmax: with one below, scaled_beta might leave too little of E_FACTOR for subnormal results. */
#define LEAST_TEMPERATURE (fsm_two_to(MANTISSA_BITS + 2) / E_FACTOR)

FSM_INLINE gradient_plan_t gradient_plan_of(vec sum, reach_t reach, beta_t beta) {
    const int exponent = (int)(fsm_f64_bits(beta.hi) >> 52) - 1022;
    const real less = (real)fsm_two_to(exponent > 0 && beta.hi <= 1 / LEAST_TEMPERATURE ? -exponent : 0);
    return (gradient_plan_t){
        .sum = sum,
        .beta = beta.hi,
        .scaled_beta = beta.hi * less,
        .unit = E_FACTOR * MIN_NORMAL / 2 * less,
        .small = beta.hi < (real)0x1p-6 || vec_any_lt(reach.least, vec_set1(LEAST_FACTOR)),
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

/* A block of results. */
FSM_INLINE vec gradient_block(vec grad, vec saved, const gradient_plan_t *plan, gradient_t of) {
    if (of == OF_LOG_SOFTMAX) {
        log_gradient(&grad, &saved, 1, plan, ALL_REGISTERS);
        return grad;
    }
    const vec apart = vec_sub(grad, plan->sum);
    if (plan->small || vec_any_lt(vec_abs(apart), vec_set1(LEAST_FACTOR)))
        return small_result(apart, saved, plan);
    return vec_mul(vec_mul(apart, saved), vec_set1(plan->beta));
}

/* A register of small results, from element `at` of a block on. */
FSM_OUTLINE_ void small_register(const real *grad, const real *saved, real *y, ptrdiff_t at,
                                     const gradient_plan_t *plan) {
    const vec sum = load_register((const real *)&plan->sum + at, 0);
    const vec apart = vec_sub(load_register(grad + at, 0), sum);
    store_register(y + at, 0, small_result(apart, load_register(saved + at, 0), plan));
}

/* `count` <= 4, a constant, blocks of results. y may be grad, or saved. `small`: plan.small, of softmax. What few
 * registers of other rows need is done elsewhere, so that it takes no registers here; `in_memory` is the plan again. */
FSM_INLINE void gradient_blocks(const real *const *grad, const real *const *saved, real *const *y, const int count,
                                    gradient_plan_t plan, const gradient_plan_t *in_memory, gradient_t of,
                                    const bool small) {
    FSM_EACH_REGISTER(j) {
        vec a[4], b[4];
        FSM_EACH_BLOCK(k, small ? count : 0) {
            const vec apart = vec_sub(load_register(grad[k], j), plan.sum);
            store_register(y[k], j, small_result(apart, load_register(saved[k], j), &plan));
        }
        if (small)
            continue;
        FSM_EACH_BLOCK(k, count) {
            a[k] = load_register(grad[k], j);
            b[k] = load_register(saved[k], j);
        }
        if (of == OF_LOG_SOFTMAX) {
            log_gradient(a, b, count, &plan, j);
        } else {
            vec least = vec_set1(0);
            FSM_EACH_BLOCK(k, count) {
                a[k] = vec_sub(a[k], plan.sum);
                least = k ? vec_min(least, vec_abs(a[k])) : vec_abs(a[k]);
            }
            if (any_lt_register(least, vec_set1(LEAST_FACTOR), j)) {
                FSM_EACH_BLOCK(k, count)
                    small_register(grad[k], saved[k], y[k], j * (LANES / FSM_REGISTERS), in_memory);
                continue;
            }
            FSM_EACH_BLOCK(k, count)
                a[k] = vec_mul(vec_mul(a[k], b[k]), vec_set1(plan.beta));
        }
        FSM_EACH_BLOCK(k, count)
            store_register(y[k], j, a[k]);
    }
}

/* A total of terms without the factor that they have. */
FSM_INLINE_ real factor_off(double total, gradient_t of) {
    return (real)(of == OF_SOFTMAX ? total * (1 / (double)(E_FACTOR * SUM_MORE)) : total);
}

/* ---- rows that are not ordinary */

/* The sum over row or column r. */
FSM_OUTLINE_ double plain_sum(const group_t *g, ptrdiff_t r, gradient_t of) {
    const fsm_args *args = g->args;
    const fsm_row row = row_of(g, r);
    real grad[FSM_CHUNK], saved[FSM_CHUNK];
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        load(args, FSM_X, row.at[FSM_X], c, count, grad);
        load(args, FSM_SAVED, row.at[FSM_SAVED], c, count, saved);
        for (ptrdiff_t i = 0; i < count; i++) {
            const double factor = of == OF_SOFTMAX ? saved[i] : 1, term = grad[i] * factor;
            const fsm_sum next = fsm_two_sum(sum, (fsm_sum){term, fma(grad[i], factor, -term)});
            sum = isfinite(next.hi) ? next : (fsm_sum){sum.hi + term, 0};
        }
    }
    return sum.hi + sum.lo;
}

/* exp(logp) * sum. */
FSM_INLINE_ double plain_product(real logp, double sum) {
    const double half = logp / 2.0, root = half <= 0 ? fsm_exp(half) : 1 / fsm_exp(-half);
    return root * sum * root;
}

/* (a - sum)*b/temperature, where a part of that could be too small, or too large. */
FSM_INLINE_ double plain_result(double a, double sum, double b, double temperature) {
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
static void plain_results(const real *grad, const real *saved, real *y, ptrdiff_t count, double sum,
                              double temperature, gradient_t of) {
    const real_bits nan_bits = QUIET_NAN_BITS;
    for (ptrdiff_t i = 0; i < count; i++) {
        real a, b;
        memcpy(&a, grad + i, sizeof a);
        memcpy(&b, saved + i, sizeof b);
        a = (real)(of == OF_SOFTMAX ? plain_result(a, sum, b, temperature)
                                        : (a - plain_product(b, sum)) / temperature);
        if (isnan(a))
            memcpy(&a, &nan_bits, sizeof a);
        memcpy(y + i, &a, sizeof a);
    }
}

/* Whether a row, or a column, may be taken times E_FACTOR, from what reach_t says of it, or of others too. A y below
 * 0, -0 included, a y or logp of 2 or more and a NaN have one of the two highest bits. A NaN of grad shows in the sum.
 * A subnormal sum has lost bits, which a temperature below 1 would bring to light. */
FSM_INLINE_ bool is_ordinary(const group_t *g, real grad, real_bits saved, double sum, gradient_t of) {
    const double temperature = g->args->temperature, size = fabs(sum);
    bool in_range;
    if (of == OF_SOFTMAX) {
        const bool whole = temperature >= 1 || size == 0 || size >= MIN_NORMAL * (double)E_FACTOR * SUM_MORE;
        in_range = size < MOST_SUM && temperature > LEAST_TEMPERATURE && whole;
    } else {
        const double limit = temperature < 1 ? MOST_GRAD * temperature : MOST_GRAD;
        in_range = size < limit && grad < limit;
    }
    return (saved >> (8 * sizeof saved - 2) == 0) & in_range;
}

/* ---- rows */

/* The bits of all lanes. */
FSM_INLINE_ real_bits bits_of(vec a) {
    real lanes[LANES];
    real_bits each[LANES], bits = 0;
    vec_store(lanes, a);
    memcpy(each, lanes, sizeof each);
    for (int j = 0; j < LANES; j++)
        bits |= each[j];
    return bits;
}

/* A chunk of an operand of row r: where it lies, or loaded into `room`. `again`: by the second sweep, right after the
 * first, which leaves a row of one chunk where it is: (1024, 1024) bfloat16 softmax_grad takes 0.84 times as long. */
FSM_INLINE_ const real *chunk_of(const group_t *g, int which, bool ready, ptrdiff_t r, ptrdiff_t begin,
                                     ptrdiff_t count, bool again, real *room) {
    if (ready)
        return element_at(g, which, r, begin);
    if (again && g->args->n <= FSM_CHUNK)
        return room;
    load(g->args, which, row_of(g, r).at[which], begin, count, room);
    return room;
}

/* Of the second sweep of a chunk, the groups of 4 blocks; returns how many elements that are. `ahead`, if it is not 0:
 * how far on is what will be read next; (128, 32000) then takes 0.95 times as long, rows of one chunk more. */
FSM_INLINE ptrdiff_t gradient_groups(const real *grad, const real *saved, real *y, ptrdiff_t n, ptrdiff_t ahead,
                                         const gradient_plan_t *plan, gradient_t of, const bool small) {
    gradient_plan_t own = *plan;
    own.sum = uniform(own.sum);
    ptrdiff_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const real *a[4], *b[4];
        real *to[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            a[k] = grad + i + k * LANES;
            b[k] = saved + i + k * LANES;
            to[k] = y + i + k * LANES;
            if (ahead) {
                prefetch_block(a[k] + ahead);
                prefetch_block(b[k] + ahead);
            }
        }
        gradient_blocks(a, b, to, 4, own, plan, of, small);
    }
    return i;
}

/* The second sweep of a chunk. y may be grad, or saved, unless it is streamed. */
FSM_INLINE void gradient_chunk(const real *grad, const real *saved, real *y, ptrdiff_t n, ptrdiff_t ahead,
                                   const gradient_plan_t *plan, gradient_t of, bool stream) {
    ptrdiff_t i = 0;
    if (!stream)
        i = of == OF_SOFTMAX && plan->small ? gradient_groups(grad, saved, y, n, ahead, plan, of, true)
                                                : gradient_groups(grad, saved, y, n, ahead, plan, of, false);
    for (; i + LANES <= n; i += LANES)
        put(y + i, gradient_block(vec_load(grad + i), vec_load(saved + i), plan, of), stream);
    if (i < n) {
        const vec a = vec_load_n(grad + i, n - i, 0), b = vec_load_n(saved + i, n - i, 0);
        vec_store_n(y + i, n - i, gradient_block(a, b, plan, of));
    }
}

/* A chunk as a row that is written (write_row). */
typedef struct {
    const real *grad, *saved;
    ptrdiff_t ahead;
    gradient_plan_t plan;
    gradient_t of;
} gradient_row_t;

FSM_INLINE void gradient_results(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const gradient_row_t *row = of;
    gradient_chunk(row->grad + begin, row->saved + begin, to, count, row->ahead, &row->plan, row->of, stream);
}

/* The sum over chunks [begin, end) of row r; widens `reach`. */
FSM_INLINE fsm_sum gradient_sum_chunks(const group_t *g, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t end,
                                           reach_t *reach, gradient_t of) {
    const ptrdiff_t n = g->args->n;
    const bool saved_ready = lies_ready(g->args, FSM_SAVED);
    fsm_sum sum = {0, 0};
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        const real *grad = chunk_of(g, FSM_X, g->x_ready, r, c, count, false, g->scratch);
        const real *saved = chunk_of(g, FSM_SAVED, saved_ready, r, c, count, false, g->scratch + FSM_CHUNK);
        sum = sum_merge(sum, gradient_sum_row(grad, saved, count, FSM_ASKS_AHEAD || n > FSM_CHUNK, reach, of));
    }
    return sum;
}

/* What the second sweep of row r takes. */
typedef struct {
    ptrdiff_t r;
    bool ordinary;
    double total; /* if it is not */
    gradient_plan_t plan;
} gradient_sweep_t;

FSM_INLINE gradient_sweep_t
    gradient_sweep_of(const group_t *g, ptrdiff_t r, fsm_sum sum, reach_t reach, gradient_t of) {
    const double total = sum.hi + sum.lo;
    const bool ordinary = is_ordinary(g, vec_hmax(reach.grad), bits_of(reach.saved), total, of);
    return (gradient_sweep_t){
        .r = r,
        .ordinary = ordinary,
        .total = ordinary ? total : plain_sum(g, r, of),
        .plan = gradient_plan_of(vec_set1(factor_off(total, of)), reach, g->beta),
    };
}

/* Its chunks [begin, end). */
FSM_INLINE void gradient_chunks(const group_t *g, const gradient_sweep_t *sweep, ptrdiff_t begin,
                                    ptrdiff_t end, gradient_t of) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n, r = sweep->r;
    const bool saved_ready = lies_ready(args, FSM_SAVED);
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        const real *grad = chunk_of(g, FSM_X, g->x_ready, r, c, count, true, g->scratch);
        const real *saved = chunk_of(g, FSM_SAVED, saved_ready, r, c, count, true, g->scratch + FSM_CHUNK);
        real *y = g->y_ready ? element_at(g, FSM_Y, r, c) : g->scratch;
        stream_t *stream = stream_of(g);
        const gradient_row_t row = {grad, saved, n > FSM_CHUNK && !stream ? n : 0, sweep->plan, of};
        if (sweep->ordinary)
            write_row(stream, y, count, gradient_results, &row);
        else
            plain_results(grad, saved, y, count, sweep->total, args->temperature, of);
        if (!g->y_ready)
            store(args, FSM_Y, row_of(g, r).at[FSM_Y], c, count, y);
    }
}

/* What is known of chunks `first` to first + GRADIENT_SEGMENT of a row that threads share. */
#define GRADIENT_SEGMENT 64

typedef struct {
    ptrdiff_t first, r;
    fsm_sum *sums;
    reach_t *reaches;
} gradient_segment_t;

FSM_INLINE void gradient_segment_sums(const group_t *g, const void *segment, ptrdiff_t begin, ptrdiff_t end,
                                          gradient_t of) {
    const gradient_segment_t *s = segment;
    for (ptrdiff_t i = begin; i < end; i++) {
        reach_t reach = reach_of_none();
        s->sums[i - s->first] = gradient_sum_chunks(g, s->r, i, i + 1, &reach, of);
        s->reaches[i - s->first] = reach;
    }
}

FSM_INLINE void gradient_shared_row(const group_t *g, ptrdiff_t r, chunks_t *sums, chunks_t *results,
                                        gradient_t of) {
    const ptrdiff_t chunks = chunks_of(g);
    fsm_sum each[GRADIENT_SEGMENT], sum = {0, 0};
    reach_t reaches[GRADIENT_SEGMENT], reach = reach_of_none();
    for (ptrdiff_t begin = 0; begin < chunks; begin += GRADIENT_SEGMENT) {
        const ptrdiff_t end = chunks - begin < GRADIENT_SEGMENT ? chunks : begin + GRADIENT_SEGMENT;
        share_chunks(g, sums, &(gradient_segment_t){begin, r, each, reaches}, begin, end);
        for (ptrdiff_t i = 0; i < end - begin; i++) {
            sum = sum_merge(sum, each[i]);
            reach = reach_join(reach, reaches[i], of);
        }
    }
    const gradient_sweep_t sweep = gradient_sweep_of(g, r, sum, reach, of);
    share_chunks(g, results, &sweep, 0, chunks);
}

FSM_INLINE void gradient_rows(const group_t *g, chunks_t *sums, chunks_t *results, gradient_t of) {
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        if (g->args->helpers > 0) {
            gradient_shared_row(g, r, sums, results, of);
            continue;
        }
        reach_t reach = reach_of_none();
        const fsm_sum sum = gradient_sum_chunks(g, r, 0, chunks_of(g), &reach, of);
        const gradient_sweep_t sweep = gradient_sweep_of(g, r, sum, reach, of);
        gradient_chunks(g, &sweep, 0, chunks_of(g), of);
    }
}

/* ---- short rows */

/* A batch at a time, whose rows are all ordinary; else they are taken one by one. */
FSM_INLINE void gradient_batches(const group_t *g, gradient_t of, const int parts, const int blocks,
                                     void (*rows)(const group_t *)) {
    double hi[LANES] = {0}, lo[LANES] = {0};
    real sums[LANES], room[BATCH_ROOM];
    for (ptrdiff_t first = 0; first < g->rows; first += LANES) {
        const batch_t batch = batch_of(g, first, parts, blocks);
        const real *grad = element_at(g, FSM_X, first, 0), *saved = element_at(g, FSM_SAVED, first, 0);
        reach_t reach = reach_of_none();
        for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
            const vec zero = vec_set1(0), one = vec_set1(1);
            vec a[FSM_MOST_BLOCKS] = {zero, zero, zero, zero}, b[FSM_MOST_BLOCKS] = {one, one, one, one};
            FSM_EACH_BLOCK(k, blocks) {
                a[k] = load_short_block(grad, batch, r, k, 0);
                b[k] = load_short_block(saved, batch, r, k, 1);
            }
            vec terms = zero;
            if (blocks == 1)
                terms = gradient_term(a[0], b[0], &reach, of);
            else
                FSM_EACH_REGISTER(j)
                    terms = set_register(terms, j, gradient_terms(a, b, &reach, of, j));
            vec_acc_fold_parts(vec_acc_of(terms), parts, hi + r, lo + r);
        }
        const real most = vec_hmax(reach.grad);
        const real_bits bits = bits_of(reach.saved);
        bool ordinary = true;
        for (ptrdiff_t r = 0; r < LANES; r++) {
            const double total = hi[r] + lo[r];
            sums[r] = factor_off(total, of);
            ordinary = ordinary & (is_ordinary(g, most, bits, total, of) | (r >= batch.rows));
        }
        if (!ordinary) {
            const group_t others = part_of_group(g, first, batch.rows);
            rows(&others);
            continue;
        }
        gradient_plan_t plan = gradient_plan_of(vec_set1(0), reach, g->beta);
        real *results = batch_results(g, first, batch, room);
        for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
            plan.sum = vec_set_parts(sums + r, parts);
            FSM_EACH_BLOCK(k, blocks) {
                const vec a = load_short_block(grad, batch, r, k, 0);
                const vec b = load_short_block(saved, batch, r, k, 1);
                store_short_block(results, batch, r, k, gradient_block(a, b, &plan, of));
            }
        }
        store_batch(g, first, batch, results);
    }
}

/* ---- columns */

#define GRADIENT_TILES 16

/* Numbers in the scratch: two pieces, and the lanes of the tiles. */
#define GRADIENT_LANES (GRADIENT_TILES * LANES * (ptrdiff_t)(sizeof(vec_acc) / sizeof(real)))
#define GRADIENT_ROOM  ((SCRATCH_ROOM - GRADIENT_LANES) / 2)

/* A piece of an operand: where it lies, or loaded into `room`. `again`: it was, by the first sweep. */
static piece_t
    gradient_piece(const group_t *g, int which, ptrdiff_t begin, ptrdiff_t count, bool again, real *room) {
    if (lies_in_tiles(g, which))
        return piece_in_place(g, which, begin, count);
    if (!again || g->args->n > PIECE)
        load_tiles(g, which, begin, count, room, g->pitch);
    return (piece_t){(char *)room, LANES * sizeof(real), g->pitch * (ptrdiff_t)sizeof(real), count};
}

FSM_INLINE void gradient_add_piece(int tiles, piece_t grad, piece_t saved, vec_acc *lanes, reach_t *reach,
                                       gradient_t of) {
    for (ptrdiff_t i = 0; i < LANES && i < grad.count; i++)
        for (int t = 0; t < tiles; t++) {
            const real *a[4], *b[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++) {
                const ptrdiff_t at = i + step * LANES;
                const bool there = at < grad.count;
                a[step] = there ? in_piece(grad, t, at) : no_grad;
                b[step] = there ? in_piece(saved, t, at) : b[0];
                prefetch_block(there ? in_piece(grad, t, at + 1) : a[step]);
                prefetch_block(there ? in_piece(saved, t, at + 1) : b[step]);
            }
            const vec terms = gradient_terms_at(a, b, &reach[t], of);
            lanes[t * LANES + i] = vec_acc_add(lanes[t * LANES + i], terms);
        }
}

/* The sums of columns of up to LANES elements, one to a lane; widens `reach`. */
FSM_INLINE void gradient_sum_short(int tiles, piece_t grad, piece_t saved, vec_acc *sums, reach_t *reach,
                                       gradient_t of) {
    real room[LANES * LANES];
    const piece_t terms = {(char *)room, LANES * sizeof(real), 0, grad.count};
    for (int t = 0; t < tiles; t++) {
        reach_t all = reach[t];
        for (ptrdiff_t i = 0; i < grad.count; i++) {
            const vec a = vec_load(in_piece(grad, t, i)), b = vec_load(in_piece(saved, t, i));
            vec_store(in_piece(terms, 0, i), gradient_term(a, b, &all, of));
        }
        reach[t] = all;
        sums[t] = sum_short_column(terms, 0, NULL);
    }
}

/* What the second sweep needs of a tile. */
typedef struct {
    gradient_plan_t of_all;
    bool all_ordinary, ordinary[LANES];
    double totals[LANES]; /* of columns that are not ordinary */
} gradient_columns_plan_t;

/* One block, of columns that are not all ordinary. */
FSM_OUTLINE_ vec plain_block(vec grad, vec saved, const gradient_columns_plan_t *plan, double temperature,
                                 gradient_t of) {
    real from[LANES], of_saved[LANES], to[LANES];
    vec_store(from, grad);
    vec_store(of_saved, saved);
    vec_store(to, gradient_block(grad, saved, &plan->of_all, of));
    for (int j = 0; j < LANES; j++)
        if (!plan->ordinary[j])
            plain_results(from + j, of_saved + j, to + j, 1, plan->totals[j], temperature, of);
    return vec_load(to);
}

/* The second sweep of `count` <= 4, a constant, blocks of a tile. */
FSM_INLINE void gradient_tile(piece_t grad, piece_t saved, piece_t y, ptrdiff_t t, ptrdiff_t i,
                                  const int count, const gradient_columns_plan_t *plan, double temperature,
                                  gradient_t of) {
    FSM_EACH_BLOCK(k, count) {
        prefetch_block(in_piece(grad, t, i + k + 4));
        prefetch_block(in_piece(saved, t, i + k + 4));
    }
    if (!plan->all_ordinary) {
        for (int k = 0; k < count; k++) {
            const vec a = vec_load(in_piece(grad, t, i + k)), b = vec_load(in_piece(saved, t, i + k));
            vec_store(in_piece(y, t, i + k), plain_block(a, b, plan, temperature, of));
        }
        return;
    }
    const real *a[4], *b[4];
    real *to[4];
    FSM_EACH_BLOCK(k, count) {
        a[k] = in_piece(grad, t, i + k);
        b[k] = in_piece(saved, t, i + k);
        to[k] = in_piece(y, t, i + k);
    }
    if (of == OF_SOFTMAX && plan->of_all.small)
        gradient_blocks(a, b, to, count, plan->of_all, &plan->of_all, of, true);
    else
        gradient_blocks(a, b, to, count, plan->of_all, &plan->of_all, of, false);
}

FSM_INLINE void gradient_columns(const group_t *g, gradient_t of) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const bool in_place = lies_in_tiles(g, FSM_Y);
    real *grad_room = g->scratch, *saved_room = g->scratch + GRADIENT_ROOM;
    vec_acc *lanes = (vec_acc *)(g->scratch + 2 * GRADIENT_ROOM), sums[GRADIENT_TILES];
    reach_t reach[GRADIENT_TILES];
    gradient_columns_plan_t columns[GRADIENT_TILES];

    for (int t = 0; t < g->tiles; t++)
        reach[t] = reach_of_none();
    if (n <= LANES) {
        const piece_t grad = gradient_piece(g, FSM_X, 0, n, false, grad_room);
        const piece_t saved = gradient_piece(g, FSM_SAVED, 0, n, false, saved_room);
        gradient_sum_short(g->tiles, grad, saved, sums, reach, of);
    }
    for (ptrdiff_t chunk = 0; n > LANES && chunk < n; chunk += FSM_CHUNK) {
        const ptrdiff_t end = n - chunk < FSM_CHUNK ? n : chunk + FSM_CHUNK;
        const int used = end - chunk < LANES ? (int)(end - chunk) : LANES;
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; j < used; j++)
                lanes[t * LANES + j] = vec_acc_zero();
        for (ptrdiff_t c = chunk; c < end; c += PIECE) {
            const ptrdiff_t count = end - c < PIECE ? end - c : PIECE;
            const piece_t grad = gradient_piece(g, FSM_X, c, count, false, grad_room);
            const piece_t saved = gradient_piece(g, FSM_SAVED, c, count, false, saved_room);
            gradient_add_piece(g->tiles, grad, saved, lanes, reach, of);
        }
        for (int t = 0; t < g->tiles; t++) {
            const vec_acc sum = fold_columns(lanes + t * LANES, used);
            sums[t] = chunk ? vec_acc_merge(sums[t], sum) : sum;
        }
    }
    for (int t = 0; t < g->tiles; t++) {
        double hi[LANES], lo[LANES];
        real sum[LANES], grad[LANES];
        real_bits saved[LANES];
        vec_acc_get(sums[t], hi, lo);
        vec_store(grad, reach[t].grad);
        memcpy(saved, &reach[t].saved, sizeof saved);
        gradient_columns_plan_t *plan = &columns[t];
        const int count = rows_in_tile(g, t);
        int odd = 0;
        for (int j = 0; j < LANES; j++) {
            const double total = hi[j] + lo[j];
            plan->ordinary[j] = is_ordinary(g, grad[j], saved[j], total, of) | (j >= count);
            odd |= !plan->ordinary[j];
            plan->totals[j] = total;
            sum[j] = factor_off(total, of);
        }
        for (int j = 0; odd && j < count; j++)
            if (!plan->ordinary[j]) {
                plan->totals[j] = plain_sum(g, t * LANES + j, of);
                sum[j] = 0;
            }
        plan->all_ordinary = !odd;
        plan->of_all = gradient_plan_of(vec_load(sum), reach[t], g->beta);
    }
    for (ptrdiff_t c = 0; c < n; c += PIECE) {
        const ptrdiff_t count = n - c < PIECE ? n - c : PIECE;
        const piece_t grad = gradient_piece(g, FSM_X, c, count, true, grad_room);
        const piece_t saved = gradient_piece(g, FSM_SAVED, c, count, true, saved_room);
        const piece_t in_room = {(char *)grad_room, LANES * sizeof(real), g->pitch * (ptrdiff_t)sizeof(real), count};
        const piece_t y = in_place ? piece_in_place(g, FSM_Y, c, count) : in_room;
        ptrdiff_t i = 0;
        for (; i + 4 <= count; i += 4)
            for (int t = 0; t < g->tiles; t++)
                gradient_tile(grad, saved, y, t, i, 4, &columns[t], args->temperature, of);
        for (; i < count; i++)
            for (int t = 0; t < g->tiles; t++)
                gradient_tile(grad, saved, y, t, i, 1, &columns[t], args->temperature, of);
        if (!in_place)
            store_tiles(g, c, count, grad_room);
    }
}

/* ---- the two */

#define GRADIENT_PLAN(of_short)                                                                                        \
    ((plan_t){.hold_rows = false,                                                                                    \
                .room = GRADIENT_ROOM,                                                                                 \
                .tiles = GRADIENT_TILES,                                                                               \
                .most_rows = PTRDIFF_MAX,                                                                              \
                .short_rows = IF_PARTS_PAY(of_short),                                                                  \
                .in_line = BIT(FSM_X) | BIT(FSM_SAVED) | BIT(FSM_Y)})

static void softmax_grad_sums(const group_t *g, const void *segment, ptrdiff_t begin, ptrdiff_t end) {
    gradient_segment_sums(g, segment, begin, end, OF_SOFTMAX);
}

static void softmax_grad_results(const group_t *g, const void *sweep, ptrdiff_t begin, ptrdiff_t end) {
    gradient_chunks(g, sweep, begin, end, OF_SOFTMAX);
}

static void softmax_grad_rows(const group_t *g) {
    gradient_rows(g, softmax_grad_sums, softmax_grad_results, OF_SOFTMAX);
}

static void softmax_grad_short_rows(const group_t *g) {
    WITH_PARTS(g, gradient_batches(g, OF_SOFTMAX, parts, blocks, softmax_grad_rows));
}

static void softmax_grad_columns(const group_t *g) {
    gradient_columns(g, OF_SOFTMAX);
}

static void softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    each_group(args, begin, end, scratch, GRADIENT_PLAN(softmax_grad_short_rows), softmax_grad_rows,
                   softmax_grad_columns);
}

static void log_softmax_grad_sums(const group_t *g, const void *segment, ptrdiff_t begin, ptrdiff_t end) {
    gradient_segment_sums(g, segment, begin, end, OF_LOG_SOFTMAX);
}

static void log_softmax_grad_results(const group_t *g, const void *sweep, ptrdiff_t begin, ptrdiff_t end) {
    gradient_chunks(g, sweep, begin, end, OF_LOG_SOFTMAX);
}

static void log_softmax_grad_rows(const group_t *g) {
    gradient_rows(g, log_softmax_grad_sums, log_softmax_grad_results, OF_LOG_SOFTMAX);
}

static void log_softmax_grad_short_rows(const group_t *g) {
    WITH_PARTS(g, gradient_batches(g, OF_LOG_SOFTMAX, parts, blocks, log_softmax_grad_rows));
}

static void log_softmax_grad_columns(const group_t *g) {
    gradient_columns(g, OF_LOG_SOFTMAX);
}

static void log_softmax_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    each_group(args, begin, end, scratch, GRADIENT_PLAN(log_softmax_grad_short_rows), log_softmax_grad_rows,
                   log_softmax_grad_columns);
}

#endif
