/* A factor times softmax: y = f*softmax(x) + c, where f is a number for each row and c, if there is one, for each
 * element. It is the second pass of logsumexp_grad and cross_entropy, after the first one of log_sum.h, and of softmax
 * of long rows.
 *
 * The exponentials are computed again, in the frame of the row's maximum, and y may be x; those of rows of one chunk
 * are kept in y instead. Without c, every result is a quotient whose divisor has f in it (exp.h). With c both terms are
 * taken times a power of two, and integers take that off where results are subnormal, as in softmax_grad.h. */
#ifndef FSM_KERNELS_SCALED_SOFTMAX_H
#define FSM_KERNELS_SCALED_SOFTMAX_H

#include "coef.h"
#include "log_sum.h"

/* f*softmax(x); the same from exponentials that the first pass has kept; where no x counts as more than the maximum,
 * which is a logarithm of a sum; and with a c. */
typedef enum { SCALED, SCALED_KEPT, SCALED_OF_LSE, SCALED_AND_C } scaled_kind_t;

/* Whether the exponentials of rows may be kept. */
FSM_ALWAYS_INLINE bool can_keep(const batch_t *b) {
    return b->n <= FSM_CHUNK && b->args->operands[FSM_Y].data && b->args->loss.softcap == 0;
}

/* What the second pass needs of up to LANES rows. */
typedef struct {
    real max[LANES], shift[LANES];
    real hi[LANES], lo[LANES];
    real unit[LANES], off[LANES]; /* of scaled_quotient(); with c: of unscale() */
    real c_factor[LANES];         /* what c is multiplied by */
    known_t own;                  /* the result of the class that the target names */
    bool filled[LANES];           /* with this, instead of results: */
    real_bits fill[LANES];
    bool infinite[LANES]; /* f is */
} scaled_rows_t;

/* Fills in the first `count` rows, from what is known of their sums and f; the others do not exist. A row without a
 * sum, or whose f is NaN, has no result. No row has an own element yet. */
FSM_OUTLINE void scaled_rows_of(scaled_rows_t *s, const log_sum_t *sum, const double *f, int count) {
    double factors[LANES];
    fsm_sum sums[LANES];
    memset(s, 0, sizeof *s);
    for (int j = 0; j < count; j++) {
        const bool none = (sum->flags[j] != 0) | !(fabs(sum->max[j]) < INFINITY) | (f[j] != f[j]);
        const fsm_sum all = sum_merge(sum->others[j], (fsm_sum){sum->e[j], 0});
        s->max[j] = (real)fsm_select(none, 0, sum->max[j]);
        s->shift[j] = (real)fsm_select(none, 0, sum->shift[j]);
        sums[j] = (fsm_sum){fsm_select(none, 1, all.hi), fsm_select(none, 0, all.lo)};
        s->infinite[j] = fabs(f[j]) == INFINITY;
        factors[j] = fsm_select(none, 0, fsm_select(s->infinite[j], copysign(1, f[j]), f[j]));
        s->filled[j] = none;
    }
    for (int j = 0; j < count; j++) {
        scaled_divisor(sums[j], factors[j], &s->hi[j], &s->lo[j], &s->unit[j], &s->off[j]);
        s->fill[j] = QUIET_NAN_BITS;
        if (s->infinite[j]) { /* an infinity wherever e is not 0, before y is rounded to what it is stored as */
            s->hi[j] = (real)INFINITY;
            s->lo[j] = s->unit[j] = 0;
            s->off[j] = (real)copysign(0, f[j]);
        }
    }
    for (int j = 0; j < LANES; j++)
        s->own.index[j] = -1;
}

/* Adds a c, which is multiplied by c_scale, and then is at most c_max in size. */
static void add_c_to_scaled_rows(scaled_rows_t *s, const log_sum_t *sum, const double *f, int count, double c_scale,
                                 const double *c_max) {
    for (int j = 0; j < count; j++) {
        const double size = fabs(f[j]) > c_max[j] ? fabs(f[j]) : c_max[j];
        const int exponent = (int)(fsm_f64_bits(size) >> 52) - 1022, over = exponent - MAX_C_EXPONENT;
        int power = C_POWER - (over > 0 ? over : 0);
        power = power > 4 ? power : 4;
        const fsm_sum all = sum_merge(sum->others[j], (fsm_sum){sum->e[j], 0});
        s->filled[j] |= s->infinite[j];
        s->infinite[j] = false;
        if (!s->filled[j])
            sum_reciprocal(scaled(all, fsm_two_to(Y_POWER - power)), f[j], &s->hi[j], &s->lo[j]);
        s->c_factor[j] = (real)(c_scale * fsm_two_to(power));
        s->unit[j] = (real)(MIN_NORMAL * fsm_two_to(power - 1));
    }
}

