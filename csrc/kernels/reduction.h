/* What logsumexp, logmeanexp and softmax_entropy share beyond log_family.h: one number a row. */

/* Stores the results of tile t of a reduction. */
FSM_OUTLINE_ void FN(store_reduced)(const FN(group) * g, int which, int t, const double *results) {
    const fsm_operand *operand = &g->args->operands[which];
    const real_bits nan_bits = QUIET_NAN_BITS;
    const int count = FN(entries)(g, t);
    real values[LANES];
    for (int j = 0; j < count; j++)
        values[j] = (real)results[j];
    for (int j = 0; j < count; j++)
        if (isnan(values[j]))
            memcpy(&values[j], &nan_bits, sizeof nan_bits);
    for (int j = 0, part; j < count; j += part) {
        part = (int)FN(part_of_tile)(g, t * LANES + j);
        FN(store_across)(operand, FN(start_of)(g, which, t * LANES + j), operand->across, part, values + j);
    }
}

/* Walks through the groups of a reduction. `finish` stores the results of tile t, or of rows, from their state. */
typedef void FN(log_finish)(const FN(group) *, int t, const FN(log_state) *);

FSM_INLINE void FN(reduce_rows)(const FN(group) * g, FN(log_kind) kind, FN(log_finish) * finish) {
    FN(log_state) state;
    FN(log_sweep_rows)(g, &state, kind);
    finish(g, 0, &state);
}

FSM_INLINE void FN(reduce_short_rows)(const FN(group) * g, FN(log_finish) * finish) {
    FN(log_state) state;
    real e[BATCH_ROOM];
    if (!FN(log_sweep_short)(g, &state, e))
        FN(log_sweep_rows)(g, &state, FN(SUMS));
    finish(g, 0, &state);
}

FSM_INLINE void FN(reduce_columns)(const FN(group) * g, FN(log_kind) kind, FN(log_finish) * finish) {
    FN(log_state) states[LOG_TILES];
    FN(log_sweep_columns)(g, states, kind);
    for (int t = 0; t < g->tiles; t++)
        finish(g, t, &states[t]);
}

#define REDUCTION_PLAN                                                                                                 \
    ((FN(plan)){.hold_rows = false,                                                                                    \
                .room = LOG_ROOM,                                                                                      \
                .tiles = LOG_TILES,                                                                                    \
                .most_rows = LANES,                                                                                    \
                .may_turn = true,                                                                                      \
                .in_line = BIT(FSM_X)})
