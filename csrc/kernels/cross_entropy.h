/* cross_entropy: the loss of each row, and, if there is a y, its gradient times s, 1 / args->loss.divisor:
 *
 *   loss = sum(c*(lse - x)) + z*lse^2         dx = s*((sum(c) + 2*z*lse)*p - c)         lse = m + log1p(T/e)
 *   c = w*((1 - smoothing)*q + smoothing/classes)
 *
 * where p = softmax(x), q are the target's probabilities, or 1 for the class that it names, and w the classes' weights.
 * lse comes from the log family (log_family.h), p*f - s*c from shares.h. The loss adds (m - x)*c to log1p(T/e)*sum(c),
 * neither of which cancels. Nor does the gradient of the named class, by
 *
 *   s*((sum of the other c + 2*z*lse)*p - c*(1 - p)),   1 - p = T/S if it is the maximum, else at least 1/2
 *
 * Without smoothing and probabilities c is 0 elsewhere. Otherwise a second sweep over x sums c and (m - x)*c of
 * the others. */
#ifndef FSM_KERNELS_CROSS_ENTROPY_H
#define FSM_KERNELS_CROSS_ENTROPY_H

#include "shares.h"

_Static_assert(LANES <= FSM_MOST_INTEGERS, "the targets of a block are read at once");

/* ---- the classes that targets name */

/* What the targets of up to LANES rows, or of the columns of a tile, name. */
typedef struct {
    ptrdiff_t index[LANES]; /* of the class, or -1 */
    bool ignored[LANES];    /* the row does not count */
    real x[LANES];          /* its logit */
    double c[LANES];        /* its c, or 0 */
} named_t;

/* The targets of rows (t = 0), or of tile t. */
static void targets_of(const group_t *g, int t, int64_t *targets) {
    const fsm_operand *operand = &g->args->operands[FSM_TARGET];
    for (int j = 0, part; j < rows_in_tile(g, t); j += part) {
        part = (int)part_of_tile(g, t * LANES + j);
        fsm_load_integers(operand, start_of(g, FSM_TARGET, t * LANES + j), operand->across, part, targets + j);
    }
}

FSM_INLINE_ bool is_ignored(const fsm_loss *loss, int64_t target) {
    return loss->ignores && target == loss->ignore_index;
}

/* Element at[j] of row or column j of tile t, or 0 where that is negative. */
static void pick(const group_t *g, int which, int t, const ptrdiff_t *at, real *to) {
    const fsm_args *args = g->args;
    const fsm_operand *operand = &args->operands[which];
    if (!g->runs && args->axes == 1 && operand->storage == STORED_REAL && !operand->swapped) {
        const ptrdiff_t across = operand->across, step = operand->step[0];
        const char *row = g->row.at[which] + t * LANES * across;
        for (int j = 0; j < LANES; j++, row += across) {
            to[j] = 0;
            if (at[j] >= 0)
                memcpy(&to[j], row + at[j] * step, sizeof to[j]);
        }
        return;
    }
    for (int j = 0; j < LANES; j++)
        to[j] = at[j] < 0 ? 0 : element(args, which, start_of(g, which, t * LANES + j), at[j]);
}

/* Labels were looked at before (_core.pyx, count_labels()); but another thread may change them, and a result must not
 * then be written elsewhere. */
static void named_of(const group_t *g, int t, named_t *named) {
    const fsm_args *args = g->args;
    const bool names = fsm_has_integers(&args->operands[FSM_TARGET]);
    const bool weighted = args->operands[FSM_CLASS_WEIGHT].data;
    int64_t targets[LANES];
    real weights[LANES];
    if (names)
        targets_of(g, t, targets);
    const int entries = names ? rows_in_tile(g, t) : 0;
    for (int j = 0; j < entries; j++) {
        named->ignored[j] = is_ignored(&args->loss, targets[j]);
        const bool counts = !named->ignored[j] & (targets[j] >= 0) & (targets[j] < args->n);
        named->index[j] = counts ? (ptrdiff_t)targets[j] : -1;
        weights[j] = counts;
    }
    for (int j = entries; j < LANES; j++) {
        named->ignored[j] = false;
        named->index[j] = -1;
        weights[j] = 0;
    }
    pick(g, FSM_X, t, named->index, named->x);
    if (weighted)
        pick(g, FSM_CLASS_WEIGHT, t, named->index, weights);
    const double part = 1 - args->loss.smoothing + args->loss.smoothing / (double)args->n;
    for (int j = 0; j < LANES; j++)
        named->c[j] = part * weights[j];
    if (args->loss.softcap > 0)
        cap(args, named->x, LANES);
}

