/* The first sweep of the log family (log_family.h): the states of rows, or of the tiles of a group of columns. */
#ifndef FSM_KERNELS_LOG_SWEEP_H
#define FSM_KERNELS_LOG_SWEEP_H

#include "log_family.h"
#include "short_rows.h"

/* ---- weights
 *
 * What has a weight of 0, or takes no part, has both: a weight of 0 and x = -inf. A weight that might overflow, or
 * vanish, in a product with e joins x, but for its sign. */

static void join_weights(real *x, real *w, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        const real size = w[i] < 0 ? -w[i] : w[i];
        if (size == 0) {
            x[i] = -(real)INFINITY;
        } else if ((size < (real)0x1p-100 || size > (real)0x1p100) && isfinite(size) && isfinite(x[i])) {
            x[i] += (real)fsm_log(size);
            w[i] = w[i] < 0 ? -1 : 1;
        }
    }
}

/* Loads the weights w of a row whose x is loaded. */
static void load_weights(const group_t *g, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count, real *x, real *w) {
    const fsm_row row = row_of(g, r);
    load(g->args, FSM_WEIGHT, row.at[FSM_WEIGHT], begin, count, w);
    if (g->args->operands[FSM_MASK].data)
        apply_mask(g->args, row.at[FSM_MASK], begin, count, w, w, 0);
    join_weights(x, w, count);
}

/* Loads x and the weights of a group of columns. */
static void load_weighted_columns(const group_t *g, ptrdiff_t begin, ptrdiff_t count) {
    real *x = in_scratch(g, 0, begin), *w = x + SPARE_AT;
    load_group(g, begin, count);
    load_tiles(g, FSM_WEIGHT, begin, count, w, g->pitch);
    if (g->args->operands[FSM_MASK].data)
        apply_mask_tiles(g, begin, count, w, 0);
    for (int t = 0; t < g->tiles; t++)
        join_weights(x + t * g->pitch, w + t * g->pitch, count * LANES);
}

/* ---- one chunk of a row */

/* Where exponentials of row r are kept: where y will be, if it lies ready and is not streamed, else in the scratch. */
FSM_INLINE real *kept_at(const group_t *g, ptrdiff_t r) {
    return g->y_ready && !stream_of(g) ? element_at(g, FSM_Y, r, 0) : in_scratch(g, r, 0);
}

/* The maximum of up to FSM_CHUNK elements and where it first is, -1 if it is -inf or NaN; returns whether a subnormal
 * is there. */
FSM_INLINE bool find_max(const real *x, ptrdiff_t n, real *max, ptrdiff_t *index) {
    vec where;
    const range_t range = range_row(x, n, &where);
    const vec none = vec_set1(-FSM_CHUNK);
    *max = vec_hmax(range.max);
    *index = -1;
    const real group = -vec_hmax(vec_select_lt(range.max, vec_set1(*max), none, vec_sub(vec_set1(0), where)));
    for (ptrdiff_t i = (ptrdiff_t)group * 4 * LANES; i < n && *max > -(real)INFINITY; i += LANES) {
        const ptrdiff_t left = n - i;
        const vec a = left < LANES ? vec_load_n(x + i, left, -(real)INFINITY) : vec_load(x + i);
        const int lane = vec_find_eq(a, vec_set1(*max));
        if (lane < LANES) {
            *index = i + lane;
            break;
        }
    }
    return range_has_subnormal(range);
}

/* What a chunk with an infinity, or a weight that is no finite number, holds (w: weights, or NULL for 1); `step` in
 * bytes. */
static int infinities(const real *x, const real *w, ptrdiff_t n, ptrdiff_t step) {
    int flags = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        real value, weight = 1;
        memcpy(&value, (const char *)x + i * step, sizeof value);
        if (w)
            memcpy(&weight, (const char *)w + i * step, sizeof weight);
        if (isnan(value) || isnan(weight) || (isinf(weight) && value == -(real)INFINITY))
            flags |= HAS_NAN;
        else if (value == (real)INFINITY || isinf(weight))
            flags |= weight > 0 ? HAS_INF : HAS_MINUS_INF;
    }
    return flags;
}

