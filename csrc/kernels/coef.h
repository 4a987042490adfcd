/* c, the coefficients of a loss: what each class weighs in it, of classes that the target does not name too.
 *
 *   c = w*((1 - smoothing)*q + smoothing/classes)
 *
 * q are the target's probabilities, or 0 for a class that it does not name; w are the weights of the classes. Kernels
 * load them a chunk of a row, or a quad of the panels, at a time. */
#ifndef FSM_KERNELS_COEF_H
#define FSM_KERNELS_COEF_H

#include "columns.h"
#include "rows.h"

/* Whether c is not 0 for other classes than the one that the target names. */
FSM_ALWAYS_INLINE bool has_coefs(const fsm_args *args) {
    return args->loss.smoothing != 0 || !fsm_has_integers(&args->operands[FSM_TARGET]);
}

/* c without the weights, in place of q, if there are probabilities. */
FSM_ALWAYS_INLINE void coefs_of_target(const batch_t *b, real *c, ptrdiff_t count) {
    const fsm_loss *loss = &b->args->loss;
    const real own = (real)(1 - loss->smoothing), uniform = (real)(loss->smoothing / (double)b->n);
    const bool names = fsm_has_integers(&b->args->operands[FSM_TARGET]);
    for (ptrdiff_t i = 0; i < count; i++)
        c[i] = names ? uniform : own * c[i] + uniform;
}

/* Elements [begin, begin + count) of row r; count <= FSM_CHUNK. */
FSM_OUTLINE void load_coefs(const batch_t *b, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count, real *c) {
    const fsm_args *args = b->args;
    const fsm_row row = row_of(b, r);
    if (!fsm_has_integers(&args->operands[FSM_TARGET]))
        load(args, FSM_TARGET, row.at[FSM_TARGET], begin, count, c);
    coefs_of_target(b, c, count);
    if (args->operands[FSM_CLASS_WEIGHT].data) {
        real weights[FSM_CHUNK];
        load(args, FSM_CLASS_WEIGHT, row.at[FSM_CLASS_WEIGHT], begin, count, weights);
        for (ptrdiff_t i = 0; i < count; i++)
            c[i] *= weights[i];
    }
}

/* A quad of all panels; count <= QUAD. All rows have the same weights. */
FSM_OUTLINE panel_quad_t quad_of_coefs(const batch_t *b, ptrdiff_t begin, ptrdiff_t count) {
    const fsm_args *args = b->args;
    const ptrdiff_t pitch = QUAD * LANES + LANES, size = sizeof(real);
    real *c = spare_of(b), weights[QUAD];
    if (!fsm_has_integers(&args->operands[FSM_TARGET]))
        pack_panels(b, FSM_TARGET, begin, count, c, pitch);
    if (args->operands[FSM_CLASS_WEIGHT].data)
        load(args, FSM_CLASS_WEIGHT, b->row.at[FSM_CLASS_WEIGHT], begin, count, weights);
    for (int t = 0; t < b->panels; t++) {
        real *panel = c + t * pitch;
        coefs_of_target(b, panel, count * LANES);
        for (ptrdiff_t i = 0; args->operands[FSM_CLASS_WEIGHT].data && i < count; i++)
            for (int j = 0; j < LANES; j++)
                panel[i * LANES + j] *= weights[i];
    }
    return (panel_quad_t){(char *)c, LANES * size, pitch * size, count, false};
}

/* ---- the sums of c and of c*(m - x), without the class that the target names */

/* What is known of up to LANES rows, or of a panel. */
typedef struct {
    double c[LANES], distance[LANES];
    double max[LANES]; /* the largest |c| */
} coef_sums_t;

/* The terms of four blocks, or fewer. */
typedef struct {
    vec c, distance, max;
} coef_terms_t;

/* c*(m - x)/2, or 0 where c is. Half of it cannot overflow where the whole does not. */
FSM_INLINE vec coef_distance(vec x, vec c, vec half_max) {
    const vec zero = vec_set1(0), d = vec_mul(c, vec_fma(x, vec_set1((real)-0.5), half_max));
    return vec_select_lt(zero, vec_abs(c), d, zero);
}

