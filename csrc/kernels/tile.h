/* Groups of rows on their way through the scratch.
 *
 * A group is one row, or the columns of a few strips side by side. What of x cannot be read where it lies is loaded:
 * whole, if there is room for it until the result is stored, else a chunk at a time in every sweep. A row is loaded as n
 * contiguous numbers; columns as tiles, one a strip: n blocks of LANES columns. Only contiguous memory is read that way,
 * a few cache lines at a time, and each only once; along an axis whose steps are a multiple of 4 KB, all elements of a
 * column would compete for the same few places of the L1 cache. */

/* Strips side by side. */
#define MAX_TILES 8

typedef struct {
    const fsm_args *args;
    fsm_cursor cursor; /* the row, or the first column */
    ptrdiff_t columns; /* how many rows it has; 0 for one row, not as a tile */
    int tiles;
    bool held;       /* whole rows are in the scratch */
    ptrdiff_t pitch; /* from one tile to the next */
    real *scratch;
} FN(group);

/* Rows of a tile. */
#define ROWS(columns) ((columns) ? LANES : 1)

#define SCRATCH_ROOM ((ptrdiff_t)(FSM_SCRATCH / sizeof(real)))

/* Reads elements [begin, begin + count) of x; what takes no part is -inf. */
FSM_OUTLINE_ void FN(load_group)(const FN(group) * g, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = g->args;
    const bool masked = args->operands[FSM_MASK].data;
    if (g->columns) {
        FN(load_columns)(args, FSM_X, g->cursor.at[FSM_X], begin, count, g->columns, g->scratch, g->pitch);
        if (masked)
            FN(blank_columns)(args, g->cursor.at[FSM_MASK], begin, count, g->columns, g->scratch, g->pitch, -(real)INFINITY);
    } else {
        FN(load)(args, FSM_X, g->cursor.at[FSM_X], begin, count, g->scratch);
        if (masked)
            FN(blank)(args, g->cursor.at[FSM_MASK], begin, count, g->scratch, -(real)INFINITY);
    }
}

/* Writes elements [begin, begin + count) of y. */
FSM_OUTLINE_ void FN(store_group)(const FN(group) * g, ptrdiff_t begin, ptrdiff_t count) {
    char *y = g->cursor.at[FSM_Y];
    if (g->columns)
        FN(store_columns)(g->args, FSM_Y, y, begin, count, g->columns, g->scratch, g->pitch);
    else
        FN(store)(g->args, FSM_Y, y, begin, count, g->scratch);
}

/* Whether a row's numbers can be read, or written, where they lie. */
FSM_INLINE_ bool FN(lies_ready)(const fsm_args *args, int which) {
    return !args->columns && args->operands[which].storage == STORED_REAL && fsm_is_contiguous(args, which);
}

/* Chunk `c`, of tile t, of the group in the scratch. */
FSM_INLINE_ real *FN(tile_chunk)(const FN(group) * g, int t, ptrdiff_t c) {
    return g->scratch + t * g->pitch + (g->held ? c * (g->columns ? LANES : 1) : 0);
}

/* One row of the group. */
FSM_INLINE_ fsm_cursor FN(row_of)(const FN(group) * g, ptrdiff_t row) {
    return fsm_cursor_column(&g->cursor, g->args, row);
}

/* Whether any element of a row takes part. */
static bool FN(takes_part)(const fsm_args *args, const fsm_cursor *row) {
    if (!args->operands[FSM_MASK].data)
        return true;
    uint8_t takes_part[FSM_CHUNK];
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        fsm_gather(args, FSM_MASK, row->at[FSM_MASK], c, count, (char *)takes_part);
        if (memchr(takes_part, 1, (size_t)count))
            return true;
    }
    return false;
}

/* The result of a row without one: all -inf gives `blank` if that is asked for or nothing takes part; else all that
 * takes part is the one NaN that results hold: propagated ones differ between CPUs. */
static void FN(fill_row)(const fsm_args *args, const fsm_cursor *row, bool all_neg_inf, real blank) {
    const real_bits nan_bits = QUIET_NAN_BITS;
    real value = blank, chunk[FSM_CHUNK];
    if (!all_neg_inf || (!args->zero_if_all_neg_inf && FN(takes_part)(args, row)))
        memcpy(&value, &nan_bits, sizeof value);
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        for (ptrdiff_t i = 0; i < count; i++)
            memcpy(chunk + i, &value, sizeof value);
        if (args->operands[FSM_MASK].data)
            FN(blank)(args, row->at[FSM_MASK], c, count, chunk, blank);
        FN(store)(args, FSM_Y, row->at[FSM_Y], c, count, chunk);
    }
}

/* Walks through units [begin, end), group by group. `hold`: rows stay in the scratch if there is room. `room`: how many
 * numbers fit in. */
FSM_OUTLINE_ void FN(each_group)(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch, bool hold,
                                ptrdiff_t room, void (*row)(const FN(group) *), void (*columns)(const FN(group) *)) {
    const ptrdiff_t strips = args->columns ? (args->columns - 1) / LANES + 1 : 1;
    const ptrdiff_t n = args->n, width = args->columns ? LANES : 1;
    const ptrdiff_t chunk = n < FSM_CHUNK ? n : FSM_CHUNK;
    FN(group) g;
    fsm_cursor cursor;
    g.args = args;
    g.scratch = scratch;
    g.held = hold && n * width <= room;
    /* A block apart, so that the same element of every tile does not compete for the same place in the cache. */
    g.pitch = (g.held ? n : chunk) * width + LANES;
    const ptrdiff_t most = g.pitch * MAX_TILES <= room + LANES ? MAX_TILES : (room + LANES) / g.pitch;
    fsm_cursor_to(&cursor, args, begin / strips);
    for (ptrdiff_t unit = begin; unit < end; unit += g.tiles) {
        g.columns = 0;
        g.tiles = 1;
        g.cursor = cursor;
        const ptrdiff_t strip = unit % strips;
        if (args->columns) {
            const ptrdiff_t left = strips - strip < end - unit ? strips - strip : end - unit;
            g.tiles = (int)(left < most ? left : most);
            g.columns = args->columns - strip * LANES;
            if (g.columns > g.tiles * LANES)
                g.columns = g.tiles * LANES;
            g.cursor = fsm_cursor_column(&cursor, args, strip * LANES);
            columns(&g);
        } else {
            row(&g);
        }
        if (strip + g.tiles == strips)
            fsm_cursor_next(&cursor, args);
    }
}