/* e * (max - x) * beta, where e > 0. */
FSM_INLINE vec distance(vec x, vec e, vec max, real beta) {
    return vec_select_lt(vec_set1(0), e, vec_mul(e, vec_mul(vec_sub(max, x), vec_set1(beta))), e);
}

/* In place of x. */
FSM_OUTLINE_ void distances(real *x, const real *e, ptrdiff_t n, vec max, real beta) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t left = n - i < LANES ? n - i : LANES;
        const vec a = vec_load_n(x + i, left, 0), b = vec_load_n(e + i, left, 0);
        vec_store_n(x + i, left, distance(a, b, max, beta));
    }
}

/* What one chunk gives: elements [begin, begin + n) of row r, at x, become entry j of s. `spare`, of the size of x, has
 * their weights, or has room for distances, which need x overwritten, as weights do. */
FSM_INLINE void log_chunk(const group_t *g, ptrdiff_t r, log_state_t *s, ptrdiff_t j, real *x, real *spare,
                              ptrdiff_t n, ptrdiff_t begin, log_kind_t kind) {
    const beta_t beta = g->beta;
    real max, e = 0;
    ptrdiff_t index;
    fsm_sum others, distance = {0, 0};
    const bool subnormal = find_max(x, n, &max, &index);
    const real finite_max = isfinite(max) ? max : 0;
    /* With weights, e of a maximum is a power of two, so that weights that cancel leave 0. */
    const bool direct = kind != WEIGHTED && in_direct_range(finite_max * beta.hi);
    const real shift = direct ? 0 : finite_max;
    const bool careful = subnormal || beta.scaled || shift != 0;
    const exp_frame_t frame = exp_frame_of(vec_set1(finite_max), vec_set1(shift), beta);
    const terms_t terms = careful ? CAREFUL : PLAIN;
    real k[LANES];
    vec_store(k, exp_frame_k(&frame));
    if (g->args->n > FSM_CHUNK || g->args->stream)
        prefetch_row(g, r + g->rows, begin, n);

    const real *w = kind == WEIGHTED ? spare : NULL;
    bool weights_finite = true;
    for (ptrdiff_t i = 0; w && i < n; i++)
        weights_finite &= w[i] - w[i] == 0;
    int flags = 0;
    if (max == (real)INFINITY || !weights_finite)
        flags = infinities(x, w, n, sizeof *x);
    if (kind == WEIGHTED) {
        sum_row(x, x, n, -1, NULL, &frame, terms);
        for (ptrdiff_t i = 0; i < n; i++)
            x[i] *= w[i];
        others = sum_row(x, NULL, n, index, &e, &frame, GIVEN);
    } else if (kind == DISTANCES) {
        sum_row(x, spare, n, -1, NULL, &frame, terms);
        others = sum_row(spare, NULL, n, index, &e, &frame, GIVEN);
        distances(x, spare, n, vec_set1(finite_max), beta.hi);
        distance = sum_row(x, NULL, n, -1, NULL, &frame, GIVEN);
    } else {
        real *kept = kind == KEPT ? kept_at(g, r) : NULL;
        others = careful ? sum_row(x, kept, n, index, &e, &frame, CAREFUL)
                         : sum_row_body(x, kept, n, index, &e, frame, PLAIN, NULL);
    }
    s->max[j] = max;
    s->e[j] = e;
    s->weight[j] = w && index >= 0 ? w[index] : 1;
    s->k[j] = k[0];
    s->shift[j] = shift;
    s->others[j] = others;
    s->distance[j] = distance;
    s->index[j] = index >= 0 ? begin + index : -1;
    s->flags[j] = isnan(max) || (!flags && isnan(others.hi)) ? HAS_NAN : flags;
    s->careful[j] = careful;
}

