/* A batch: the rows that a kernel takes at once, where they lie, and how they come and go.
 *
 * A batch is a few rows one after the other, or a few panels side by side. A panel is LANES rows: element i of all of
 * them is one block. Rows become panels where they lie side by side in memory, and where many of them are shorter than
 * a block. What of x cannot be used where it lies is packed into the scratch as contiguous compute numbers: whole rows
 * if there is room until the results are stored, else a chunk (of panels: a quad) at a time in every pass. So only
 * memory that is contiguous for a few cache lines is read at a time; along an axis whose steps are a multiple of 4 KB,
 * all elements of a column would compete for the same few places of the L1 cache.
 *
 * A batch knows its rows' length (n). Nothing here knows an operation, or decides which way a call goes: schedule.h. */
#ifndef FSM_KERNELS_BATCH_H
#define FSM_KERNELS_BATCH_H

#include "../arrays/load.h"
#include "../arrays/store.h"
#include "../math/exp.h"
#include "nt_store.h"

/* One of a set of operands. */
#define BIT(operand) (1u << (operand))

/* Panels that a kernel takes side by side, at most. */
#define MAX_PANELS FSM_MAX_PANELS

/* The scratch, in numbers. Its end has the lanes of sums over panels, LANES for each panel; what is before, x from 0
 * on, or, where there is a second operand, half of it each. That may be weights, exponentials whose distances are
 * summed, a saved result, or the coefficients of a loss. */
#define SCRATCH_ROOM ((ptrdiff_t)(FSM_SCRATCH / sizeof(real)))
#define LANES_AT     (SCRATCH_ROOM - MAX_PANELS * LANES * (ptrdiff_t)(sizeof(vec_acc) / sizeof(real)))
#define SPARE_AT     (LANES_AT / 2)
_Static_assert(SPARE_AT * sizeof(real) % 64 == 0, "what lies there is aligned");

typedef struct {
    const fsm_args *args;
    ptrdiff_t n; /* elements of a row */
    fsm_row row; /* the first */
    ptrdiff_t rows;
    int panels; /* that the rows make; 0: they are taken one by one */
    const fsm_row
        *runs;         /* where the rows go beyond the end of the last dimension: the beginning of each run along it */
    ptrdiff_t skipped; /* rows of the first run that are not in the batch */
    bool x_contiguous; /* x can be used where it lies: n contiguous compute numbers a row */
    bool y_contiguous; /* results can be written where they belong */
    bool packed;       /* whole rows are in the scratch */
    ptrdiff_t pitch;   /* in the scratch, from one row or panel to the next */
    real *scratch;
    beta_t beta;  /* 1 / args->temperature */
    bool *rescan; /* from batch to batch of a call: see softmax_columns() */
    nt_t *nt;     /* where results go past the caches, else NULL */
} batch_t;

/* What a kernel does with chunks [begin, end) of the rows of a batch. */
typedef void chunks_t(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end);

/* ---- where things lie */

/* From element i on, of panel or row t, in the scratch: of the row if that is packed, else of what has been loaded. */
FSM_ALWAYS_INLINE real *in_scratch(const batch_t *b, ptrdiff_t t, ptrdiff_t i) {
    return b->scratch + t * b->pitch + (b->packed ? i * (b->panels ? LANES : 1) : 0);
}

/* The second operand. */
FSM_ALWAYS_INLINE real *spare_of(const batch_t *b) {
    return b->scratch + SPARE_AT;
}

/* Where row r begins, in every operand. */
static fsm_row row_of(const batch_t *b, ptrdiff_t r) {
    if (!b->runs)
        return fsm_row_across(b->row, b->args, r);
    const ptrdiff_t run = b->args->shape[b->args->ndim - 1];
    return fsm_row_across(b->runs[(b->skipped + r) / run], b->args, (b->skipped + r) % run);
}

/* Where row r begins in one operand. */
FSM_ALWAYS_INLINE char *start_of(const batch_t *b, int which, ptrdiff_t r) {
    const ptrdiff_t row_stride = b->args->operands[which].row_stride;
    if (!b->runs)
        return b->row.at[which] + r * row_stride;
    const ptrdiff_t run = b->args->shape[b->args->ndim - 1];
    return b->runs[(b->skipped + r) / run].at[which] + (b->skipped + r) % run * row_stride;
}

/* Element i of row r of a contiguous operand. */
FSM_ALWAYS_INLINE real *element_at(const batch_t *b, int which, ptrdiff_t r, ptrdiff_t i) {
    return (real *)(b->row.at[which] + r * b->args->operands[which].row_stride) + i;
}

