/* Which way a call goes, and why.
 *
 * | the rows                                              | go to          | because                                  |
 * | ----------------------------------------------------- | -------------- | ---------------------------------------- |
 * | lie side by side (args->columns)                      | panels         | element i of all of them is contiguous   |
 * | short (up to MAX_BLOCKS blocks), follow each other,   | short_rows     | several share a block, or their folds    |
 * |   compute numbers                                     |                |   fill each other's waits                |
 * | short, follow each other, of other storage            | packed, then   | one conversion for many rows             |
 * |                                                       |   as above     |                                          |
 * | short, would leave a quarter of the lanes idle        | panels, by     | the way there and back takes less than   |
 * |                                                       |   transposes   |   idle lanes do                          |
 * | shorter than a block, or interleaved, anywhere        | panels         | no lane is idle; memory is read in lines |
 * | all others                                            | rows           | a lane for every 32nd (16th) element     |
 *
 * Rows that threads share chunk by chunk (args->helpers) come as one unit each, to `rows`. A kernel's plan says which
 * of these ways it has. This file walks through the units of a call, and is the only one that reads args->n: it hands
 * each batch its rows' length. A walker over rows of unequal length would stand beside each_batch_of_rows(). */
#ifndef FSM_KERNELS_SCHEDULE_H
#define FSM_KERNELS_SCHEDULE_H

#include "columns.h"
#include "short_rows.h"

#include <stddef.h>

/* Numbers in a batch of rows: with y, they fit in a common L1 cache. */
#define ROWS_ROOM ((ptrdiff_t)(16384 / sizeof(real)))

/* What a kernel does with a batch. */
typedef void batch_kernel_t(const batch_t *b);

/* How a kernel takes its batches. */
typedef struct {
    batch_kernel_t *rows, *panels;
    batch_kernel_t *short_rows; /* for those that follow each other, or NULL */
    unsigned operands;          /* what short rows read and write, by BIT() */
    bool transposes;            /* short rows that leave lanes idle become panels all the same (leave_lanes_idle()) */
    bool writes_once;           /* each result, which may go past the caches then (nt_store.h) */
    bool packs_rows;            /* rows stay in the scratch if there is room; panels do if enough of them fit, or all */
    ptrdiff_t room;             /* numbers that fit in the scratch */
    ptrdiff_t max_panels;
    ptrdiff_t max_rows; /* in a batch that needs no scratch */
} plan_t;

/* Whether rows of all `operands` that are there follow each other, of whatever storage. */
FSM_ALWAYS_INLINE bool rows_follow(const fsm_args *args, unsigned operands) {
    bool follow = x_is_plain(args);
    for (int which = 0; which < args->used; which++)
        if (operands & BIT(which) && args->operands[which].data) {
            const fsm_operand *operand = &args->operands[which];
            const bool in_one = operand->row_stride == args->n * fsm_size_of[operand->storage];
            follow = follow && in_one && fsm_is_contiguous(args, which);
        }
    return follow;
}

/* Those operands that are not compute numbers. */
FSM_ALWAYS_INLINE unsigned not_compute_numbers(const fsm_args *args, unsigned operands) {
    unsigned others = 0;
    for (int which = 0; which < args->used; which++)
        if (operands & BIT(which) && args->operands[which].data && !is_contiguous(args, which))
            others |= BIT(which);
    return others;
}

/* Whether rows that follow each other along the last dimension lie closer than the elements of each. */
FSM_ALWAYS_INLINE bool rows_interleave(const fsm_args *args) {
    const fsm_operand *x = &args->operands[FSM_X];
    const ptrdiff_t step = x->step[args->axes - 1], size = fsm_size_of[x->storage];
    return args->ndim > 0 && step != size &&
           (x->row_stride < 0 ? -x->row_stride : x->row_stride) < (step < 0 ? -step : step);
}

/* Whether short rows, `rows` of them, would fill three quarters or fewer of the lanes of their blocks. */
FSM_ALWAYS_INLINE bool leave_lanes_idle(ptrdiff_t n, ptrdiff_t rows) {
    return rows >= LANES && n >= SIDE && 4 * rows_in_block(n, LANES) * n <= 3 * LANES;
}

/* ---- how much is taken at once */

/* Panels in the scratch: numbers from one to the next, and how many fit. They are a block apart, so that the same
 * element of every panel does not compete for the same place in the cache. */
typedef struct {
    ptrdiff_t pitch, panels;
} fit_t;