/* ---- one chunk of the columns of a group
 *
 * x is read twice, where it lies if it can be: for the maxima, and for the sums without them. Eight tiles side by side
 * make log_softmax of (32000, 128) float32, along its first axis, 0.55 ns an element; one tile at a time, through the
 * scratch, took 1.4 (AVX-512, Zen 5). */

#define LOG_TILES 8

/* Numbers in the scratch; the rest of it is for the lanes of LOG_TILES tiles. */
#define LOG_ROOM (SCRATCH_ROOM - (ptrdiff_t)(LOG_TILES * 2 * LANES * sizeof(vec_acc) / sizeof(real)))
_Static_assert(LOG_ROOM * sizeof(real) % 64 == 0, "lanes are aligned");

/* A tile in a chunk. */
typedef struct {
    range_t range;
    vec at;     /* element of the chunk where each column's maximum first is, or -1 */
    vec weight; /* of that */
    vec odd;    /* NaN in columns with a weight that is no finite number, else 0 */
    int flags[LANES];
    vec max; /* the maximum, or 0 if that is not finite */
    exp_frame_t frame;
    bool careful;
    vec_acc *lanes, *distances; /* LANES each */
} log_tile_t;

/* The maxima, and where they are: `x` and weights `w` are elements from `from` on, of the chunk. */
FSM_INLINE void log_maxima(log_tile_t *tiles, int count, piece_t x, piece_t w, ptrdiff_t from,
                               log_kind_t kind) {
    for (ptrdiff_t i = 0; i < x.count; i += 4)
        for (int t = 0; t < count; t++) {
            log_tile_t *tile = &tiles[t];
            range_t range = tile->range;
            vec at = tile->at;
            for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++) {
                const vec a = vec_load(in_piece(x, t, k));
                prefetch_block(in_piece(x, t, k + 8));
                at = vec_select_lt(range.max, a, vec_set1((real)(from + k)), at);
                if (kind == WEIGHTED) {
                    const vec weight = vec_load(in_piece(w, t, k));
                    tile->weight = vec_select_lt(range.max, a, weight, tile->weight);
                    tile->odd = vec_add(tile->odd, vec_sub(weight, weight));
                }
                range = range_join(range, range_of(a));
            }
            tile->range = range;
            tile->at = at;
        }
}

/* Elements i, i + LANES, ... of a piece: 4 of them, or those that are there. `skip`: one may be a maximum. */
FSM_INLINE void log_add_lane(log_tile_t *tile, piece_t x, piece_t w, ptrdiff_t t, ptrdiff_t from,
                                 ptrdiff_t i, bool skip, real beta, const bool all, log_kind_t kind) {
    const vec zero = vec_set1(0);
    vec sum = zero, e[4], d[4]; /* exponentials, distances */
    if (all && kind == SUMS && !tile->careful) {
        FSM_EACH_REGISTER(j) {
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                e[step] = load_register(in_piece(x, t, i + step * LANES), j);
            exp_four(e, &tile->frame, false);
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                if (skip)
                    e[step] = leave_out(e[step], from + i + step * LANES, tile->at);
            sum = set_register(sum, j, add_four(e[0], e[1], e[2], e[3]));
        }
        tile->lanes[i] = vec_acc_add(tile->lanes[i], sum);
        return;
    }
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        e[step] = d[step] = zero;
        if (all || i + step * LANES < x.count) {
            const vec a = vec_load(in_piece(x, t, i + step * LANES));
            e[step] = a;
            exp_blocks(&e[step], 1, &tile->frame, tile->careful);
            if (kind == WEIGHTED)
                e[step] = vec_mul(e[step], vec_load(in_piece(w, t, i + step * LANES)));
            if (kind == DISTANCES)
                d[step] = distance(a, e[step], tile->max, beta);
            if (skip)
                e[step] = leave_out(e[step], from + i + step * LANES, tile->at);
        }
    }
    tile->lanes[i] = vec_acc_add(tile->lanes[i], add_four(e[0], e[1], e[2], e[3]));
    if (kind == DISTANCES)
        tile->distances[i] = vec_acc_add(tile->distances[i], add_four(d[0], d[1], d[2], d[3]));
}

