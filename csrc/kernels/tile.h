/* Groups of rows on their way through the kernels, and through the scratch where they do not lie ready.
 *
 * A group is a few rows one after the other, or the columns of a few strips side by side; many rows that are shorter
 * than a block may be columns too. What of x cannot be read where it lies is loaded: whole, if there is room for it
 * until the result is stored, else a piece at a time in every sweep. A row is loaded as n contiguous numbers; columns
 * as tiles, one a strip: n blocks of LANES columns. So only memory that is contiguous for a few cache lines is read at
 * a time; along an axis whose steps are a multiple of 4 KB, all elements of a column would compete for the same few
 * places of the L1 cache. */
#ifndef FSM_KERNELS_TILE_H
#define FSM_KERNELS_TILE_H

#include "../arrays/load.h"
#include "../arrays/store.h"
#include "passes.h"

/* Numbers in a group of rows: with y, they fit in a common L1 cache. */
#define GROUP_ROOM ((ptrdiff_t)(16384 / sizeof(real)))

/* One of a set of operands. */
#define BIT(operand) (1u << (operand))

#define SCRATCH_ROOM ((ptrdiff_t)(FSM_SCRATCH / sizeof(real)))

typedef struct {
    const fsm_args *args;
    fsm_row row;         /* the first */
    ptrdiff_t rows;      /* or columns */
    bool columns;        /* side by side, or rows taken as such */
    int tiles;           /* of columns */
    const fsm_row *runs; /* if the rows go beyond the end of the last dimension, where each run along it begins ... */
    ptrdiff_t skipped;   /* ... and the rows of the first that are not in the group; else NULL */
    bool x_ready;        /* a row of x lies as n contiguous numbers */
    bool y_ready;        /* and one of y */
    bool held;           /* whole rows are in the scratch */
    ptrdiff_t pitch;     /* in the scratch, from one row or tile to the next */
    real *scratch;
    beta_t beta;       /* of args->temperature */
    bool *survey;        /* from group to group (softmax_columns) */
    stream_t *stream; /* if results of rows go past the caches, else NULL */
} group_t;

/* From element `i` on, of tile or row t, in the scratch: of the row if that is held, else of what is loaded. */
FSM_INLINE_ real *in_scratch(const group_t *g, ptrdiff_t t, ptrdiff_t i) {
    return g->scratch + t * g->pitch + (g->held ? i * (g->columns ? LANES : 1) : 0);
}

/* Where weights are in the scratch, or e while the distances of a row are summed, or the coefficients of a loss. */
#define SPARE_AT (SCRATCH_ROOM / 2)

FSM_INLINE real *spare_of(const group_t *g) {
    return g->scratch + SPARE_AT;
}

/* Where row or column r begins. */
static fsm_row row_of(const group_t *g, ptrdiff_t r) {
    if (!g->runs)
        return fsm_row_across(g->row, g->args, r);
    const ptrdiff_t run = g->args->shape[g->args->ndim - 1];
    return fsm_row_across(g->runs[(g->skipped + r) / run], g->args, (g->skipped + r) % run);
}

/* The same of one operand. */
FSM_INLINE_ char *start_of(const group_t *g, int which, ptrdiff_t r) {
    const ptrdiff_t across = g->args->operands[which].across;
    if (!g->runs)
        return g->row.at[which] + r * across;
    const ptrdiff_t run = g->args->shape[g->args->ndim - 1];
    return g->runs[(g->skipped + r) / run].at[which] + (g->skipped + r) % run * across;
}

/* Element i of row r, where it lies ready. */
FSM_INLINE_ real *element_at(const group_t *g, int which, ptrdiff_t r, ptrdiff_t i) {
    return (real *)(g->row.at[which] + r * g->args->operands[which].across) + i;
}

/* Whether a row's numbers can be read, or written, where they lie. */
FSM_INLINE_ bool lies_ready(const fsm_args *args, int which) {
    return !args->columns && args->operands[which].storage == STORED_REAL && fsm_is_contiguous(args, which);
}

