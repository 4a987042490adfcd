/* CPUs without a fused multiply-add: as accurate as the others, but outside the promise of equal bits. */
#ifndef FSM_SIMD_BASE_H
#define FSM_SIMD_BASE_H

#include "real.h"

#define FSM_ISA          base
#define FSM_HAS_LANE_FMA 1

#if FSM_REAL == 32

/* The product of two floats is exact in double; what is left is one rounding to double before the one to
 * float. The reduction of x by multiples of ln2 needs that. */
FSM_ALWAYS_INLINE float lane_fma(float a, float b, float c) {
    return (float)((double)a * b + c);
}

FSM_ALWAYS_INLINE float lane_mul_error(float a, float b, float p) {
    return lane_fma(a, b, -p);
}

FSM_ALWAYS_INLINE float lane_scale(float e, float hi, float lo) {
    return lane_fma(e, hi, e * lo);
}

#else

/* The reduction is exact all the same: LN2_HI has 31 bits (tools/exp_constants.py). Elsewhere a rounding more is no
 * harm. */
FSM_ALWAYS_INLINE double lane_fma(double a, double b, double c) {
    return a * b + c;
}

/* Dekker, "A floating-point technique for extending the available precision", 1971. |a|, |b| < 2^990. */
FSM_ALWAYS_INLINE double lane_mul_error(double a, double b, double p) {
    const double splitter = 0x1p27 + 1;
    double a_hi = a * splitter - (a * splitter - a), a_lo = a - a_hi;
    double b_hi = b * splitter - (b * splitter - b), b_lo = b - b_hi;
    return ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
}

/* What is added is small, and nothing where the product is not finite: hi may be infinite (scaled_rows_of()). */
FSM_ALWAYS_INLINE double lane_scale(double e, double hi, double lo) {
    const double p = e * hi, more = lane_mul_error(e, hi, p) + e * lo;
    return p - p == 0 ? p + more : p;
}

#endif

#include "lanes.h"

#endif
