/* What log_softmax, logsumexp, logmeanexp, softmax_entropy and the losses share: the logarithm of a sum of
 * exponentials, in one pass and to full relative accuracy.
 *
 * Each chunk leaves out the first occurrence of its own maximum and keeps
 *
 *   m   the maximum             e   its exponential, by the kernel's own exp
 *   T   the sum of the others   D   for the entropy, the sum of exp(x) * (m - x) * beta
 *
 * e and T relative to 2^k, or to exp(shift) for a maximum of 2^21 and more, or with weights. Chunks merge in index
 * order: the one with the larger maximum stays, and the other's e joins its T. In the end log(sum exp(x)) = m +
 * log1p(T/e), which loses nothing where one element is nearly all of the sum. */
#ifndef FSM_KERNELS_LOG_SUM_H
#define FSM_KERNELS_LOG_SUM_H

#include "../math/scalar_math.h"
#include "columns.h"
#include "rows.h"
#include "short_rows.h"

/* A NaN, or an infinity with a weight of either sign, among the elements. */
enum { HAS_NAN = 1, HAS_INF = 2, HAS_MINUS_INF = 4 };

/* What is known of up to LANES rows, or of a panel. */
typedef struct {
    double max[LANES];    /* of the x that take part; -inf: nothing does, or nothing else */
    double e[LANES];      /* times its weight */
    double weight[LANES]; /* of the maximum */
    double k[LANES], shift[LANES];
    fsm_sum others[LANES];   /* T */
    fsm_sum distance[LANES]; /* D */
    ptrdiff_t index[LANES];  /* of the maximum */
    int flags[LANES];
    bool special[LANES]; /* in some chunk: a subnormal x, a shift, a temperature; the same for all rows of a panel */
} log_sum_t;

/* What is summed: the exponentials, these times the weights of the elements, or these and the distances. KEPT: the
 * exponentials of rows of one chunk also stay (kept_at()). */
typedef enum { SUMS, KEPT, WEIGHTED, DISTANCES } log_kind_t;

/* A pass takes so many panels at a time: two sums each fill the lanes of the scratch. */
#define LOG_PANELS (MAX_PANELS / 2)

/* Stores a row's exponentials where y will be, if that is contiguous and results do not go past the caches, else in the
 * scratch. */
FSM_ALWAYS_INLINE real *kept_at(const batch_t *b, ptrdiff_t r) {
    return b->y_contiguous && !b->nt ? element_at(b, FSM_Y, r, 0) : in_scratch(b, r, 0);
}

/* log1p(T/e): what the others add to the maximum. */
FSM_OUTLINE void log_tails(const log_sum_t *s, int count, double *tails) {
    for (int j = 0; j < count; j++)
        tails[j] = fsm_log1p((s->others[j].hi + s->others[j].lo) / s->e[j]);
}

/* ---- chunks merged */

/* A factor of 1 or less as a product of two, each of which is a normal number where the factor times 2^200 is one. */
typedef struct {
    double a, b;
} ratio_t;

/* 2^d for an integer d <= 0, or 0 where that is subnormal. */
FSM_ALWAYS_INLINE double power_of_two(double d) {
    return d < -1022 ? 0 : fsm_two_to((int)d);
}

/* The unit of entry l of `lose` in that of entry w of `win`, whose maximum is larger: 2^k or exp(shift) each. */
static ratio_t log_ratio(const log_sum_t *lose, ptrdiff_t l, const log_sum_t *win, ptrdiff_t w, double temperature) {
    const double k = lose->k[l] - win->k[w];
    if (lose->shift[l] == win->shift[w]) {
        const double half = (double)(int64_t)(k / 2);
        return (ratio_t){power_of_two(half), power_of_two(k - half)};
    }
    /* exp(hi + lo) for shifts that are near each other, or one that is near k*LN2; both differences are exact. */
    const double apart = lose->shift[l] - win->shift[w], d = apart / temperature;
    const fsm_sum d_rest = {d, fma(-d, temperature, apart) / temperature}, of_k = {k * FSM_LN2_HI, 0};
    const fsm_sum sum = fsm_two_sum(d_rest, of_k);
    const fsm_sum exponent = fsm_two_sum((fsm_sum){sum.hi, 0}, (fsm_sum){sum.lo + k * FSM_LN2_LO, 0});
    const double root = fsm_exp(exponent.hi / 2);
    return (ratio_t){root, root + root * exponent.lo};
}

