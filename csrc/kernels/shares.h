/* Shares: y = f*softmax(x) + c, where f is a number for each row and c, if there is one, for each element: the second
 * sweep of logsumexp_grad and cross_entropy, after the first one of the log family.
 *
 * The exponentials are computed again, in the frame of the row's maximum, and y may be x. Those of rows of one chunk
 * are kept in y instead. Without c, every result is a quotient whose divisor has f in it (math.h). With c both terms
 * are taken times a power of two, and integers take that off where results are subnormal, as in gradients.h. */
#ifndef FSM_KERNELS_SHARES_H
#define FSM_KERNELS_SHARES_H

#include "coef.h"
#include "log_sweep.h"

/* f*softmax(x); the same from exponentials that the first sweep has kept; where no x counts as more than the maximum,
 * which is a logarithm of a sum; and with a c. */
typedef enum { SHARES, SHARES_OF_KEPT, SHARES_OF_LSE, SHARES_AND_C } share_kind_t;

/* Whether the exponentials of rows may be kept. */
FSM_INLINE_ bool can_keep(const group_t *g) {
    return g->args->n <= FSM_CHUNK && g->args->operands[FSM_Y].data && g->args->loss.softcap == 0;
}

/* Of up to LANES rows, or of the columns of a tile. */
typedef struct {
    real max[LANES], shift[LANES];
    real hi[LANES], lo[LANES];
    real unit[LANES], off[LANES]; /* of share; with c: of unscale */
    real c_factor[LANES];         /* what c is multiplied by */
    ptrdiff_t index[LANES];       /* of the element whose result is `own`, or -1 */
    real own[LANES];
    bool filled[LANES]; /* with this, instead of a result: */
    real_bits fill[LANES];
    bool infinite[LANES]; /* f is */
} shares_t;

/* Of the first `count`, from their states and f; the others do not exist. A row without a sum, or whose f is NaN, has
 * no result. No row has an own element yet. */
static void shares_of(shares_t *s, const log_state_t *of, const double *f, int count) {
    double factors[LANES];
    fsm_sum sums[LANES];
    memset(s, 0, sizeof *s);
    for (int j = 0; j < count; j++) {
        const bool none = (of->flags[j] != 0) | !(fabs(of->max[j]) < INFINITY) | (f[j] != f[j]);
        const fsm_sum sum = sum_merge(of->others[j], (fsm_sum){of->e[j], 0});
        s->max[j] = (real)fsm_select(none, 0, of->max[j]);
        s->shift[j] = (real)fsm_select(none, 0, of->shift[j]);
        sums[j] = (fsm_sum){fsm_select(none, 1, sum.hi), fsm_select(none, 0, sum.lo)};
        s->infinite[j] = fabs(f[j]) == INFINITY;
        factors[j] = fsm_select(none, 0, fsm_select(s->infinite[j], copysign(1, f[j]), f[j]));
        s->filled[j] = none;
    }
    for (int j = 0; j < count; j++) {
        share_divisor(sums[j], factors[j], &s->hi[j], &s->lo[j], &s->unit[j], &s->off[j]);
        s->fill[j] = QUIET_NAN_BITS;
    }
    for (int j = 0; j < LANES; j++)
        s->index[j] = -1;
}

/* The same with a c, which is multiplied by c_scale, and then is at most c_most in size. */
static void shares_and_c_of(shares_t *s, const log_state_t *of, const double *f, int count, double c_scale,
                                const double *c_most) {
    shares_of(s, of, f, count);
    for (int j = 0; j < count; j++) {
        const double size = fabs(f[j]) > c_most[j] ? fabs(f[j]) : c_most[j];
        const int exponent = (int)(fsm_f64_bits(size) >> 52) - 1022, over = exponent - MOST_C;
        int power = C_POWER - (over > 0 ? over : 0);
        power = power > 4 ? power : 4;
        const fsm_sum sum = sum_merge(of->others[j], (fsm_sum){of->e[j], 0});
        s->filled[j] |= s->infinite[j];
        s->infinite[j] = false;
        if (!s->filled[j])
            sum_reciprocal(sum, f[j] * fsm_two_to(power - Y_POWER), &s->hi[j], &s->lo[j]);
        s->c_factor[j] = (real)(c_scale * fsm_two_to(power));
        s->unit[j] = (real)(MIN_NORMAL * fsm_two_to(power - 1));
    }
}

