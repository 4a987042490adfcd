/* Rows of up to a block that lie in line (tile.h): several share a block (vec.h), which stays in registers from load to
 * store. A batch of them is taken a step at a time, each step a loop of its own over the blocks, so that the time one
 * block waits for its folds is filled by others; and what is one number a row is computed for all of them together. A
 * row's sum is the fold of its lanes (passes.h): lanes and steps that are not there would add +0.
 *
 * (100000, 10) float32 takes, against the same rows as columns, 0.67 for softmax, 0.42 for softmax_grad; (50000, 16)
 * 0.39 and 0.24 (AVX-512, Zen 4; AVX2: 0.63 and 0.40, 0.34 and 0.21). */

#define SHORT_ROWS 32

/* Numbers that a batch may take: a row may need a block, and a store may write a block beyond it. */
#define SHORT_ROOM ((SHORT_ROWS + 1) * LANES)

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
    return (FN(batch)){g->args->n, left < SHORT_ROWS ? left : SHORT_ROWS, parts};
}

/* Fewer rows than share a block; the others are 0. */
FSM_OUTLINE_ vec FN(load_last)(const real *p, ptrdiff_t rows, ptrdiff_t n, int parts, real fill) {
    real room[LANES] = {0};
    memcpy(room, p, (size_t)(rows * n) * sizeof *p);
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

/* Puts the block of rows from r on where it belongs among SHORT_ROOM numbers; overwrites what follows. */
FSM_INLINE void FN(store_short)(real *p, FN(batch) batch, ptrdiff_t r, vec a) {
    p += r * batch.n;
    if (batch.n * batch.parts == LANES)
        vec_store(p, a);
    else
        vec_store_parts(p, batch.n, batch.parts, a);
}

/* Some rows of a group, as a group. */
FSM_INLINE_ FN(group) FN(part_of_group)(const FN(group) * g, ptrdiff_t first, ptrdiff_t rows) {
    FN(group) part = *g;
    part.row = fsm_row_across(g->row, g->args, first);
    part.rows = rows;
    return part;
}

/* Calls function(g, parts), an inline function, with a constant. */
#define WITH_PARTS(function, g)                                                                                        \
    switch (FN(parts_of)((g)->args->n, (g)->rows)) {                                                                   \
    case 8:                                                                                                            \
        function(g, 8);                                                                                                \
        break;                                                                                                         \
    case 4:                                                                                                            \
        function(g, 4);                                                                                                \
        break;                                                                                                         \
    case 2:                                                                                                            \
        function(g, 2);                                                                                                \
        break;                                                                                                         \
    default:                                                                                                           \
        function(g, 1);                                                                                                \
    }