FSM_ALWAYS_INLINE fsm_sum scaled(fsm_sum s, double factor) {
    return (fsm_sum){s.hi * factor, s.lo * factor};
}

/* a + b*ratio */
FSM_ALWAYS_INLINE fsm_sum add_scaled(fsm_sum a, fsm_sum b, ratio_t ratio) {
    return sum_merge(a, scaled(scaled(b, ratio.a), ratio.b));
}

/* Entry j of s, and then entry i of a later chunk's. */
FSM_OUTLINE void log_merge(log_sum_t *s, ptrdiff_t j, const log_sum_t *chunk, ptrdiff_t i, double temperature) {
    s->special[j] |= chunk->special[i];
    s->flags[j] |= chunk->flags[i];
    if (s->flags[j] || chunk->max[i] == -INFINITY)
        return;
    const bool later = chunk->max[i] > s->max[j];
    const log_sum_t *win = later ? chunk : s, *lose = later ? s : chunk;
    const ptrdiff_t w = later ? i : j, l = later ? j : i;
    fsm_sum others = win->others[w], distance = win->distance[w];
    const ratio_t ratio = log_ratio(lose, l, win, w, temperature);
    if (lose->max[l] > -INFINITY && ratio.a > 0) {
        const fsm_sum all = sum_merge(lose->others[l], (fsm_sum){lose->e[l], 0});
        const fsm_sum further = scaled(all, (win->max[w] - lose->max[l]) / temperature);
        others = add_scaled(others, all, ratio);
        distance = add_scaled(distance, sum_merge(lose->distance[l], further), ratio);
    }
    s->others[j] = others;
    s->distance[j] = distance;
    if (later) {
        s->max[j] = chunk->max[i];
        s->e[j] = chunk->e[i];
        s->weight[j] = chunk->weight[i];
        s->k[j] = chunk->k[i];
        s->shift[j] = chunk->shift[i];
        s->index[j] = chunk->index[i];
    }
}

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

/* Loads the weights w of elements of row r whose x is packed. */
static void load_weights(const batch_t *b, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count, real *x, real *w) {
    const fsm_row row = row_of(b, r);
    load(b->args, FSM_WEIGHT, row.at[FSM_WEIGHT], begin, count, w);
    if (b->args->operands[FSM_MASK].data)
        mask_row(b->args, row.at[FSM_MASK], begin, count, w, w, 0);
    join_weights(x, w, count);
}

/* Packs x and the weights of panels. */
static void pack_weighted_panels(const batch_t *b, ptrdiff_t begin, ptrdiff_t count) {
    real *x = in_scratch(b, 0, begin), *w = x + SPARE_AT;
    pack_x(b, begin, count);
    pack_panels(b, FSM_WEIGHT, begin, count, w, b->pitch);
    if (b->args->operands[FSM_MASK].data)
        mask_panels(b, begin, count, w, 0);
    for (int t = 0; t < b->panels; t++)
        join_weights(x + t * b->pitch, w + t * b->pitch, count * LANES);
}

/* What numbers with an infinity, or a weight that is none (w: weights, or NULL for 1), hold; `step` in bytes. */
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
FSM_INLINE vec distance_of(vec x, vec e, vec max, real beta) {
    return vec_select_lt(vec_set1(0), e, vec_mul(e, vec_mul(vec_sub(max, x), vec_set1(beta))), e);
}

/* In place of x. */
static void distances(real *x, const real *e, ptrdiff_t n, vec max, real beta) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t left = fsm_min(n - i, LANES);
        const vec a = vec_load_n(x + i, left, 0), of_a = vec_load_n(e + i, left, 0);
        vec_store_n(x + i, left, distance_of(a, of_a, max, beta));
    }
}

/* ---- rows */