/* Row r of y, which is +-softmax(x), times infinity. */
static void times_infinity(const group_t *g, ptrdiff_t r) {
    const fsm_args *args = g->args;
    const fsm_row row = row_of(g, r);
    const real_bits nan_bits = QUIET_NAN_BITS;
    real chunk[FSM_CHUNK];
    if (stream_of(g))
        stream_flush(stream_of(g));
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        load(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
        for (ptrdiff_t i = 0; i < count; i++)
            if (!(fabs(chunk[i]) > 0))
                memcpy(&chunk[i], &nan_bits, sizeof nan_bits);
            else
                chunk[i] = chunk[i] > 0 ? (real)INFINITY : -(real)INFINITY;
        store(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
    }
}

/* What is left of tile t of y. */
static void share_special(const group_t *g, int t, const shares_t *s) {
    for (int j = 0; j < rows_in_tile(g, t); j++)
        if (s->filled[j])
            fill(g, t * LANES + j, s->fill[j], 0);
        else if (s->infinite[j])
            times_infinity(g, t * LANES + j);
}

/* What the second sweep of a row, or of a tile, works with. */
typedef struct {
    exp_frame_t frame;
    divisor_t divisor;
    vec max, unit, off, c_factor;
    bool careful;
    real softcap; /* 0: none */
} share_terms_t;

FSM_INLINE share_terms_t
    share_terms_of(const group_t *g, const shares_t *s, ptrdiff_t j, bool columns, bool careful) {
    const vec max = columns ? vec_load(s->max) : vec_set1(s->max[j]);
    const vec shift = columns ? vec_load(s->shift) : vec_set1(s->shift[j]);
    return (share_terms_t){
        .frame = exp_frame_of(max, shift, g->beta),
        .divisor = {columns ? vec_load(s->hi) : vec_set1(s->hi[j]), columns ? vec_load(s->lo) : vec_set1(s->lo[j])},
        .max = max,
        .unit = columns ? vec_load(s->unit) : vec_set1(s->unit[j]),
        .off = columns ? vec_load(s->off) : vec_set1(s->off[j]),
        .c_factor = columns ? vec_load(s->c_factor) : vec_set1(s->c_factor[j]),
        .careful = careful,
        .softcap = (real)g->args->loss.softcap,
    };
}

/* The derivative of capped logits: 1 - (x/cap)^2. */
FSM_OUTLINE_ void uncap(vec *y, const vec *x, int count, real cap) {
    for (int i = 0; i < count; i++) {
        const vec t = vec_mul(x[i], vec_set1(1 / cap));
        y[i] = vec_mul(y[i], vec_fma(vec_sub(vec_set1(0), t), t, vec_set1(1)));
    }
}

/* `count` <= 4, a constant, blocks of results, in place of x; or, `plain`, a register of 4 blocks where neither a cap
 * nor an exponential needs care. */
FSM_INLINE void share_blocks(vec *a, vec *c, const int count, const share_terms_t *terms,
                                 const share_kind_t kind, const bool plain) {
    const bool capped = !plain && terms->softcap > 0;
    vec x[4];
    if (kind == SHARES_OF_LSE || capped)
        FSM_EACH_BLOCK(i, count)
            x[i] = a[i];
    if (kind == SHARES_OF_LSE)
        FSM_EACH_BLOCK(i, count)
            a[i] = vec_select_lt(terms->max, a[i], terms->max, a[i]);
    if (kind != SHARES_OF_KEPT && plain)
        exp_four(a, &terms->frame, false);
    else if (kind != SHARES_OF_KEPT)
        exp_blocks(a, count, &terms->frame, terms->careful);
    FSM_EACH_BLOCK(i, count) {
        if (kind == SHARES_AND_C) {
            const vec share = vec_scale(a[i], terms->divisor.hi, terms->divisor.lo);
            a[i] = unscale(vec_fma(c[i], terms->c_factor, share), terms->unit);
        } else {
            a[i] = share(a[i], terms->divisor, terms->unit, terms->off);
        }
    }
    if (kind == SHARES_OF_LSE) {
        real nan;
        memcpy(&nan, &(const real_bits){QUIET_NAN_BITS}, sizeof nan);
        FSM_EACH_BLOCK(i, count)
            a[i] = vec_select_lt(x[i], vec_set1((real)INFINITY), a[i], vec_set1(nan));
    }
    if (capped) {
        vec y[4];
        for (int i = 0; i < count; i++)
            y[i] = a[i];
        uncap(y, x, count, terms->softcap);
        for (int i = 0; i < count; i++)
            a[i] = y[i];
    }
}

/* Blocks [i, i + count) of tile t of a piece; count <= 4 is a constant. y may be x. */
FSM_INLINE void share_piece(piece_t x, piece_t c, piece_t y, ptrdiff_t t, ptrdiff_t i, const int count,
                                const share_terms_t *terms, const share_kind_t kind, bool stream) {
    const bool plain = count == 4 && !stream && !terms->careful && !(terms->softcap > 0);
    vec a[4], b[4];
    if (plain) {
        FSM_EACH_REGISTER(j) {
            FSM_UNROLL
            for (int k = 0; k < 4; k++) {
                a[k] = load_register(in_piece(x, t, i + k), j);
                b[k] = kind == SHARES_AND_C ? load_register(in_piece(c, t, i + k), j) : a[k];
            }
            share_blocks(a, b, 4, terms, kind, true);
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                store_register(in_piece(y, t, i + k), j, a[k]);
        }
        return;
    }
    FSM_EACH_BLOCK(k, count) {
        a[k] = vec_load(in_piece(x, t, i + k));
        b[k] = kind == SHARES_AND_C ? vec_load(in_piece(c, t, i + k)) : a[k];
    }
    share_blocks(a, b, count, terms, kind, false);
    FSM_EACH_BLOCK(k, count)
        put(in_piece(y, t, i + k), a[k], stream);
}

/* n elements of a row. y may be x, unless it is streamed. */
FSM_INLINE void share_chunk(const real *x, const real *c, real *y, ptrdiff_t n, const share_terms_t *of_row,
                                const share_kind_t kind, bool stream) {
    const ptrdiff_t step = LANES * sizeof(real), blocks = n / LANES, rest = n % LANES;
    const piece_t of_x = {(char *)x, step, 0, blocks}, of_c = {(char *)c, step, 0, blocks};
    const piece_t of_y = {(char *)y, step, 0, blocks};
    share_terms_t terms = *of_row; /* of one row: the same in all registers */
    terms.frame.magic = uniform(terms.frame.magic);
    terms.frame.low = uniform(terms.frame.low);
    terms.divisor.hi = uniform(terms.divisor.hi);
    terms.divisor.lo = uniform(terms.divisor.lo);
    terms.unit = uniform(terms.unit);
    terms.off = uniform(terms.off);
    terms.c_factor = uniform(terms.c_factor);
    ptrdiff_t i = 0;
    for (; i + 4 <= blocks; i += 4)
        share_piece(of_x, of_c, of_y, 0, i, 4, &terms, kind, stream);
    for (; i < blocks; i++)
        share_piece(of_x, of_c, of_y, 0, i, 1, &terms, kind, stream);
    if (rest) {
        vec a = vec_load_n(x + i * LANES, rest, 0);
        vec b = kind == SHARES_AND_C ? vec_load_n(c + i * LANES, rest, 0) : a;
        share_blocks(&a, &b, 1, &terms, kind, false);
        vec_store_n(y + i * LANES, rest, a);
    }
}

/* Results of a row as one that is written (write_row). */
typedef struct {
    const real *x, *c;
    const share_terms_t *terms;
    share_kind_t kind;
} share_row_t;

FSM_INLINE void share_results(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const share_row_t *row = of;
    share_chunk(row->x + begin, row->c + begin, to, count, row->terms, row->kind, stream);
}

/* Results of rows. */
typedef struct {
    const log_state_t *state;
    const shares_t *shares;
} share_sweep_t;

FSM_INLINE void share_chunks_body(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end,
                                      const share_kind_t kind) {
    const log_state_t *state = ((const share_sweep_t *)of)->state;
    const shares_t *s = ((const share_sweep_t *)of)->shares;
    const ptrdiff_t n = g->args->n;
    real *c_room = spare_of(g);
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->x_ready && !g->held)
            load_group(g, c, count);
        for (ptrdiff_t r = 0; r < g->rows; r++) {
            real *y = g->y_ready ? element_at(g, FSM_Y, r, c) : in_scratch(g, r, c);
            const real *x = kind == SHARES_OF_KEPT ? kept_at(g, r)
                            : g->x_ready               ? element_at(g, FSM_X, r, c)
                                                       : in_scratch(g, r, c);
            const share_terms_t terms = share_terms_of(g, s, r, false, state->careful[r]);
            if (kind == SHARES_AND_C)
                load_c(g, r, c, count, c_room);
            if (stream_of(g)) {
                const ptrdiff_t index = s->index[r] - c;
                ptrdiff_t own = index >= 0 && index < count ? index : count;
                for (ptrdiff_t i = 0; i < count; i = own + 1, own = count) {
                    const share_row_t row = {x + i, c_room + i, &terms, kind};
                    stream_row(stream_of(g), y + i, own - i, share_results, &row);
                    if (own < count)
                        stream_copy(stream_of(g), y + own, &s->own[r], 1);
                }
                continue;
            }
            share_chunk(x, c_room, y, count, &terms, kind, false);
            if (s->index[r] >= c && s->index[r] < c + count)
                memcpy(y + (s->index[r] - c), &s->own[r], sizeof *y);
        }
        if (!g->y_ready && !g->held)
            store_group(g, c, count);
    }
}

