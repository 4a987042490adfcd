/* The arithmetic floor: what softmax spends on numbers that are already in L1. Compiled into an instruction set's file,
 * once a precision, where the build defines FSM_PROBE as the path of this file (bench/yardsticks.py). */

/* The three sweeps of one chunk, n <= FSM_CHUNK elements of ordinary size, `times` times. */
void FN(floor)(const void *x, void *y, ptrdiff_t n, ptrdiff_t times);

void FN(floor)(const void *from, void *to, ptrdiff_t n, ptrdiff_t times) {
    const real *x = from;
    real *y = to;
    const FN(beta) beta = FN(beta_of)(1);
    for (ptrdiff_t t = 0; t < times; t++) {
        const FN(softmax_plan) plan = FN(softmax_plan_of)(FN(softmax_range)(x, n), beta, false);
        const fsm_sum sum = FN(sum_row_body)(x, y, n, -1, plan.frame, FN(PLAIN));
        FN(quotient_chunk)(y, n, FN(softmax_divisor)(&sum, false));
    }
}
