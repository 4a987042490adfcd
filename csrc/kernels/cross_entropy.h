/* cross_entropy: the loss of each row, and, if there is a y, its gradient times s, 1 / args->loss.divisor:
 *
 *   loss = sum(c*(lse - x)) + z*lse^2         dx = s*((sum(c) + 2*z*lse)*p - c)         lse = m + log1p(T/e)
 *   c = w*((1 - smoothing)*q + smoothing/classes)
 *
 * where p = softmax(x), q are the target's probabilities, or 1 for the class that it names, and w the classes' weights.
 * lse comes from log_sum.h, p*f - s*c from scaled_softmax.h. The loss adds (m - x)*c to log1p(T/e)*sum(c), neither of
 * which cancels. Nor does the gradient of the class that the target names, by
 *
 *   s*((sum of the other c + 2*z*lse)*p - c*(1 - p)),   1 - p = T/S if it is the maximum, else at least 1/2
 *
 * Without smoothing and probabilities c is 0 elsewhere. Otherwise a second pass over x sums c and (m - x)*c of the
 * others (coef.h). */
#ifndef FSM_KERNELS_CROSS_ENTROPY_H
#define FSM_KERNELS_CROSS_ENTROPY_H

#include "scaled_softmax.h"
#include "schedule.h"

_Static_assert(LANES <= FSM_MAX_INTEGERS, "the targets of a block are read at once");

/* ---- the classes that targets name */

/* What the targets of up to LANES rows name. */
typedef struct {
    ptrdiff_t index[LANES]; /* of the class, or -1 */
    bool ignored[LANES];    /* the row does not count */
    real x[LANES];          /* its logit */
    double c[LANES];        /* its c, or 0 */
} target_class_t;

/* The targets of panel t, or of a batch of rows (t = 0). */
static void targets_of(const batch_t *b, int t, int64_t *targets) {
    const fsm_operand *operand = &b->args->operands[FSM_TARGET];
    for (int j = 0, run; j < rows_in_panel(b, t); j += run) {
        run = (int)rows_in_run(b, t * LANES + j);
        fsm_load_integers(operand, start_of(b, FSM_TARGET, t * LANES + j), operand->row_stride, run, targets + j);
    }
}

FSM_ALWAYS_INLINE bool is_ignored(const fsm_loss *loss, int64_t target) {
    return loss->ignores && target == loss->ignore_index;
}

/* Element at[j] of row j of panel t, or 0 where that is negative. */
static void pick(const batch_t *b, int which, int t, const ptrdiff_t *at, real *to) {
    const fsm_args *args = b->args;
    const fsm_operand *operand = &args->operands[which];
    if (!b->runs && args->axes == 1 && operand->storage == STORED_REAL && !operand->swapped) {
        const ptrdiff_t row_stride = operand->row_stride, step = operand->step[0];
        const char *row = b->row.at[which] + t * LANES * row_stride;
        for (int j = 0; j < LANES; j++, row += row_stride) {
            to[j] = 0;
            if (at[j] >= 0)
                memcpy(&to[j], row + at[j] * step, sizeof to[j]);
        }
        return;
    }
    for (int j = 0; j < LANES; j++)
        to[j] = at[j] < 0 ? 0 : element(args, which, start_of(b, which, t * LANES + j), at[j]);
}

/* Labels were looked at before (_core.pyx, count_labels()); but another thread may change them, and a result must not
 * then be written elsewhere. */
static void target_class_of(const batch_t *b, int t, target_class_t *target) {
    const fsm_args *args = b->args;
    const bool names = fsm_has_integers(&args->operands[FSM_TARGET]);
    const bool weighted = args->operands[FSM_CLASS_WEIGHT].data;
    int64_t targets[LANES];
    real weights[LANES];
    if (names)
        targets_of(b, t, targets);
    const int rows = names ? rows_in_panel(b, t) : 0;
    for (int j = 0; j < rows; j++) {
        target->ignored[j] = is_ignored(&args->loss, targets[j]);
        const bool counts = !target->ignored[j] & (targets[j] >= 0) & (targets[j] < b->n);
        target->index[j] = counts ? (ptrdiff_t)targets[j] : -1;
        weights[j] = counts;
    }
    for (int j = rows; j < LANES; j++) {
        target->ignored[j] = false;
        target->index[j] = -1;
        weights[j] = 0;
    }
    pick(b, FSM_X, t, target->index, target->x);
    if (weighted)
        pick(b, FSM_CLASS_WEIGHT, t, target->index, weights);
    const double own = 1 - args->loss.smoothing + args->loss.smoothing / (double)b->n;
    for (int j = 0; j < LANES; j++)
        target->c[j] = own * weights[j];
    if (args->loss.softcap > 0)
        cap_logits(args, target->x, LANES);
}