/* ---- the sums of c and of c*(m - x), without the named class */

typedef struct {
    double c[LANES], distance[LANES];
    double most[LANES]; /* the largest |c| */
} c_sums_t;

/* c*(m - x)/2, or 0 where c is. Half of it cannot overflow where the whole does not. */
FSM_INLINE vec c_distance(vec x, vec c, vec half_max) {
    const vec zero = vec_set1(0), d = vec_mul(c, vec_fma(x, vec_set1((real)-0.5), half_max));
    return vec_select_lt(zero, vec_abs(c), d, zero);
}

/* The sum of c*(m - x) of row r, if that has infinite terms and c is finite. */
static double infinite_distance(const group_t *g, ptrdiff_t r, ptrdiff_t named) {
    const fsm_args *args = g->args;
    real x[FSM_CHUNK], c[FSM_CHUNK];
    bool above = false, below = false;
    for (ptrdiff_t begin = 0; begin < args->n; begin += FSM_CHUNK) {
        const ptrdiff_t count = args->n - begin < FSM_CHUNK ? args->n - begin : FSM_CHUNK;
        load(args, FSM_X, start_of(g, FSM_X, r), begin, count, x);
        load_c(g, r, begin, count, c);
        for (ptrdiff_t i = 0; i < count; i++)
            if (x[i] == -(real)INFINITY && begin + i != named) {
                above |= c[i] > 0;
                below |= c[i] < 0;
            }
    }
    return above && below ? NAN : above ? INFINITY : -INFINITY;
}

/* What the sums are in the end: infinities may not have survived the float64 sums of pairs. */
static void c_sums_of(const group_t *g, ptrdiff_t r, ptrdiff_t named, c_sums_t *sums, int j, double c,
                          double half_distance) {
    sums->c[j] = c;
    sums->distance[j] = isnan(half_distance) && isfinite(c) ? infinite_distance(g, r, named) : 2 * half_distance;
}

/* What a chunk gives: the sums, and the largest |c|. */
typedef struct {
    fsm_sum total, distance;
    vec most;
} c_part_t;

/* Chunks between two merges. */
#define C_SEGMENT 64

typedef struct {
    ptrdiff_t r, named, first; /* row, its class, the first chunk */
    vec half_max;
    c_part_t *parts;
} c_segment_t;

static void c_sum_chunks(const group_t *g, const void *of, ptrdiff_t from, ptrdiff_t to) {
    const c_segment_t *segment = of;
    const ptrdiff_t n = g->args->n, r = segment->r, named = segment->named;
    real *c = spare_of(g);
    for (ptrdiff_t chunk = from; chunk < to; chunk++) {
        const ptrdiff_t begin = chunk * FSM_CHUNK, count = n - begin < FSM_CHUNK ? n - begin : FSM_CHUNK;
        vec_acc totals = vec_acc_zero(), distances = vec_acc_zero();
        vec most = vec_set1(0);
        if (!g->x_ready && !g->held) {
            const group_t row = part_of_group(g, r, 1);
            load_group(&row, begin, count);
        }
        const real *x = g->x_ready ? element_at(g, FSM_X, r, begin) : in_scratch(g, g->held ? r : 0, begin);
        load_c(g, r, begin, count, c);
        if (named >= begin && named < begin + count)
            c[named - begin] = 0;
        for (ptrdiff_t i = 0; i < count; i += 4 * LANES) {
            vec a[4], d[4];
            FSM_UNROLL
            for (int step = 0; step < 4; step++) {
                const ptrdiff_t at = i + step * LANES, left = count - at, here = left < 0 ? 0 : left;
                const vec logits = left >= LANES ? vec_load(x + at) : vec_load_n(x + at, here, 0);
                a[step] = left >= LANES ? vec_load(c + at) : vec_load_n(c + at, here, 0);
                d[step] = c_distance(logits, a[step], segment->half_max);
                most = vec_max(most, vec_abs(a[step]));
            }
            totals = vec_acc_add(totals, add_four(a[0], a[1], a[2], a[3]));
            distances = vec_acc_add(distances, add_four(d[0], d[1], d[2], d[3]));
        }
        segment->parts[chunk - segment->first] = (c_part_t){vec_acc_fold(totals), vec_acc_fold(distances), most};
    }
}

