/* What the instruction sets of AArch64 share: NEON's registers, which CPUs with SVE have too. */
#ifndef FSM_ARM_H
#define FSM_ARM_H

#include "real.h"

#include <arm_neon.h>

/* In squares of the size of a register. */
FSM_ALWAYS_INLINE void reg_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    const int side = 16 / (int)sizeof(real);
    FSM_UNROLL
    for (int i = 0; i < SIDE; i += side) {
        FSM_UNROLL
        for (int j = 0; j < SIDE; j += side) {
            const char *at = from + i * from_step + j * (ptrdiff_t)sizeof(real);
#if FSM_REAL == 32
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
            for (int k = 0; k < 4; k++)
                vst1q_f32((float *)(to + (j + k) * to_step) + i, vreinterpretq_f32_f64(columns[k]));
#else
            const float64x2_t a = vld1q_f64((const double *)at), b = vld1q_f64((const double *)(at + from_step));
            vst1q_f64((double *)(to + j * to_step) + i, vtrn1q_f64(a, b));
            vst1q_f64((double *)(to + (j + 1) * to_step) + i, vtrn2q_f64(a, b));
#endif
        }
    }
}

#endif
