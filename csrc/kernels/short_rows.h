/* Short rows: rows of up to MAX_BLOCKS blocks that follow each other. Those of up to a block share one, which stays in
 * registers from load to store.
 *
 * LANES rows are taken a step at a time, each step a loop of its own over the blocks, so that the time one block waits
 * for its folds is filled by others; and what is one number a row is computed for all of them together. A row's sum is
 * the fold of its lanes (sum.h): lanes and steps that are not there would add +0. Rows that would leave lanes idle are
 * faster as panels (schedule.h). */
#ifndef FSM_KERNELS_SHORT_ROWS_H
#define FSM_KERNELS_SHORT_ROWS_H

#include "batch.h"
#include "sum.h"

#define MAX_BLOCKS FSM_MAX_BLOCKS

/* Numbers that LANES rows may take: a row may need so many, and what is next to its lanes may be looked at. */
#define SHORT_ROOM (MAX_BLOCKS * (LANES + 1) * LANES)

/* Up to LANES rows of n elements: `in_block` of them share a block, or each takes so many `blocks`, a constant. Where
 * in_block is one as well, masks and shuffles are known ahead of the loops, and the code is four times as long. */
typedef struct {
    ptrdiff_t n, rows;
    int in_block, blocks;
} short_t;

/* How many rows of n <= LANES elements share a block. */
FSM_ALWAYS_INLINE int rows_in_block(ptrdiff_t n, ptrdiff_t rows) {
    int count = 8;
    while (count > 1 && (count * n > LANES || count / 2 >= rows))
        count /= 2;
    return count;
}

/* Those from row r of a batch on. */
FSM_ALWAYS_INLINE short_t short_of(const batch_t *b, ptrdiff_t r, int in_block, const int blocks) {
    return (short_t){b->n, fsm_min(b->rows - r, LANES), in_block, blocks};
}