/* Of row r. */
static void c_sum_row(const group_t *g, ptrdiff_t r, real max, ptrdiff_t named, c_sums_t *sums) {
    const ptrdiff_t chunks = chunks_of(g);
    c_part_t parts[C_SEGMENT];
    fsm_sum total = {0, 0}, distance = {0, 0};
    vec most = vec_set1(0);
    for (ptrdiff_t begin = 0; begin < chunks; begin += C_SEGMENT) {
        const ptrdiff_t end = chunks - begin < C_SEGMENT ? chunks : begin + C_SEGMENT;
        const c_segment_t segment = {r, named, begin, vec_set1(max / 2), parts};
        share_chunks(g, c_sum_chunks, &segment, begin, end);
        for (ptrdiff_t i = 0; i < end - begin; i++) {
            total = sum_merge(total, parts[i].total);
            distance = sum_merge(distance, parts[i].distance);
            most = vec_max(most, parts[i].most);
        }
    }
    c_sums_of(g, r, named, sums, (int)r, total.hi + total.lo, distance.hi + distance.lo);
    sums->most[r] = vec_hmax(most);
}

/* Of all tiles. */
static void c_sum_columns(const group_t *g, const log_state_t *states, const named_t *named,
                              c_sums_t *sums) {
    const ptrdiff_t n = g->args->n;
    vec_acc *totals = (vec_acc *)(g->scratch + LOG_ROOM), *distances = totals + LOG_TILES * LANES;
    vec_acc total[LOG_TILES], distance[LOG_TILES];
    vec half_max[LOG_TILES], most[LOG_TILES];
    for (int t = 0; t < g->tiles; t++) {
        real max[LANES];
        most[t] = vec_set1(0);
        for (int j = 0; j < LANES; j++)
            max[j] = isfinite(states[t].max[j]) ? (real)states[t].max[j] / 2 : 0;
        half_max[t] = vec_load(max);
    }
    for (ptrdiff_t chunk = 0; chunk < n; chunk += FSM_CHUNK) {
        const ptrdiff_t end = n - chunk < FSM_CHUNK ? n : chunk + FSM_CHUNK;
        const int used = end - chunk < LANES ? (int)(end - chunk) : LANES;
        for (int k = 0; k < LOG_TILES * LANES; k++)
            totals[k] = distances[k] = vec_acc_zero();
        for (ptrdiff_t begin = chunk; begin < end; begin += PIECE) {
            const piece_t x = piece_of_x(g, begin, end - begin < PIECE ? end - begin : PIECE, true);
            const piece_t c = piece_of_c(g, begin, x.count);
            for (int t = 0; t < g->tiles; t++)
                for (int j = 0; j < LANES; j++) {
                    const ptrdiff_t at = named[t].index[j] - begin;
                    if (at >= 0 && at < c.count)
                        in_piece(c, t, at)[j] = 0;
                }
            for (ptrdiff_t i = 0; i < LANES && i < x.count; i++)
                for (int t = 0; t < g->tiles; t++) {
                    vec a[4], d[4];
                    FSM_UNROLL
                    for (int step = 0; step < 4; step++) {
                        const bool there = i + step * LANES < x.count;
                        a[step] = d[step] = vec_set1(0);
                        if (there) {
                            a[step] = vec_load(in_piece(c, t, i + step * LANES));
                            d[step] =
                                c_distance(vec_load(in_piece(x, t, i + step * LANES)), a[step], half_max[t]);
                        }
                        most[t] = vec_max(most[t], vec_abs(a[step]));
                    }
                    vec_acc *of_c = &totals[t * LANES + i], *of_distance = &distances[t * LANES + i];
                    *of_c = vec_acc_add(*of_c, add_four(a[0], a[1], a[2], a[3]));
                    *of_distance = vec_acc_add(*of_distance, add_four(d[0], d[1], d[2], d[3]));
                }
        }
        for (int t = 0; t < g->tiles; t++) {
            const vec_acc of_c = fold_columns(totals + t * LANES, used);
            const vec_acc of_distance = fold_columns(distances + t * LANES, used);
            total[t] = chunk ? vec_acc_merge(total[t], of_c) : of_c;
            distance[t] = chunk ? vec_acc_merge(distance[t], of_distance) : of_distance;
        }
    }
    for (int t = 0; t < g->tiles; t++) {
        real largest[LANES];
        vec_store(largest, most[t]);
        double hi[LANES], lo[LANES], distance_hi[LANES], distance_lo[LANES];
        vec_acc_get(total[t], hi, lo);
        vec_acc_get(distance[t], distance_hi, distance_lo);
        for (int j = 0; j < LANES; j++)
            sums[t].most[j] = largest[j];
        for (int j = 0; j < rows_in_tile(g, t); j++)
            c_sums_of(g, t * LANES + j, named[t].index[j], &sums[t], j, hi[j] + lo[j],
                          distance_hi[j] + distance_lo[j]);
    }
}