FSM_ALWAYS_INLINE fit_t panels_that_fit(ptrdiff_t elements, const plan_t *plan, ptrdiff_t panels) {
    const ptrdiff_t pitch = elements * LANES + LANES, fit = (plan->room + LANES) / pitch;
    return (fit_t){pitch, fsm_min(fit, fsm_min(panels, plan->max_panels))};
}

/* The most panels of a batch; says how they lie in the scratch. */
FSM_ALWAYS_INLINE ptrdiff_t place_panels(batch_t *b, const plan_t *plan, ptrdiff_t panels) {
    const fit_t whole = panels_that_fit(b->n, plan, panels), quads = panels_that_fit(fsm_min(b->n, QUAD), plan, panels);
    b->packed = whole.panels >= fsm_min(quads.panels, FSM_PANELS_PACKED);
    b->pitch = b->packed ? whole.pitch : quads.pitch;
    return b->packed ? whole.panels : quads.panels;
}

/* The most rows of a batch; says how they lie in the scratch. */
FSM_ALWAYS_INLINE ptrdiff_t place_rows(batch_t *b, const plan_t *plan) {
    const ptrdiff_t n = b->n, most = b->x_contiguous && b->y_contiguous ? plan->max_rows : LANES;
    b->packed = plan->packs_rows && n <= plan->room;
    b->pitch = b->packed || n < FSM_CHUNK ? n : FSM_CHUNK;
    if (most > LANES || most * n <= ROWS_ROOM)
        return most;
    return n < ROWS_ROOM ? ROWS_ROOM / n : 1;
}

/* ---- walkers */

/* Columns: units are panels. */
static void each_batch_of_panels(batch_t b, ptrdiff_t begin, ptrdiff_t end, const plan_t *plan) {
    const fsm_args *args = b.args;
    const ptrdiff_t panels = fsm_panels(args->columns, LANES), most = place_panels(&b, plan, panels);
    /* A last panel that is narrower has to be packed, the others need not: it is a batch of its own. */
    const bool apart = args->columns % LANES != 0 && rows_lie_side_by_side(args, FSM_X);
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin / panels);
    for (ptrdiff_t unit = begin; unit < end; unit += b.panels) {
        const ptrdiff_t panel = unit % panels;
        b.panels = (int)fsm_min(fsm_min(panels - panel, end - unit), most);
        if (apart && b.panels > 1 && panel + b.panels == panels)
            b.panels--;
        b.rows = fsm_min(args->columns - panel * LANES, b.panels * LANES);
        b.row = fsm_row_across(cursor.row, args, panel * LANES);
        plan->panels(&b);
        if (panel + b.panels == panels)
            fsm_cursor_advance(&cursor, args, 1);
    }
}

/* Runs of rows that may make the panels of one batch. */
#define MAX_RUNS 256

/* Rows that become panels. */
static void each_batch_as_panels(batch_t b, ptrdiff_t begin, ptrdiff_t end, const plan_t *plan) {
    const fsm_args *args = b.args;
    const ptrdiff_t along = args->shape[args->ndim - 1];
    const ptrdiff_t fit = place_panels(&b, plan, fsm_panels(end - begin, LANES)) * LANES;
    const ptrdiff_t most = fsm_min(fit, (MAX_RUNS - 1) * along);
    fsm_row runs[MAX_RUNS];
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin; unit < end; unit += b.rows) {
        b.rows = fsm_min(end - unit, most);
        b.panels = (int)fsm_panels(b.rows, LANES);
        b.row = cursor.row;
        b.skipped = cursor.index[args->ndim - 1];
        b.runs = b.skipped + b.rows > along ? runs : NULL;
        runs[0] = fsm_row_across(cursor.row, args, -b.skipped);
        for (ptrdiff_t left = b.rows, run = 0; left > 0; run++) {
            const ptrdiff_t count = fsm_min(along - cursor.index[args->ndim - 1], left);
            if (run > 0)
                runs[run] = cursor.row;
            fsm_cursor_advance(&cursor, args, count);
            left -= count;
        }
        plan->panels(&b);
    }
}

