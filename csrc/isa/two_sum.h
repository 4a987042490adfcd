/* Sums of float64 for instruction sets whose vf64 has add, sub, set1 and store: TwoSum in each lane, as fsm_two_sum
 * does it for one. What is left to them is vf64_acc_fold. */

typedef struct {
    vf64 hi, lo;
} vf64_acc;

FSM_INLINE vf64_acc vf64_acc_zero(void) {
    return (vf64_acc){vf64_set1(0), vf64_set1(0)};
}

/* The rounding error of hi = a + b. */
FSM_INLINE vf64 two_sum_error(vf64 a, vf64 b, vf64 hi) {
    vf64 of_b = vf64_sub(hi, a);
    return vf64_add(vf64_sub(a, vf64_sub(hi, of_b)), vf64_sub(b, of_b));
}

FSM_INLINE vf64_acc vf64_acc_add(vf64_acc s, vf64 a) {
    vf64 hi = vf64_add(s.hi, a);
    return (vf64_acc){hi, vf64_add(s.lo, two_sum_error(s.hi, a, hi))};
}

FSM_INLINE vf64_acc vf64_acc_merge(vf64_acc a, vf64_acc b) {
    vf64 hi = vf64_add(a.hi, b.hi);
    return (vf64_acc){hi, vf64_add(vf64_add(a.lo, b.lo), two_sum_error(a.hi, b.hi, hi))};
}

FSM_INLINE void vf64_acc_get(vf64_acc s, double *hi, double *lo) {
    vf64_store(hi, s.hi);
    vf64_store(lo, s.lo);
}
