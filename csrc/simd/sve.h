/* SVE of the length the file is compiled for (-msve-vector-bits=128, 256 or 512). fmax and fmin give NaN for a NaN
 * operand; subnormal operands cost nothing. */
#ifndef FSM_SVE_H
#define FSM_SVE_H

#include "../arrays/half.h"
#include "arm.h"
#include "real.h"

#include <arm_sve.h>

#define FSM_ISA         sve
#define FSM_HAS_PARTIAL 1

#define SVE_SIZED       __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)))

typedef svfloat64_t wide SVE_SIZED;
typedef svbool_t reg_mask SVE_SIZED;

/* SV and SV_INT take the lanes that count and leave others undefined; SV_AS takes no such choice. */
#if FSM_REAL == 32
typedef svfloat32_t reg SVE_SIZED;
#define ALL           svptrue_b32()
#define SV(op)        sv##op##_f32_x
#define SV_INT(op)    sv##op##_u32_x
#define SV_AS(op)     sv##op##_f32
#define SV_BITS(a)    svreinterpret_u32_f32(a)
#define SV_OF_BITS(a) svreinterpret_f32_u32(a)
#else
typedef wide reg;
#define ALL           svptrue_b64()
#define SV(op)        sv##op##_f64_x
#define SV_INT(op)    sv##op##_u64_x
#define SV_AS(op)     sv##op##_f64
#define SV_BITS(a)    svreinterpret_u64_f64(a)
#define SV_OF_BITS(a) svreinterpret_f64_u64(a)
#endif

FSM_ALWAYS_INLINE reg reg_load(const real *p) {
    return SV_AS(ld1)(ALL, p);
}

FSM_ALWAYS_INLINE void reg_store(real *p, reg a) {
    SV_AS(st1)(ALL, p, a);
}

/* A register that begins at lane `first` of a block: which of its lanes are among the first n of the block. */
FSM_ALWAYS_INLINE reg_mask lanes_below(ptrdiff_t n, int first) {
#if FSM_REAL == 32
    return svwhilelt_b32((int64_t)first, (int64_t)n);
#else
    return svwhilelt_b64((int64_t)first, (int64_t)n);
#endif
}

FSM_ALWAYS_INLINE reg reg_load_n(const real *p, ptrdiff_t n, int first, real fill) {
    const reg_mask lanes = lanes_below(n, first);
    return SV_AS(sel)(lanes, SV_AS(ld1)(lanes, p + first), SV_AS(dup)(fill));
}

FSM_ALWAYS_INLINE void reg_store_n(real *p, ptrdiff_t n, int first, reg a) {
    SV_AS(st1)(lanes_below(n, first), p + first, a);
}

FSM_ALWAYS_INLINE reg reg_set1(real a) {
    return SV_AS(dup)(a);
}

FSM_ALWAYS_INLINE reg reg_add(reg a, reg b) {
    return SV(add)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg reg_sub(reg a, reg b) {
    return SV(sub)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg reg_mul(reg a, reg b) {
    return SV(mul)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg reg_fma(reg a, reg b, reg c) {
    return SV(mla)(ALL, c, a, b);
}

FSM_ALWAYS_INLINE reg reg_mul_error(reg a, reg b, reg p) {
    return SV(nmls)(ALL, p, a, b);
}

FSM_ALWAYS_INLINE reg reg_scale(reg e, reg hi, reg lo) {
    return reg_fma(e, hi, reg_mul(e, lo));
}

FSM_ALWAYS_INLINE reg reg_max(reg a, reg b) {
    return SV(max)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg reg_min(reg a, reg b) {
    return SV(min)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg reg_abs(reg a) {
    return SV(abs)(ALL, a);
}

FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low) {
    return SV(max)(ALL, x, low);
}

FSM_ALWAYS_INLINE reg reg_flush(reg x) {
    return x;
}

FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b) {
    return SV_AS(cmplt)(ALL, a, b);
}

FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b) {
    return svorr_b_z(ALL, a, b);
}

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    return svptest_any(ALL, a);
}

FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no) {
    return SV_AS(sel)(reg_lt(a, b), yes, no);
}