/* Whether numbers of x can be used where they lie, if they lie well. */
FSM_INLINE_ bool x_is_plain(const fsm_args *args) {
    return !args->operands[FSM_MASK].data && args->loss.softcap == 0;
}

/* Where results of rows go past the caches; NULL: they do not. */
FSM_INLINE_ stream_t *stream_of(const group_t *g) {
    return FSM_STREAMS ? g->stream : NULL;
}

/* Whether results of rows go past the caches: if there are many, but not where they replace what has just been read. */
FSM_INLINE_ bool streams(const fsm_args *args) {
    const fsm_operand *y = &args->operands[FSM_Y];
    uintptr_t aligned = (uintptr_t)y->data | (uintptr_t)y->across;
    for (int d = 0; d < args->ndim; d++)
        aligned |= (uintptr_t)y->stride[d];
    const bool apart = y->data != args->operands[FSM_X].data && y->data != args->operands[FSM_SAVED].data;
    return FSM_STREAMS && args->stream && y->data && lies_ready(args, FSM_Y) && apart &&
           aligned % sizeof(real) == 0;
}

/* Whether rows of all `operands` that are there lie one after the other, of whatever storage. */
FSM_INLINE_ bool rows_follow(const fsm_args *args, unsigned operands) {
    bool follow = x_is_plain(args);
    for (int which = 0; which < args->used; which++)
        if (operands & BIT(which) && args->operands[which].data) {
            const fsm_operand *operand = &args->operands[which];
            const bool in_one = operand->across == args->n * fsm_size_of[operand->storage];
            follow = follow && in_one && fsm_is_contiguous(args, which);
        }
    return follow;
}

/* Those operands that are not numbers as they are computed with. */
FSM_INLINE_ unsigned not_ready(const fsm_args *args, unsigned operands) {
    unsigned others = 0;
    for (int which = 0; which < args->used; which++)
        if (operands & BIT(which) && args->operands[which].data && !lies_ready(args, which))
            others |= BIT(which);
    return others;
}

/* Whether the rows of an operand lie one after the other, as in the scratch. */
FSM_INLINE_ bool lies_in_one(const group_t *g, int which) {
    const fsm_operand *operand = &g->args->operands[which];
    return g->pitch == g->args->n && operand->across == g->args->n * fsm_size_of[operand->storage] &&
           fsm_is_contiguous(g->args, which);
}

/* Rows that are there, or columns of tile t. */
FSM_INLINE_ int rows_in_tile(const group_t *g, int t) {
    const ptrdiff_t left = g->rows - t * LANES;
    return left < LANES ? (int)left : LANES;
}

/* Columns of a tile, from column r of the group on, that lie `across` apart. */
FSM_INLINE_ ptrdiff_t part_of_tile(const group_t *g, ptrdiff_t r) {
    const ptrdiff_t left = rows_in_tile(g, (int)(r / LANES)) - r % LANES;
    if (!g->runs)
        return left;
    const ptrdiff_t run = g->args->shape[g->args->ndim - 1], of_run = run - (g->skipped + r) % run;
    return left < of_run ? left : of_run;
}

/* Elements [begin, begin + count) of an operand's columns, as tiles that are `pitch` apart (load_columns). */
static void load_tiles(const group_t *g, int which, ptrdiff_t begin, ptrdiff_t count, real *to,
                           ptrdiff_t pitch) {
    if (!g->runs) {
        load_columns(g->args, which, g->row.at[which], begin, count, g->rows, to, pitch);
        return;
    }
    for (ptrdiff_t i = 0; g->rows % LANES && i < count; i++)
        vec_store(to + g->rows / LANES * pitch + i * LANES, vec_set1(1));
    for (ptrdiff_t r = 0, part; r < g->rows; r += part) {
        part = part_of_tile(g, r);
        load_part(g->args, which, start_of(g, which, r), begin, count, part,
                      to + r / LANES * pitch + r % LANES);
    }
}