/* Whether a kind reads x where it lies, if it can be: the others change it. */
FSM_ALWAYS_INLINE bool reads_where_it_lies(const batch_t *b, log_kind_t kind) {
    return b->x_contiguous && (kind == SUMS || kind == KEPT);
}

/* Entry j of s from elements [begin, begin + n) of row r, which are packed if they have to be. */
FSM_OUTLINE void log_sum_chunk(const batch_t *b, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t n, log_sum_t *s, ptrdiff_t j,
                               log_kind_t kind) {
    const beta_t beta = b->beta;
    real *x = reads_where_it_lies(b, kind) ? element_at(b, FSM_X, r, begin) : in_scratch(b, r, begin);
    real *spare = spare_of(b), *w = kind == WEIGHTED ? spare : NULL;
    real max, e = 0;
    ptrdiff_t index;
    fsm_sum others, distance = {0, 0};
    if (w)
        load_weights(b, r, begin, n, x, w);
    const bool subnormal = find_max(x, n, &max, &index);
    const real finite_max = isfinite(max) ? max : 0;
    /* With weights, e of a maximum is a power of two, so that weights that cancel leave 0. */
    const bool direct = !w && in_direct_range(finite_max * beta.hi);
    const real shift = direct ? 0 : finite_max;
    const bool special = subnormal || beta.scaled || shift != 0;
    const exp_frame_t frame = exp_frame_of(vec_set1(finite_max), vec_set1(shift), beta);
    real k[LANES];
    vec_store(k, exp_frame_k(&frame));

    bool weights_finite = true;
    for (ptrdiff_t i = 0; w && i < n; i++)
        weights_finite &= w[i] - w[i] == 0;
    int flags = 0;
    if (max == (real)INFINITY || !weights_finite)
        flags = infinities(x, w, n, sizeof *x);
    const bool plain = kind == SUMS || kind == KEPT;
    real *to = plain ? kind == KEPT ? kept_at(b, r) : NULL : w ? x : spare; /* the exponentials */
    const ptrdiff_t skip = plain ? index : -1;
    if (special)
        others = sum_exp_special(x, to, n, skip, &e, &frame);
    else if (to)
        others = sum_exp_kept(x, to, n, skip, &e, &frame);
    else
        others = sum_exp(x, n, skip, &e, &frame);
    if (kind == WEIGHTED) {
        for (ptrdiff_t i = 0; i < n; i++)
            x[i] *= w[i];
        others = sum_given(x, n, index, &e);
    } else if (kind == DISTANCES) {
        others = sum_given(spare, n, index, &e);
        distances(x, spare, n, vec_set1(finite_max), beta.hi);
        distance = sum_given(x, n, -1, NULL);
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
    s->special[j] = special;
}

/* A row that threads share: so many of its chunks are known at a time, an entry each. */
#define SEGMENT_SUMS   8
#define SEGMENT_CHUNKS (SEGMENT_SUMS * LANES)

typedef struct {
    segment_t segment;
    log_kind_t kind;
    log_sum_t *chunks, *sum;
} log_fold_t;

static void log_sum_chunks(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t end) {
    const log_fold_t *fold = op;
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t c = i * FSM_CHUNK, count = chunk_length(b, c), at = i - fold->segment.first;
        if (!reads_where_it_lies(b, fold->kind))
            pack_x(b, c, count);
        log_sum_chunk(b, 0, c, count, &fold->chunks[at / LANES], at % LANES, fold->kind);
    }
}

static void log_join_chunk(const batch_t *b, void *op, ptrdiff_t i) {
    const log_fold_t *fold = op;
    if (fold->segment.first + i == 0)
        memcpy(fold->sum, fold->chunks, sizeof *fold->sum);
    else
        log_merge(fold->sum, 0, &fold->chunks[i / LANES], i % LANES, b->args->temperature);
}

static void log_sum_shared_row(const batch_t *b, log_sum_t *sum, log_kind_t kind) {
    log_sum_t chunks[SEGMENT_SUMS];
    log_fold_t fold = {{0}, kind, chunks, sum};
    fold_chunks(b, log_sum_chunks, &fold.segment, SEGMENT_CHUNKS, log_join_chunk);
}

