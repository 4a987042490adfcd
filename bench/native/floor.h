/* The arithmetic floor: what softmax spends on numbers that are already in L1. Compiled into an instruction set's file,
 * once a precision, where the build defines FSM_PROBE as the path of this file (bench/yardsticks.py). */

/* The three sweeps of one chunk, n <= FSM_CHUNK elements of ordinary size, `times` times. */
void FN(floor)(const void *x, void *y, ptrdiff_t n, ptrdiff_t times);

void FN(floor)(const void *from, void *to, ptrdiff_t n, ptrdiff_t times) {
    const real *x = from;
    real *y = to;
    for (ptrdiff_t t = 0; t < times; t++) {
        const FN(range) range = FN(range_chunk)(FN(range_of)(vec_set1(x[0])), x, n, x[0]);
        const FN(exp_frame) frame = FN(exp_frame_of)(vec_set1(vec_hmax(range.max)), vec_set1(0));
        const fsm_sum sum = FN(exp_chunk)(x, y, n, &frame, false);
        real hi, lo;
        FN(sum_reciprocal)(sum, &hi, &lo);
        FN(quotient_chunk)(y, n, (FN(divisor)){vec_set1(hi), vec_set1(lo)});
    }
}