/* Rows as they lie: a batch ends where the last dimension does. */
static void each_batch_of_rows(batch_t b, ptrdiff_t begin, ptrdiff_t end, const plan_t *plan, batch_kernel_t *kernel) {
    const fsm_args *args = b.args;
    const int last = args->ndim - 1;
    const ptrdiff_t most = place_rows(&b, plan);
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin; unit < end; unit += b.rows) {
        const ptrdiff_t left = last >= 0 ? args->shape[last] - cursor.index[last] : 1;
        b.rows = fsm_min(fsm_min(left, end - unit), most);
        b.row = cursor.row;
        kernel(&b);
        fsm_cursor_advance(&cursor, args, b.rows);
    }
}

FSM_OUTLINE void each_batch(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, const plan_t *plan);

/* Short rows that follow each other but are not compute numbers: as many as there is room for are packed, taken as if
 * they had lain so, and their results stored. */
static void each_batch_packed(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, const plan_t *plan) {
    const ptrdiff_t n = args->n, along = args->shape[args->ndim - 1], size = sizeof(real);
    const unsigned others = not_compute_numbers(args, plan->operands);
    real room[2][ROWS_ROOM]; /* results take the place of x */
    fsm_args packed;
    fsm_cursor cursor;
    /* All but the operands, of which 1 KB each stands for axes and dimensions that are not there. */
    const size_t rest = offsetof(fsm_args, used);
    memcpy((char *)&packed + rest, (const char *)args + rest, sizeof packed - rest);
    packed.ndim = 1;
    packed.beyond_caches = args->beyond_caches && !(others & BIT(FSM_Y));
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin, count; unit < end; unit += count) {
        const ptrdiff_t left = along - cursor.index[args->ndim - 1];
        count = fsm_min(fsm_min(left, end - unit), ROWS_ROOM / n);
        packed.shape[0] = count;
        for (int which = 0; which < FSM_OPERANDS; which++) {
            const fsm_operand *from = &args->operands[which];
            fsm_operand *operand = &packed.operands[which];
            operand->data = which < args->used ? cursor.row.at[which] : NULL;
            if (!operand->data) /* and nothing else is known of it */
                continue;
            operand->storage = from->storage;
            operand->swapped = from->swapped;
            operand->row_stride = operand->stride[0] = from->row_stride;
            operand->step[0] = from->step[0];
            if (others & BIT(which)) {
                real *to = room[which == FSM_SAVED];
                if (which != FSM_Y)
                    load(args, which, operand->data, 0, count * n, to);
                operand->data = (char *)to;
                operand->storage = STORED_REAL;
                operand->row_stride = operand->stride[0] = n * size;
                operand->step[0] = size;
            }
        }
        each_batch(&packed, 0, count, scratch, plan);
        if (others & BIT(FSM_Y))
            store(args, FSM_Y, cursor.row.at[FSM_Y], 0, count * n, room[0]);
        fsm_cursor_advance(&cursor, args, count);
    }
}

/* Units [begin, end) of a call, batch by batch, by the table at the head of this file. */
FSM_OUTLINE void each_batch(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, const plan_t *plan) {
    const ptrdiff_t n = args->n, units = end - begin;
    const bool short_rows = !args->columns && n <= MAX_BLOCKS * LANES;
    const bool follow = plan->short_rows && short_rows && units > 1 && rows_follow(args, plan->operands);
    const bool computable = follow && !not_compute_numbers(args, plan->operands);
    const bool plain = x_is_plain(args) && !args->operands[FSM_WEIGHT].data;
    bool rescan = false;
    nt_t nt;
    nt.held = 0;
    batch_t b = {
        .args = args,
        .n = n,
        .x_contiguous = is_contiguous(args, FSM_X) && plain,
        .y_contiguous = args->operands[FSM_Y].data && is_contiguous(args, FSM_Y),
        .scratch = scratch,
        .beta = beta_of(args->temperature),
        .rescan = &rescan,
        .nt = plan->writes_once && nt_pays(args) ? &nt : NULL,
    };
    if (args->columns) {
        each_batch_of_panels(b, begin, end, plan);
    } else if (follow && !computable && args->shape[args->ndim - 1] >= LANES / 4) {
        each_batch_packed(args, begin, end, scratch, plan);
    } else if (computable && !(plan->transposes && leave_lanes_idle(n, units))) {
        each_batch_of_rows(b, begin, end, plan, plan->short_rows);
    } else if (short_rows && units >= LANES / 2 && (n < LANES || rows_interleave(args))) {
        each_batch_as_panels(b, begin, end, plan);
    } else {
        each_batch_of_rows(b, begin, end, plan, plan->rows);
    }
    if (b.nt)
        nt_end(b.nt);
}

#endif