/* `blank` instead of what takes no part. */
static void apply_mask_tiles(const group_t *g, ptrdiff_t begin, ptrdiff_t count, real *x, real blank) {
    if (!g->runs) {
        apply_mask_columns(g->args, g->row.at[FSM_MASK], begin, count, g->rows, x, g->pitch, blank);
        return;
    }
    for (ptrdiff_t r = 0, part; r < g->rows; r += part) {
        part = part_of_tile(g, r);
        apply_mask_columns(g->args, start_of(g, FSM_MASK, r), begin, count, part,
                          x + r / LANES * g->pitch + r % LANES, 0, blank);
    }
}

/* The reverse of load_tiles(). */
static void store_tiles(const group_t *g, ptrdiff_t begin, ptrdiff_t count, const real *from) {
    if (!g->runs) {
        store_columns(g->args, FSM_Y, g->row.at[FSM_Y], begin, count, g->rows, from, g->pitch);
        return;
    }
    for (ptrdiff_t r = 0, part; r < g->rows; r += part) {
        part = part_of_tile(g, r);
        store_part(g->args, FSM_Y, start_of(g, FSM_Y, r), begin, count, part,
                       from + r / LANES * g->pitch + r % LANES);
    }
}

/* Caps `count` logits. */
static void cap(const fsm_args *args, real *x, ptrdiff_t count) {
    const double cap = args->loss.softcap;
    for (ptrdiff_t i = 0; i < count; i++)
        x[i] = (real)(cap * fsm_tanh(x[i] / cap));
}

/* Reads elements [begin, begin + count) of x; what takes no part is -inf. */
FSM_OUTLINE_ void load_group(const group_t *g, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = g->args;
    const bool masked = args->operands[FSM_MASK].data;
    real *to = in_scratch(g, 0, begin);
    if (g->columns) {
        load_tiles(g, FSM_X, begin, count, to, g->pitch);
        if (masked)
            apply_mask_tiles(g, begin, count, to, -(real)INFINITY);
    } else if (!masked && count == args->n && lies_in_one(g, FSM_X)) {
        load(args, FSM_X, g->row.at[FSM_X], 0, g->rows * count, to);
    } else {
        const bool in_place = masked && lies_ready(args, FSM_X);
        for (ptrdiff_t r = 0; r < g->rows; r++, to += g->pitch) {
            const fsm_row row = row_of(g, r);
            if (!in_place)
                load(args, FSM_X, row.at[FSM_X], begin, count, to);
            if (masked)
                apply_mask(args, row.at[FSM_MASK], begin, count, in_place ? element_at(g, FSM_X, r, begin) : to, to,
                          -(real)INFINITY);
        }
    }
    if (args->loss.softcap > 0) {
        to = in_scratch(g, 0, begin);
        for (ptrdiff_t r = 0; r < (g->columns ? g->tiles : g->rows); r++)
            cap(args, to + r * g->pitch, g->columns ? count * LANES : count);
    }
}

/* Writes elements [begin, begin + count) of y. */
FSM_OUTLINE_ void store_group(const group_t *g, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = g->args;
    const real *from = in_scratch(g, 0, begin);
    if (g->columns)
        store_tiles(g, begin, count, from);
    else if (count == args->n && lies_in_one(g, FSM_Y))
        store(args, FSM_Y, g->row.at[FSM_Y], 0, g->rows * count, from);
    else
        for (ptrdiff_t r = 0; r < g->rows; r++)
            store(args, FSM_Y, row_of(g, r).at[FSM_Y], begin, count, from + r * g->pitch);
}

/* How many elements of a row take part. */
static ptrdiff_t count_parts(const fsm_args *args, const fsm_row *row) {
    if (!args->operands[FSM_MASK].data)
        return args->n;
    uint8_t takes_part[FSM_CHUNK];
    ptrdiff_t parts = 0;
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        fsm_gather(args, FSM_MASK, row->at[FSM_MASK], c, count, (char *)takes_part);
        for (ptrdiff_t i = 0; i < count; i++)
            parts += takes_part[i] != 0;
    }
    return parts;
}