/* The terms of blocks of c and x, both 0 where there is nothing; `max` joins the largest |c|. */
FSM_INLINE coef_terms_t coef_terms(const vec *c, const vec *x, vec half_max, vec max) {
    vec d[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        d[step] = coef_distance(x[step], c[step], half_max);
        max = vec_max(max, vec_abs(c[step]));
    }
    return (coef_terms_t){add_four(c[0], c[1], c[2], c[3]), add_four(d[0], d[1], d[2], d[3]), max};
}

/* The sum of c*(m - x) of row r, if that has infinite terms and c is finite. */
static double infinite_distance(const batch_t *b, ptrdiff_t r, ptrdiff_t target_class) {
    real x[FSM_CHUNK], c[FSM_CHUNK];
    bool above = false, below = false;
    for (ptrdiff_t begin = 0; begin < b->n; begin += FSM_CHUNK) {
        const ptrdiff_t count = chunk_length(b, begin);
        load(b->args, FSM_X, start_of(b, FSM_X, r), begin, count, x);
        load_coefs(b, r, begin, count, c);
        for (ptrdiff_t i = 0; i < count; i++)
            if (x[i] == -(real)INFINITY && begin + i != target_class) {
                above |= c[i] > 0;
                below |= c[i] < 0;
            }
    }
    return above && below ? NAN : above ? INFINITY : -INFINITY;
}

/* What the sums are in the end: infinities may not have survived the float64 sums of pairs. */
static void set_coef_sums(const batch_t *b, ptrdiff_t r, ptrdiff_t target_class, coef_sums_t *sums, int j, double c,
                          double half_distance, real max) {
    sums->c[j] = c;
    sums->distance[j] = isnan(half_distance) && isfinite(c) ? infinite_distance(b, r, target_class) : 2 * half_distance;
    sums->max[j] = max;
}

/* A row: what its chunks give. */
#define COEF_CHUNKS 64

typedef struct {
    fsm_sum c, distance;
    vec max;
} coef_chunk_t;

typedef struct {
    segment_t segment;
    ptrdiff_t r, target_class;
    vec half_max;
    coef_chunk_t chunks[COEF_CHUNKS], sum;
} coef_fold_t;

static void coef_sum_chunks(const batch_t *b, void *op, ptrdiff_t from, ptrdiff_t to) {
    coef_fold_t *fold = op;
    real *c = spare_of(b);
    for (ptrdiff_t chunk = from; chunk < to; chunk++) {
        const ptrdiff_t begin = chunk * FSM_CHUNK, count = chunk_length(b, begin);
        vec_acc of_c = vec_acc_zero(), of_distance = vec_acc_zero();
        vec max = vec_set1(0);
        if (!b->x_contiguous && !b->packed) {
            const batch_t row = part_of_batch(b, fold->r, 1);
            pack_x(&row, begin, count);
        }
        const real *x =
            b->x_contiguous ? element_at(b, FSM_X, fold->r, begin) : in_scratch(b, b->packed ? fold->r : 0, begin);
        load_coefs(b, fold->r, begin, count, c);
        if (fold->target_class >= begin && fold->target_class < begin + count)
            c[fold->target_class - begin] = 0;
        for (ptrdiff_t i = 0; i < count; i += QUAD) {
            vec a[4], logits[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++) {
                a[step] = load_rest(c + i + step * LANES, count - i - step * LANES, 0);
                logits[step] = load_rest(x + i + step * LANES, count - i - step * LANES, 0);
            }
            const coef_terms_t terms = coef_terms(a, logits, fold->half_max, max);
            max = terms.max;
            of_c = vec_acc_add(of_c, terms.c);
            of_distance = vec_acc_add(of_distance, terms.distance);
        }
        fold->chunks[chunk - fold->segment.first] = (coef_chunk_t){vec_acc_fold(of_c), vec_acc_fold(of_distance), max};
    }
}

