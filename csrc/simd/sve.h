/* SVE of the length the file is compiled for (-msve-vector-bits=128, 256 or 512): a block is eight, four or two
 * registers. fmax and fmin give NaN for a NaN operand; subnormal operands cost nothing. */
#ifndef FSM_SVE_H
#define FSM_SVE_H

#include "real.h"
#include "../arrays/half.h"

#include <arm_neon.h>
#include <arm_sve.h>
#include <string.h>

#define FSM_ISA   sve
#define REGISTERS (1024 / __ARM_FEATURE_SVE_BITS)
#define EACH(i)                                                                                                        \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < REGISTERS; i++)

#include "arm_turn.h"

#define LANES32 (__ARM_FEATURE_SVE_BITS / 32) /* of one register */
#define ALL32   svptrue_b32()

typedef svfloat32_t register_f32 __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

#if FSM_REAL == 32

typedef struct {
    register_f32 v[REGISTERS];
} vec;

#endif

/* The lanes of register i that are among the first n of the block. */
FSM_INLINE svbool_t lanes32(ptrdiff_t n, int i) {
    return svwhilelt_b32((int64_t)i * LANES32, (int64_t)n);
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load(const float *p) {
    vec r;
    EACH(i)
        r.v[i] = svld1_f32(ALL32, p + LANES32 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const float *p, ptrdiff_t n, float fill) {
    vec r;
    EACH(i) {
        svbool_t lanes = lanes32(n, i);
        r.v[i] = svsel_f32(lanes, svld1_f32(lanes, p + LANES32 * i), svdup_f32(fill));
    }
    return r;
}

FSM_INLINE void vec_store(float *p, vec a) {
    EACH(i)
        svst1_f32(ALL32, p + LANES32 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(float *p, ptrdiff_t n, vec a) {
    EACH(i)
        svst1_f32(lanes32(n, i), p + LANES32 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store(float *p, vec a) {
    vec_store(p, a);
}

FSM_INLINE void vec_nt_store_line(float *p, const float *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vec_nt_end(void) {
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = svcvt_f32_f16_x(ALL32, svreinterpret_f16_u32(svld1uh_u32(ALL32, p + LANES32 * i)));
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        svst1h_u32(ALL32, p + LANES32 * i, svreinterpret_u32_f16(svcvt_f16_f32_x(ALL32, a.v[i])));
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = svreinterpret_f32_u32(svlsl_n_u32_x(ALL32, svld1uh_u32(ALL32, p + LANES32 * i), 16));
    return r;
}

/* fsm_f32_to_bf16 (half.h). */
FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    EACH(i) {
        svuint32_t bits = svreinterpret_u32_f32(a.v[i]);
        svuint32_t last = svand_n_u32_x(ALL32, svlsr_n_u32_x(ALL32, bits, 16), 1);
        svuint32_t rounded = svadd_u32_x(ALL32, svadd_n_u32_x(ALL32, bits, 0x7fff), last);
        svuint32_t nan = svorr_n_u32_x(ALL32, bits, 0x00400000);
        svuint32_t which = svsel_u32(svcmpuo_f32(ALL32, a.v[i], a.v[i]), nan, rounded);
        svst1h_u32(ALL32, p + LANES32 * i, svlsr_n_u32_x(ALL32, which, 16));
    }
}

FSM_INLINE vec vec_set1(float a) {
    vec r;
    EACH(i)
        r.v[i] = svdup_f32(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = svadd_f32_x(ALL32, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = svsub_f32_x(ALL32, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = svmul_f32_x(ALL32, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = svmla_f32_x(ALL32, c.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = svnmls_f32_x(ALL32, p.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = svmax_f32_x(ALL32, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = svmin_f32_x(ALL32, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = svabs_f32_x(ALL32, a.v[i]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(x, low);
}

FSM_INLINE vec vec_flush(vec x) {
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = svsel_f32(svcmplt_f32(ALL32, a.v[i], b.v[i]), yes.v[i], no.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = svreinterpret_f32_u32(svlsl_n_u32_x(ALL32, svreinterpret_u32_f32(z.v[i]), 23));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] =
            svreinterpret_f32_u32(svsub_u32_x(ALL32, svreinterpret_u32_f32(a.v[i]), svreinterpret_u32_f32(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] =
            svreinterpret_f32_u32(svorr_u32_x(ALL32, svreinterpret_u32_f32(a.v[i]), svreinterpret_u32_f32(b.v[i])));
    return a;
}

FSM_INLINE float vec_hmax(vec a) {
    FSM_UNROLL
    for (int i = 1; i < REGISTERS; i++)
        a.v[0] = svmax_f32_x(ALL32, a.v[0], a.v[i]);
    return svmaxv_f32(ALL32, a.v[0]);
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    svbool_t any = svpfalse_b();
    EACH(i)
        any = svorr_b_z(ALL32, any, svcmplt_f32(ALL32, a.v[i], b.v[i]));
    return svptest_any(ALL32, any);
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    EACH(i) {
        svbool_t equal = svcmpeq_f32(ALL32, a.v[i], b.v[i]);
        if (svptest_any(ALL32, equal))
            return LANES32 * i + (int)svcntp_b32(ALL32, svbrkb_b_z(ALL32, equal));
    }
    return 32;
}

#endif

#define LANES64 (__ARM_FEATURE_SVE_BITS / 64) /* of one register */
#define ALL64   svptrue_b64()

typedef svfloat64_t register_f64 __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

#if FSM_REAL == 64

typedef struct {
    register_f64 v[REGISTERS];
} vec;

#endif

/* The lanes of register i that are among the first n of the block. */
FSM_INLINE svbool_t lanes64(ptrdiff_t n, int i) {
    return svwhilelt_b64((int64_t)i * LANES64, (int64_t)n);
}

#if FSM_REAL == 64

FSM_INLINE vec vec_load(const double *p) {
    vec r;
    EACH(i)
        r.v[i] = svld1_f64(ALL64, p + LANES64 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const double *p, ptrdiff_t n, double fill) {
    vec r;
    EACH(i) {
        svbool_t lanes = lanes64(n, i);
        r.v[i] = svsel_f64(lanes, svld1_f64(lanes, p + LANES64 * i), svdup_f64(fill));
    }
    return r;
}

FSM_INLINE void vec_store(double *p, vec a) {
    EACH(i)
        svst1_f64(ALL64, p + LANES64 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(double *p, ptrdiff_t n, vec a) {
    EACH(i)
        svst1_f64(lanes64(n, i), p + LANES64 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store(double *p, vec a) {
    vec_store(p, a);
}

FSM_INLINE void vec_nt_store_line(double *p, const double *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vec_nt_end(void) {
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = svcvt_f64_f16_x(ALL64, svreinterpret_f16_u64(svld1uh_u64(ALL64, p + LANES64 * i)));
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        svst1h_u64(ALL64, p + LANES64 * i, svreinterpret_u64_f16(svcvt_f16_f64_x(ALL64, a.v[i])));
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i) {
        svuint64_t bits = svlsl_n_u64_x(ALL64, svld1uh_u64(ALL64, p + LANES64 * i), 16);
        r.v[i] = svcvt_f64_f32_x(ALL64, svreinterpret_f32_u64(bits));
    }
    return r;
}

/* Without SVE2 nothing rounds to odd. */
FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    double lanes[16];
    vec_store(lanes, a);
    for (int j = 0; j < 16; j++)
        p[j] = fsm_f32_to_bf16(fsm_f64_to_f32_odd(lanes[j]));
}

FSM_INLINE vec vec_set1(double a) {
    vec r;
    EACH(i)
        r.v[i] = svdup_f64(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = svadd_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = svsub_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = svmul_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = svmla_f64_x(ALL64, c.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = svnmls_f64_x(ALL64, p.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = svmax_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = svmin_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = svabs_f64_x(ALL64, a.v[i]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(x, low);
}

FSM_INLINE vec vec_flush(vec x) {
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = svsel_f64(svcmplt_f64(ALL64, a.v[i], b.v[i]), yes.v[i], no.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = svreinterpret_f64_u64(svlsl_n_u64_x(ALL64, svreinterpret_u64_f64(z.v[i]), 52));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] =
            svreinterpret_f64_u64(svsub_u64_x(ALL64, svreinterpret_u64_f64(a.v[i]), svreinterpret_u64_f64(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] =
            svreinterpret_f64_u64(svorr_u64_x(ALL64, svreinterpret_u64_f64(a.v[i]), svreinterpret_u64_f64(b.v[i])));
    return a;
}

FSM_INLINE double vec_hmax(vec a) {
    FSM_UNROLL
    for (int i = 1; i < REGISTERS; i++)
        a.v[0] = svmax_f64_x(ALL64, a.v[0], a.v[i]);
    return svmaxv_f64(ALL64, a.v[0]);
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    svbool_t any = svpfalse_b();
    EACH(i)
        any = svorr_b_z(ALL64, any, svcmplt_f64(ALL64, a.v[i], b.v[i]));
    return svptest_any(ALL64, any);
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    EACH(i) {
        svbool_t equal = svcmpeq_f64(ALL64, a.v[i], b.v[i]);
        if (svptest_any(ALL64, equal))
            return LANES64 * i + (int)svcntp_b64(ALL64, svbrkb_b_z(ALL64, equal));
    }
    return 16;
}

#include "two_sum.h"

/* Registers fold by halves; the lanes of the last one as numbers. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    vec_acc upper = s;
    FSM_UNROLL
    for (int width = REGISTERS / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            upper.hi.v[i] = s.hi.v[i + width];
            upper.lo.v[i] = s.lo.v[i + width];
        }
        s = vec_acc_merge(s, upper);
    }
    double hi[16], lo[16];
    vec_acc_get(s, hi, lo);
    fsm_sum lanes[LANES64];
    for (int j = 0; j < LANES64; j++)
        lanes[j] = (fsm_sum){hi[j], lo[j]};
    for (int width = LANES64 / 2; width > 0; width /= 2)
        for (int j = 0; j < width; j++)
            lanes[j] = fsm_two_sum(lanes[j], lanes[j + width]);
    return lanes[0];
}

#endif

#if FSM_REAL == 32

typedef struct {
    register_f64 v[2 * REGISTERS];
} vec_acc;

FSM_INLINE vec_acc vec_acc_zero(void) {
    vec_acc s;
    FSM_UNROLL
    for (int i = 0; i < 2 * REGISTERS; i++)
        s.v[i] = svdup_f64(0);
    return s;
}

/* Unpacking leaves a float in the low half of each 64-bit lane, where the conversion reads it. */
FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(i) {
        svuint32_t bits = svreinterpret_u32_f32(a.v[i]);
        svfloat64_t low = svcvt_f64_f32_x(ALL64, svreinterpret_f32_u64(svunpklo_u64(bits)));
        svfloat64_t high = svcvt_f64_f32_x(ALL64, svreinterpret_f32_u64(svunpkhi_u64(bits)));
        s.v[2 * i] = svadd_f64_x(ALL64, s.v[2 * i], low);
        s.v[2 * i + 1] = svadd_f64_x(ALL64, s.v[2 * i + 1], high);
    }
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    FSM_UNROLL
    for (int i = 0; i < 2 * REGISTERS; i++)
        a.v[i] = svadd_f64_x(ALL64, a.v[i], b.v[i]);
    return a;
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    FSM_UNROLL
    for (int i = 0; i < 2 * REGISTERS; i++) {
        svst1_f64(ALL64, hi + LANES64 * i, s.v[i]);
        svst1_f64(ALL64, lo + LANES64 * i, svdup_f64(0));
    }
}

FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    FSM_UNROLL
    for (int width = REGISTERS; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            s.v[i] = svadd_f64_x(ALL64, s.v[i], s.v[i + width]);
    double lanes[LANES64];
    svst1_f64(ALL64, lanes, s.v[0]);
    for (int width = LANES64 / 2; width > 0; width /= 2)
        for (int j = 0; j < width; j++)
            lanes[j] += lanes[j + width];
    return (fsm_sum){lanes[0], 0};
}

#endif

#endif
