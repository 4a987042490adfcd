#if FSM_REAL == 64

/* Sums of float64 for instruction sets whose vec has add, sub, set1 and store: TwoSum in each lane, as fsm_two_sum
 * does it for one. What is left to them is vec_acc_fold. */
#ifndef FSM_SIMD_TWO_SUM_H
#define FSM_SIMD_TWO_SUM_H

#include "real.h"

typedef struct {
    vec hi, lo;
} vec_acc;

FSM_INLINE vec_acc vec_acc_zero(void) {
    return (vec_acc){vec_set1(0), vec_set1(0)};
}

/* The rounding error of hi = a + b. */
FSM_INLINE vec two_sum_error(vec a, vec b, vec hi) {
    vec of_b = vec_sub(hi, a);
    return vec_add(vec_sub(a, vec_sub(hi, of_b)), vec_sub(b, of_b));
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    vec hi = vec_add(s.hi, a);
    return (vec_acc){hi, vec_add(s.lo, two_sum_error(s.hi, a, hi))};
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    vec hi = vec_add(a.hi, b.hi);
    return (vec_acc){hi, vec_add(vec_add(a.lo, b.lo), two_sum_error(a.hi, b.hi, hi))};
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    vec_store(hi, s.hi);
    vec_store(lo, s.lo);
}

#endif

#endif