/* Tiles [first, end). `skip` says which elements of the piece are some column's maximum. */
FSM_INLINE void log_add_piece(log_tile_t *tiles, int first, int end, piece_t x, piece_t w, ptrdiff_t from,
                                  const uint8_t *skip, real beta, log_kind_t kind) {
    for (ptrdiff_t i = 0; i < LANES && i < x.count; i++) {
        const bool any = skip[i] | skip[i + LANES] | skip[i + 2 * LANES] | skip[i + 3 * LANES];
        for (int t = first; t < end; t++)
            if (x.count == PIECE)
                log_add_lane(&tiles[t], x, w, t, from, i, any, beta, true, kind);
            else
                log_add_lane(&tiles[t], x, w, t, from, i, any, beta, false, kind);
    }
}

/* What a chunk from `begin` on of a tile's columns gives. */
static void log_state_of(log_state_t *s, const log_tile_t *tile, ptrdiff_t begin, int used,
                             log_kind_t kind) {
    real max[LANES], e[LANES], weight[LANES], k[LANES], shift[LANES], at[LANES];
    double hi[LANES], lo[LANES], distance_hi[LANES] = {0}, distance_lo[LANES] = {0};
    vec of_max = exp_block(tile->max, tile->frame, tile->careful);
    if (kind == WEIGHTED)
        of_max = vec_mul(of_max, tile->weight);
    vec_store(max, tile->range.max);
    vec_store(e, of_max);
    vec_store(weight, tile->weight);
    vec_store(k, exp_frame_k(&tile->frame));
    vec_store(shift, tile->frame.shift);
    vec_store(at, tile->at);
    vec_acc_get(fold_columns(tile->lanes, used), hi, lo);
    if (kind == DISTANCES)
        vec_acc_get(fold_columns(tile->distances, used), distance_hi, distance_lo);
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = e[j];
        s->weight[j] = weight[j];
        s->k[j] = k[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){hi[j], lo[j]};
        s->distance[j] = (fsm_sum){distance_hi[j], distance_lo[j]};
        s->index[j] = at[j] >= 0 ? begin + (ptrdiff_t)at[j] : -1;
        s->careful[j] = tile->careful;
        s->flags[j] = isnan(max[j]) || (!tile->flags[j] && isnan(hi[j])) ? HAS_NAN : tile->flags[j];
    }
}

/* A piece of x, and of the weights if there are any, loaded if need be (piece_of_x()). */
FSM_INLINE piece_t
    log_piece(const group_t *g, ptrdiff_t begin, ptrdiff_t count, bool again, piece_t *w, log_kind_t kind) {
    if (kind != WEIGHTED)
        return *w = piece_of_x(g, begin, count, again);
    if (!again || !g->held)
        load_weighted_columns(g, begin, count);
    const piece_t x = piece_in_scratch(g, begin, count);
    *w = x;
    w->at += SPARE_AT * (ptrdiff_t)sizeof(real);
    return x;
}

/* The flags of columns with an infinity, or a weight that is no finite number. */
static void log_infinities(const group_t *g, log_tile_t *tiles, ptrdiff_t begin, ptrdiff_t count,
                               log_kind_t kind) {
    bool concerned[LOG_TILES][LANES], any = false;
    for (int t = 0; t < g->tiles; t++) {
        real max[LANES], odd[LANES];
        vec_store(max, tiles[t].range.max);
        vec_store(odd, tiles[t].odd);
        for (int j = 0; j < LANES; j++) {
            concerned[t][j] = max[j] == (real)INFINITY || isnan(odd[j]);
            any |= concerned[t][j];
        }
    }
    for (ptrdiff_t c = 0; any && c < count; c += PIECE) {
        piece_t w, x = log_piece(g, begin + c, count - c < PIECE ? count - c : PIECE, true, &w, kind);
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; j < LANES; j++)
                if (concerned[t][j]) {
                    const real *weights = kind == WEIGHTED ? in_piece(w, t, 0) + j : NULL;
                    tiles[t].flags[j] |= infinities(in_piece(x, t, 0) + j, weights, x.count, x.step);
                }
    }
}

