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
#ifndef FSM_KERNELS_LOG_FAMILY_H
#define FSM_KERNELS_LOG_FAMILY_H

#include "../math/scalar_math.h"
#include "../simd/vec.h"

#include <math.h>

/* A NaN, or an infinity with a weight of either sign, among the elements. */
enum { HAS_NAN = 1, HAS_INF = 2, HAS_MINUS_INF = 4 };

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
    bool careful[LANES]; /* in some chunk: a subnormal x, a shift, a temperature; the same for all columns of a tile */
} log_state_t;

/* What is summed: the exponentials, these times the weights of the elements, or these and the distances. KEPT: the
 * exponentials of rows of one chunk also stay (kept_at). */
typedef enum { SUMS, KEPT, WEIGHTED, DISTANCES } log_kind_t;

/* log1p(T/e): what the others add to the maximum. */
FSM_OUTLINE_ void log_tails(const log_state_t *s, int count, double *tails) {
    for (int j = 0; j < count; j++)
        tails[j] = fsm_log1p((s->others[j].hi + s->others[j].lo) / s->e[j]);
}

/* ---- chunks merged */

/* A factor of 1 or less as a product of two, each of which is a normal number where the factor times 2^200 is one. */
typedef struct {
    double a, b;
} ratio_t;

/* 2^d for an integer d <= 0, or 0 where that is subnormal. */
FSM_INLINE_ double power_of_two(double d) {
    return d < -1022 ? 0 : fsm_two_to((int)d);
}

/* The unit of entry l of `lose` in that of entry w of `win`, whose maximum is larger: 2^k or exp(shift) each. */
FSM_INLINE_ ratio_t
    log_ratio(const log_state_t *lose, ptrdiff_t l, const log_state_t *win, ptrdiff_t w, double temperature) {
    const double k = lose->k[l] - win->k[w];
    if (lose->shift[l] == win->shift[w]) {
        const double half = (double)(int64_t)(k / 2);
        return (ratio_t){power_of_two(half), power_of_two(k - half)};
    }
    /* exp(hi + lo) for shifts that are near each other, or one that is near k*LN2; both differences are exact. */
    const double apart = lose->shift[l] - win->shift[w], d = apart / temperature;
    const fsm_sum d_rest = {d, fma(-d, temperature, apart) / temperature}, of_k = {k * FSM_LN2_HI, 0};
    const fsm_sum sum = fsm_two_sum(d_rest, of_k);
    const fsm_sum exponent = fsm_two_sum((fsm_sum){sum.hi, 0}, (fsm_sum){sum.lo + k * FSM_LN2_LO, 0});
    const double root = fsm_exp(exponent.hi / 2);
    return (ratio_t){root, root + root * exponent.lo};
}

FSM_INLINE_ fsm_sum scaled(fsm_sum s, double factor) {
    return (fsm_sum){s.hi * factor, s.lo * factor};
}

/* a + b*ratio */
FSM_INLINE_ fsm_sum add_scaled(fsm_sum a, fsm_sum b, ratio_t ratio) {
    return sum_merge(a, scaled(scaled(b, ratio.a), ratio.b));
}

/* Entry j of s, and then entry i of a later chunk's. */
FSM_OUTLINE_ void log_merge(log_state_t *s, ptrdiff_t j, const log_state_t *chunk, ptrdiff_t i,
                                double temperature) {
    s->careful[j] |= chunk->careful[i];
    s->flags[j] |= chunk->flags[i];
    if (s->flags[j] || chunk->max[i] == -INFINITY)
        return;
    const bool later = chunk->max[i] > s->max[j];
    const log_state_t *win = later ? chunk : s, *lose = later ? s : chunk;
    const ptrdiff_t w = later ? i : j, l = later ? j : i;
    fsm_sum others = win->others[w], distance = win->distance[w];
    const ratio_t ratio = log_ratio(lose, l, win, w, temperature);
    if (lose->max[l] > -INFINITY && ratio.a > 0) {
        const fsm_sum all = sum_merge(lose->others[l], (fsm_sum){lose->e[l], 0});
        const fsm_sum further = scaled(all, (win->max[w] - lose->max[l]) / temperature);
        others = add_scaled(others, all, ratio);
        distance = add_scaled(distance, sum_merge(lose->distance[l], further), ratio);
    }
    s->others[j] = others;
    s->distance[j] = distance;
    if (later) {
        s->max[j] = chunk->max[i];
        s->e[j] = chunk->e[i];
        s->weight[j] = chunk->weight[i];
        s->k[j] = chunk->k[i];
        s->shift[j] = chunk->shift[i];
        s->index[j] = chunk->index[i];
    }
}

#endif