/* What is known of the rows of a batch. */
FSM_OUTLINE void log_sum_rows(const batch_t *b, log_sum_t *sum, log_kind_t kind) {
    if (b->args->helpers > 0) {
        log_sum_shared_row(b, sum, kind);
        return;
    }
    const bool packs = !reads_where_it_lies(b, kind);
    if (b->packed && packs)
        pack_x(b, 0, b->n);
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        if (!b->packed && packs)
            pack_x(b, c, count);
        for (ptrdiff_t r = 0; r < b->rows; r++) {
            log_sum_t chunk;
            log_sum_chunk(b, r, c, count, c == 0 ? sum : &chunk, r, kind);
            if (c > 0)
                log_merge(sum, r, &chunk, r, b->args->temperature);
        }
    }
}

/* ---- panels
 *
 * x is read twice, where it lies if it can be: for the maxima, and for the sums without them. */

/* What is known of a panel in a chunk. */
typedef struct {
    range_t range;
    vec at;     /* element of the chunk where each row's maximum first is, or -1 */
    vec weight; /* of that */
    vec odd;    /* NaN in rows with a weight that is no finite number, else 0 */
    int flags[LANES];
    vec max; /* the maximum, or 0 if that is not finite */
    exp_frame_t frame;
    bool special;
} log_panel_t;

/* A pass over the panels of a chunk. */
typedef struct {
    quads_t quads; /* x, and its weights */
    log_panel_t *panels;
    vec_acc *lanes;      /* for each panel those of T, and then, for DISTANCES, those of D */
    int sums;            /* that makes: 1, or 2 */
    ptrdiff_t begin;     /* the chunk's first element */
    ptrdiff_t at;        /* the quad's, in the chunk */
    const uint8_t *skip; /* which elements of the chunk are some row's maximum */
    real beta;
    log_kind_t kind;
    bool again; /* x has been packed before */
} log_pass_t;

FSM_ALWAYS_INLINE int log_sums_of(log_kind_t kind) {
    return kind == DISTANCES ? 2 : 1;
}

static void load_log_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    log_pass_t *pass = op;
    pass->at = begin - pass->begin;
    if (pass->kind != WEIGHTED) {
        pass->quads.x = quad_of_x(b, begin, count, pass->again);
        return;
    }
    if (!pass->again || !b->packed)
        pack_weighted_panels(b, begin, count);
    pass->quads.x = pass->quads.other = quad_in_scratch(b, begin, count);
    pass->quads.other.at += SPARE_AT * (ptrdiff_t)sizeof(real);
}

/* The maxima of a chunk's first `count` elements, and where they are. */
static void log_maxima(const batch_t *b, log_pass_t *pass, ptrdiff_t count) {
    for (ptrdiff_t c = 0; c < count; c += QUAD) {
        load_log_quad(b, pass, pass->begin + c, fsm_min(count - c, QUAD));
        const panel_quad_t x = pass->quads.x, w = pass->quads.other;
        for (ptrdiff_t i = 0; i < x.count; i += 4)
            for (int t = 0; t < b->panels; t++) {
                log_panel_t *panel = &pass->panels[t];
                range_t range = panel->range;
                vec at = panel->at;
                for (ptrdiff_t k = i; k < i + 4 && k < x.count; k++) {
                    const vec a = vec_load(block_at(x, t, k));
                    if (x.ahead)
                        ask_for_block(block_at(x, t, k + 8));
                    at = vec_select_lt(range.max, a, vec_set1((real)(c + k)), at);
                    if (pass->kind == WEIGHTED) {
                        const vec weight = vec_load(block_at(w, t, k));
                        panel->weight = vec_select_lt(range.max, a, weight, panel->weight);
                        panel->odd = vec_add(panel->odd, vec_sub(weight, weight));
                    }
                    range = range_join(range, range_of(a));
                }
                panel->range = range;
                panel->at = at;
            }
    }
}

