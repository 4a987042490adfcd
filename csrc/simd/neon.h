/* NEON (AArch64). vmaxq and vminq give NaN for a NaN operand; subnormal operands cost nothing, so reg_flush leaves
 * them. */
#ifndef FSM_NEON_H
#define FSM_NEON_H

#include "arm.h"
#include "real.h"

#include <arm_neon.h>
#include <string.h>

#define FSM_ISA neon

typedef float64x2_t wide;

#if FSM_REAL == 32
typedef float32x4_t reg;
typedef uint32x4_t reg_mask;
#define VQ(op)         v##op##q_f32
#define VQ_INT(op)     v##op##q_u32
#define VQ_SET1(a)     vdupq_n_f32(a)
#define VQ_BITS(a)     vreinterpretq_u32_f32(a)
#define VQ_OF_BITS(a)  vreinterpretq_f32_u32(a)
#define VQ_SHIFT(a, n) vshlq_n_u32(a, n)
#else
typedef float64x2_t reg;
typedef uint64x2_t reg_mask;
#define VQ(op)         v##op##q_f64
#define VQ_INT(op)     v##op##q_u64
#define VQ_SET1(a)     vdupq_n_f64(a)
#define VQ_BITS(a)     vreinterpretq_u64_f64(a)
#define VQ_OF_BITS(a)  vreinterpretq_f64_u64(a)
#define VQ_SHIFT(a, n) vshlq_n_u64(a, n)
#endif

FSM_ALWAYS_INLINE reg reg_load(const real *p) {
    return VQ(ld1)(p);
}

FSM_ALWAYS_INLINE void reg_store(real *p, reg a) {
    VQ(st1)(p, a);
}

FSM_ALWAYS_INLINE reg reg_set1(real a) {
    return VQ_SET1(a);
}

FSM_ALWAYS_INLINE reg reg_add(reg a, reg b) {
    return VQ(add)(a, b);
}

FSM_ALWAYS_INLINE reg reg_sub(reg a, reg b) {
    return VQ(sub)(a, b);
}

FSM_ALWAYS_INLINE reg reg_mul(reg a, reg b) {
    return VQ(mul)(a, b);
}

FSM_ALWAYS_INLINE reg reg_fma(reg a, reg b, reg c) {
    return VQ(fma)(c, a, b);
}

FSM_ALWAYS_INLINE reg reg_mul_error(reg a, reg b, reg p) {
    return VQ(fma)(VQ(neg)(p), a, b);
}

FSM_ALWAYS_INLINE reg reg_scale(reg e, reg hi, reg lo) {
    return reg_fma(e, hi, reg_mul(e, lo));
}

FSM_ALWAYS_INLINE reg reg_max(reg a, reg b) {
    return VQ(max)(a, b);
}

FSM_ALWAYS_INLINE reg reg_min(reg a, reg b) {
    return VQ(min)(a, b);
}

FSM_ALWAYS_INLINE reg reg_abs(reg a) {
    return VQ(abs)(a);
}

FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low) {
    return VQ(max)(x, low);
}

FSM_ALWAYS_INLINE reg reg_flush(reg x) {
    return x;
}

FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b) {
    return VQ(clt)(a, b);
}

FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b) {
    return VQ_INT(orr)(a, b);
}

FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no) {
    return VQ(bsl)(reg_lt(a, b), yes, no);
}

FSM_ALWAYS_INLINE reg reg_pow2(reg z) {
    return VQ_OF_BITS(VQ_SHIFT(VQ_BITS(z), MANTISSA_BITS));
}

FSM_ALWAYS_INLINE reg reg_bits_sub(reg a, reg b) {
    return VQ_OF_BITS(VQ_INT(sub)(VQ_BITS(a), VQ_BITS(b)));
}

FSM_ALWAYS_INLINE reg reg_bits_or(reg a, reg b) {
    return VQ_OF_BITS(VQ_INT(orr)(VQ_BITS(a), VQ_BITS(b)));
}

FSM_ALWAYS_INLINE real reg_hmax(reg a) {
    return VQ(maxv)(a);
}

FSM_ALWAYS_INLINE wide wide_zero(void) {
    return vdupq_n_f64(0);
}

FSM_ALWAYS_INLINE wide wide_add(wide a, wide b) {
    return vaddq_f64(a, b);
}

FSM_ALWAYS_INLINE wide wide_upper(wide a, int width) {
    (void)width; /* 1 */
    return vdupq_laneq_f64(a, 1);
}

FSM_ALWAYS_INLINE void wide_store(double *p, wide a) {
    vst1q_f64(p, a);
}

FSM_ALWAYS_INLINE double wide_first(wide a) {
    return vgetq_lane_f64(a, 0);
}

/* fsm_f32_to_bf16 (half.h). */
FSM_ALWAYS_INLINE uint16x4_t to_bf16(float32x4_t a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a), last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last);
    const uint32x4_t nan = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, nan), 16);
}

FSM_ALWAYS_INLINE float32x4_t of_bf16(uint16x4_t halves) {
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}

#if FSM_REAL == 32

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    return vmaxvq_u32(a) != 0;
}

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    static const uint32_t bits[] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vceqq_f32(a, b), vld1q_u32(bits)));
}

FSM_ALWAYS_INLINE wide reg_widen_low(reg a) {
    return vcvt_f64_f32(vget_low_f32(a));
}

FSM_ALWAYS_INLINE wide reg_widen_high(reg a) {
    return vcvt_high_f64_f32(a);
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return of_bf16(vld1_u16(p));
}

FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    vst1_u16(p, to_bf16(a));
}

#else

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    return vmaxvq_u32(vreinterpretq_u32_u64(a)) != 0;
}

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    static const uint64_t bits[] = {1, 2};
    return (uint32_t)vaddvq_u64(vandq_u64(vceqq_f64(a, b), vld1q_u64(bits)));
}

/* Two 16-bit numbers, and two once more. */
FSM_ALWAYS_INLINE uint16x4_t load_two(const uint16_t *p) {
    uint32_t two;
    memcpy(&two, p, sizeof two);
    return vreinterpret_u16_u32(vdup_n_u32(two));
}

FSM_ALWAYS_INLINE void store_two(uint16_t *p, uint16x4_t a) {
    const uint32_t two = vget_lane_u32(vreinterpret_u32_u16(a), 0);
    memcpy(p, &two, sizeof two);
}

/* Rounded to odd (half.h), twice. */
FSM_ALWAYS_INLINE float32x4_t odd_f32(reg a) {
    return vcombine_f32(vcvtx_f32_f64(a), vcvtx_f32_f64(a));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return vcvt_f64_f32(vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u16(load_two(p)))));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    store_two(p, vreinterpret_u16_f16(vcvt_f16_f32(odd_f32(a))));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return vcvt_f64_f32(vget_low_f32(of_bf16(load_two(p))));
}

FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    store_two(p, to_bf16(odd_f32(a)));
}

#endif

#endif