/* Whether an operand's rows are contiguous compute numbers. */
FSM_ALWAYS_INLINE bool is_contiguous(const fsm_args *args, int which) {
    return !args->columns && args->operands[which].storage == STORED_REAL && fsm_is_contiguous(args, which);
}

/* Whether nothing happens to x on its way: no mask, no softcap. */
FSM_ALWAYS_INLINE bool x_is_plain(const fsm_args *args) {
    return !args->operands[FSM_MASK].data && args->loss.softcap == 0;
}

/* Whether rows of an operand follow each other as they do in the scratch. */
FSM_ALWAYS_INLINE bool rows_follow_as_packed(const batch_t *b, int which) {
    const fsm_operand *operand = &b->args->operands[which];
    return b->pitch == b->n && operand->row_stride == b->n * fsm_size_of[operand->storage] &&
           fsm_is_contiguous(b->args, which);
}

/* Rows of panel t, or of a batch of rows (t = 0), that exist. */
FSM_ALWAYS_INLINE int rows_in_panel(const batch_t *b, int t) {
    return (int)fsm_min(b->rows - t * LANES, LANES);
}

/* Rows of a panel, from row r of the batch on, that lie one row_stride apart. */
FSM_ALWAYS_INLINE ptrdiff_t rows_in_run(const batch_t *b, ptrdiff_t r) {
    const ptrdiff_t left = rows_in_panel(b, (int)(r / LANES)) - r % LANES;
    if (!b->runs)
        return left;
    const ptrdiff_t run = b->args->shape[b->args->ndim - 1];
    return fsm_min(left, run - (b->skipped + r) % run);
}

FSM_ALWAYS_INLINE ptrdiff_t chunks_in_row(const batch_t *b) {
    return (b->n - 1) / FSM_CHUNK + 1;
}

/* Elements of the chunk that begins at element c. */
FSM_ALWAYS_INLINE ptrdiff_t chunk_length(const batch_t *b, ptrdiff_t c) {
    return fsm_min(b->n - c, FSM_CHUNK);
}

/* Rows [first, first + rows) of a batch of rows, as a batch. */
FSM_ALWAYS_INLINE batch_t part_of_batch(const batch_t *b, ptrdiff_t first, ptrdiff_t rows) {
    batch_t part = *b;
    part.row = fsm_row_across(b->row, b->args, first);
    part.rows = rows;
    return part;
}

/* ---- in */

/* Packs elements [begin, begin + count) of an operand's panels, which are `pitch` apart (load_columns). */
static void pack_panels(const batch_t *b, int which, ptrdiff_t begin, ptrdiff_t count, real *to, ptrdiff_t pitch) {
    if (!b->runs) {
        load_columns(b->args, which, b->row.at[which], begin, count, b->rows, to, pitch);
        return;
    }
    for (ptrdiff_t i = 0; b->rows % LANES && i < count; i++)
        vec_store(to + b->rows / LANES * pitch + i * LANES, vec_set1(1));
    for (ptrdiff_t r = 0, run; r < b->rows; r += run) {
        run = rows_in_run(b, r);
        load_some_columns(b->args, which, start_of(b, which, r), begin, count, run, to + r / LANES * pitch + r % LANES);
    }
}

/* Puts `instead` where an element takes no part. */
static void mask_panels(const batch_t *b, ptrdiff_t begin, ptrdiff_t count, real *x, real instead) {
    if (!b->runs) {
        mask_columns(b->args, b->row.at[FSM_MASK], begin, count, b->rows, x, b->pitch, instead);
        return;
    }
    for (ptrdiff_t r = 0, run; r < b->rows; r += run) {
        run = rows_in_run(b, r);
        mask_columns(b->args, start_of(b, FSM_MASK, r), begin, count, run, x + r / LANES * b->pitch + r % LANES, 0,
                     instead);
    }
}

/* Logits become cap * tanh(x / cap). */
static void cap_logits(const fsm_args *args, real *x, ptrdiff_t count) {
    const double cap = args->loss.softcap;
    for (ptrdiff_t i = 0; i < count; i++)
        x[i] = (real)(cap * fsm_tanh(x[i] / cap));
}