static void share_chunks_shares(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    share_chunks_body(g, of, begin, end, SHARES);
}

static void share_chunks_of_kept(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    share_chunks_body(g, of, begin, end, SHARES_OF_KEPT);
}

static void share_chunks_of_lse(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    share_chunks_body(g, of, begin, end, SHARES_OF_LSE);
}

static void share_chunks_and_c(const group_t *g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    share_chunks_body(g, of, begin, end, SHARES_AND_C);
}

static void share_rows(const group_t *g, const log_state_t *state, const shares_t *s,
                           share_kind_t kind) {
    static chunks_t *const each[] = {share_chunks_shares, share_chunks_of_kept, share_chunks_of_lse,
                                       share_chunks_and_c}; /* in the order of share_kind */
    share_chunks(g, each[kind], &(share_sweep_t){state, s}, 0, chunks_of(g));
    if (!g->y_ready && g->held)
        store_group(g, 0, g->args->n);
    share_special(g, 0, s);
}

/* Results of a batch of short rows, from their exponentials, which they overwrite. */
FSM_INLINE void share_batch(const group_t *g, const int parts, const int blocks, const shares_t *s, real *e) {
    const batch_t batch = batch_of(g, 0, parts, blocks);
    const int width = blocks * LANES / parts;
    real *results = batch_results(g, 0, batch, e);
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        const divisor_t divisor = {vec_set_parts(s->hi + r, parts), vec_set_parts(s->lo + r, parts)};
        const vec unit = vec_set_parts(s->unit + r, parts), off = vec_set_parts(s->off + r, parts);
        FSM_EACH_BLOCK(k, blocks) {
            const vec a = share(vec_load(e + r * width + k * LANES), divisor, unit, off);
            store_short_block(results, batch, r, k, a);
        }
    }
    for (ptrdiff_t r = 0; r < batch.rows; r++)
        if (s->index[r] >= 0)
            results[r * batch.n + s->index[r]] = s->own[r];
    store_batch(g, 0, batch, results);
    share_special(g, 0, s);
}