static void coef_join_chunk(const batch_t *b, void *op, ptrdiff_t i) {
    coef_fold_t *fold = op;
    (void)b;
    fold->sum.c = sum_merge(fold->sum.c, fold->chunks[i].c);
    fold->sum.distance = sum_merge(fold->sum.distance, fold->chunks[i].distance);
    fold->sum.max = vec_max(fold->sum.max, fold->chunks[i].max);
}

/* The sums of row r, whose maximum is `max`. */
static void coef_sum_row(const batch_t *b, ptrdiff_t r, real max, ptrdiff_t target_class, coef_sums_t *sums) {
    coef_fold_t fold;
    fold.r = r;
    fold.target_class = target_class;
    fold.half_max = vec_set1(max / 2);
    fold.sum = (coef_chunk_t){{0, 0}, {0, 0}, vec_set1(0)};
    fold_chunks(b, coef_sum_chunks, &fold.segment, COEF_CHUNKS, coef_join_chunk);
    set_coef_sums(b, r, target_class, sums, (int)r, fold.sum.c.hi + fold.sum.c.lo,
                  fold.sum.distance.hi + fold.sum.distance.lo, vec_hmax(fold.sum.max));
}

/* A pass over panels. */
typedef struct {
    quads_t quads; /* x and c */
    const ptrdiff_t *target_class[MAX_PANELS];
    vec half_max[MAX_PANELS], max[MAX_PANELS];
    vec_acc *lanes; /* those of c, and of the distance, of each panel */
} coef_pass_t;

static void load_coef_quad(const batch_t *b, void *op, ptrdiff_t begin, ptrdiff_t count) {
    coef_pass_t *pass = op;
    pass->quads.x = quad_of_x(b, begin, count, true);
    pass->quads.other = quad_of_coefs(b, begin, count);
    for (int t = 0; t < b->panels; t++)
        for (int j = 0; j < LANES; j++) {
            const ptrdiff_t at = pass->target_class[t][j] - begin;
            if (at >= 0 && at < count)
                block_at(pass->quads.other, t, at)[j] = 0;
        }
}

FSM_INLINE void coef_add_lane(void *op, int t, ptrdiff_t i, bool all) {
    coef_pass_t *pass = op;
    const panel_quad_t x = pass->quads.x, c = pass->quads.other;
    vec a[4], logits[4];
    FSM_UNROLL
    for (int step = 0; step < 4; step++) {
        a[step] = logits[step] = vec_set1(0);
        if (all || i + step * LANES < c.count) {
            a[step] = vec_load(block_at(c, t, i + step * LANES));
            logits[step] = vec_load(block_at(x, t, i + step * LANES));
        }
    }
    const coef_terms_t terms = coef_terms(a, logits, pass->half_max[t], pass->max[t]);
    vec_acc *of_c = &pass->lanes[2 * t * LANES + i], *of_distance = of_c + LANES;
    *of_c = vec_acc_add(*of_c, terms.c);
    *of_distance = vec_acc_add(*of_distance, terms.distance);
    pass->max[t] = terms.max;
}

/* The sums of all panels. */
static void coef_sum_panels(const batch_t *b, coef_pass_t *pass, coef_sums_t *sums) {
    vec_acc totals[MAX_PANELS];
    pass->lanes = lanes_of(b);
    sum_panels(b, pass, &pass->quads, 2, pass->lanes, totals, load_coef_quad, coef_add_lane, NULL);
    for (int t = 0; t < b->panels; t++) {
        real max[LANES];
        double hi[LANES], lo[LANES], distance_hi[LANES], distance_lo[LANES];
        vec_store(max, pass->max[t]);
        vec_acc_get(totals[2 * t], hi, lo);
        vec_acc_get(totals[2 * t + 1], distance_hi, distance_lo);
        for (int j = 0; j < rows_in_panel(b, t); j++)
            set_coef_sums(b, t * LANES + j, pass->target_class[t][j], &sums[t], j, hi[j] + lo[j],
                          distance_hi[j] + distance_lo[j], max[j]);
    }
}

#endif