/* The frame of a tile whose maxima are known; returns whether one is infinite. */
FSM_INLINE bool log_frame(log_tile_t *tile, beta_t beta, bool weighted) {
    tile->max = finite_or(tile->range.max, vec_set1(0));
    const vec shift = weighted ? tile->max : shift_of(tile->max, beta);
    tile->careful = range_has_subnormal(tile->range) || beta.scaled || vec_any_lt(vec_set1(0), vec_abs(shift));
    tile->frame = exp_frame_of(tile->max, shift, beta);
    return vec_any_lt(tile->max, tile->range.max);
}

/* Elements [begin, begin + count). */
FSM_INLINE void log_chunk_columns(const group_t *g, log_tile_t *tiles, ptrdiff_t begin, ptrdiff_t count,
                                      log_kind_t kind) {
    const int used = count < LANES ? (int)count : LANES;
    uint8_t skip[FSM_CHUNK];
    memset(skip, 0, (size_t)((count + PIECE - 1) / PIECE * PIECE));
    for (int t = 0; t < g->tiles; t++) {
        log_tile_t *tile = &tiles[t];
        tile->range = (range_t){vec_set1(-(real)INFINITY), vec_set1(1)};
        tile->at = vec_set1(-1);
        tile->weight = vec_set1(1);
        tile->odd = vec_set1(0);
        memset(tile->flags, 0, sizeof tile->flags);
        for (int j = 0; j < used; j++) {
            tile->lanes[j] = vec_acc_zero();
            if (kind == DISTANCES)
                tile->distances[j] = vec_acc_zero();
        }
    }
    for (ptrdiff_t c = 0; c < count; c += PIECE) {
        piece_t w, x = log_piece(g, begin + c, count - c < PIECE ? count - c : PIECE, false, &w, kind);
        log_maxima(tiles, g->tiles, x, w, c, kind);
    }
    bool infinite = kind == WEIGHTED;
    for (int t = 0; t < g->tiles; t++) {
        infinite |= log_frame(&tiles[t], g->beta, kind == WEIGHTED);
        real at[LANES];
        vec_store(at, tiles[t].at);
        for (int j = 0; j < LANES; j++)
            if (at[j] >= 0)
                skip[(ptrdiff_t)at[j]] = 1;
    }
    for (ptrdiff_t c = 0; c < count; c += PIECE) {
        piece_t w, x = log_piece(g, begin + c, count - c < PIECE ? count - c : PIECE, true, &w, kind);
        /* In the scratch a tile lies in one: a tile at a time is read there. */
        const int together = x.step == (ptrdiff_t)(LANES * sizeof(real)) ? 1 : g->tiles;
        for (int t = 0; t < g->tiles; t += together)
            log_add_piece(tiles, t, t + together, x, w, c, skip + c, g->beta.hi, kind);
    }
    if (infinite)
        log_infinities(g, tiles, begin, count, kind);
}

/* ---- short columns: the lanes of their sums are the exponentials (tile.h), and there is nothing to merge */

/* The maxima of a tile, and where they are. */
FSM_INLINE void log_short_maxima(log_tile_t *tile, piece_t x, int t) {
    tile->odd = vec_set1(0);
    memset(tile->flags, 0, sizeof tile->flags);
    FSM_EACH_REGISTER(j) {
        range_t range = {vec_set1(-(real)INFINITY), vec_set1(1)};
        vec at = vec_set1(-1), element = vec_set1(0);
        for (ptrdiff_t i = 0; i < x.count; i++, element = vec_add(element, vec_set1(1))) {
            const vec a = load_register(in_piece(x, t, i), j);
            at = vec_select_lt(range.max, a, element, at);
            range = range_join(range, range_of(a));
        }
        tile->range.max = set_register(tile->range.max, j, range.max);
        tile->range.least = set_register(tile->range.least, j, range.least);
        tile->at = set_register(tile->at, j, at);
    }
}