FSM_OUTLINE_ void share_short(const group_t *g, const shares_t *s, real *e) {
    WITH_PARTS(g, share_batch(g, parts, blocks, s, e));
}

/* Results of tiles. */
FSM_INLINE void share_columns(const group_t *g, const log_state_t *states, const shares_t *shares,
                                  const share_kind_t kind) {
    const ptrdiff_t n = g->args->n;
    const bool in_place = lies_in_tiles(g, FSM_Y);
    share_terms_t terms[LOG_TILES];
    for (int t = 0; t < g->tiles; t++)
        terms[t] = share_terms_of(g, &shares[t], 0, true, states[t].careful[0]);
    for (ptrdiff_t begin = 0; begin < n; begin += PIECE) {
        const piece_t x = piece_of_x(g, begin, n - begin < PIECE ? n - begin : PIECE, kind != SHARES_OF_LSE);
        const piece_t y =
            in_place ? piece_in_place(g, FSM_Y, begin, x.count) : piece_in_scratch(g, begin, x.count);
        const piece_t c = kind == SHARES_AND_C ? piece_of_c(g, begin, x.count) : x;
        ptrdiff_t i = 0;
        for (; i + 4 <= x.count; i += 4)
            for (int t = 0; t < g->tiles; t++)
                share_piece(x, c, y, t, i, 4, &terms[t], kind, false);
        for (; i < x.count; i++)
            for (int t = 0; t < g->tiles; t++)
                share_piece(x, c, y, t, i, 1, &terms[t], kind, false);
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; j < LANES; j++) {
                const ptrdiff_t at = shares[t].index[j] - begin;
                if (at >= 0 && at < x.count)
                    memcpy(in_piece(y, t, at) + j, &shares[t].own[j], sizeof(real));
            }
        if (!in_place)
            store_group(g, begin, x.count);
    }
    for (int t = 0; t < g->tiles; t++)
        share_special(g, t, &shares[t]);
}

#endif