/* Packs elements [begin, begin + count) of x; what takes no part is -inf. */
FSM_OUTLINE void pack_x(const batch_t *b, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = b->args;
    const bool masked = args->operands[FSM_MASK].data;
    real *to = in_scratch(b, 0, begin);
    if (b->panels) {
        pack_panels(b, FSM_X, begin, count, to, b->pitch);
        if (masked)
            mask_panels(b, begin, count, to, -(real)INFINITY);
    } else if (!masked && count == b->n && rows_follow_as_packed(b, FSM_X)) {
        load(args, FSM_X, b->row.at[FSM_X], 0, b->rows * count, to);
    } else {
        const bool where_it_lies = masked && is_contiguous(args, FSM_X);
        for (ptrdiff_t r = 0; r < b->rows; r++, to += b->pitch) {
            const fsm_row row = row_of(b, r);
            if (!where_it_lies)
                load(args, FSM_X, row.at[FSM_X], begin, count, to);
            if (masked)
                mask_row(args, row.at[FSM_MASK], begin, count, where_it_lies ? element_at(b, FSM_X, r, begin) : to, to,
                         -(real)INFINITY);
        }
    }
    if (args->loss.softcap > 0) {
        to = in_scratch(b, 0, begin);
        for (ptrdiff_t r = 0; r < (b->panels ? b->panels : b->rows); r++)
            cap_logits(args, to + r * b->pitch, b->panels ? count * LANES : count);
    }
}

/* ---- out */

/* Stores elements [begin, begin + count) of the results, which are in the scratch. */
FSM_OUTLINE void store_results(const batch_t *b, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = b->args;
    const real *from = in_scratch(b, 0, begin);
    if (b->panels && !b->runs)
        store_columns(args, FSM_Y, b->row.at[FSM_Y], begin, count, b->rows, from, b->pitch);
    else if (b->panels)
        for (ptrdiff_t r = 0, run; r < b->rows; r += run) {
            run = rows_in_run(b, r);
            store_some_columns(args, FSM_Y, start_of(b, FSM_Y, r), begin, count, run,
                               from + r / LANES * b->pitch + r % LANES);
        }
    else if (count == b->n && rows_follow_as_packed(b, FSM_Y))
        store(args, FSM_Y, b->row.at[FSM_Y], 0, b->rows * count, from);
    else
        for (ptrdiff_t r = 0; r < b->rows; r++)
            store(args, FSM_Y, row_of(b, r).at[FSM_Y], begin, count, from + r * b->pitch);
}

/* Stores one number for each row of panel t, or of a batch of rows (t = 0). */
FSM_OUTLINE void store_one_a_row(const batch_t *b, int which, int t, const double *results) {
    const fsm_operand *operand = &b->args->operands[which];
    const real_bits nan_bits = QUIET_NAN_BITS;
    const int count = rows_in_panel(b, t);
    real values[LANES];
    for (int j = 0; j < count; j++)
        values[j] = (real)results[j];
    for (int j = 0; j < count; j++)
        if (isnan(values[j]))
            memcpy(&values[j], &nan_bits, sizeof nan_bits);
    for (int j = 0, run; j < count; j += run) {
        run = (int)rows_in_run(b, t * LANES + j);
        store_across(operand, start_of(b, which, t * LANES + j), operand->row_stride, run, values + j);
    }
}

/* ---- rows without an ordinary result */

/* How many elements of a row take part. */
static ptrdiff_t count_taking_part(const batch_t *b, const fsm_row *row) {
    const fsm_args *args = b->args;
    if (!args->operands[FSM_MASK].data)
        return b->n;
    uint8_t mask[FSM_CHUNK];
    ptrdiff_t taking_part = 0;
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        fsm_gather(args, FSM_MASK, row->at[FSM_MASK], c, count, (char *)mask);
        for (ptrdiff_t i = 0; i < count; i++)
            taking_part += mask[i] != 0;
    }
    return taking_part;
}

/* Stores `bits` all along row r, but `masked` where an element takes no part. */
static void fill_row(const batch_t *b, ptrdiff_t r, real_bits bits, real masked) {
    const fsm_args *args = b->args;
    const fsm_row row = row_of(b, r);
    real chunk[FSM_CHUNK];
    if (b->nt)
        nt_flush(b->nt);
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        for (ptrdiff_t i = 0; i < count; i++)
            memcpy(chunk + i, &bits, sizeof bits);
        if (args->operands[FSM_MASK].data)
            mask_row(args, row.at[FSM_MASK], c, count, chunk, chunk, masked);
        store(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
    }
}

/* The results of row r, which has no sum: all -inf gives `masked` if that is asked for or nothing takes part; else all
 * that takes part is the one NaN that results hold: propagated ones differ between CPUs. */
static void fill_special_row(const batch_t *b, ptrdiff_t r, bool all_neg_inf, real masked) {
    const fsm_row row = row_of(b, r);
    real_bits bits;
    memcpy(&bits, &masked, sizeof bits);
    if (!all_neg_inf || (!b->args->zero_if_all_neg_inf && count_taking_part(b, &row) > 0))
        bits = QUIET_NAN_BITS;
    fill_row(b, r, bits, masked);
}

#endif