FSM_ALWAYS_INLINE reg reg_pow2(reg z) {
    return SV_OF_BITS(SV_INT(lsl_n)(ALL, SV_BITS(z), MANTISSA_BITS));
}

FSM_ALWAYS_INLINE reg reg_bits_sub(reg a, reg b) {
    return SV_OF_BITS(SV_INT(sub)(ALL, SV_BITS(a), SV_BITS(b)));
}

FSM_ALWAYS_INLINE reg reg_bits_or(reg a, reg b) {
    return SV_OF_BITS(SV_INT(orr)(ALL, SV_BITS(a), SV_BITS(b)));
}

FSM_ALWAYS_INLINE real reg_hmax(reg a) {
    return SV_AS(maxv)(ALL, a);
}

FSM_ALWAYS_INLINE wide wide_zero(void) {
    return svdup_f64(0);
}

FSM_ALWAYS_INLINE wide wide_add(wide a, wide b) {
    return svadd_f64_x(svptrue_b64(), a, b);
}

FSM_ALWAYS_INLINE wide wide_upper(wide a, int width) {
    if (width == 4)
        return svext_f64(a, a, 4);
    if (width == 2)
        return svext_f64(a, a, 2);
    return svext_f64(a, a, 1);
}

FSM_ALWAYS_INLINE void wide_store(double *p, wide a) {
    svst1_f64(svptrue_b64(), p, a);
}

FSM_ALWAYS_INLINE double wide_first(wide a) {
    return svlasta_f64(svpfalse_b(), a);
}

#if FSM_REAL == 32

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    const svuint32_t bits = svlsl_u32_x(ALL, svdup_u32(1), svindex_u32(0, 1));
    return (uint32_t)svaddv_u32(svcmpeq_f32(ALL, a, b), bits);
}

/* Unpacking leaves a float in the low half of each 64-bit lane, where the conversion reads it. */
FSM_ALWAYS_INLINE wide reg_widen_low(reg a) {
    return svcvt_f64_f32_x(svptrue_b64(), svreinterpret_f32_u64(svunpklo_u64(SV_BITS(a))));
}

FSM_ALWAYS_INLINE wide reg_widen_high(reg a) {
    return svcvt_f64_f32_x(svptrue_b64(), svreinterpret_f32_u64(svunpkhi_u64(SV_BITS(a))));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return svcvt_f32_f16_x(ALL, svreinterpret_f16_u32(svld1uh_u32(ALL, p)));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    svst1h_u32(ALL, p, svreinterpret_u32_f16(svcvt_f16_f32_x(ALL, a)));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return SV_OF_BITS(svlsl_n_u32_x(ALL, svld1uh_u32(ALL, p), 16));
}

/* fsm_f32_to_bf16 (half.h). */
FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    const svuint32_t bits = SV_BITS(a), last = svand_n_u32_x(ALL, svlsr_n_u32_x(ALL, bits, 16), 1);
    const svuint32_t rounded = svadd_u32_x(ALL, svadd_n_u32_x(ALL, bits, 0x7fff), last);
    const svuint32_t nan = svorr_n_u32_x(ALL, bits, 0x00400000);
    const svuint32_t which = svsel_u32(svcmpuo_f32(ALL, a, a), nan, rounded);
    svst1h_u32(ALL, p, svlsr_n_u32_x(ALL, which, 16));
}

#else

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    const svuint64_t bits = svlsl_u64_x(ALL, svdup_u64(1), svindex_u64(0, 1));
    return (uint32_t)svaddv_u64(svcmpeq_f64(ALL, a, b), bits);
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return svcvt_f64_f16_x(ALL, svreinterpret_f16_u64(svld1uh_u64(ALL, p)));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    svst1h_u64(ALL, p, svreinterpret_u64_f16(svcvt_f16_f64_x(ALL, a)));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return svcvt_f64_f32_x(ALL, svreinterpret_f32_u64(svlsl_n_u64_x(ALL, svld1uh_u64(ALL, p), 16)));
}

/* Without SVE2 nothing rounds to odd. */
FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    double lanes[REG_LANES];
    reg_store(lanes, a);
    for (int j = 0; j < REG_LANES; j++)
        p[j] = fsm_f32_to_bf16(fsm_f64_to_f32_odd(lanes[j]));
}

#endif

#endif