/* Stores `bits` all along a row, or column, but `blank` where an element takes no part. */
static void fill(const group_t *g, ptrdiff_t r, real_bits bits, real blank) {
    const fsm_args *args = g->args;
    const fsm_row row = row_of(g, r);
    real chunk[FSM_CHUNK];
    if (stream_of(g))
        stream_flush(g->stream);
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        for (ptrdiff_t i = 0; i < count; i++)
            memcpy(chunk + i, &bits, sizeof bits);
        if (args->operands[FSM_MASK].data)
            apply_mask(args, row.at[FSM_MASK], c, count, chunk, chunk, blank);
        store(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
    }
}

/* The result of a row without one: all -inf gives `blank` if that is asked for or nothing takes part; else all that
 * takes part is the one NaN that results hold: propagated ones differ between CPUs. */
static void fill_row(const group_t *g, ptrdiff_t r, bool all_neg_inf, real blank) {
    const fsm_row row = row_of(g, r);
    real_bits bits;
    memcpy(&bits, &blank, sizeof bits);
    if (!all_neg_inf || (!g->args->zero_if_all_neg_inf && count_parts(g->args, &row) > 0))
        bits = QUIET_NAN_BITS;
    fill(g, r, bits, blank);
}

/* Asks for elements [begin, begin + count) of x of row `r`, which need not exist, ahead of work that leaves the memory
 * idle. Rows of one chunk come as fast by themselves, but to the log family where the array is larger than the caches.
 */
FSM_INLINE void prefetch_row(const group_t *g, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_operand *x = &g->args->operands[FSM_X];
    const ptrdiff_t size = fsm_size_of[x->storage];
    if (fsm_is_contiguous(g->args, FSM_X)) {
        const char *at = g->row.at[FSM_X] + r * x->across + begin * size;
        for (ptrdiff_t b = 0; b < count * size; b += 64)
            FSM_PREFETCH(at + b);
    }
}

/* Some rows of a group, as a group. */
FSM_INLINE_ group_t part_of_group(const group_t *g, ptrdiff_t first, ptrdiff_t rows) {
    group_t part = *g;
    part.row = fsm_row_across(g->row, g->args, first);
    part.rows = rows;
    return part;
}

/* ---- rows that threads share */

/* What is done with chunks [begin, end) of the rows of a group; `of` says with what. */
typedef void chunks_t(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end);

typedef struct {
    const group_t *g;
    chunks_t *chunks;
    const void *of;
    ptrdiff_t first;
} shared_rows_t;

/* With the scratch, and the unwritten line, of whoever computes. */
static void take_chunks(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const shared_rows_t *shared = context;
    group_t g = *shared->g;
    stream_t stream;
    stream.held = 0;
    g.scratch = scratch;
    g.stream = g.stream ? &stream : NULL;
    shared->chunks(&g, shared->of, shared->first + begin, shared->first + end);
    if (stream_of(&g)) {
        stream_flush(&stream);
        vec_stream_end();
    }
}

FSM_INLINE_ ptrdiff_t chunks_of(const group_t *g) {
    return (g->args->n - 1) / FSM_CHUNK + 1;
}

/* Chunks [begin, end), on the calling thread alone unless it has helpers. Rows that are shared are not held. */
FSM_OUTLINE_ void share_chunks(const group_t *g, chunks_t *chunks, const void *of, ptrdiff_t begin,
                                   ptrdiff_t end) {
    if (g->args->helpers > 0) {
        const shared_rows_t shared = {g, chunks, of, begin};
        fsm_share(g->args, take_chunks, &shared, end - begin, FSM_CHUNK * sizeof(real), g->scratch);
    } else {
        chunks(g, of, begin, end);
    }
}

/* ---- tiles of columns, a piece at a time */

/* Elements of a piece; a chunk is a multiple of it. */
#define PIECE (4 * LANES)

/* A piece of a group of tiles: `count` elements, `step` bytes apart, those of the next tile `tile_step` bytes on. */
typedef struct {
    char *at;
    ptrdiff_t step, tile_step, count;
} piece_t;

