/* logsumexp_grad: dx = grad*softmax(x), by scaled_softmax.h, with one grad a row; or grad*exp(x - lse), with a saved
 * lse a row, which takes one pass. */
#ifndef FSM_KERNELS_LOGSUMEXP_GRAD_H
#define FSM_KERNELS_LOGSUMEXP_GRAD_H

#include "scaled_softmax.h"
#include "schedule.h"

/* What the first pass would have found: lse as the maximum, and exp(lse) as the sum. */
static void log_sum_of_lse(const batch_t *b, int t, log_sum_t *s) {
    real lse[LANES], k[LANES], shift[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < rows_in_panel(b, t);
        const real given = here ? element(b->args, FSM_SAVED, start_of(b, FSM_SAVED, t * LANES + j), 0) : 0;
        s->flags[j] = !isfinite(given);
        lse[j] = isfinite(given) ? given : 0;
    }
    const vec max = vec_load(lse), shifts = shift_of(max, b->beta);
    const exp_frame_t frame = exp_frame_of(max, shifts, b->beta);
    vec_store(k, exp_frame_k(&frame));
    vec_store(shift, shifts);
    const bool special = vec_any_lt(vec_set1(0), vec_abs(shifts));
    for (int j = 0; j < LANES; j++) {
        const double rest = (lse[j] - (double)shift[j]) - k[j] * FSM_LN2_HI - k[j] * FSM_LN2_LO;
        const double half = fsm_exp(-fabs(rest)), sum = rest < 0 ? half : 1 / half;
        s->max[j] = lse[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){E_FACTOR * sum, 0};
        s->e[j] = 0;
        s->special[j] = special;
    }
}

static void logsumexp_grad_finish(const batch_t *b, int t, const log_sum_t *sum, scaled_rows_t *s) {
    double f[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < rows_in_panel(b, t);
        f[j] = here ? element(b->args, FSM_GRAD, start_of(b, FSM_GRAD, t * LANES + j), 0) : 0;
    }
    scaled_rows_of(s, sum, f, rows_in_panel(b, t));
}

static void logsumexp_grad_rows(const batch_t *b) {
    const bool of_lse = b->args->operands[FSM_SAVED].data;
    const scaled_kind_t kind = of_lse ? SCALED_OF_LSE : can_keep(b) ? SCALED_KEPT : SCALED;
    log_sum_t sum;
    scaled_rows_t rows;
    if (of_lse)
        log_sum_of_lse(b, 0, &sum);
    else
        log_sum_rows(b, &sum, kind == SCALED_KEPT ? KEPT : SUMS);
    logsumexp_grad_finish(b, 0, &sum, &rows);
    scaled_softmax_rows(b, &sum, &rows, kind);
}

static void logsumexp_grad_short_rows(const batch_t *b) {
    log_sum_t sum;
    scaled_rows_t rows;
    real e[SHORT_ROOM];
    if (!log_sum_short_rows(b, &sum, e)) {
        logsumexp_grad_rows(b);
        return;
    }
    logsumexp_grad_finish(b, 0, &sum, &rows);
    scaled_softmax_short_rows(b, &rows, e);
}

static void logsumexp_grad_panels(const batch_t *b) {
    const bool of_lse = b->args->operands[FSM_SAVED].data;
    log_sum_t sums[LOG_PANELS];
    scaled_rows_t rows[LOG_PANELS];
    if (!of_lse)
        log_sum_panels(b, sums, SUMS);
    for (int t = 0; t < b->panels; t++) {
        if (of_lse)
            log_sum_of_lse(b, t, &sums[t]);
        logsumexp_grad_finish(b, t, &sums[t], &rows[t]);
    }
    scaled_softmax_panels(b, sums, rows, of_lse ? SCALED_OF_LSE : SCALED);
}

static void logsumexp_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const bool of_lse = args->operands[FSM_SAVED].data;
    const plan_t plan = {
        .rows = logsumexp_grad_rows,
        .panels = logsumexp_grad_panels,
        .short_rows = of_lse ? NULL : IF_PARTS_PAY(logsumexp_grad_short_rows),
        .operands = BIT(FSM_X) | BIT(FSM_Y),
        .writes_once = true,
        .packs_rows = !of_lse,
        .room = LANES_AT,
        .max_panels = LOG_PANELS,
        .max_rows = LANES,
    };
    each_batch(args, begin, end, scratch, &plan);
}

#endif
