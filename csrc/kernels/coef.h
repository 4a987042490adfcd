/* c, the coefficients of a loss: what each class weighs in it, of classes that no target names too.
 *
 *   c = w*((1 - smoothing)*q + smoothing/classes)
 *
 * q are the target's probabilities, or 0 for a class that the target does not name; w are the weights of classes. The
 * kernels read them a chunk of a row, or a piece of a group of tiles, at a time, since they have no room of their own. */
#ifndef FSM_KERNELS_COEF_H
#define FSM_KERNELS_COEF_H

#include "tile.h"

/* Whether c is not 0 for other classes too. */
FSM_INLINE_ bool has_c(const fsm_args *args) {
    return args->loss.smoothing != 0 || !fsm_has_integers(&args->operands[FSM_TARGET]);
}

/* From q, if there are probabilities. */
FSM_INLINE_ void c_of_target(const fsm_args *args, real *c, ptrdiff_t count) {
    const real own = (real)(1 - args->loss.smoothing), uniform = (real)(args->loss.smoothing / (double)args->n);
    const bool named = fsm_has_integers(&args->operands[FSM_TARGET]);
    for (ptrdiff_t i = 0; i < count; i++)
        c[i] = named ? uniform : own * c[i] + uniform;
}

/* Elements [begin, begin + count) of row r; count <= FSM_CHUNK. */
static void load_c(const group_t *g, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count, real *c) {
    const fsm_args *args = g->args;
    const fsm_row row = row_of(g, r);
    if (!fsm_has_integers(&args->operands[FSM_TARGET]))
        load(args, FSM_TARGET, row.at[FSM_TARGET], begin, count, c);
    c_of_target(args, c, count);
    if (args->operands[FSM_CLASS_WEIGHT].data) {
        real weights[FSM_CHUNK];
        load(args, FSM_CLASS_WEIGHT, row.at[FSM_CLASS_WEIGHT], begin, count, weights);
        for (ptrdiff_t i = 0; i < count; i++)
            c[i] *= weights[i];
    }
}

/* The same of all tiles; count <= PIECE. All columns have the same weights. */
static piece_t piece_of_c(const group_t *g, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = g->args;
    const ptrdiff_t pitch = PIECE * LANES + LANES, size = sizeof(real);
    real *c = spare_of(g), weights[PIECE];
    if (!fsm_has_integers(&args->operands[FSM_TARGET]))
        load_tiles(g, FSM_TARGET, begin, count, c, pitch);
    if (args->operands[FSM_CLASS_WEIGHT].data)
        load(args, FSM_CLASS_WEIGHT, g->row.at[FSM_CLASS_WEIGHT], begin, count, weights);
    for (int t = 0; t < g->tiles; t++) {
        real *tile = c + t * pitch;
        c_of_target(args, tile, count * LANES);
        for (ptrdiff_t i = 0; args->operands[FSM_CLASS_WEIGHT].data && i < count; i++)
            for (int j = 0; j < LANES; j++)
                tile[i * LANES + j] *= weights[i];
    }
    return (piece_t){(char *)c, LANES * size, pitch * size, count};
}

#endif