/* Without a c of other classes. */
static const c_sums_t no_sums;

/* ---- losses, and what the gradient needs */

/* Stores the losses of tile t: NaN for rows without a sum, 0 for those that do not count. */
static void store_losses(const group_t *g, int t, const log_state_t *s, const bool *ignored,
                             const double *losses) {
    const ptrdiff_t across = g->args->operands[FSM_LOSS].across;
    const int count = rows_in_tile(g, t);
    double stored[LANES];
    for (int j = 0; j < count; j++) {
        const bool none = (s->flags[j] != 0) | !(fabs(s->max[j]) < INFINITY) | (losses[j] != losses[j]);
        stored[j] = fsm_select(ignored[j], 0, fsm_select(none, NAN, losses[j]));
    }
    for (int j = 0, part; j < count; j += part) {
        part = (int)part_of_tile(g, t * LANES + j);
        fsm_copy(start_of(g, FSM_LOSS, t * LANES + j), across, (const char *)(stored + j), sizeof *stored, part,
                 sizeof *stored, false);
    }
}

/* Of rows (t = 0), or of tile t: stores the losses; returns in `shares` what their gradients take. Two loops have no
 * branch, so that compilers vectorise them; what they give for rows without a sum is of no use. */
static void cross_entropy_finish(const group_t *g, int t, const log_state_t *s, const named_t *named,
                                     const c_sums_t *sums, shares_t *shares, bool with_c) {
    const fsm_loss loss = g->args->loss;
    const int count = rows_in_tile(g, t);
    const double scale = 1 / loss.divisor, of_z = loss.z / loss.z_divisor, z = of_z * loss.divisor;
    double tails[LANES], losses[LANES], slopes[LANES], f[LANES], gradient[LANES], most[LANES];
    real max[LANES], shift[LANES], e[LANES];
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const double own = named->c[j], c = own + sums->c[j], lse = s->max[j] + tails[j];
        const double distance = own * fsm_select(own == 0, 0, s->max[j] - named->x[j]);
        losses[j] = sums->distance[j] + distance + c * tails[j] + z * lse * lse;
        slopes[j] = 2 * of_z * lse;
    }
    store_losses(g, t, s, named->ignored, losses);
    if (!g->args->operands[FSM_Y].data)
        return;
    for (int j = 0; j < LANES; j++) {
        max[j] = j < count ? (real)s->max[j] : 0;
        shift[j] = j < count ? (real)s->shift[j] : 0;
    }
    for (int j = count; j < LANES; j++)
        f[j] = most[j] = gradient[j] = 0;
    const vec finite_max = finite_or(vec_load(max), vec_set1(0));
    const exp_frame_t frame = exp_frame_of(finite_max, vec_load(shift), g->beta);
    vec_store(e, exp_block(vec_load(named->x), frame, true));
    for (int j = 0; j < count; j++) {
        const double own = named->c[j], slope = slopes[j];
        f[j] = scale * (own + sums->c[j]) + slope;
        most[j] = fabs(scale) * sums->most[j];

        const double others = s->others[j].hi + s->others[j].lo, sum = s->e[j] + others;
        const bool is_max = named->index[j] == s->index[j];
        const double p = fsm_select(is_max, s->e[j], e[j]) / sum;
        const double own_rest = fsm_select(is_max, own * others / sum, own * (1 - p));
        gradient[j] = scale * (sums->c[j] * p - own_rest) + slope * p;
    }
    if (with_c)
        shares_and_c_of(shares, s, f, count, -scale, most);
    else
        shares_of(shares, s, f, count);
    for (int j = 0; j < count; j++) {
        const double part = loss.softcap > 0 ? named->x[j] / loss.softcap : 0;
        shares->own[j] = (real)(gradient[j] * (1 - part * part));
        shares->index[j] = named->index[j];
    }
    for (int j = 0; loss.ignores && j < count; j++)
        if (named->ignored[j]) {
            shares->filled[j] = true;
            shares->fill[j] = 0;
        }
}

/* ---- rows */

