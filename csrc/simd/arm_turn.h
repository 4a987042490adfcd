/* Squares of numbers turned in registers, for AArch64: NEON's registers, which CPUs with SVE have too. */
#ifndef FSM_SIMD_ARM_TURN_H
#define FSM_SIMD_ARM_TURN_H

#include "real.h"

#include <arm_neon.h>

#if FSM_REAL == 32

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int i = 0; i < 8; i += 4) {
        FSM_UNROLL
        for (int j = 0; j < 8; j += 4) {
            const char *at = from + i * from_step + j * (ptrdiff_t)sizeof(float);
            float32x4_t rows[4];
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                rows[k] = vld1q_f32((const float *)(at + k * from_step));
            const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
            const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
            const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
            const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
            const float64x2_t columns[4] = {vtrn1q_f64(a, c), vtrn1q_f64(b, d), vtrn2q_f64(a, c), vtrn2q_f64(b, d)};
            FSM_UNROLL
            for (int k = 0; k < 4; k++) {
                float *column = (float *)(to + (j + k) * to_step) + i;
                vst1q_f32(column, vreinterpretq_f32_f64(columns[k]));
            }
        }
    }
}

#endif

#if FSM_REAL == 64

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int i = 0; i < 4; i += 2) {
        FSM_UNROLL
        for (int j = 0; j < 4; j += 2) {
            const char *at = from + i * from_step + j * (ptrdiff_t)sizeof(double);
            const float64x2_t upper = vld1q_f64((const double *)at),
                              lower = vld1q_f64((const double *)(at + from_step));
            vst1q_f64((double *)(to + j * to_step) + i, vtrn1q_f64(upper, lower));
            vst1q_f64((double *)(to + (j + 1) * to_step) + i, vtrn2q_f64(upper, lower));
        }
    }
}

#endif

#endif