/* The state of a tile, but for what weights, distances and merges need. No loop has a branch. */
FSM_INLINE void log_short_state(log_state_t *s, const log_tile_t *tile, piece_t x, int t) {
    real room[LANES * LANES], max[LANES], of_max[LANES], shift[LANES], at[LANES];
    double hi[LANES], lo[LANES];
    const piece_t e = {(char *)room, LANES * sizeof(real), 0, x.count};
    x.at += t * x.tile_step;
    exp_column(x, e, 0, &tile->frame, tile->careful);
    vec_acc_get(sum_short_column(e, 0, &tile->at), hi, lo);
    vec_store(of_max, exp_block(tile->max, tile->frame, tile->careful));
    vec_store(max, tile->range.max);
    vec_store(shift, tile->frame.shift);
    vec_store(at, tile->at);
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = of_max[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){hi[j], lo[j]};
    }
    for (int j = 0; j < LANES; j++)
        s->flags[j] =
            tile->flags[j] | (((max[j] != max[j]) | ((tile->flags[j] == 0) & (hi[j] != hi[j]))) ? HAS_NAN : 0);
    for (int j = 0; j < LANES; j++)
        s->index[j] = (int)at[j]; /* (to ptrdiff_t at once, one by one) */
    for (int j = 0; j < LANES; j++)
        s->careful[j] = tile->careful;
}

static void log_sweep_short_columns(const group_t *g, log_state_t *states) {
    const piece_t x = piece_of_x(g, 0, g->args->n, false);
    log_tile_t tiles[LOG_TILES];
    bool infinite = false;
    for (int t = 0; t < g->tiles; t++) {
        log_short_maxima(&tiles[t], x, t);
        infinite |= log_frame(&tiles[t], g->beta, false);
    }
    if (infinite)
        log_infinities(g, tiles, 0, x.count, SUMS);
    for (int t = 0; t < g->tiles; t++)
        log_short_state(&states[t], &tiles[t], x, t);
}

/* ---- short rows, a batch of them: a group has no more */

/* The state of a batch, but for what weights, distances and merges need, and its exponentials by blocks, in `e`. False:
 * some row has no sum, or needs a shift. */
