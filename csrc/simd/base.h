/* CPUs without a fused multiply-add: as accurate as the others, but outside the promise of equal bits. */
#ifndef FSM_SIMD_BASE_H
#define FSM_SIMD_BASE_H

#define FSM_ISA base

/* The product of two floats is exact in double; what is left is one rounding to double before the one to
 * float. The reduction of x by multiples of ln2 needs that. */
#define fma_f32(a, b, c)     (float)((double)(a) * (b) + (c))
#define scale_f32(e, hi, lo) (float)((double)(e) * (hi) + (e) * (lo))

/* The reduction is exact all the same: LN2_HI has 31 bits (tools/exp_constants.py). Elsewhere a rounding more is no
 * harm. */
#define fma_f64(a, b, c)       ((a) * (b) + (c))
#define mul_error_f32(a, b, p) (float)((double)(a) * (b) - (p))
#define mul_error_f64(a, b, p) product_error(a, b, p)
#define scale_f64(e, hi, lo)   product_plus(e, hi, (e) * (lo))

/* a*b - p, exactly, for p = a*b rounded (Dekker, "A floating-point technique for extending the available precision",
 * 1971). |a|, |b| < 2^990. */
static inline double product_error(double a, double b, double p) {
    const double splitter = 0x1p27 + 1;
    double a_hi = a * splitter - (a * splitter - a), a_lo = a - a_hi;
    double b_hi = b * splitter - (b * splitter - b), b_lo = b - b_hi;
    return ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
}

/* a*b + c for a small c. */
static inline double product_plus(double a, double b, double c) {
    double p = a * b;
    return p + (product_error(a, b, p) + c);
}

#include "lanes.h"

#endif