/* Row r of y, which is +-softmax(x), times infinity. */
static void times_infinity(const batch_t *b, ptrdiff_t r) {
    const fsm_row row = row_of(b, r);
    const real_bits nan_bits = QUIET_NAN_BITS;
    real chunk[FSM_CHUNK];
    if (b->nt)
        nt_flush(b->nt);
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        load(b->args, FSM_Y, row.at[FSM_Y], c, count, chunk);
        for (ptrdiff_t i = 0; i < count; i++)
            if (!(fabs(chunk[i]) > 0))
                memcpy(&chunk[i], &nan_bits, sizeof nan_bits);
            else
                chunk[i] = chunk[i] > 0 ? (real)INFINITY : -(real)INFINITY;
        store(b->args, FSM_Y, row.at[FSM_Y], c, count, chunk);
    }
}

/* Stores the results of rows of panel t, or of a batch of rows (t = 0), that have no ordinary ones. */
static void scaled_special(const batch_t *b, int t, const scaled_rows_t *s) {
    for (int j = 0; j < rows_in_panel(b, t); j++)
        if (s->filled[j])
            fill_row(b, t * LANES + j, s->fill[j], 0);
        else if (s->infinite[j])
            times_infinity(b, t * LANES + j);
}

/* ---- blocks */

/* What the second pass of a row, or of a panel, works with. */
typedef struct {
    exp_frame_t frame;
    divisor_t divisor;
    vec max, unit, off, c_factor;
    bool special;
    real softcap; /* 0: none */
} scaled_terms_t;

/* Those of row j, or, if that is negative, of a panel. */
FSM_ALWAYS_INLINE scaled_terms_t scaled_terms_of(const batch_t *b, const scaled_rows_t *s, ptrdiff_t j, bool special) {
    const vec max = j < 0 ? vec_load(s->max) : vec_set1(s->max[j]);
    const vec shift = j < 0 ? vec_load(s->shift) : vec_set1(s->shift[j]);
    return (scaled_terms_t){
        .frame = exp_frame_of(max, shift, b->beta),
        .divisor = {j < 0 ? vec_load(s->hi) : vec_set1(s->hi[j]), j < 0 ? vec_load(s->lo) : vec_set1(s->lo[j])},
        .max = max,
        .unit = j < 0 ? vec_load(s->unit) : vec_set1(s->unit[j]),
        .off = j < 0 ? vec_load(s->off) : vec_set1(s->off[j]),
        .c_factor = j < 0 ? vec_load(s->c_factor) : vec_set1(s->c_factor[j]),
        .special = special,
        .softcap = (real)b->args->loss.softcap,
    };
}

/* Results of `count` <= 4 blocks, a constant, in place of x, but for the exponentials' special ways and the softcap. A
 * register of 4 blocks is as good. */
FSM_INLINE void scaled_of_blocks(vec *a, const vec *c, const int count, const scaled_terms_t *terms,
                                 const scaled_kind_t kind, const bool special) {
    vec x[4];
    if (kind == SCALED_OF_LSE)
        FSM_EACH_BLOCK(i, count) {
            x[i] = a[i];
            a[i] = vec_select_lt(terms->max, a[i], terms->max, a[i]);
        }
    if (kind != SCALED_KEPT && special)
        exp_blocks(a, count, &terms->frame, terms->special);
    else if (kind != SCALED_KEPT)
        exp_four(a, &terms->frame, false);
    FSM_EACH_BLOCK(i, count) {
        if (kind == SCALED_AND_C) {
            const vec scaled = vec_scale(a[i], terms->divisor.hi, terms->divisor.lo);
            a[i] = unscale(vec_fma(c[i], terms->c_factor, scaled), terms->unit);
        } else {
            a[i] = scaled_quotient(a[i], terms->divisor, terms->unit, terms->off);
        }
    }
    if (kind == SCALED_OF_LSE) {
        real nan;
        memcpy(&nan, &(const real_bits){QUIET_NAN_BITS}, sizeof nan);
        FSM_EACH_BLOCK(i, count)
            a[i] = vec_select_lt(x[i], vec_set1((real)INFINITY), a[i], vec_set1(nan));
    }
}