FSM_INLINE bool log_sweep_batch(const group_t *g, const int parts, const int blocks, log_state_t *s,
                                    real *e) {
    const batch_t batch = batch_of(g, 0, parts, blocks);
    const int width = blocks * LANES / parts;
    const real *x = element_at(g, FSM_X, 0, 0);
    real max[LANES], magic[LANES], low[LANES], of_max[LANES];
    double hi[LANES], lo[LANES];
    int at[LANES];
    for (ptrdiff_t r = batch.rows; r < LANES; r++) { /* (compilers clear whole arrays slowly) */
        hi[r] = lo[r] = 0;
        at[r] = 0;
    }
    batch_maxima(x, batch, max);
    const vec scaled_max = vec_mul(vec_load(max), vec_set1(g->beta.hi));
    if (!(vec_hmax(vec_abs(scaled_max)) < DIRECT))
        return false;

    exp_frame_t frame = exp_frame_of(vec_load(max), vec_set1(0), g->beta);
    vec_store(magic, frame.magic);
    vec_store(low, frame.low);
    bool careful = g->beta.scaled;
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        vec a[FSM_MOST_BLOCKS], least = vec_set1(MIN_NORMAL);
        const vec of_rows = vec_set_parts(max + r, parts);
        FSM_EACH_BLOCK(i, blocks) {
            a[i] = load_short_block(x, batch, r, i, -(real)INFINITY);
            least = vec_min(least, vec_abs(a[i]));
        }
        if (blocks == 1) {
            vec_find_parts(a[0], of_rows, parts, at + r);
        } else {
            at[r] = width;
            FSM_EACH_BLOCK(before, blocks) {
                const int i = blocks - 1 - before;
                const int lane = vec_find_eq(a[i], of_rows);
                at[r] = lane < LANES ? i * LANES + lane : at[r];
            }
        }
        frame.magic = vec_set_parts(magic + r, parts);
        frame.low = vec_set_parts(low + r, parts);
        careful |= vec_any_lt(least, vec_set1(MIN_NORMAL));
        exp_blocks(a, blocks, &frame, careful);
        FSM_EACH_BLOCK(i, blocks)
            vec_store(e + r * width + i * LANES, a[i]);
    }
    /* In a row without a maximum, which is NaN, the next row's lane is meant; there is no result then. */
    for (ptrdiff_t r = 0; r < batch.rows; r++) {
        of_max[r] = e[r * width + at[r]];
        e[r * width + at[r]] = 0;
    }
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        vec a[FSM_MOST_BLOCKS];
        FSM_UNROLL
        for (int i = 0; i < FSM_MOST_BLOCKS; i++)
            a[i] = i < blocks ? vec_load(e + r * width + i * LANES) : vec_set1(0);
        const vec sum = blocks == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
        vec_acc_fold_parts(vec_acc_of(sum), parts, hi + r, lo + r);
    }
    int none = 0;
    for (ptrdiff_t r = 0; r < batch.rows; r++) {
        e[r * width + at[r]] = of_max[r];
        none |= hi[r] != hi[r];
    }
    for (ptrdiff_t r = batch.rows; r < LANES; r++)
        of_max[r] = 1;
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = of_max[j];
        s->shift[j] = 0;
        s->others[j] = (fsm_sum){hi[j], lo[j]};
    }
    for (int j = 0; j < LANES; j++)
        s->index[j] = at[j] < batch.n ? at[j] : -1;
    memset(s->flags, 0, sizeof s->flags);
    for (int j = 0; j < LANES; j++)
        s->careful[j] = careful;
    return !none;
}

/* The exponentials lie in `e` as share_short() takes them. */
FSM_OUTLINE_ bool log_sweep_short(const group_t *g, log_state_t *s, real *e) {
    bool ordinary;
    WITH_PARTS(g, ordinary = log_sweep_batch(g, parts, blocks, s, e));
    return ordinary;
}

/* ---- the sweep of a group */

/* Whether a kind reads x where it lies, if it can be: the others change it. */
FSM_INLINE_ bool reads_in_place(const group_t *g, log_kind_t kind) {
    return g->x_ready && (kind == SUMS || kind == KEPT);
}

/* Entry j of s from elements [c, c + count) of row r, which are loaded if need be. */
FSM_INLINE void log_row_chunk(const group_t *g, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count, log_state_t *s,
                                  ptrdiff_t j, log_kind_t kind) {
    real *x = reads_in_place(g, kind) ? element_at(g, FSM_X, r, c) : in_scratch(g, r, c);
    if (kind == WEIGHTED)
        load_weights(g, r, c, count, x, spare_of(g));
    log_chunk(g, r, s, j, x, spare_of(g), count, c, kind);
}

/* The state of its rows. */
FSM_INLINE void log_sweep_rows_body(const group_t *g, log_state_t *state, log_kind_t kind) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    const bool ready = reads_in_place(g, kind);
    if (g->held && !ready)
        load_group(g, 0, n);
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->held && !ready)
            load_group(g, c, count);
        for (ptrdiff_t r = 0; r < g->rows; r++) {
            log_state_t chunk;
            log_row_chunk(g, r, c, count, c == 0 ? state : &chunk, r, kind);
            if (c > 0)
                log_merge(state, r, &chunk, r, args->temperature);
        }
    }
}

/* The state of a row that threads share. */
#define SEGMENT_STATES 8
#define SEGMENT_CHUNKS (SEGMENT_STATES * LANES)

