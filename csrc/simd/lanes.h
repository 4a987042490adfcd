/* Without vector instructions: plain loops over the lanes of a register that is a whole block. A file that has its own
 * fused multiply-add of one lane defines FSM_HAS_LANE_FMA and includes this one. */
#ifndef FSM_LANES_H
#define FSM_LANES_H

#include "../arrays/half.h"
#include "real.h"

#include <math.h>
#include <string.h>

#if !defined(FSM_HAS_LANE_FMA)

/* The C library's, where the target has no instruction. */
FSM_ALWAYS_INLINE real lane_fma(real a, real b, real c) {
#if FSM_REAL == 32
    return fmaf(a, b, c);
#else
    return fma(a, b, c);
#endif
}

FSM_ALWAYS_INLINE real lane_mul_error(real a, real b, real p) {
    return lane_fma(a, b, -p);
}

FSM_ALWAYS_INLINE real lane_scale(real e, real hi, real lo) {
    return lane_fma(e, hi, e * lo);
}

#endif

typedef struct {
    double v[16];
} wide;

typedef struct {
    bool v[LANES];
} reg_mask;

#if FSM_REAL == 32
typedef struct {
    float v[LANES];
} reg;
#define LANE_ABS(a) fabsf(a)
#define LANE_F32(a) (a)
#else
typedef wide reg;
#define LANE_ABS(a) fabs(a)
#define LANE_F32(a) fsm_f64_to_f32_odd(a) /* rounded to odd */
#endif

#define EACH(j) for (int j = 0; j < LANES; j++)

FSM_ALWAYS_INLINE reg reg_load(const real *p) {
    reg r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

FSM_ALWAYS_INLINE void reg_store(real *p, reg a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_ALWAYS_INLINE void reg_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    const ptrdiff_t size = (ptrdiff_t)sizeof(real);
    for (ptrdiff_t i = 0; i < SIDE; i++)
        for (ptrdiff_t j = 0; j < SIDE; j++)
            memcpy(to + j * to_step + i * size, from + i * from_step + j * size, sizeof(real));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    reg r;
    EACH(j)
        r.v[j] = fsm_f16_to_f32(p[j]);
    return r;
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    EACH(j)
        p[j] = fsm_f32_to_f16(LANE_F32(a.v[j]));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    reg r;
    EACH(j)
        r.v[j] = fsm_bf16_to_f32(p[j]);
    return r;
}

FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    EACH(j)
        p[j] = fsm_f32_to_bf16(LANE_F32(a.v[j]));
}

FSM_ALWAYS_INLINE reg reg_set1(real a) {
    reg r;
    EACH(j)
        r.v[j] = a;
    return r;
}

FSM_ALWAYS_INLINE reg reg_add(reg a, reg b) {
    EACH(j)
        a.v[j] += b.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_sub(reg a, reg b) {
    EACH(j)
        a.v[j] -= b.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_mul(reg a, reg b) {
    EACH(j)
        a.v[j] *= b.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_fma(reg a, reg b, reg c) {
    EACH(j)
        a.v[j] = lane_fma(a.v[j], b.v[j], c.v[j]);
    return a;
}

FSM_ALWAYS_INLINE reg reg_mul_error(reg a, reg b, reg p) {
    EACH(j)
        a.v[j] = lane_mul_error(a.v[j], b.v[j], p.v[j]);
    return a;
}

FSM_ALWAYS_INLINE reg reg_scale(reg e, reg hi, reg lo) {
    EACH(j)
        e.v[j] = lane_scale(e.v[j], hi.v[j], lo.v[j]);
    return e;
}

FSM_ALWAYS_INLINE reg reg_max(reg a, reg b) {
    EACH(j)
        a.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_min(reg a, reg b) {
    EACH(j)
        a.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_abs(reg a) {
    EACH(j)
        a.v[j] = LANE_ABS(a.v[j]);
    return a;
}

FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low) {
    EACH(j)
        x.v[j] = low.v[j] > x.v[j] ? low.v[j] : x.v[j];
    return x;
}

FSM_ALWAYS_INLINE reg reg_flush(reg x) {
    EACH(j)
        x.v[j] = LANE_ABS(x.v[j]) < MIN_NORMAL ? 0 : x.v[j];
    return x;
}

FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no) {
    EACH(j)
        a.v[j] = a.v[j] < b.v[j] ? yes.v[j] : no.v[j];
    return a;
}

FSM_ALWAYS_INLINE reg reg_pow2(reg z) {
    real_bits bits[LANES];
    memcpy(bits, z.v, sizeof bits);
    EACH(j)
        bits[j] <<= MANTISSA_BITS;
    memcpy(z.v, bits, sizeof bits);
    return z;
}

FSM_ALWAYS_INLINE reg reg_bits_sub(reg a, reg b) {
    real_bits bits_a[LANES], bits_b[LANES];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j)
        bits_a[j] -= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_ALWAYS_INLINE reg reg_bits_or(reg a, reg b) {
    real_bits bits_a[LANES], bits_b[LANES];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j)
        bits_a[j] |= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_ALWAYS_INLINE real reg_hmax(reg a) {
    EACH(j)
        a.v[0] = a.v[j] > a.v[0] ? a.v[j] : a.v[0];
    return a.v[0];
}

FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b) {
    reg_mask less;
    EACH(j)
        less.v[j] = a.v[j] < b.v[j];
    return less;
}

FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b) {
    EACH(j)
        a.v[j] |= b.v[j];
    return a;
}

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    bool any = false;
    EACH(j)
        any |= a.v[j];
    return any;
}

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    uint32_t bits = 0;
    EACH(j)
        bits |= (uint32_t)(a.v[j] == b.v[j]) << j;
    return bits;
}

#undef EACH
#define EACH(j) for (int j = 0; j < WIDE_LANES; j++)

#if FSM_REAL == 32

FSM_ALWAYS_INLINE wide reg_widen_low(reg a) {
    wide r;
    EACH(j)
        r.v[j] = a.v[j];
    return r;
}

FSM_ALWAYS_INLINE wide reg_widen_high(reg a) {
    wide r;
    EACH(j)
        r.v[j] = a.v[j + WIDE_LANES];
    return r;
}

#endif

FSM_ALWAYS_INLINE wide wide_zero(void) {
    return (wide){{0}};
}

FSM_ALWAYS_INLINE wide wide_add(wide a, wide b) {
    EACH(j)
        a.v[j] += b.v[j];
    return a;
}

FSM_ALWAYS_INLINE wide wide_upper(wide a, int width) {
    for (int j = 0; j < width; j++)
        a.v[j] = a.v[j + width];
    return a;
}

FSM_ALWAYS_INLINE void wide_store(double *p, wide a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_ALWAYS_INLINE double wide_first(wide a) {
    return a.v[0];
}

#undef EACH

#endif
