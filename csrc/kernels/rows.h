/* The loops over rows, once each; an operation gives what happens to a chunk. */
#ifndef FSM_KERNELS_ROWS_H
#define FSM_KERNELS_ROWS_H

#include "batch.h"
#include "sum.h"

/* ---- chunks that threads share */

typedef struct {
    const batch_t *b;
    chunks_t *chunks;
    void *op;
    ptrdiff_t first;
} shared_chunks_t;

/* With the scratch, and the unwritten line, of whoever computes. */
static void take_chunks(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const shared_chunks_t *shared = context;
    batch_t b = *shared->b;
    nt_t nt;
    nt.held = 0;
    b.scratch = scratch;
    b.nt = b.nt ? &nt : NULL;
    shared->chunks(&b, shared->op, shared->first + begin, shared->first + end);
    if (b.nt)
        nt_end(b.nt);
}

/* Chunks [begin, end) of all rows of a batch, on the calling thread alone unless it has helpers: then of its one row,
 * which is not packed whole. */
FSM_OUTLINE void parallel_chunks(const batch_t *b, chunks_t *chunks, void *op, ptrdiff_t begin, ptrdiff_t end) {
    if (b->args->helpers > 0) {
        const shared_chunks_t shared = {b, chunks, op, begin};
        fsm_parallel_for(b->args, take_chunks, &shared, end - begin, FSM_CHUNK * sizeof(real), b->scratch);
    } else {
        chunks(b, op, begin, end);
    }
}

/* Chunks that are known at a time, before they are joined. An operation whose chunks are joined begins with this. */
typedef struct {
    ptrdiff_t first;
} segment_t;

/* Joins what is known of chunk i of the segment to what is known of those before. */
typedef void join_chunk_t(const batch_t *b, void *op, ptrdiff_t i);

/* All chunks of the one row of a batch, joined in index order, up to `most` between two joins. */
FSM_INLINE void fold_chunks(const batch_t *b, chunks_t *chunks, segment_t *op, ptrdiff_t most, join_chunk_t *join) {
    const ptrdiff_t count = chunks_in_row(b);
    for (op->first = 0; op->first < count; op->first += most) {
        const ptrdiff_t end = fsm_min(count, op->first + most);
        parallel_chunks(b, chunks, op, op->first, end);
        for (ptrdiff_t i = 0; i < end - op->first; i++)
            join(b, op, i);
    }
}

/* ---- results */

/* Results of elements [c, c + count) of row r, from x to y, which may be x. */
typedef void write_chunk_t(const batch_t *b, const void *op, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count, const real *x,
                           real *y);

/* Chunks [begin, end) of all rows. What has to be packed and is not packed whole comes and goes a chunk at a time;
 * store_packed() stores the others. */
FSM_INLINE void write_rows(const batch_t *b, const void *op, ptrdiff_t begin, ptrdiff_t end,
                           write_chunk_t *write_chunk) {
    for (ptrdiff_t c = begin * FSM_CHUNK; c < b->n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        if (!b->x_contiguous && !b->packed)
            pack_x(b, c, count);
        for (ptrdiff_t r = 0; r < b->rows; r++) {
            const real *x = b->x_contiguous ? element_at(b, FSM_X, r, c) : in_scratch(b, r, c);
            real *y = b->y_contiguous ? element_at(b, FSM_Y, r, c) : in_scratch(b, r, c);
            write_chunk(b, op, r, c, count, x, y);
        }
        if (!b->y_contiguous && !b->packed)
            store_results(b, c, count);
    }
}

FSM_ALWAYS_INLINE void store_packed(const batch_t *b) {
    if (!b->y_contiguous && b->packed)
        store_results(b, 0, b->n);
}

#endif