/* The result of one block, whatever it needs: y times the derivative of a capped logit, 1 - (x/cap)^2, in the end. */
FSM_OUTLINE vec scaled_block(vec x, vec c, const scaled_terms_t *terms, scaled_kind_t kind) {
    vec a = x;
    switch (kind) {
    case SCALED:
        scaled_of_blocks(&a, &c, 1, terms, SCALED, true);
        break;
    case SCALED_KEPT:
        scaled_of_blocks(&a, &c, 1, terms, SCALED_KEPT, true);
        break;
    case SCALED_OF_LSE:
        scaled_of_blocks(&a, &c, 1, terms, SCALED_OF_LSE, true);
        break;
    case SCALED_AND_C:
        scaled_of_blocks(&a, &c, 1, terms, SCALED_AND_C, true);
        break;
    }
    if (terms->softcap > 0) {
        const vec part = vec_mul(x, vec_set1(1 / terms->softcap));
        a = vec_mul(a, vec_fma(vec_sub(vec_set1(0), part), part, vec_set1(1)));
    }
    return a;
}

/* Results of four blocks at x, where neither an exponential nor a softcap needs more. y may be x. */
FSM_INLINE void scaled_quad(const real *const *x, const real *const *c, real *const *y, const scaled_terms_t *terms,
                            const scaled_kind_t kind) {
    FSM_EACH_REGISTER(j) {
        vec a[4], of_c[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            a[k] = load_register(x[k], j);
            of_c[k] = kind == SCALED_AND_C ? load_register(c[k], j) : a[k];
        }
        scaled_of_blocks(a, of_c, 4, terms, kind, false);
        FSM_UNROLL
        for (int k = 0; k < 4; k++)
            store_register(y[k], j, a[k]);
    }
}

/* ---- rows */

/* Part of a row as one that is written (write_row()). */
typedef struct {
    const real *x, *c;
    const scaled_terms_t *terms;
    scaled_kind_t kind;
} scaled_row_t;

/* The quads of n elements; returns how many elements that are. */
FSM_INLINE ptrdiff_t scaled_quads_of_row(const real *x, const real *c, real *y, ptrdiff_t n,
                                         const scaled_terms_t *of_row, const scaled_kind_t kind) {
    scaled_terms_t terms = *of_row; /* of one row: the same in all registers */
    terms.frame.magic = uniform(terms.frame.magic);
    terms.frame.low = uniform(terms.frame.low);
    terms.divisor.hi = uniform(terms.divisor.hi);
    terms.divisor.lo = uniform(terms.divisor.lo);
    terms.unit = uniform(terms.unit);
    terms.off = uniform(terms.off);
    terms.c_factor = uniform(terms.c_factor);
    ptrdiff_t i = 0;
    for (; i + QUAD <= n; i += QUAD) {
        const real *from[4], *of_c[4];
        real *to[4];
        FSM_UNROLL
        for (int k = 0; k < 4; k++) {
            from[k] = x + i + k * LANES;
            of_c[k] = c + i + k * LANES;
            to[k] = y + i + k * LANES;
        }
        scaled_quad(from, of_c, to, &terms, kind);
    }
    return i;
}

/* A block at a time. */
FSM_OUTLINE void scaled_special_results(const scaled_row_t *row, ptrdiff_t begin, ptrdiff_t count, real *to, bool nt) {
    for (ptrdiff_t i = 0; i < count; i += LANES) {
        const ptrdiff_t left = count - i;
        const vec x = load_rest(row->x + begin + i, left, 0);
        const vec c = row->kind == SCALED_AND_C ? load_rest(row->c + begin + i, left, 0) : vec_set1(0);
        const vec y = scaled_block(x, c, row->terms, row->kind);
        if (left >= LANES)
            write_block(to + i, y, nt);
        else
            vec_store_n(to + i, left, y);
    }
}

