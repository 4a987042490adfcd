/* Results past the caches, by non-temporal stores.
 *
 * To change a part of a cache line, a CPU has to read it from memory first; whole lines can be written as they are.
 * Rows of NumPy arrays mostly begin within a line: what a row leaves of its last line waits for the next row, since one
 * line a row written in parts, which the stores after it wait for, costs more than all that is gained. */
#ifndef FSM_KERNELS_NT_STORE_H
#define FSM_KERNELS_NT_STORE_H

#include "../arrays/strides.h"
#include "../simd/vec.h"

#define LINE ((ptrdiff_t)(64 / sizeof(real)))

typedef struct {
    _Alignas(64) real line[LANES]; /* of which the last `held` numbers before `at` are not written yet */
    real *at;                      /* where the next result is expected */
    ptrdiff_t held;
} nt_t;

/* Results of elements [begin, begin + count) of a row that `op` describes, to `to`; `nt`: past the caches. */
typedef void results_t(const void *op, ptrdiff_t begin, ptrdiff_t count, real *to, bool nt);

/* The one rule, for kernels that write each result once (a plan says so; softmax keeps its exponentials where results
 * go, and finds those lines in the cache when it divides them). Results of rows go past the caches if there are more of
 * them than these hold, but not where they replace what has just been read. Panels write a few lines here and there,
 * for which nothing is gained. (Figures: docs/tuning.md.) */
static bool nt_pays(const fsm_args *args) {
    const fsm_operand *y = &args->operands[FSM_Y];
    if (!FSM_HAS_NT_STORE || !args->beyond_caches || !y->data)
        return false;
    uintptr_t aligned = (uintptr_t)y->data | (uintptr_t)y->row_stride;
    for (int d = 0; d < args->ndim; d++)
        aligned |= (uintptr_t)y->stride[d];
    const bool apart = y->data != args->operands[FSM_X].data && y->data != args->operands[FSM_SAVED].data;
    const bool contiguous = !args->columns && y->storage == STORED_REAL && fsm_is_contiguous(args, FSM_Y);
    return contiguous && apart && aligned % sizeof(real) == 0;
}

/* A whole block of results. */
FSM_INLINE void write_block(real *y, vec a, bool nt) {
    if (nt)
        vec_nt_store(y, a);
    else
        vec_store(y, a);
}

FSM_ALWAYS_INLINE ptrdiff_t within_line(const real *y) {
    return (ptrdiff_t)((uintptr_t)y % 64 / sizeof *y);
}

/* Writes what waits for its line. */
static void nt_flush(nt_t *s) {
    if (s->held == 0)
        return;
    real *y = s->at - s->held;
    memcpy(y, s->line + within_line(y), (size_t)s->held * sizeof *y);
    s->held = 0;
}

/* Writes all that waits, and makes sure that other threads see it. */
static void nt_end(nt_t *s) {
    nt_flush(s);
    vec_nt_end();
}

/* Writes the first line, if results reach its end: whole, or as much as there is of it. */
static void nt_line(nt_t *s, real *y, ptrdiff_t within, ptrdiff_t count) {
    const ptrdiff_t begin = within + count - s->held;
    if (within + count < LINE)
        return;
    if (begin == 0)
        vec_nt_store_line(y - within, s->line);
    else
        memcpy(y - within + begin, s->line + begin, (size_t)(LINE - begin) * sizeof *y);
    s->held -= LINE - begin;
    memcpy(s->line, s->line + LINE, (LANES - LINE) * sizeof *y);
}

/* n results to y, which is a multiple of its size. What begins or ends within a line goes to s->line. */
FSM_OUTLINE void nt_row(nt_t *s, real *y, ptrdiff_t n, results_t *results, const void *op) {
    if (s->held > 0 && y != s->at)
        nt_flush(s);
    s->at = y + n;
    for (ptrdiff_t i = 0, count; i < n; i += count) {
        const ptrdiff_t within = within_line(y + i), left = n - i, rest = LINE - within;
        const bool blocks = within == 0 && left >= LANES;
        count = blocks ? left / LANES * LANES : within > 0 && left > rest ? rest : left;
        results(op, i, count, blocks ? y + i : s->line + within, blocks);
        if (!blocks) {
            s->held += count;
            nt_line(s, y + i, within, count);
        }
    }
}

/* n results to y: past the caches by `s`, or, if that is NULL, as usual. */
FSM_ALWAYS_INLINE void write_row(nt_t *s, real *y, ptrdiff_t n, results_t *results, const void *op) {
    if (s)
        nt_row(s, y, n, results, op);
    else
        results(op, 0, n, y, false);
}

/* Results that are there, at `from`. */
static void copied(const void *from, ptrdiff_t begin, ptrdiff_t count, real *to, bool nt) {
    const real *row = (const real *)from + begin;
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES)
        write_block(to + i, vec_load(row + i), nt);
    if (i < count)
        vec_store_n(to + i, count - i, vec_load_n(row + i, count - i, 0));
}

#endif
