/* NEON (AArch64): a block is eight registers. vmaxq and vminq give NaN for a NaN operand; subnormal operands cost
 * nothing, so vec_flush leaves them. */
#ifndef FSM_NEON_H
#define FSM_NEON_H

#include "real.h"

#include <arm_neon.h>
#include <string.h>

#define FSM_ISA neon
#define EACH(i)                                                                                                        \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < 8; i++)

#include "arm_turn.h"

#if FSM_REAL == 32

typedef struct {
    float32x4_t v[8];
} vec;

typedef struct {
    float64x2_t v[16];
} vec_acc;

FSM_INLINE vec vec_load(const float *p) {
    vec r;
    EACH(i)
        r.v[i] = vld1q_f32(p + 4 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const float *p, ptrdiff_t n, float fill) {
    float lanes[32];
    EACH(i)
        vst1q_f32(lanes + 4 * i, vdupq_n_f32(fill));
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vec_load(lanes);
}

FSM_INLINE void vec_store(float *p, vec a) {
    EACH(i)
        vst1q_f32(p + 4 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(float *p, ptrdiff_t n, vec a) {
    float lanes[32];
    vec_store(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof *p);
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
        r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

#endif

FSM_INLINE float32x4_t load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

/* fsm_f32_to_bf16 (half.h). */
FSM_INLINE uint16x4_t round_bf16(float32x4_t a) {
    uint32x4_t bits = vreinterpretq_u32_f32(a), last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last);
    uint32x4_t nan = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, nan), 16);
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = load_bf16(p + 4 * i);
    return r;
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    EACH(i)
        vst1_u16(p + 4 * i, round_bf16(a.v[i]));
}

FSM_INLINE vec vec_set1(float a) {
    vec r;
    EACH(i)
        r.v[i] = vdupq_n_f32(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = vaddq_f32(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = vsubq_f32(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = vmulq_f32(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = vfmaq_f32(vnegq_f32(p.v[i]), a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = vmaxq_f32(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = vminq_f32(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = vabsq_f32(a.v[i]);
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
        a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(z.v[i]), 23));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = vreinterpretq_f32_u32(vsubq_u32(vreinterpretq_u32_f32(a.v[i]), vreinterpretq_u32_f32(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a.v[i]), vreinterpretq_u32_f32(b.v[i])));
    return a;
}

FSM_INLINE float vec_hmax(vec a) {
    FSM_UNROLL
    for (int width = 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            a.v[i] = vmaxq_f32(a.v[i], a.v[i + width]);
    return vmaxvq_f32(a.v[0]);
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    uint32x4_t any = vdupq_n_u32(0);
    EACH(i)
        any = vorrq_u32(any, vcltq_f32(a.v[i], b.v[i]));
    return (vmaxvq_u32(any)) != 0;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    static const uint32_t lanes[] = {0, 1, 2, 3};
    const uint32x4_t lane = vld1q_u32(lanes);
    uint32x4_t first = vdupq_n_u32(32);
    FSM_UNROLL
    for (int i = 7; i >= 0; i--)
        first = vbslq_u32(vceqq_f32(a.v[i], b.v[i]), vaddq_u32(lane, vdupq_n_u32(4 * i)), first);
    return (int)vminvq_u32(first);
}

FSM_INLINE vec_acc vec_acc_zero(void) {
    vec_acc s;
    FSM_UNROLL
    for (int i = 0; i < 16; i++)
        s.v[i] = vdupq_n_f64(0);
    return s;
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(i) {
        s.v[2 * i] = vaddq_f64(s.v[2 * i], vcvt_f64_f32(vget_low_f32(a.v[i])));
        s.v[2 * i + 1] = vaddq_f64(s.v[2 * i + 1], vcvt_high_f64_f32(a.v[i]));
    }
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    FSM_UNROLL
    for (int i = 0; i < 16; i++)
        a.v[i] = vaddq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    FSM_UNROLL
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            s.v[i] = vaddq_f64(s.v[i], s.v[i + width]);
    return (fsm_sum){vaddvq_f64(s.v[0]), 0};
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    FSM_UNROLL
    for (int i = 0; i < 16; i++) {
        vst1q_f64(hi + 2 * i, s.v[i]);
        vst1q_f64(lo + 2 * i, vdupq_n_f64(0));
    }
}

#endif

#if FSM_REAL == 64

typedef struct {
    float64x2_t v[8];
} vec;

FSM_INLINE vec vec_load(const double *p) {
    vec r;
    EACH(i)
        r.v[i] = vld1q_f64(p + 2 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const double *p, ptrdiff_t n, double fill) {
    double lanes[16];
    EACH(i)
        vst1q_f64(lanes + 2 * i, vdupq_n_f64(fill));
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vec_load(lanes);
}

FSM_INLINE void vec_store(double *p, vec a) {
    EACH(i)
        vst1q_f64(p + 2 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(double *p, ptrdiff_t n, vec a) {
    double lanes[16];
    vec_store(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof *p);
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
    FSM_UNROLL
    for (int i = 0; i < 4; i++) {
        float32x4_t a = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
        r.v[2 * i] = vcvt_f64_f32(vget_low_f32(a));
        r.v[2 * i + 1] = vcvt_high_f64_f32(a);
    }
    return r;
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    FSM_UNROLL
    for (int i = 0; i < 4; i++) {
        float32x4_t a = load_bf16(p + 4 * i);
        r.v[2 * i] = vcvt_f64_f32(vget_low_f32(a));
        r.v[2 * i + 1] = vcvt_high_f64_f32(a);
    }
    return r;
}

/* Registers 2*i and 2*i + 1, rounded to odd (half.h). */
FSM_INLINE float32x4_t odd_f32(vec a, int i) {
    return vcvtx_high_f32_f64(vcvtx_f32_f64(a.v[2 * i]), a.v[2 * i + 1]);
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    FSM_UNROLL
    for (int i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(odd_f32(a, i))));
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    FSM_UNROLL
    for (int i = 0; i < 4; i++)
        vst1_u16(p + 4 * i, round_bf16(odd_f32(a, i)));
}

FSM_INLINE vec vec_set1(double a) {
    vec r;
    EACH(i)
        r.v[i] = vdupq_n_f64(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = vaddq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = vsubq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = vmulq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = vfmaq_f64(c.v[i], a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = vfmaq_f64(vnegq_f64(p.v[i]), a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = vmaxq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = vminq_f64(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = vabsq_f64(a.v[i]);
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
        a.v[i] = vbslq_f64(vcltq_f64(a.v[i], b.v[i]), yes.v[i], no.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(z.v[i]), 52));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = vreinterpretq_f64_u64(vsubq_u64(vreinterpretq_u64_f64(a.v[i]), vreinterpretq_u64_f64(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = vreinterpretq_f64_u64(vorrq_u64(vreinterpretq_u64_f64(a.v[i]), vreinterpretq_u64_f64(b.v[i])));
    return a;
}

FSM_INLINE double vec_hmax(vec a) {
    FSM_UNROLL
    for (int width = 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            a.v[i] = vmaxq_f64(a.v[i], a.v[i + width]);
    return vmaxvq_f64(a.v[0]);
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    uint64x2_t any = vdupq_n_u64(0);
    EACH(i)
        any = vorrq_u64(any, vcltq_f64(a.v[i], b.v[i]));
    return (vgetq_lane_u64(any, 0) | vgetq_lane_u64(any, 1)) != 0;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    static const uint64_t lanes[] = {0, 1};
    const uint64x2_t lane = vld1q_u64(lanes);
    uint64x2_t first = vdupq_n_u64(16);
    FSM_UNROLL
    for (int i = 7; i >= 0; i--)
        first = vbslq_u64(vceqq_f64(a.v[i], b.v[i]), vaddq_u64(lane, vdupq_n_u64(2 * i)), first);
    return (int)vminv_u32(vmovn_u64(first));
}

#include "two_sum.h"

/* Each step brings the upper half of the lanes that are left down to the lower; what the others then hold
 * no longer counts. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    vec_acc upper = s;
    FSM_UNROLL
    for (int width = 4; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            upper.hi.v[i] = s.hi.v[i + width];
            upper.lo.v[i] = s.lo.v[i + width];
        }
        s = vec_acc_merge(s, upper);
    }
    upper.hi.v[0] = vdupq_laneq_f64(s.hi.v[0], 1);
    upper.lo.v[0] = vdupq_laneq_f64(s.lo.v[0], 1);
    s = vec_acc_merge(s, upper);
    return (fsm_sum){vgetq_lane_f64(s.hi.v[0], 0), vgetq_lane_f64(s.lo.v[0], 0)};
}

#endif

#endif
