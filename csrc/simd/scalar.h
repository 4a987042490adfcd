/* One lane at a time with a true fused multiply-add (the C library's, where the target has no instruction):
 * slow, and the reference whose bits every other file is tested against. */
#ifndef FSM_SIMD_SCALAR_H
#define FSM_SIMD_SCALAR_H

#include <math.h>

#define FSM_ISA                scalar
#define fma_f32(a, b, c)       fmaf(a, b, c)
#define fma_f64(a, b, c)       fma(a, b, c)
#define mul_error_f32(a, b, p) fmaf(a, b, -(p))
#define mul_error_f64(a, b, p) fma(a, b, -(p))
#define scale_f32(e, hi, lo)   fmaf(e, hi, (e) * (lo))
#define scale_f64(e, hi, lo)   fma(e, hi, (e) * (lo))

#include "lanes.h"

#endif