FSM_INLINE_ real *in_piece(piece_t piece, ptrdiff_t t, ptrdiff_t i) {
    return (real *)(piece.at + t * piece.tile_step + i * piece.step);
}

/* Asks for a block ahead of its use; it need not exist. Without, columns in memory take 5 to 10 % longer. */
FSM_INLINE_ void prefetch_block(const real *block) {
    for (size_t b = 0; b < LANES * sizeof *block; b += 64)
        FSM_PREFETCH((const char *)block + b);
}

/* Whether the columns of an operand lie side by side, as they are computed with. */
FSM_INLINE_ bool lies_side_by_side(const fsm_args *args, int which) {
    const fsm_operand *operand = &args->operands[which];
    return args->axes == 1 && operand->storage == STORED_REAL && !operand->swapped && operand->across == sizeof(real);
}

/* Whether the numbers of an operand are a piece where they lie. */
FSM_INLINE_ bool lies_in_tiles(const group_t *g, int which) {
    return !g->runs && g->rows == (ptrdiff_t)g->tiles * LANES && lies_side_by_side(g->args, which);
}

FSM_INLINE_ piece_t piece_in_place(const group_t *g, int which, ptrdiff_t begin, ptrdiff_t count) {
    const ptrdiff_t step = g->args->operands[which].step[0];
    return (piece_t){g->row.at[which] + begin * step, step, LANES * sizeof(real), count};
}

FSM_INLINE_ piece_t piece_in_scratch(const group_t *g, ptrdiff_t begin, ptrdiff_t count) {
    const ptrdiff_t size = sizeof(real);
    return (piece_t){(char *)in_scratch(g, 0, begin), LANES * size, g->pitch * size, count};
}

/* A piece of x, loaded if need be. `again`: it was before, and nothing has been done to it in the scratch. */
static piece_t piece_of_x(const group_t *g, ptrdiff_t begin, ptrdiff_t count, bool again) {
    if (x_is_plain(g->args) && lies_in_tiles(g, FSM_X))
        return piece_in_place(g, FSM_X, begin, count);
    if (!again || !g->held)
        load_group(g, begin, count);
    return piece_in_scratch(g, begin, count);
}

/* ---- columns of n <= LANES elements, one to a lane of their sums */

/* The exponentials of tile t of x, to tile t of e. */
FSM_INLINE void exp_column(piece_t x, piece_t e, int t, const exp_frame_t *frame, bool careful) {
    ptrdiff_t i = 0;
    for (; i + 4 <= x.count; i += 4) {
        const real *from[4];
        real *to[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            from[k] = in_piece(x, t, i + k);
            to[k] = in_piece(e, t, i + k);
        }
        exp_and_add(from, to, 4, frame, careful);
    }
    for (; i < x.count; i++) {
        const real *from = in_piece(x, t, i);
        real *to = in_piece(e, t, i);
        exp_and_add(&from, &to, 1, frame, careful);
    }
}

/* e of an element of the columns, or 0 where it is the one at `at`. */
FSM_INLINE vec leave_out(vec e, ptrdiff_t element, vec at) {
    return select_eq(at, vec_set1((real)element), vec_set1(0), e);
}

/* The sums of tile t of e; without the elements at `left_out`, unless that is NULL. */
FSM_INLINE vec_acc sum_short_column(piece_t e, int t, const vec *left_out) {
    const int used = (int)e.count;
    vec_acc lanes[LANES / 2];
    int width = LANES / 2;
    while (width > 1 && width >= used)
        width /= 2;
    for (int j = 0; j < width; j++) {
        vec a = vec_load(in_piece(e, t, j));
        lanes[j] = vec_acc_of(left_out ? leave_out(a, j, *left_out) : a);
        if (j + width < used) {
            a = vec_load(in_piece(e, t, j + width));
            lanes[j] = vec_acc_merge(lanes[j], vec_acc_of(left_out ? leave_out(a, j + width, *left_out) : a));
        }
    }
    return fold_columns(lanes, width);
}

