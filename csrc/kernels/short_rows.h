/* Rows of a few blocks that lie in line (tile.h); those of up to a block share one (vec.h), which stays in registers
 * from load to store. A batch of LANES rows is taken a step at a time, each step a loop of its own over the blocks, so
 * that the time one block waits for its folds is filled by others; and what is one number a row is computed for all of
 * them together. A row's sum is the fold of its lanes (passes.h): lanes and steps that are not there would add +0.
 *
 * Float32, against the same rows as columns (AVX2, Zen 3), where those do not win (are_turned() in tile.h):
 *
 *                       (8000, 8)  (4000, 16)  (2000, 30)
 *   softmax                0.92       0.95        0.96
 *   softmax_grad           0.52       0.56        0.61
 *   log_softmax            1.03       0.91        0.82
 *   logsumexp              1.00       0.91        0.85
 *
 * and against row by row (AVX-512):              (65536, 64)  (1024, 128)
 *   softmax                                        0.72         0.74
 *   softmax_grad                                   0.84         0.73
 *   log_softmax                                    0.62         0.77
 *   logsumexp                                      0.70         0.78
 *   cross_entropy_with_grad                        0.52         0.86 */
#ifndef FSM_KERNELS_SHORT_ROWS_H
#define FSM_KERNELS_SHORT_ROWS_H

#include "tile.h"

/* Numbers that a batch may take: a row may need so many, and what is next to its lanes may be looked at. */
#define BATCH_ROOM (FSM_MOST_BLOCKS * (LANES + 1) * LANES)

/* `rows` rows of n elements, `parts` of which share a block, or of which each takes so many `blocks`. */
typedef struct {
    ptrdiff_t n, rows;
    int parts, blocks;
} batch_t;

/* The batch from row r on. */
FSM_INLINE_ batch_t batch_of(const group_t *g, ptrdiff_t r, const int parts, const int blocks) {
    const ptrdiff_t left = g->rows - r;
    return (batch_t){g->args->n, left < LANES ? left : LANES, parts, blocks};
}

/* Fewer rows than share a block; the last of them stands for those that are not there. */
FSM_OUTLINE_ vec load_last(const real *p, ptrdiff_t rows, ptrdiff_t n, int parts, real fill) {
    real room[LANES];
    for (int i = 0; i < parts; i++)
        memcpy(room + i * n, p + (i < rows ? i : rows - 1) * n, (size_t)n * sizeof *p);
    return vec_load_parts(room, n, parts, fill);
}

/* The block of rows from r on of those that begin at p. Asks for what is 4 KB on. */
FSM_INLINE vec load_short(const real *p, batch_t batch, ptrdiff_t r, real fill) {
    p += r * batch.n;
    prefetch_block(p + 4096 / sizeof(real));
    if (batch.rows - r < batch.parts)
        return load_last(p, batch.rows - r, batch.n, batch.parts, fill);
    return batch.n * batch.parts == LANES ? vec_load(p) : vec_load_parts(p, batch.n, batch.parts, fill);
}

/* Elements of block k of a row of several: LANES, or less in the second half. */
FSM_INLINE_ ptrdiff_t count_in_block(batch_t batch, const int k) {
    const ptrdiff_t left = batch.n - k * LANES;
    return k < batch.blocks / 2 || left >= LANES ? LANES : left < 0 ? 0 : left;
}

/* Block k of row r of those that begin at p, or of its `parts` and the next ones. */
FSM_INLINE vec load_short_block(const real *p, batch_t batch, ptrdiff_t r, const int k, real fill) {
    if (batch.blocks == 1)
        return load_short(p, batch, r, fill);
    const ptrdiff_t count = count_in_block(batch, k);
    p += r * batch.n + k * LANES;
    prefetch_block(p + 4096 / sizeof(real));
    return count == LANES ? vec_load(p) : vec_load_n(p, count, fill);
}

/* The maxima of the rows at p; also where there are none. */
FSM_INLINE void batch_maxima(const real *p, batch_t batch, real *max) {
    for (ptrdiff_t r = 0; r < batch.rows; r += batch.parts) {
        vec most = load_short_block(p, batch, r, 0, -(real)INFINITY);
        FSM_EACH_BLOCK(k, batch.blocks - 1)
            most = vec_max(most, load_short_block(p, batch, r, k + 1, -(real)INFINITY));
        vec_max_parts(most, batch.parts, max + r);
    }
    for (ptrdiff_t r = batch.rows; r < LANES; r++)
        max[r] = max[0];
}

/* Puts the block of rows from r on where it belongs among BATCH_ROOM numbers; overwrites what follows. */
FSM_INLINE void store_short(real *p, batch_t batch, ptrdiff_t r, vec a) {
    p += r * batch.n;
    if (batch.n * batch.parts == LANES)
        vec_store(p, a);
    else
        vec_store_parts(p, batch.n, batch.parts, a);
}

/* Block k of row r, or of its `parts`, to where it belongs among the rows at p; may overwrite what follows rows of up
 * to a block. */
FSM_INLINE void store_short_block(real *p, batch_t batch, ptrdiff_t r, const int k, vec a) {
    if (batch.blocks == 1) {
        store_short(p, batch, r, a);
        return;
    }
    const ptrdiff_t count = count_in_block(batch, k);
    p += r * batch.n + k * LANES;
    if (count == LANES)
        vec_store(p, a);
    else
        vec_store_n(p, count, a);
}

/* The results of a batch, to y, unless they are there. */
FSM_INLINE_ void store_batch(const group_t *g, ptrdiff_t first, batch_t batch, const real *results) {
    const ptrdiff_t count = batch.rows * batch.n;
    real *y = element_at(g, FSM_Y, first, 0);
    if (stream_of(g))
        stream_copy(stream_of(g), y, results, count);
    else if (results != y)
        memcpy(y, results, (size_t)count * sizeof *results);
}

/* Where the results of a batch are put: at once in y, or, those of rows that share blocks, or are streamed, in `room`,
 * from where store_batch() takes them. There they move to its beginning, so they may be what they are made of. */
FSM_INLINE_ real *batch_results(const group_t *g, ptrdiff_t first, batch_t batch, real *room) {
    return batch.blocks > 1 && !stream_of(g) ? element_at(g, FSM_Y, first, 0) : room;
}

/* A statement in which `parts` and `blocks` are constants, for the rows of g. */
#define WITH_PARTS(g, statement)                                                                                       \
    do {                                                                                                               \
        const ptrdiff_t needed = ((g)->args->n - 1) / LANES + 1;                                                       \
        const int most = parts_of((g)->args->n, (g)->rows);                                                        \
        if (most == 8) {                                                                                               \
            enum { parts = 8, blocks = 1 };                                                                            \
            statement;                                                                                                 \
        } else if (most == 4) {                                                                                        \
            enum { parts = 4, blocks = 1 };                                                                            \
            statement;                                                                                                 \
        } else if (most == 2) {                                                                                        \
            enum { parts = 2, blocks = 1 };                                                                            \
            statement;                                                                                                 \
        } else if (needed == 1) {                                                                                      \
            enum { parts = 1, blocks = 1 };                                                                            \
            statement;                                                                                                 \
        } else if (needed == 2) {                                                                                      \
            enum { parts = 1, blocks = 2 };                                                                            \
            statement;                                                                                                 \
        } else {                                                                                                       \
            enum { parts = 1, blocks = FSM_MOST_BLOCKS };                                                              \
            statement;                                                                                                 \
        }                                                                                                              \
    } while (0)

#endif