/* Chunks `first` to first + SEGMENT_CHUNKS, an entry each. */
typedef struct {
    ptrdiff_t first;
    log_state_t *states;
} log_segment_t;

FSM_INLINE void log_segment_body(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end,
                                     log_kind_t kind) {
    const log_segment_t *segment = of;
    const ptrdiff_t n = g->args->n;
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t c = i * FSM_CHUNK, count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK, at = i - segment->first;
        if (!reads_in_place(g, kind))
            load_group(g, c, count);
        log_row_chunk(g, 0, c, count, &segment->states[at / LANES], at % LANES, kind);
    }
}

static void log_segment_sums(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    log_segment_body(g, of, begin, end, SUMS);
}

static void log_segment_weighted(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    log_segment_body(g, of, begin, end, WEIGHTED);
}

static void log_segment_distances(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    log_segment_body(g, of, begin, end, DISTANCES);
}

/* A group has one such row. */
static void log_sweep_shared(const group_t *g, log_state_t *state, log_kind_t kind) {
    chunks_t *sweep = kind == WEIGHTED    ? log_segment_weighted
                        : kind == DISTANCES ? log_segment_distances
                                                : log_segment_sums;
    const ptrdiff_t chunks = chunks_of(g);
    log_state_t states[SEGMENT_STATES];
    for (ptrdiff_t begin = 0; begin < chunks; begin += SEGMENT_CHUNKS) {
        const ptrdiff_t end = chunks - begin < SEGMENT_CHUNKS ? chunks : begin + SEGMENT_CHUNKS;
        share_chunks(g, sweep, &(log_segment_t){begin, states}, begin, end);
        for (ptrdiff_t i = 0; i < end - begin; i++)
            if (begin + i == 0)
                memcpy(state, states, sizeof *state);
            else
                log_merge(state, 0, &states[i / LANES], i % LANES, g->args->temperature);
    }
}

/* The states of its tiles. */
FSM_INLINE void log_sweep_columns_body(const group_t *g, log_state_t *states, log_kind_t kind) {
    const fsm_args *args = g->args;
    const ptrdiff_t n = args->n;
    vec_acc *lanes = (vec_acc *)(g->scratch + LOG_ROOM);
    log_tile_t tiles[LOG_TILES];
    for (int t = 0; t < g->tiles; t++, lanes += 2 * LANES) {
        tiles[t].lanes = lanes;
        tiles[t].distances = lanes + LANES;
    }
    for (ptrdiff_t c = 0; c < n; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        log_chunk_columns(g, tiles, c, count, kind);
        for (int t = 0; t < g->tiles; t++) {
            log_state_t chunk, *s = c == 0 ? &states[t] : &chunk;
            log_state_of(s, &tiles[t], c, count < LANES ? (int)count : LANES, kind);
            if (c > 0)
                for (int j = 0; j < LANES; j++)
                    log_merge(&states[t], j, &chunk, j, args->temperature);
        }
    }
}

FSM_OUTLINE_ void log_sweep_rows(const group_t *g, log_state_t *state, log_kind_t kind) {
    if (g->args->helpers > 0)
        log_sweep_shared(g, state, kind);
    else if (kind == SUMS)
        log_sweep_rows_body(g, state, SUMS);
    else if (kind == KEPT)
        log_sweep_rows_body(g, state, KEPT);
    else if (kind == WEIGHTED)
        log_sweep_rows_body(g, state, WEIGHTED);
    else
        log_sweep_rows_body(g, state, DISTANCES);
}

FSM_OUTLINE_ void log_sweep_columns(const group_t *g, log_state_t *states, log_kind_t kind) {
    if (kind == SUMS && g->args->n <= LANES)
        log_sweep_short_columns(g, states);
    else if (kind == SUMS)
        log_sweep_columns_body(g, states, SUMS);
    else if (kind == WEIGHTED)
        log_sweep_columns_body(g, states, WEIGHTED);
    else
        log_sweep_columns_body(g, states, DISTANCES);
}

#endif