/* Rows that count. */
FSM_INLINE void cross_entropy_rows_body(const group_t *g, const share_kind_t kind) {
    log_state_t state;
    named_t named;
    c_sums_t sums = {{0}, {0}, {0}};
    shares_t shares;
    named_of(g, 0, &named);
    log_sweep_rows(g, &state, kind == SHARES_OF_KEPT ? KEPT : SUMS);
    for (ptrdiff_t r = 0; kind == SHARES_AND_C && r < g->rows; r++)
        c_sum_row(g, r, isfinite(state.max[r]) ? (real)state.max[r] : 0, named.index[r], &sums);
    cross_entropy_finish(g, 0, &state, &named, &sums, &shares, kind == SHARES_AND_C);
    if (g->args->operands[FSM_Y].data)
        share_rows(g, &state, &shares, kind);
}

/* Rows that do not. */
static void cross_entropy_ignored(const group_t *g) {
    const double none = 0;
    for (ptrdiff_t r = 0; r < g->rows; r++) {
        memcpy(start_of(g, FSM_LOSS, r), &none, sizeof none);
        if (g->args->operands[FSM_Y].data)
            fill(g, r, 0, 0);
    }
}

/* Runs of rows that count, and of others, which are not read. */
static void cross_entropy_rows(const group_t *g) {
    const fsm_args *args = g->args;
    bool ignored[LANES] = {false};
    if (args->loss.ignores) {
        int64_t targets[LANES];
        targets_of(g, 0, targets);
        for (ptrdiff_t r = 0; r < g->rows; r++)
            ignored[r] = is_ignored(&args->loss, targets[r]);
    }
    group_t part = *g;
    for (ptrdiff_t r = 0; r < g->rows; r += part.rows) {
        part.row = row_of(g, r);
        part.rows = 1;
        while (r + part.rows < g->rows && ignored[r + part.rows] == ignored[r])
            part.rows++;
        if (ignored[r]) {
            cross_entropy_ignored(&part);
        } else if (has_c(args)) {
            cross_entropy_rows_body(&part, SHARES_AND_C);
        } else if (can_keep(g)) {
            cross_entropy_rows_body(&part, SHARES_OF_KEPT);
        } else {
            cross_entropy_rows_body(&part, SHARES);
        }
    }
}

/* Short rows, without a c of other classes. */
static void cross_entropy_short_rows(const group_t *g) {
    log_state_t state;
    named_t named;
    shares_t shares;
    real e[BATCH_ROOM];
    if (!log_sweep_short(g, &state, e)) {
        cross_entropy_rows(g);
        return;
    }
    named_of(g, 0, &named);
    cross_entropy_finish(g, 0, &state, &named, &no_sums, &shares, false);
    if (g->args->operands[FSM_Y].data)
        share_short(g, &shares, e);
}

/* ---- columns */

FSM_INLINE void cross_entropy_columns_body(const group_t *g, const share_kind_t kind) {
    log_state_t states[LOG_TILES];
    named_t named[LOG_TILES];
    c_sums_t sums[LOG_TILES];
    shares_t shares[LOG_TILES];
    memset(sums, 0, sizeof *sums * (size_t)g->tiles);
    log_sweep_columns(g, states, SUMS);
    for (int t = 0; t < g->tiles; t++)
        named_of(g, t, &named[t]);
    if (kind == SHARES_AND_C)
        c_sum_columns(g, states, named, sums);
    for (int t = 0; t < g->tiles; t++)
        cross_entropy_finish(g, t, &states[t], &named[t], &sums[t], &shares[t], kind == SHARES_AND_C);
    if (g->args->operands[FSM_Y].data)
        share_columns(g, states, shares, kind);
}

static void cross_entropy_columns(const group_t *g) {
    if (has_c(g->args))
        cross_entropy_columns_body(g, SHARES_AND_C);
    else
        cross_entropy_columns_body(g, SHARES);
}

static void cross_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const plan_t plan = {.hold_rows = args->operands[FSM_Y].data || has_c(args),
                           .room = has_c(args) ? SPARE_AT : LOG_ROOM,
                           .tiles = LOG_TILES,
                           .most_rows = LANES,
                           .short_rows = has_c(args) ? NULL : IF_PARTS_PAY(cross_entropy_short_rows),
                           .may_turn = !args->operands[FSM_Y].data,
                           .in_line = BIT(FSM_X) | BIT(FSM_Y)};
    each_group(args, begin, end, scratch, plan, cross_entropy_rows, cross_entropy_columns);
}

#endif