/* ---- losses, and what the gradient needs */

/* Stores the losses of panel t: NaN for rows without a sum, 0 for those that do not count. */
static void store_losses(const batch_t *b, int t, const log_sum_t *s, const bool *ignored, const double *losses) {
    const ptrdiff_t row_stride = b->args->operands[FSM_LOSS].row_stride;
    const int count = rows_in_panel(b, t);
    double stored[LANES];
    for (int j = 0; j < count; j++) {
        const bool none = (s->flags[j] != 0) | !(fabs(s->max[j]) < INFINITY) | (losses[j] != losses[j]);
        stored[j] = fsm_select(ignored[j], 0, fsm_select(none, NAN, losses[j]));
    }
    for (int j = 0, run; j < count; j += run) {
        run = (int)rows_in_run(b, t * LANES + j);
        fsm_copy(start_of(b, FSM_LOSS, t * LANES + j), row_stride, (const char *)(stored + j), sizeof *stored, run,
                 sizeof *stored, false);
    }
}

/* Finishes panel t, or a batch of rows (t = 0): stores the losses, and returns in `rows` what their gradients take.
 * `coefs` are those of other classes, or NULL. Two loops have no branch, so that compilers vectorise them; what they
 * give for rows without a sum is of no use. */
FSM_OUTLINE void cross_entropy_finish(const batch_t *b, int t, const log_sum_t *s, const target_class_t *target,
                                      const coef_sums_t *coefs, scaled_rows_t *rows) {
    static const coef_sums_t no_coefs;
    const fsm_loss loss = b->args->loss;
    const int count = rows_in_panel(b, t);
    const double scale = 1 / loss.divisor, of_z = loss.z / loss.z_divisor, z = of_z * loss.divisor;
    const coef_sums_t *others = coefs ? coefs : &no_coefs;
    double tails[LANES], losses[LANES], slopes[LANES], f[LANES], gradient[LANES], c_max[LANES];
    real max[LANES], shift[LANES], e[LANES];
    log_tails(s, count, tails);
    for (int j = 0; j < count; j++) {
        const double own = target->c[j], c = own + others->c[j], lse = s->max[j] + tails[j];
        const double distance = own * fsm_select(own == 0, 0, s->max[j] - target->x[j]);
        losses[j] = others->distance[j] + distance + c * tails[j] + z * lse * lse;
        slopes[j] = 2 * of_z * lse;
    }
    store_losses(b, t, s, target->ignored, losses);
    if (!b->args->operands[FSM_Y].data)
        return;
    for (int j = 0; j < LANES; j++) {
        max[j] = j < count ? (real)s->max[j] : 0;
        shift[j] = j < count ? (real)s->shift[j] : 0;
    }
    for (int j = count; j < LANES; j++)
        f[j] = c_max[j] = gradient[j] = 0;
    const vec finite_max = finite_or(vec_load(max), vec_set1(0));
    const exp_frame_t frame = exp_frame_of(finite_max, vec_load(shift), b->beta);
    vec_store(e, exp_block(vec_load(target->x), frame, true));
    for (int j = 0; j < count; j++) {
        const double own = target->c[j], slope = slopes[j];
        f[j] = scale * (own + others->c[j]) + slope;
        c_max[j] = fabs(scale) * others->max[j];

        const double rest = s->others[j].hi + s->others[j].lo, sum = s->e[j] + rest;
        const bool is_max = target->index[j] == s->index[j];
        const double p = fsm_select(is_max, s->e[j], e[j]) / sum;
        const double own_rest = fsm_select(is_max, own * rest / sum, own * (1 - p));
        gradient[j] = scale * (others->c[j] * p - own_rest) + slope * p;
    }
    scaled_rows_of(rows, s, f, count);
    if (coefs)
        add_c_to_scaled_rows(rows, s, f, count, -scale, c_max);
    for (int j = 0; j < count; j++) {
        const double part = loss.softcap > 0 ? target->x[j] / loss.softcap : 0;
        rows->own.result[j] = (real)(gradient[j] * (1 - part * part));
        rows->own.index[j] = target->index[j];
    }
    for (int j = 0; loss.ignores && j < count; j++)
        if (target->ignored[j]) {
            rows->filled[j] = true;
            rows->fill[j] = 0;
        }
}

/* ---- rows */

