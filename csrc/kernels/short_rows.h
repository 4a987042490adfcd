/* Rows of up to a block that lie in line (tile.h): several share a block (vec.h), which stays in registers from load to
 * store. A batch of LANES of them is taken a step at a time, each step a loop of its own over the blocks, so that the
 * time one block waits for its folds is filled by others; and what is one number a row is computed for all of them
 * together. A row's sum is the fold of its lanes (passes.h): lanes and steps that are not there would add +0.
 *
 * Float32, against the same rows as columns, in one run (Zen 4):
 *
 *                                     AVX-512: (100000, 10)  (50000, 16)   AVX2: (100000, 10)  (50000, 16)
 *   softmax                                        0.66         0.39                0.60         0.36
 *   softmax_grad                                   0.43         0.25                0.42         0.22
 *   log_softmax                                    0.82         0.61                0.65         0.47
 *   logsumexp                                      0.96         0.69                0.72         0.53
 *   cross_entropy_with_grad                        0.85         0.75                0.73         0.60 */

/* Numbers that a batch may take: a row may need a block, and what is next to its lanes may be looked at. */
#define BATCH_ROOM ((LANES + 1) * LANES)

/* `rows` rows of n elements, `parts` of which share a block. */
typedef struct {
    ptrdiff_t n, rows;
    int parts;
} FN(batch);

/* How many rows share a block. */
FSM_INLINE_ int FN(parts_of)(ptrdiff_t n, ptrdiff_t rows) {
    int parts = 8;
    while (parts > 1 && (parts * n > LANES || parts / 2 >= rows))
        parts /= 2;
    return parts;
}

/* The batch from row r on. */
FSM_INLINE_ FN(batch) FN(batch_of)(const FN(group) * g, ptrdiff_t r, const int parts) {
    const ptrdiff_t left = g->rows - r;
    return (FN(batch)){g->args->n, left < LANES ? left : LANES, parts};
}

/* Fewer rows than share a block; the last of them stands for those that are not there. */
FSM_OUTLINE_ vec FN(load_last)(const real *p, ptrdiff_t rows, ptrdiff_t n, int parts, real fill) {
    real room[LANES];
    for (int i = 0; i < parts; i++)
        memcpy(room + i * n, p + (i < rows ? i : rows - 1) * n, (size_t)n * sizeof *p);
    return vec_load_parts(room, n, parts, fill);
}

/* The block of rows from r on of those that begin at p. Asks for what is 4 KB on. */
FSM_INLINE vec FN(load_short)(const real *p, FN(batch) batch, ptrdiff_t r, real fill) {
    p += r * batch.n;
    FN(prefetch_block)(p + 4096 / sizeof(real));
    if (batch.rows - r < batch.parts)
        return FN(load_last)(p, batch.rows - r, batch.n, batch.parts, fill);
    return batch.n * batch.parts == LANES ? vec_load(p) : vec_load_parts(p, batch.n, batch.parts, fill);
}

/* The maxima of the rows at p; also where there are none. */
FSM_INLINE void FN(batch_maxima)(const real *p, FN(batch) batch, real *max) {
    for (ptrdiff_t r = 0; r < batch.rows; r += batch.parts)
        vec_max_parts(FN(load_short)(p, batch, r, -(real)INFINITY), batch.parts, max + r);
    for (ptrdiff_t r = batch.rows; r < LANES; r++)
        max[r] = max[0];
}

/* Puts the block of rows from r on where it belongs among BATCH_ROOM numbers; overwrites what follows. */
FSM_INLINE void FN(store_short)(real *p, FN(batch) batch, ptrdiff_t r, vec a) {
    p += r * batch.n;
    if (batch.n * batch.parts == LANES)
        vec_store(p, a);
    else
        vec_store_parts(p, batch.n, batch.parts, a);
}

/* The results of a batch, to y. */
FSM_INLINE_ void FN(store_batch)(const FN(group) * g, ptrdiff_t first, FN(batch) batch, const real *results) {
    memcpy(FN(in_place)(g, FSM_Y, first, 0), results, (size_t)(batch.rows * batch.n) * sizeof *results);
}

/* Some rows of a group, as a group. */
FSM_INLINE_ FN(group) FN(part_of_group)(const FN(group) * g, ptrdiff_t first, ptrdiff_t rows) {
    FN(group) part = *g;
    part.row = fsm_row_across(g->row, g->args, first);
    part.rows = rows;
    return part;
}

/* A statement in which `parts` is a constant, for the rows of g. */
#define WITH_PARTS(g, statement)                                                                                       \
    do {                                                                                                               \
        const int most = FN(parts_of)((g)->args->n, (g)->rows);                                                        \
        if (most == 8) {                                                                                               \
            enum { parts = 8 };                                                                                        \
            statement;                                                                                                 \
        } else if (most == 4) {                                                                                        \
            enum { parts = 4 };                                                                                        \
            statement;                                                                                                 \
        } else if (most == 2) {                                                                                        \
            enum { parts = 2 };                                                                                        \
            statement;                                                                                                 \
        } else {                                                                                                       \
            enum { parts = 1 };                                                                                        \
            statement;                                                                                                 \
        }                                                                                                              \
    } while (0)