/* ---- groups */

/* What a group's function is told; see each_group(). */
typedef struct {
    bool hold_rows;      /* they stay in the scratch if there is room; tiles do if FSM_STRIPS_HELD fit, or all */
    ptrdiff_t room;      /* numbers that fit in the scratch */
    ptrdiff_t tiles;     /* of columns: at most */
    ptrdiff_t most_rows; /* in a group that needs no scratch */
    bool *survey;        /* for the groups */
    void (*short_rows)(const group_t *); /* for those that lie in line, or NULL */
    unsigned in_line;                      /* these operands, by BIT() */
    bool may_turn;                         /* those that leave lanes idle are columns all the same (are_turned) */
} plan_t;

/* Tiles in the scratch: numbers from one to the next, and how many fit. They are a block apart, so that the same
 * element of every tile does not compete for the same place in the cache. */
typedef struct {
    ptrdiff_t pitch, tiles;
} tiling_t;

FSM_INLINE_ tiling_t tiling_of(ptrdiff_t elements, plan_t plan, ptrdiff_t strips) {
    const ptrdiff_t pitch = elements * LANES + LANES, fit = (plan.room + LANES) / pitch;
    const ptrdiff_t most = strips < plan.tiles ? strips : plan.tiles;
    return (tiling_t){pitch, fit < most ? fit : most};
}

/* The most tiles of a group; says how they lie in the scratch. */
FSM_INLINE_ ptrdiff_t lay_tiles(group_t *g, plan_t plan, ptrdiff_t strips) {
    const ptrdiff_t n = g->args->n, piece = n < PIECE ? n : PIECE;
    const tiling_t whole = tiling_of(n, plan, strips), part = tiling_of(piece, plan, strips);
    g->held = whole.tiles >= (part.tiles < FSM_STRIPS_HELD ? part.tiles : FSM_STRIPS_HELD);
    g->pitch = g->held ? whole.pitch : part.pitch;
    return g->held ? whole.tiles : part.tiles;
}

/* The same of rows. */
FSM_INLINE_ ptrdiff_t lay_rows(group_t *g, plan_t plan) {
    const ptrdiff_t n = g->args->n, most = g->x_ready && g->y_ready ? plan.most_rows : LANES;
    g->held = plan.hold_rows && n <= plan.room;
    g->pitch = g->held || n < FSM_CHUNK ? n : FSM_CHUNK;
    if (most > LANES || most * n <= GROUP_ROOM)
        return most;
    return n < GROUP_ROOM ? GROUP_ROOM / n : 1;
}

/* Walks through strips [begin, end), group by group. */
static void each_group_of_strips(group_t g, ptrdiff_t begin, ptrdiff_t end, plan_t plan,
                                     void (*columns)(const group_t *)) {
    const fsm_args *args = g.args;
    const ptrdiff_t strips = fsm_strips(args->columns, LANES), most = lay_tiles(&g, plan, strips);
    /* A last strip that is narrower has to be loaded, the others need not: it is a group of its own. */
    const bool parted = args->columns % LANES != 0 && lies_side_by_side(args, FSM_X);
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin / strips);
    for (ptrdiff_t unit = begin; unit < end; unit += g.tiles) {
        const ptrdiff_t strip = unit % strips, left = strips - strip < end - unit ? strips - strip : end - unit;
        g.tiles = (int)(left < most ? left : most);
        if (parted && g.tiles > 1 && strip + g.tiles == strips)
            g.tiles--;
        g.rows = args->columns - strip * LANES;
        if (g.rows > g.tiles * LANES)
            g.rows = g.tiles * LANES;
        g.row = fsm_row_across(cursor.row, args, strip * LANES);
        columns(&g);
        if (strip + g.tiles == strips)
            fsm_cursor_advance(&cursor, args, 1);
    }
}

/* Runs of rows that may be columns of one group. */
#define MOST_RUNS 256

