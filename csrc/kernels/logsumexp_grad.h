/* logsumexp_grad: dx = grad*softmax(x), by shares.h, with one grad a row; or grad*exp(x - lse), with a saved lse a row,
 * which takes one sweep. */

/* What the first sweep would have found: lse as the maximum, and exp(lse) as the sum. */
static void FN(state_of_lse)(const FN(group) * g, int t, FN(log_state) * s) {
    real lse[LANES], k[LANES], shift[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < FN(entries)(g, t);
        const real given = here ? FN(element)(g->args, FSM_SAVED, FN(start_of)(g, FSM_SAVED, t * LANES + j), 0) : 0;
        s->flags[j] = !isfinite(given);
        lse[j] = isfinite(given) ? given : 0;
    }
    const vec max = vec_load(lse), shifts = FN(shift_of)(max, g->beta);
    const FN(exp_frame) frame = FN(exp_frame_of)(max, shifts, g->beta);
    vec_store(k, FN(exp_frame_k)(&frame));
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

static void FN(logsumexp_grad_shares)(const FN(group) * g, int t, const FN(log_state) * state, FN(shares) * s) {
    double f[LANES];
    for (int j = 0; j < LANES; j++) {
        const bool here = j < FN(entries)(g, t);
        f[j] = here ? FN(element)(g->args, FSM_GRAD, FN(start_of)(g, FSM_GRAD, t * LANES + j), 0) : 0;
    }
    FN(shares_of)(s, state, f, FN(entries)(g, t));
}

static void FN(logsumexp_grad_rows)(const FN(group) * g) {
    FN(log_state) state;
    FN(shares) shares;
    if (g->args->operands[FSM_SAVED].data) {
        FN(state_of_lse)(g, 0, &state);
        FN(logsumexp_grad_shares)(g, 0, &state, &shares);
        FN(share_rows)(g, &state, &shares, FN(SHARES_OF_LSE));
    } else if (FN(can_keep)(g)) {
        FN(log_sweep_rows)(g, &state, FN(KEPT));
        FN(logsumexp_grad_shares)(g, 0, &state, &shares);
        FN(share_rows)(g, &state, &shares, FN(SHARES_OF_KEPT));
    } else {
        FN(log_sweep_rows)(g, &state, FN(SUMS));
        FN(logsumexp_grad_shares)(g, 0, &state, &shares);
        FN(share_rows)(g, &state, &shares, FN(SHARES));
    }
}

static void FN(logsumexp_grad_short_rows)(const FN(group) * g) {
    FN(log_state) state;
    FN(shares) shares;
    real e[BATCH_ROOM];
    if (!FN(log_sweep_short)(g, &state, e)) {
        FN(logsumexp_grad_rows)(g);
        return;
    }
    FN(logsumexp_grad_shares)(g, 0, &state, &shares);
    FN(share_short)(g, &shares, e);
}

static void FN(logsumexp_grad_columns)(const FN(group) * g) {
    const bool saved = g->args->operands[FSM_SAVED].data;
    FN(log_state) states[LOG_TILES];
    FN(shares) shares[LOG_TILES];
    if (!saved)
        FN(log_sweep_columns)(g, states, FN(SUMS));
    for (int t = 0; t < g->tiles; t++) {
        if (saved)
            FN(state_of_lse)(g, t, &states[t]);
        FN(logsumexp_grad_shares)(g, t, &states[t], &shares[t]);
    }
    if (saved)
        FN(share_columns)(g, states, shares, FN(SHARES_OF_LSE));
    else
        FN(share_columns)(g, states, shares, FN(SHARES));
}

static void FN(logsumexp_grad)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const bool saved = args->operands[FSM_SAVED].data;
    const FN(plan) plan = {.hold_rows = !saved,
                           .room = LOG_ROOM,
                           .tiles = LOG_TILES,
                           .most_rows = LANES,
                           .short_rows = saved ? NULL : IF_PARTS_PAY(FN(logsumexp_grad_short_rows)),
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    FN(each_group)(args, begin, end, scratch, plan, FN(logsumexp_grad_rows), FN(logsumexp_grad_columns));
}
