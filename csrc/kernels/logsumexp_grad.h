/* logsumexp_grad: dx = grad*softmax(x), by shares.h, with one grad a row; or grad*exp(x - lse), with a saved lse a row,
 * which takes one sweep. */
#ifndef FSM_KERNELS_LOGSUMEXP_GRAD_H
#define FSM_KERNELS_LOGSUMEXP_GRAD_H

#include "shares.h"

/* What the first sweep would have found: lse as the maximum, and exp(lse) as the sum. */
static void state_of_lse(const group_t *g, int t, log_state_t *s) {
    real lse[LANES], k[LANES], shift[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < rows_in_tile(g, t);
        const real given = here ? element(g->args, FSM_SAVED, start_of(g, FSM_SAVED, t * LANES + j), 0) : 0;
        s->flags[j] = !isfinite(given);
        lse[j] = isfinite(given) ? given : 0;
    }
    const vec max = vec_load(lse), shifts = shift_of(max, g->beta);
    const exp_frame_t frame = exp_frame_of(max, shifts, g->beta);
    vec_store(k, exp_frame_k(&frame));
    vec_store(shift, shifts);
    const bool careful = vec_any_lt(vec_set1(0), vec_abs(shifts));
    for (int j = 0; j < LANES; j++) {
        const double rest = (lse[j] - (double)shift[j]) - k[j] * FSM_LN2_HI - k[j] * FSM_LN2_LO;
        const double half = fsm_exp(-fabs(rest)), sum = rest < 0 ? half : 1 / half;
        s->max[j] = lse[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){E_FACTOR * sum, 0};
        s->e[j] = 0;
        s->careful[j] = careful;
    }
}

static void logsumexp_grad_shares(const group_t *g, int t, const log_state_t *state, shares_t *s) {
    double f[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < rows_in_tile(g, t);
        f[j] = here ? element(g->args, FSM_GRAD, start_of(g, FSM_GRAD, t * LANES + j), 0) : 0;
    }
    shares_of(s, state, f, rows_in_tile(g, t));
}

static void logsumexp_grad_rows(const group_t *g) {
    log_state_t state;
    shares_t shares;
    if (g->args->operands[FSM_SAVED].data) {
        state_of_lse(g, 0, &state);
        logsumexp_grad_shares(g, 0, &state, &shares);
        share_rows(g, &state, &shares, SHARES_OF_LSE);
    } else if (can_keep(g)) {
        log_sweep_rows(g, &state, KEPT);
        logsumexp_grad_shares(g, 0, &state, &shares);
        share_rows(g, &state, &shares, SHARES_OF_KEPT);
    } else {
        log_sweep_rows(g, &state, SUMS);
        logsumexp_grad_shares(g, 0, &state, &shares);
        share_rows(g, &state, &shares, SHARES);
    }
}

static void logsumexp_grad_short_rows(const group_t *g) {
    log_state_t state;
    shares_t shares;
    real e[BATCH_ROOM];
    if (!log_sweep_short(g, &state, e)) {
        logsumexp_grad_rows(g);
        return;
    }
    logsumexp_grad_shares(g, 0, &state, &shares);
    share_short(g, &shares, e);
}

static void logsumexp_grad_columns(const group_t *g) {
    const bool saved = g->args->operands[FSM_SAVED].data;
    log_state_t states[LOG_TILES];
    shares_t shares[LOG_TILES];
    if (!saved)
        log_sweep_columns(g, states, SUMS);
    for (int t = 0; t < g->tiles; t++) {
        if (saved)
            state_of_lse(g, t, &states[t]);
        logsumexp_grad_shares(g, t, &states[t], &shares[t]);
    }
    if (saved)
        share_columns(g, states, shares, SHARES_OF_LSE);
    else
        share_columns(g, states, shares, SHARES);
}

static void logsumexp_grad(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const bool saved = args->operands[FSM_SAVED].data;
    const plan_t plan = {.hold_rows = !saved,
                           .room = LOG_ROOM,
                           .tiles = LOG_TILES,
                           .most_rows = LANES,
                           .short_rows = saved ? NULL : IF_PARTS_PAY(logsumexp_grad_short_rows),
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    each_group(args, begin, end, scratch, plan, logsumexp_grad_rows, logsumexp_grad_columns);
}

#endif