/* One block after the other, whatever they need; `skip`: one of them may be a row's maximum. */
FSM_OUTLINE void log_add_any_blocks(log_pass_t *pass, int t, ptrdiff_t i, bool skip) {
    const log_panel_t *panel = &pass->panels[t];
    const panel_quad_t x = pass->quads.x;
    vec_acc *lane = pass->lanes + pass->sums * t * LANES + i;
    const vec zero = vec_set1(0);
    vec e[4] = {zero, zero, zero, zero}, d[4] = {zero, zero, zero, zero}; /* exponentials, distances */
    for (int step = 0; step < 4 && i + step * LANES < x.count; step++) {
        const vec a = vec_load(block_at(x, t, i + step * LANES));
        vec of_a = a;
        exp_blocks(&of_a, 1, &panel->frame, panel->special);
        if (pass->kind == WEIGHTED)
            of_a = vec_mul(of_a, vec_load(block_at(pass->quads.other, t, i + step * LANES)));
        if (pass->kind == DISTANCES)
            d[step] = distance_of(a, of_a, panel->max, pass->beta);
        e[step] = skip ? leave_out(of_a, pass->at + i + step * LANES, panel->at) : of_a;
    }
    *lane = vec_acc_add(*lane, add_four(e[0], e[1], e[2], e[3]));
    if (pass->kind == DISTANCES)
        lane[LANES] = vec_acc_add(lane[LANES], add_four(d[0], d[1], d[2], d[3]));
}

FSM_INLINE void log_add_lane(void *op, int t, ptrdiff_t i, bool all) {
    log_pass_t *pass = op;
    const log_panel_t *panel = &pass->panels[t];
    const uint8_t *skip_at = pass->skip + pass->at + i;
    const bool skip = skip_at[0] | skip_at[LANES] | skip_at[2 * LANES] | skip_at[3 * LANES];
    if (!all || panel->special || pass->kind != SUMS) {
        log_add_any_blocks(pass, t, i, skip);
        return;
    }
    vec sum = vec_set1(0);
    FSM_EACH_REGISTER(j) {
        vec e[4];
        FSM_UNROLL
        for (int step = 0; step < 4; step++)
            e[step] = load_register(block_at(pass->quads.x, t, i + step * LANES), j);
        exp_four(e, &panel->frame, false);
        if (skip) {
            FSM_UNROLL
            for (int step = 0; step < 4; step++)
                e[step] = leave_out(e[step], pass->at + i + step * LANES, panel->at);
        }
        sum = set_register(sum, j, add_four(e[0], e[1], e[2], e[3]));
    }
    vec_acc *lane = pass->lanes + t * LANES + i;
    *lane = vec_acc_add(*lane, sum);
}

/* What a chunk from `begin` on of a panel gives; `used`: lanes. */
static void log_sum_of(log_sum_t *s, const log_panel_t *panel, vec_acc *lanes, ptrdiff_t begin, int used,
                       log_kind_t kind) {
    real max[LANES], e[LANES], weight[LANES], k[LANES], shift[LANES], at[LANES];
    double hi[LANES], lo[LANES], distance_hi[LANES] = {0}, distance_lo[LANES] = {0};
    vec of_max = exp_block(panel->max, panel->frame, panel->special);
    if (kind == WEIGHTED)
        of_max = vec_mul(of_max, panel->weight);
    vec_store(max, panel->range.max);
    vec_store(e, of_max);
    vec_store(weight, panel->weight);
    vec_store(k, exp_frame_k(&panel->frame));
    vec_store(shift, panel->frame.shift);
    vec_store(at, panel->at);
    vec_acc_get(fold_lanes(lanes, used), hi, lo);
    if (kind == DISTANCES)
        vec_acc_get(fold_lanes(lanes + LANES, used), distance_hi, distance_lo);
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = e[j];
        s->weight[j] = weight[j];
        s->k[j] = k[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){hi[j], lo[j]};
        s->distance[j] = (fsm_sum){distance_hi[j], distance_lo[j]};
        s->index[j] = at[j] >= 0 ? begin + (ptrdiff_t)at[j] : -1;
        s->special[j] = panel->special;
        s->flags[j] = isnan(max[j]) || (!panel->flags[j] && isnan(hi[j])) ? HAS_NAN : panel->flags[j];
    }
}