/* `count` <= QUAD numbers, and zeros. */
FSM_INLINE void pad_quad(const real *from, ptrdiff_t count, real *to) {
    FSM_UNROLL
    for (int step = 0; step < 4; step++)
        vec_store(to + step * LANES, load_rest(from + step * LANES, count - step * LANES, 0));
}

FSM_OUTLINE ptrdiff_t scaled_quads(const real *x, const real *c, real *y, ptrdiff_t n, const scaled_terms_t *terms,
                                   scaled_kind_t kind) {
    switch (kind) {
    case SCALED:
        return scaled_quads_of_row(x, c, y, n, terms, SCALED);
    case SCALED_KEPT:
        return scaled_quads_of_row(x, c, y, n, terms, SCALED_KEPT);
    case SCALED_OF_LSE:
        return scaled_quads_of_row(x, c, y, n, terms, SCALED_OF_LSE);
    default:
        return scaled_quads_of_row(x, c, y, n, terms, SCALED_AND_C);
    }
}

/* What is no whole quad, or goes past the caches, goes by way of a quad of its own. */
static void scaled_results(const void *op, ptrdiff_t begin, ptrdiff_t count, real *to, bool nt) {
    const scaled_row_t *row = op;
    const scaled_terms_t *terms = row->terms;
    const real *x = row->x + begin, *c = row->c + begin;
    ptrdiff_t i = 0;
    if (terms->special || terms->softcap > 0) {
        scaled_special_results(row, begin, count, to, nt);
        return;
    }
    if (!nt)
        i = scaled_quads(x, c, to, count, terms, row->kind);
    for (; i < count; i += QUAD) {
        const ptrdiff_t left = fsm_min(count - i, QUAD);
        real quad[QUAD], of_c[QUAD];
        pad_quad(x + i, left, quad);
        if (row->kind == SCALED_AND_C)
            pad_quad(c + i, left, of_c);
        scaled_quads(quad, of_c, quad, QUAD, terms, row->kind);
        copied(quad, 0, left, to + i, nt);
    }
}

/* The pass over rows. */
typedef struct {
    const log_sum_t *sum;
    const scaled_rows_t *rows;
    scaled_kind_t kind;
} scaled_pass_t;

static void scaled_write_chunk(const batch_t *b, const void *op, ptrdiff_t r, ptrdiff_t c, ptrdiff_t count,
                               const real *x, real *y) {
    const scaled_pass_t *pass = op;
    const known_t *own = &pass->rows->own;
    const scaled_terms_t terms = scaled_terms_of(b, pass->rows, r, pass->sum->special[r]);
    real *coefs = spare_of(b);
    if (pass->kind == SCALED_KEPT)
        x = kept_at(b, r);
    if (pass->kind == SCALED_AND_C)
        load_coefs(b, r, c, count, coefs);
    const ptrdiff_t index = own->index[r] - c, at = index >= 0 && index < count ? index : count;
    if (!b->nt) {
        const scaled_row_t row = {x, coefs, &terms, pass->kind};
        scaled_results(&row, 0, count, y, false);
        if (at < count)
            memcpy(y + at, &own->result[r], sizeof *y);
        return;
    }
    for (ptrdiff_t i = 0, end = at; i < count; i = end + 1, end = count) {
        const scaled_row_t row = {x + i, coefs + i, &terms, pass->kind};
        nt_row(b->nt, y + i, end - i, scaled_results, &row);
        if (end < count)
            nt_row(b->nt, y + end, 1, copied, &own->result[r]);
    }
}

static void scaled_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    write_rows(b, op, begin, end, scaled_write_chunk);
}

static void scaled_softmax_rows(const batch_t *b, const log_sum_t *sum, const scaled_rows_t *rows, scaled_kind_t kind) {
    parallel_chunks(b, scaled_chunks, &(scaled_pass_t){sum, rows, kind}, 0, chunks_in_row(b));
    store_packed(b);
    scaled_special(b, 0, rows);
}

/* ---- short rows */

