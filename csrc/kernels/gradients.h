/* softmax_grad: dx = y*(grad - sum(grad*y))/T, from grad (x of the arguments) and y (saved).
 * log_softmax_grad: dx = (grad - exp(logp)*sum(grad))/T, from grad and logp (saved).
 *
 * Two sweeps: the sum, in the order of passes.h; then the result. On wide rows y and the result are subnormal in
 * places, which as operands and results of arithmetic cost a hundred cycles each on many CPUs. So y and exp(logp) are
 * taken times E_FACTOR, as exponentials are elsewhere, and integers take that off the result (unscale()). Rows for
 * which that is too much, or which have a NaN or an infinity, are done one by one, without hurry (plain_gradient()). */

typedef enum { FN(OF_SOFTMAX), FN(OF_LOG_SOFTMAX) } FN(gradient);

/* What decides whether a row is ordinary: the largest |grad|, the smallest saved number and the largest. */
typedef struct {
    vec grad, low, high;
} FN(reach);

FSM_INLINE FN(reach) FN(reach_of)(vec grad, vec saved) {
    return (FN(reach)){vec_abs(grad), saved, saved};
}

FSM_INLINE FN(reach) FN(reach_join)(FN(reach) a, FN(reach) b) {
    return (FN(reach)){vec_max(a.grad, b.grad), vec_min(a.low, b.low), vec_max(a.high, b.high)};
}

/* y * E_FACTOR, y >= 0. A subnormal y has its bits read as an integer: with an exponent field above them they are a
 * normal number, too large by what the field alone stands for. */
FSM_INLINE vec FN(scale)(vec y) {
    const vec normal = vec_mul(vec_flush(y), vec_set1(E_FACTOR));
    const vec subnormal = vec_sub(vec_bits_sub(vec_abs(y), vec_set1(MINUS_E_FIELD)), vec_set1(E_FACTOR * MIN_NORMAL));
    return vec_select_lt(vec_abs(y), vec_set1(MIN_NORMAL), subnormal, normal);
}

/* v / E_FACTOR, rounded once, as a quotient is (math.h), but of either sign. */
FSM_INLINE vec FN(unscale)(vec v) {
    const vec unit = vec_set1(E_FACTOR * MIN_NORMAL / 2);
    const vec size = vec_abs(v), subnormal = vec_fma(size, vec_set1((real)0.5), unit);
    const vec result = vec_bits_sub(vec_max(size, subnormal), unit);
    return vec_select_lt(v, vec_set1(0), vec_bits_sub(result, vec_set1((real)-0.0)), result);
}

/* ---- sums */

/* Of 4 blocks of a lane; fewer are 0. */
FSM_INLINE vec FN(gradient_terms)(const vec *grad, const vec *saved, FN(gradient) of) {
    if (of == FN(OF_LOG_SOFTMAX))
        return vec_add(vec_add(grad[0], grad[2]), vec_add(grad[1], grad[3]));
    const vec even = vec_fma(grad[2], FN(scale)(saved[2]), vec_mul(grad[0], FN(scale)(saved[0])));
    const vec odd = vec_fma(grad[3], FN(scale)(saved[3]), vec_mul(grad[1], FN(scale)(saved[1])));
    return vec_add(even, odd);
}

/* The sum over a chunk of a row; widens `reach`. */
FSM_INLINE fsm_sum FN(gradient_sum_row)(const real *grad, const real *saved, ptrdiff_t n, FN(reach) * reach,
                                        FN(gradient) of) {
    vec_acc lanes = vec_acc_zero();
    FN(reach) all = *reach;
    for (ptrdiff_t i = 0; i < n; i += 4 * LANES) {
        vec a[4], b[4];
        const bool full = n - i >= 4 * LANES;
        FSM_UNROLL
        for (int step = 0; step < 4; step++) {
            const ptrdiff_t left = n - i - step * LANES, here = left < 0 ? 0 : left < LANES ? left : LANES;
            a[step] = full ? vec_load(grad + i + step * LANES) : vec_load_n(grad + i + step * LANES, here, 0);
            b[step] = full ? vec_load(saved + i + step * LANES) : vec_load_n(saved + i + step * LANES, here, 0);
            all = FN(reach_join)(all, FN(reach_of)(a[step], b[step]));
        }
        lanes = vec_acc_add(lanes, FN(gradient_terms)(a, b, of));
    }
    *reach = all;
    return vec_acc_fold(lanes);
}

/* ---- results */

/* What the second sweep needs of a row, or of each column: the sum (of softmax without E_FACTOR), and 1/T. */
typedef struct {
    vec sum, beta;
} FN(gradient_plan);

FSM_INLINE vec FN(gradient_of)(vec grad, vec saved, FN(gradient_plan) plan, FN(gradient) of) {
    if (of == FN(OF_SOFTMAX))
        return FN(unscale)(vec_mul(vec_mul(vec_sub(grad, plan.sum), plan.beta), FN(scale)(saved)));
    const vec zero = vec_set1(0);
    const FN(beta) one = {1, 0, 0};
    const vec e = FN(exp)(vec_flush(saved), FN(exp_frame_of)(zero, zero, one), false);
    const vec minus_e = vec_sub(zero, e);
    return FN(unscale)(vec_mul(vec_fma(minus_e, plan.sum, vec_mul(grad, vec_set1(E_FACTOR))), plan.beta));
}