/* A statement in which `in_block` is a constant: the functions of the contract want one. */
#define WITH_ROWS_IN_BLOCK(count, statement)                                                                           \
    do {                                                                                                               \
        if ((count) == 8) {                                                                                            \
            enum { in_block = 8 };                                                                                     \
            statement;                                                                                                 \
        } else if ((count) == 4) {                                                                                     \
            enum { in_block = 4 };                                                                                     \
            statement;                                                                                                 \
        } else if ((count) == 2) {                                                                                     \
            enum { in_block = 2 };                                                                                     \
            statement;                                                                                                 \
        } else {                                                                                                       \
            enum { in_block = 1 };                                                                                     \
            statement;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* A statement in which `blocks` is a constant, and `in_block` a number: those of the rows of a batch. */
#define WITH_BLOCKS(b, statement)                                                                                      \
    do {                                                                                                               \
        if ((b)->n <= LANES) {                                                                                         \
            enum { blocks = 1 };                                                                                       \
            const int in_block = rows_in_block((b)->n, (b)->rows);                                                     \
            statement;                                                                                                 \
        } else if ((b)->n <= 2 * LANES) {                                                                              \
            enum { in_block = 1, blocks = 2 };                                                                         \
            statement;                                                                                                 \
        } else {                                                                                                       \
            enum { in_block = 1, blocks = MAX_BLOCKS };                                                                \
            statement;                                                                                                 \
        }                                                                                                              \
    } while (0)

/* A statement in which both are constants. */
#define WITH_SHAPE(b, statement)                                                                                       \
    do {                                                                                                               \
        if ((b)->n <= LANES) {                                                                                         \
            enum { blocks = 1 };                                                                                       \
            WITH_ROWS_IN_BLOCK(rows_in_block((b)->n, (b)->rows), statement);                                           \
        } else {                                                                                                       \
            WITH_BLOCKS(b, statement);                                                                                 \
        }                                                                                                              \
    } while (0)

/* Elements of block k of a row of several: LANES, or less in the second half. */
FSM_ALWAYS_INLINE ptrdiff_t count_in_block(short_t s, const int k) {
    const ptrdiff_t left = s.n - k * LANES;
    return k < s.blocks / 2 || left >= LANES ? LANES : left < 0 ? 0 : left;
}

/* Fewer rows than share a block; the last of them stands for those that are not there. */
FSM_OUTLINE vec load_last_rows(const real *p, short_t s, ptrdiff_t rows, real fill) {
    real room[LANES];
    vec a = vec_set1(fill);
    for (int i = 0; i < s.in_block; i++)
        memcpy(room + i * s.n, p + fsm_min(i, rows - 1) * s.n, (size_t)s.n * sizeof *p);
    WITH_ROWS_IN_BLOCK(s.in_block, a = vec_load_parts(room, s.n, in_block, fill));
    return a;
}

/* Block k of row r of those that begin at p; or row r and the others of its block. */
FSM_INLINE vec load_short(const real *p, short_t s, ptrdiff_t r, const int k, real fill) {
    p += r * s.n + k * LANES;
    if (s.blocks > 1) {
        const ptrdiff_t count = count_in_block(s, k);
        return count == LANES ? vec_load(p) : vec_load_n(p, count, fill);
    }
    if (s.rows - r < s.in_block)
        return load_last_rows(p, s, s.rows - r, fill);
    if (s.n * s.in_block == LANES)
        return vec_load(p);
    vec a;
    WITH_ROWS_IN_BLOCK(s.in_block, a = vec_load_parts(p, s.n, in_block, fill));
    return a;
}

/* One number a row, from number r on, in the lanes of the rows of a block. */
FSM_INLINE vec spread_over_rows(const real *numbers, short_t s, ptrdiff_t r) {
    if (s.blocks > 1)
        return vec_set1(numbers[r]);
    vec a;
    WITH_ROWS_IN_BLOCK(s.in_block, a = vec_set_parts(numbers + r, in_block));
    return a;
}

/* The folds of the sums of rows r, r + 1, ... of a block. */
FSM_INLINE void fold_short(vec_acc sum, short_t s, ptrdiff_t r, double *hi, double *lo) {
    WITH_ROWS_IN_BLOCK(s.in_block, vec_acc_fold_parts(sum, in_block, hi + r, lo + r));
}

/* The maxima of the rows at p; also where there are none. */
FSM_INLINE void maxima_of_short(const real *p, short_t s, real *max) {
    for (ptrdiff_t r = 0; r < s.rows; r += s.in_block) {
        vec largest = load_short(p, s, r, 0, -(real)INFINITY);
        FSM_EACH_BLOCK(k, s.blocks - 1)
            largest = vec_max(largest, load_short(p, s, r, k + 1, -(real)INFINITY));
        WITH_ROWS_IN_BLOCK(s.in_block, vec_max_parts(largest, in_block, max + r));
    }
    for (ptrdiff_t r = s.rows; r < LANES; r++)
        max[r] = max[0];
}

/* Puts block k of row r, or the rows of a block from r on, where they belong among the rows at p: SHORT_ROOM numbers,
 * since what follows rows of up to a block may be overwritten. */
FSM_INLINE void store_short(real *p, short_t s, ptrdiff_t r, const int k, vec a) {
    p += r * s.n + k * LANES;
    if (s.blocks > 1 || s.n * s.in_block == LANES) {
        const ptrdiff_t count = s.blocks > 1 ? count_in_block(s, k) : LANES;
        if (count == LANES)
            vec_store(p, a);
        else
            vec_store_n(p, count, a);
        return;
    }
    WITH_ROWS_IN_BLOCK(s.in_block, vec_store_parts(p, s.n, in_block, a));
}

/* Where results are put: at once in y, or, those of rows that share blocks, or go past the caches, in `room`, from
 * where store_short_results() takes them. There they move to its beginning, so they may be what they are made of. */
FSM_ALWAYS_INLINE real *short_results(const batch_t *b, ptrdiff_t first, short_t s, real *room) {
    return s.blocks > 1 && !b->nt ? element_at(b, FSM_Y, first, 0) : room;
}

/* Moves the results to y, unless they are there. */
FSM_ALWAYS_INLINE void store_short_results(const batch_t *b, ptrdiff_t first, short_t s, const real *results) {
    const ptrdiff_t count = s.rows * s.n;
    real *y = element_at(b, FSM_Y, first, 0);
    if (b->nt)
        nt_row(b->nt, y, count, copied, results);
    else if (results != y)
        memcpy(y, results, (size_t)count * sizeof *results);
}

#endif