/* The flags of rows with an infinity, or a weight that is no finite number. */
static void log_infinities(const batch_t *b, log_pass_t *pass, ptrdiff_t count) {
    bool concerned[LOG_PANELS][LANES], any = false;
    for (int t = 0; t < b->panels; t++) {
        real max[LANES], odd[LANES];
        vec_store(max, pass->panels[t].range.max);
        vec_store(odd, pass->panels[t].odd);
        for (int j = 0; j < LANES; j++) {
            concerned[t][j] = max[j] == (real)INFINITY || isnan(odd[j]);
            any |= concerned[t][j];
        }
    }
    for (ptrdiff_t c = 0; any && c < count; c += QUAD) {
        load_log_quad(b, pass, pass->begin + c, fsm_min(count - c, QUAD));
        const panel_quad_t x = pass->quads.x, w = pass->quads.other;
        for (int t = 0; t < b->panels; t++)
            for (int j = 0; j < LANES; j++)
                if (concerned[t][j]) {
                    const real *weights = pass->kind == WEIGHTED ? block_at(w, t, 0) + j : NULL;
                    pass->panels[t].flags[j] |= infinities(block_at(x, t, 0) + j, weights, x.count, x.step);
                }
    }
}

/* The frame of a panel whose maxima are known; returns whether one is infinite. */
static bool log_frame(log_panel_t *panel, beta_t beta, bool weighted) {
    panel->max = finite_or(panel->range.max, vec_set1(0));
    const vec shift = weighted ? panel->max : shift_of(panel->max, beta);
    panel->special = range_has_subnormal(panel->range) || beta.scaled || vec_any_lt(vec_set1(0), vec_abs(shift));
    panel->frame = exp_frame_of(panel->max, shift, beta);
    return vec_any_lt(panel->max, panel->range.max);
}

/* The panels of a batch in elements [begin, begin + count), of one chunk. */
static void log_sum_chunk_of_panels(const batch_t *b, log_panel_t *panels, ptrdiff_t begin, ptrdiff_t count,
                                    log_kind_t kind) {
    uint8_t skip[FSM_CHUNK];
    log_pass_t pass = {
        .panels = panels,
        .lanes = lanes_of(b),
        .sums = log_sums_of(kind),
        .begin = begin,
        .skip = skip,
        .beta = b->beta.hi,
        .kind = kind,
    };
    memset(skip, 0, (size_t)((count + QUAD - 1) / QUAD * QUAD));
    for (int t = 0; t < b->panels; t++) {
        log_panel_t *panel = &panels[t];
        panel->range = (range_t){vec_set1(-(real)INFINITY), vec_set1(1)};
        panel->at = vec_set1(-1);
        panel->weight = vec_set1(1);
        panel->odd = vec_set1(0);
        memset(panel->flags, 0, sizeof panel->flags);
    }
    clear_lanes(pass.lanes, pass.sums * b->panels, (int)fsm_min(count, LANES));
    log_maxima(b, &pass, count);
    bool infinite = kind == WEIGHTED;
    for (int t = 0; t < b->panels; t++) {
        infinite |= log_frame(&panels[t], b->beta, kind == WEIGHTED);
        real at[LANES];
        vec_store(at, panels[t].at);
        for (int j = 0; j < LANES; j++)
            if (at[j] >= 0)
                skip[(ptrdiff_t)at[j]] = 1;
    }
    pass.again = true;
    sum_chunk_of_panels(b, &pass, &pass.quads, begin, begin + count, load_log_quad, log_add_lane, NULL);
    if (infinite)
        log_infinities(b, &pass, count);
}

/* ---- short panels: the lanes of their sums are the exponentials (columns.h), and there is nothing to merge */