/* From the exponentials by blocks, which are overwritten. */
FSM_INLINE void scaled_write_short(const batch_t *b, int in_block, const int blocks, const scaled_rows_t *rows,
                                   real *e) {
    const short_t s = short_of(b, 0, in_block, blocks);
    const int width = blocks * LANES / s.in_block;
    real *results = short_results(b, 0, s, e);
    for (ptrdiff_t r = 0; r < s.rows; r += s.in_block) {
        const divisor_t divisor = {spread_over_rows(rows->hi, s, r), spread_over_rows(rows->lo, s, r)};
        const vec unit = spread_over_rows(rows->unit, s, r), off = spread_over_rows(rows->off, s, r);
        FSM_EACH_BLOCK(k, blocks) {
            const vec a = scaled_quotient(vec_load(e + r * width + k * LANES), divisor, unit, off);
            store_short(results, s, r, k, a);
        }
    }
    for (ptrdiff_t r = 0; r < s.rows; r++)
        if (rows->own.index[r] >= 0)
            results[r * s.n + rows->own.index[r]] = rows->own.result[r];
    store_short_results(b, 0, s, results);
    scaled_special(b, 0, rows);
}

FSM_OUTLINE void scaled_softmax_short_rows(const batch_t *b, const scaled_rows_t *rows, real *e) {
    WITH_BLOCKS(b, scaled_write_short(b, in_block, blocks, rows, e));
}

/* ---- panels */

typedef struct {
    quads_t quads; /* x and c */
    scaled_terms_t terms[LOG_PANELS];
    scaled_kind_t kind;
} scaled_panels_t;

static void scaled_load_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    scaled_panels_t *pass = op;
    pass->quads.x = quad_of_x(b, begin, count, pass->kind != SCALED_OF_LSE);
    if (pass->kind == SCALED_AND_C) {
        pass->quads.other = quad_of_coefs(b, begin, count);
    } else { /* not read */
        pass->quads.other = pass->quads.x;
        pass->quads.other.ahead = false;
    }
}

/* One by one, whatever they need. */
FSM_OUTLINE void scaled_write_any_blocks(const scaled_panels_t *pass, int t, ptrdiff_t i, int count) {
    const scaled_terms_t *terms = &pass->terms[t];
    for (int k = 0; k < count; k++) {
        const vec x = vec_load(block_at(pass->quads.x, t, i + k));
        const vec c = pass->kind == SCALED_AND_C ? vec_load(block_at(pass->quads.other, t, i + k)) : vec_set1(0);
        vec_store(block_at(pass->quads.y, t, i + k), scaled_block(x, c, terms, pass->kind));
    }
}

FSM_INLINE void scaled_write_blocks(const void *op, int t, ptrdiff_t i, const int count) {
    const scaled_panels_t *pass = op;
    const panel_quad_t x = pass->quads.x, c = pass->quads.other, y = pass->quads.y;
    const scaled_terms_t *terms = &pass->terms[t];
    if (count < 4 || terms->special || terms->softcap > 0) {
        scaled_write_any_blocks(pass, t, i, count);
        return;
    }
    const real *from[4], *of_c[4];
    real *to[4];
    FSM_UNROLL
    for (int k = 0; k < 4; k++) {
        from[k] = block_at(x, t, i + k);
        of_c[k] = block_at(c, t, i + k);
        to[k] = block_at(y, t, i + k);
    }
    if (pass->kind == SCALED_AND_C)
        scaled_quad(from, of_c, to, terms, SCALED_AND_C);
    else if (pass->kind == SCALED_OF_LSE)
        scaled_quad(from, of_c, to, terms, SCALED_OF_LSE);
    else
        scaled_quad(from, of_c, to, terms, SCALED);
}

FSM_OUTLINE void scaled_softmax_panels(const batch_t *b, const log_sum_t *sums, const scaled_rows_t *rows,
                                       scaled_kind_t kind) {
    const known_t *known[LOG_PANELS];
    scaled_panels_t pass;
    pass.kind = kind;
    for (int t = 0; t < b->panels; t++) {
        pass.terms[t] = scaled_terms_of(b, &rows[t], -1, sums[t].special[0]);
        known[t] = &rows[t].own;
    }
    write_panels(b, &pass, &pass.quads, known, scaled_load_quad, scaled_write_blocks);
    for (int t = 0; t < b->panels; t++)
        scaled_special(b, t, &rows[t]);
}

#endif