/* Whether rows that follow each other along the last dimension lie closer than the elements of each. */
FSM_INLINE_ bool rows_interleave(const fsm_args *args) {
    const fsm_operand *x = &args->operands[FSM_X];
    const ptrdiff_t step = x->step[args->axes - 1], size = fsm_size_of[x->storage];
    return args->ndim > 0 && step != size && (x->across < 0 ? -x->across : x->across) < (step < 0 ? -step : step);
}

/* Walks through rows [begin, end), group by group, as columns. */
static void each_group_of_turned(group_t g, ptrdiff_t begin, ptrdiff_t end, plan_t plan,
                                     void (*columns)(const group_t *)) {
    const fsm_args *args = g.args;
    const ptrdiff_t along = args->shape[args->ndim - 1];
    const ptrdiff_t fit = lay_tiles(&g, plan, fsm_strips(end - begin, LANES)) * LANES;
    const ptrdiff_t most = fit < (MOST_RUNS - 1) * along ? fit : (MOST_RUNS - 1) * along;
    fsm_row runs[MOST_RUNS];
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin; unit < end; unit += g.rows) {
        g.rows = end - unit < most ? end - unit : most;
        g.tiles = (int)fsm_strips(g.rows, LANES);
        g.row = cursor.row;
        g.skipped = cursor.index[args->ndim - 1];
        g.runs = g.skipped + g.rows > along ? runs : NULL;
        runs[0] = fsm_row_across(cursor.row, args, -g.skipped);
        for (ptrdiff_t left = g.rows, run = 0; left > 0; run++) {
            const ptrdiff_t here = along - cursor.index[args->ndim - 1], count = here < left ? here : left;
            if (run > 0)
                runs[run] = cursor.row;
            fsm_cursor_advance(&cursor, args, count);
            left -= count;
        }
        columns(&g);
    }
}

/* How many short rows share a block (short_rows.h). */
FSM_INLINE_ int parts_of(ptrdiff_t n, ptrdiff_t rows) {
    int parts = 8;
    while (parts > 1 && (parts * n > LANES || parts / 2 >= rows))
        parts /= 2;
    return parts;
}

/* Whether such rows, in line, are taken as columns all the same: three quarters or fewer of the lanes of their blocks
 * would be filled, which takes longer than the way there and back by squares (load.h). Softmax then takes 0.66 to 0.84
 * times as long for n = 9 to 12 and 17 to 24, log_softmax and logsumexp 0.85 to 1.0; for other n, columns would take up
 * to 1.25 times as long (float32; float64 the same at half of that; AVX2, Zen 3). */
FSM_INLINE_ bool are_turned(ptrdiff_t n, ptrdiff_t rows) {
    return rows >= LANES && n >= SIDE && 4 * parts_of(n, LANES) * n <= 3 * LANES;
}

FSM_OUTLINE_ void each_group(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, plan_t plan,
                                 void (*rows)(const group_t *), void (*columns)(const group_t *));

/* Walks through short rows [begin, end) that would lie in line if all operands were ready: as many as there is room for
 * are loaded, so that they do, and the results stored. Bfloat16 softmax of (65536, 32) then takes 0.41 times as long
 * (AVX2, Zen 3). */
