/* softmax_entropy: the entropy of y = softmax(x) in nats, -sum(y * log y) = log1p(T/e) + D/(e + T), by log_family.h.
 * Both terms are positive or 0, so nothing cancels. */
#ifndef FSM_KERNELS_SOFTMAX_ENTROPY_H
#define FSM_KERNELS_SOFTMAX_ENTROPY_H

#include "reduction.h"

static void softmax_entropy_finish(const group_t *g, int t, const log_state_t *s) {
    const int count = rows_in_tile(g, t);
    double results[LANES], tails[LANES];
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const double sum = s->e[j] + (s->others[j].hi + s->others[j].lo);
        const double distance = s->distance[j].hi + s->distance[j].lo;
        results[j] = tails[j] + distance / sum;
        if (s->flags[j]) {
            results[j] = NAN;
        } else if (s->max[j] == -INFINITY) {
            const fsm_row row = row_of(g, t * LANES + j);
            results[j] = count_parts(g->args, &row) > 0 ? NAN : 0;
        }
    }
    store_reduced(g, FSM_Y, t, results);
}

static void softmax_entropy_rows(const group_t *g) {
    reduce_rows(g, DISTANCES, softmax_entropy_finish);
}

static void softmax_entropy_columns(const group_t *g) {
    reduce_columns(g, DISTANCES, softmax_entropy_finish);
}

static void softmax_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    each_group(args, begin, end, scratch, REDUCTION_PLAN, softmax_entropy_rows, softmax_entropy_columns);
}

#endif