/* Rows that count. */
static void cross_entropy_counted(const batch_t *b) {
    const bool with_c = has_coefs(b->args);
    const scaled_kind_t kind = with_c ? SCALED_AND_C : can_keep(b) ? SCALED_KEPT : SCALED;
    log_sum_t sum;
    target_class_t target;
    coef_sums_t coefs;
    scaled_rows_t rows;
    target_class_of(b, 0, &target);
    log_sum_rows(b, &sum, kind == SCALED_KEPT ? KEPT : SUMS);
    for (ptrdiff_t r = 0; with_c && r < b->rows; r++)
        coef_sum_row(b, r, isfinite(sum.max[r]) ? (real)sum.max[r] : 0, target.index[r], &coefs);
    cross_entropy_finish(b, 0, &sum, &target, with_c ? &coefs : NULL, &rows);
    if (b->args->operands[FSM_Y].data)
        scaled_softmax_rows(b, &sum, &rows, kind);
}

/* Rows that do not. */
static void cross_entropy_ignored(const batch_t *b) {
    const double none = 0;
    for (ptrdiff_t r = 0; r < b->rows; r++) {
        memcpy(start_of(b, FSM_LOSS, r), &none, sizeof none);
        if (b->args->operands[FSM_Y].data)
            fill_row(b, r, 0, 0);
    }
}

/* Runs of rows that count, and of others, which are not read. */
static void cross_entropy_rows(const batch_t *b) {
    const fsm_loss *loss = &b->args->loss;
    bool ignored[LANES] = {false};
    if (loss->ignores) {
        int64_t targets[LANES];
        targets_of(b, 0, targets);
        for (ptrdiff_t r = 0; r < b->rows; r++)
            ignored[r] = is_ignored(loss, targets[r]);
    }
    batch_t run = *b;
    for (ptrdiff_t r = 0; r < b->rows; r += run.rows) {
        run.row = row_of(b, r);
        run.rows = 1;
        while (r + run.rows < b->rows && ignored[r + run.rows] == ignored[r])
            run.rows++;
        if (ignored[r])
            cross_entropy_ignored(&run);
        else
            cross_entropy_counted(&run);
    }
}

/* Short rows, without a c of other classes. */
static void cross_entropy_short_rows(const batch_t *b) {
    log_sum_t sum;
    target_class_t target;
    scaled_rows_t rows;
    real e[SHORT_ROOM];
    if (!log_sum_short_rows(b, &sum, e)) {
        cross_entropy_rows(b);
        return;
    }
    target_class_of(b, 0, &target);
    cross_entropy_finish(b, 0, &sum, &target, NULL, &rows);
    if (b->args->operands[FSM_Y].data)
        scaled_softmax_short_rows(b, &rows, e);
}

/* ---- panels */

static void cross_entropy_panels(const batch_t *b) {
    const bool with_c = has_coefs(b->args);
    log_sum_t sums[LOG_PANELS];
    target_class_t targets[LOG_PANELS];
    coef_sums_t coefs[LOG_PANELS];
    scaled_rows_t rows[LOG_PANELS];
    log_sum_panels(b, sums, SUMS);
    for (int t = 0; t < b->panels; t++)
        target_class_of(b, t, &targets[t]);
    if (with_c) {
        coef_pass_t pass;
        for (int t = 0; t < b->panels; t++) {
            real half_max[LANES];
            for (int j = 0; j < LANES; j++)
                half_max[j] = isfinite(sums[t].max[j]) ? (real)sums[t].max[j] / 2 : 0;
            pass.target_class[t] = targets[t].index;
            pass.half_max[t] = vec_load(half_max);
            pass.max[t] = vec_set1(0);
        }
        coef_sum_panels(b, &pass, coefs);
    }
    for (int t = 0; t < b->panels; t++)
        cross_entropy_finish(b, t, &sums[t], &targets[t], with_c ? &coefs[t] : NULL, &rows[t]);
    if (b->args->operands[FSM_Y].data)
        scaled_softmax_panels(b, sums, rows, with_c ? SCALED_AND_C : SCALED);
}

static void cross_entropy(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const bool with_c = has_coefs(args), with_grad = args->operands[FSM_Y].data;
    const plan_t plan = {
        .rows = cross_entropy_rows,
        .panels = cross_entropy_panels,
        .short_rows = with_c ? NULL : IF_PARTS_PAY(cross_entropy_short_rows),
        .operands = BIT(FSM_X) | BIT(FSM_Y),
        .transposes = !with_grad,
        .writes_once = true,
        .packs_rows = with_grad || with_c,
        .room = with_c ? SPARE_AT : LANES_AT,
        .max_panels = LOG_PANELS,
        .max_rows = LANES,
    };
    each_batch(args, begin, end, scratch, &plan);
}

#endif