static void each_group_loaded(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, plan_t plan,
                                  void (*rows)(const group_t *), void (*columns)(const group_t *)) {
    const ptrdiff_t n = args->n, along = args->shape[args->ndim - 1], size = sizeof(real);
    const unsigned others = not_ready(args, plan.in_line);
    real room[2][GROUP_ROOM]; /* results take the place of x */
    fsm_args loaded;
    fsm_cursor cursor;
    /* All but the operands, of which 1 KB each stands for axes and dimensions that are not there. */
    const size_t rest = offsetof(fsm_args, used);
    memcpy((char *)&loaded + rest, (const char *)args + rest, sizeof loaded - rest);
    loaded.ndim = 1;
    loaded.stream = args->stream && !(others & BIT(FSM_Y));
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin, count; unit < end; unit += count) {
        const ptrdiff_t left = along - cursor.index[args->ndim - 1], most = GROUP_ROOM / n;
        count = left < end - unit ? left : end - unit;
        if (count > most)
            count = most;
        loaded.shape[0] = count;
        for (int which = 0; which < FSM_OPERANDS; which++) {
            const fsm_operand *from = &args->operands[which];
            fsm_operand *operand = &loaded.operands[which];
            operand->data = which < args->used ? cursor.row.at[which] : NULL;
            if (!operand->data) /* and nothing else is known of it */
                continue;
            operand->storage = from->storage;
            operand->swapped = from->swapped;
            operand->across = operand->stride[0] = from->across;
            operand->step[0] = from->step[0];
            if (others & BIT(which)) {
                real *to = room[which == FSM_SAVED];
                if (which != FSM_Y)
                    load(args, which, operand->data, 0, count * n, to);
                operand->data = (char *)to;
                operand->storage = STORED_REAL;
                operand->across = operand->stride[0] = n * size;
                operand->step[0] = size;
            }
        }
        each_group(&loaded, 0, count, scratch, plan, rows, columns);
        if (others & BIT(FSM_Y))
            store(args, FSM_Y, cursor.row.at[FSM_Y], 0, count * n, room[0]);
        fsm_cursor_advance(&cursor, args, count);
    }
}

/* Walks through units [begin, end), group by group. Short rows go to plan.short_rows if they lie in line, or do
 * once they are loaded, and fill their blocks (are_turned()). If not, those that would not fill a block, and those that
 * interleave, are taken as columns, if there are enough of them: (100000, 10) float32 softmax then takes 1.3 ns an
 * element, row by row 3.0 (AVX-512, Zen 5). */
FSM_OUTLINE_ void each_group(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, plan_t plan,
                                 void (*rows)(const group_t *), void (*columns)(const group_t *)) {
    const bool plain = x_is_plain(args) && !args->operands[FSM_WEIGHT].data;
    const bool short_rows = !args->columns && args->n <= FSM_MOST_BLOCKS * LANES;
    const bool follow = plan.short_rows && short_rows && end - begin > 1 && rows_follow(args, plan.in_line);
    const bool ready = follow && !not_ready(args, plan.in_line);
    if (follow && !ready && args->shape[args->ndim - 1] >= LANES / 4) {
        each_group_loaded(args, begin, end, scratch, plan, rows, columns);
        return;
    }
    const bool in_line = ready && !(plan.may_turn && are_turned(args->n, end - begin));
    const bool turned =
        !in_line && short_rows && end - begin >= LANES / 2 && (args->n < LANES || rows_interleave(args));
    const int last = args->ndim - 1;
    stream_t stream;
    stream.held = 0;
    group_t g;
    g.args = args;
    g.columns = args->columns || turned;
    g.tiles = 1;
    g.runs = NULL;
    g.x_ready = lies_ready(args, FSM_X) && plain;
    g.y_ready = args->operands[FSM_Y].data && lies_ready(args, FSM_Y);
    g.scratch = scratch;
    g.beta = beta_of(args->temperature);
    g.survey = plan.survey;
    g.stream = streams(args) ? &stream : NULL;
    if (args->columns) {
        each_group_of_strips(g, begin, end, plan, columns);
        return;
    }
    if (turned) {
        each_group_of_turned(g, begin, end, plan, columns);
        return;
    }
    const ptrdiff_t most = lay_rows(&g, plan);
    fsm_cursor cursor;
    fsm_cursor_to(&cursor, args, begin);
    for (ptrdiff_t unit = begin; unit < end; unit += g.rows) {
        const ptrdiff_t left = last >= 0 ? args->shape[last] - cursor.index[last] : 1;
        g.rows = left < end - unit ? left : end - unit;
        if (g.rows > most)
            g.rows = most;
        g.row = cursor.row;
        (in_line ? plan.short_rows : rows)(&g);
        fsm_cursor_advance(&cursor, args, g.rows);
    }
    if (stream_of(&g)) {
        stream_flush(&stream);
        vec_stream_end();
    }
}

#endif
