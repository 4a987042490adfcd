/* What logsumexp, logmeanexp and softmax_entropy share beyond log_family.h: one number a row. */
#ifndef FSM_KERNELS_REDUCTION_H
#define FSM_KERNELS_REDUCTION_H

#include "log_sweep.h"

/* Stores the results of tile t of a reduction. */
FSM_OUTLINE_ void store_reduced(const group_t *g, int which, int t, const double *results) {
    const fsm_operand *operand = &g->args->operands[which];
    const real_bits nan_bits = QUIET_NAN_BITS;
    const int count = rows_in_tile(g, t);
    real values[LANES];
    for (int j = 0; j < count; j++)
        values[j] = (real)results[j];
    for (int j = 0; j < count; j++)
        if (isnan(values[j]))
            memcpy(&values[j], &nan_bits, sizeof nan_bits);
    for (int j = 0, part; j < count; j += part) {
        part = (int)part_of_tile(g, t * LANES + j);
        store_across(operand, start_of(g, which, t * LANES + j), operand->across, part, values + j);
    }
}

/* Walks through the groups of a reduction. `finish` stores the results of tile t, or of rows, from their state. */
typedef void log_finish_t(const group_t *, int t, const log_state_t *);

FSM_INLINE void reduce_rows(const group_t *g, log_kind_t kind, log_finish_t *finish) {
    log_state_t state;
    log_sweep_rows(g, &state, kind);
    finish(g, 0, &state);
}

FSM_INLINE void reduce_short_rows(const group_t *g, log_finish_t *finish) {
    log_state_t state;
    real e[BATCH_ROOM];
    if (!log_sweep_short(g, &state, e))
        log_sweep_rows(g, &state, SUMS);
    finish(g, 0, &state);
}

FSM_INLINE void reduce_columns(const group_t *g, log_kind_t kind, log_finish_t *finish) {
    log_state_t states[LOG_TILES];
    log_sweep_columns(g, states, kind);
    for (int t = 0; t < g->tiles; t++)
        finish(g, t, &states[t]);
}

#define REDUCTION_PLAN                                                                                                 \
    ((plan_t){.hold_rows = false,                                                                                    \
                .room = LOG_ROOM,                                                                                      \
                .tiles = LOG_TILES,                                                                                    \
                .most_rows = LANES,                                                                                    \
                .may_turn = true,                                                                                      \
                .in_line = BIT(FSM_X)})

#endif