/* The maxima of a panel, and where they are. */
static void log_short_maxima(log_panel_t *panel, panel_quad_t x, int t) {
    panel->odd = vec_set1(0);
    memset(panel->flags, 0, sizeof panel->flags);
    FSM_EACH_REGISTER(j) {
        range_t range = {vec_set1(-(real)INFINITY), vec_set1(1)};
        vec at = vec_set1(-1), element = vec_set1(0);
        for (ptrdiff_t i = 0; i < x.count; i++, element = vec_add(element, vec_set1(1))) {
            const vec a = load_register(block_at(x, t, i), j);
            at = vec_select_lt(range.max, a, element, at);
            range = range_join(range, range_of(a));
        }
        panel->range.max = set_register(panel->range.max, j, range.max);
        panel->range.least = set_register(panel->range.least, j, range.least);
        panel->at = set_register(panel->at, j, at);
    }
}

/* What is known of a panel, but for what weights, distances and merges need. No loop has a branch. */
static void log_short_sum(log_sum_t *s, const log_panel_t *panel, panel_quad_t x, int t) {
    real room[LANES * LANES], max[LANES], of_max[LANES], shift[LANES], at[LANES];
    double hi[LANES], lo[LANES];
    const panel_quad_t e = {(char *)room, LANES * sizeof(real), 0, x.count, false};
    x.at += t * x.panel_step;
    exp_short_panel(x, e, 0, &panel->frame, panel->special);
    vec_acc_get(sum_short_panel(e, 0, &panel->at), hi, lo);
    vec_store(of_max, exp_block(panel->max, panel->frame, panel->special));
    vec_store(max, panel->range.max);
    vec_store(shift, panel->frame.shift);
    vec_store(at, panel->at);
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = of_max[j];
        s->shift[j] = shift[j];
        s->others[j] = (fsm_sum){hi[j], lo[j]};
    }
    for (int j = 0; j < LANES; j++)
        s->flags[j] =
            panel->flags[j] | (((max[j] != max[j]) | ((panel->flags[j] == 0) & (hi[j] != hi[j]))) ? HAS_NAN : 0);
    for (int j = 0; j < LANES; j++)
        s->index[j] = (int)at[j]; /* (to ptrdiff_t at once, one by one) */
    for (int j = 0; j < LANES; j++)
        s->special[j] = panel->special;
}

static void log_sum_short_panels(const batch_t *b, log_sum_t *sums) {
    log_panel_t panels[LOG_PANELS];
    log_pass_t pass = {.panels = panels, .kind = SUMS};
    bool infinite = false;
    load_log_quad(b, &pass, 0, b->n);
    pass.again = true;
    for (int t = 0; t < b->panels; t++) {
        log_short_maxima(&panels[t], pass.quads.x, t);
        infinite |= log_frame(&panels[t], b->beta, false);
    }
    if (infinite)
        log_infinities(b, &pass, b->n);
    for (int t = 0; t < b->panels; t++)
        log_short_sum(&sums[t], &panels[t], pass.quads.x, t);
}

/* What is known of the panels of a batch. */
FSM_OUTLINE void log_sum_panels(const batch_t *b, log_sum_t *sums, log_kind_t kind) {
    if (kind == SUMS && b->n <= LANES) {
        log_sum_short_panels(b, sums);
        return;
    }
    log_panel_t panels[LOG_PANELS];
    for (ptrdiff_t c = 0; c < b->n; c += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, c);
        log_sum_chunk_of_panels(b, panels, c, count, kind);
        for (int t = 0; t < b->panels; t++) {
            log_sum_t chunk, *s = c == 0 ? &sums[t] : &chunk;
            log_sum_of(s, &panels[t], lanes_of(b) + log_sums_of(kind) * t * LANES, c, (int)fsm_min(count, LANES), kind);
            for (int j = 0; c > 0 && j < LANES; j++)
                log_merge(&sums[t], j, &chunk, j, b->args->temperature);
        }
    }
}

/* ---- short rows: a batch has LANES of them at most */

/* What is known of the rows, but for what weights, distances and merges need, and their exponentials by blocks, in `e`.
 * False: some row has no sum, or needs a shift. */
FSM_INLINE bool log_sum_of_short(const batch_t *b, int in_block, const int blocks, log_sum_t *s, real *e) {
    const short_t rows = short_of(b, 0, in_block, blocks);
    const int width = blocks * LANES / rows.in_block;
    const real *x = element_at(b, FSM_X, 0, 0);
    real max[LANES], magic[LANES], low[LANES], of_max[LANES];
    double hi[LANES], lo[LANES];
    int at[LANES];
    for (ptrdiff_t r = rows.rows; r < LANES; r++) { /* (compilers clear whole arrays slowly) */
        hi[r] = lo[r] = 0;
        at[r] = 0;
    }
    maxima_of_short(x, rows, max);
    const vec scaled_max = vec_mul(vec_load(max), vec_set1(b->beta.hi));
    if (!(vec_hmax(vec_abs(scaled_max)) < DIRECT))
        return false;

    exp_frame_t frame = exp_frame_of(vec_load(max), vec_set1(0), b->beta);
    vec_store(magic, frame.magic);
    vec_store(low, frame.low);
    bool special = b->beta.scaled;
    for (ptrdiff_t r = 0; r < rows.rows; r += rows.in_block) {
        vec a[MAX_BLOCKS], least = vec_set1(MIN_NORMAL);
        const vec max_of_rows = spread_over_rows(max, rows, r);
        FSM_EACH_BLOCK(i, blocks) {
            a[i] = load_short(x, rows, r, i, -(real)INFINITY);
            least = vec_min(least, vec_abs(a[i]));
        }
        if (blocks == 1) {
            WITH_ROWS_IN_BLOCK(rows.in_block, vec_find_parts(a[0], max_of_rows, in_block, at + r));
        } else {
            at[r] = width;
            FSM_EACH_BLOCK(before, blocks) {
                const int i = blocks - 1 - before;
                const int lane = vec_find_eq(a[i], max_of_rows);
                at[r] = lane < LANES ? i * LANES + lane : at[r];
            }
        }
        frame.magic = spread_over_rows(magic, rows, r);
        frame.low = spread_over_rows(low, rows, r);
        special |= vec_any_lt(least, vec_set1(MIN_NORMAL));
        exp_blocks(a, blocks, &frame, special);
        FSM_EACH_BLOCK(i, blocks)
            vec_store(e + r * width + i * LANES, a[i]);
    }
    /* In a row without a maximum, which is NaN, the next row's lane is meant; there is no result then. */
    for (ptrdiff_t r = 0; r < rows.rows; r++) {
        of_max[r] = e[r * width + at[r]];
        e[r * width + at[r]] = 0;
    }
    for (ptrdiff_t r = 0; r < rows.rows; r += rows.in_block) {
        vec a[MAX_BLOCKS];
        FSM_UNROLL
        for (int i = 0; i < MAX_BLOCKS; i++)
            a[i] = i < blocks ? vec_load(e + r * width + i * LANES) : vec_set1(0);
        const vec sum = blocks == 1 ? a[0] : add_four(a[0], a[1], a[2], a[3]);
        fold_short(vec_acc_of(sum), rows, r, hi, lo);
    }
    int none = 0;
    for (ptrdiff_t r = 0; r < rows.rows; r++) {
        e[r * width + at[r]] = of_max[r];
        none |= hi[r] != hi[r];
    }
    for (ptrdiff_t r = rows.rows; r < LANES; r++)
        of_max[r] = 1;
    for (int j = 0; j < LANES; j++) {
        s->max[j] = max[j];
        s->e[j] = of_max[j];
        s->shift[j] = 0;
        s->others[j] = (fsm_sum){hi[j], lo[j]};
    }
    for (int j = 0; j < LANES; j++)
        s->index[j] = at[j] < b->n ? at[j] : -1;
    memset(s->flags, 0, sizeof s->flags);
    for (int j = 0; j < LANES; j++)
        s->special[j] = special;
    return !none;
}

FSM_OUTLINE bool log_sum_short_rows(const batch_t *b, log_sum_t *s, real *e) {
    bool ordinary;
    WITH_BLOCKS(b, ordinary = log_sum_of_short(b, in_block, blocks, s, e));
    return ordinary;
}

#endif
