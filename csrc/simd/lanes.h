/* Blocks without vector instructions: plain loops over the lanes. The including file defines FSM_ISA and
 * fma_f32, fma_f64, mul_error_f32, mul_error_f64, scale_f32 and scale_f64, which act on one lane.
 * Functions stay functions: 32 copies of each inline would come to megabytes. */
#ifndef FSM_LANES_H
#define FSM_LANES_H

#include "real.h"
#include "../arrays/half.h"

#include <math.h>
#include <string.h>

#define EACH(j, lanes) for (int j = 0; j < (lanes); j++)

#if FSM_REAL == 32

typedef struct {
    float v[32];
} vec;

typedef struct {
    double v[32];
} vec_acc;

FSM_INLINE vec vec_load(const float *p) {
    vec r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

FSM_INLINE vec vec_load_n(const float *p, ptrdiff_t n, float fill) {
    vec r;
    EACH(j, 32)
        r.v[j] = fill;
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}

FSM_INLINE void vec_store(float *p, vec a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_INLINE void vec_store_n(float *p, ptrdiff_t n, vec a) {
    memcpy(p, a.v, (size_t)n * sizeof *p);
}

FSM_INLINE void vec_nt_store(float *p, vec a) {
    vec_store(p, a);
}

FSM_INLINE void vec_nt_store_line(float *p, const float *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vec_nt_end(void) {
}

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    for (ptrdiff_t i = 0; i < 8; i++)
        for (ptrdiff_t j = 0; j < 8; j++)
            memcpy(to + j * to_step + i * 4, from + i * from_step + j * 4, 4);
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    uint16_t half[32];
    memcpy(half, p, sizeof half);
    EACH(j, 32)
        r.v[j] = fsm_f16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    uint16_t half[32];
    EACH(j, 32)
        half[j] = fsm_f32_to_f16(a.v[j]);
    memcpy(p, half, sizeof half);
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    uint16_t half[32];
    memcpy(half, p, sizeof half);
    EACH(j, 32)
        r.v[j] = fsm_bf16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    uint16_t half[32];
    EACH(j, 32)
        half[j] = fsm_f32_to_bf16(a.v[j]);
    memcpy(p, half, sizeof half);
}

FSM_INLINE vec vec_set1(float a) {
    vec r;
    EACH(j, 32)
        r.v[j] = a;
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(j, 32)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(j, 32)
        a.v[j] -= b.v[j];
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(j, 32)
        a.v[j] *= b.v[j];
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(j, 32)
        a.v[j] = fma_f32(a.v[j], b.v[j], c.v[j]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(j, 32)
        a.v[j] = mul_error_f32(a.v[j], b.v[j], p.v[j]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    EACH(j, 32)
        e.v[j] = scale_f32(e.v[j], hi.v[j], lo.v[j]);
    return e;
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(j, 32)
        a.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(j, 32)
        a.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(j, 32)
        a.v[j] = fabsf(a.v[j]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    EACH(j, 32)
        x.v[j] = low.v[j] > x.v[j] ? low.v[j] : x.v[j];
    return x;
}

FSM_INLINE vec vec_flush(vec x) {
    EACH(j, 32)
        x.v[j] = fabsf(x.v[j]) < 0x1p-126f ? 0 : x.v[j];
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(j, 32)
        a.v[j] = a.v[j] < b.v[j] ? yes.v[j] : no.v[j];
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    uint32_t bits[32];
    memcpy(bits, z.v, sizeof bits);
    EACH(j, 32)
        bits[j] <<= 23;
    memcpy(z.v, bits, sizeof bits);
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    uint32_t bits_a[32], bits_b[32];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 32)
        bits_a[j] -= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    uint32_t bits_a[32], bits_b[32];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 32)
        bits_a[j] |= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE float vec_hmax(vec a) {
    EACH(j, 32)
        a.v[0] = a.v[j] > a.v[0] ? a.v[j] : a.v[0];
    return a.v[0];
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    bool any = false;
    EACH(j, 32)
        any |= a.v[j] < b.v[j];
    return any;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    int j = 0;
    while (j < 32 && !(a.v[j] == b.v[j]))
        j++;
    return j;
}

FSM_INLINE vec_acc vec_acc_zero(void) {
    return (vec_acc){{0}};
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(j, 32)
        s.v[j] += (double)a.v[j];
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    EACH(j, 32)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    for (int width = 16; width > 0; width /= 2)
        EACH(j, width)
            s.v[j] += s.v[j + width];
    return (fsm_sum){s.v[0], 0};
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    EACH(j, 32) {
        hi[j] = s.v[j];
        lo[j] = 0;
    }
}

#endif

#if FSM_REAL == 64

typedef struct {
    double v[16];
} vec;

typedef struct {
    fsm_sum v[16];
} vec_acc;

FSM_INLINE vec vec_load(const double *p) {
    vec r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

FSM_INLINE vec vec_load_n(const double *p, ptrdiff_t n, double fill) {
    vec r;
    EACH(j, 16)
        r.v[j] = fill;
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}

FSM_INLINE void vec_store(double *p, vec a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_INLINE void vec_store_n(double *p, ptrdiff_t n, vec a) {
    memcpy(p, a.v, (size_t)n * sizeof *p);
}

FSM_INLINE void vec_nt_store(double *p, vec a) {
    vec_store(p, a);
}

FSM_INLINE void vec_nt_store_line(double *p, const double *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vec_nt_end(void) {
}

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    for (ptrdiff_t i = 0; i < 4; i++)
        for (ptrdiff_t j = 0; j < 4; j++)
            memcpy(to + j * to_step + i * 8, from + i * from_step + j * 8, 8);
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    uint16_t half[16];
    memcpy(half, p, sizeof half);
    EACH(j, 16)
        r.v[j] = fsm_f16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    uint16_t half[16];
    EACH(j, 16)
        half[j] = fsm_f32_to_f16(fsm_f64_to_f32_odd(a.v[j]));
    memcpy(p, half, sizeof half);
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    uint16_t half[16];
    memcpy(half, p, sizeof half);
    EACH(j, 16)
        r.v[j] = fsm_bf16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    uint16_t half[16];
    EACH(j, 16)
        half[j] = fsm_f32_to_bf16(fsm_f64_to_f32_odd(a.v[j]));
    memcpy(p, half, sizeof half);
}

FSM_INLINE vec vec_set1(double a) {
    vec r;
    EACH(j, 16)
        r.v[j] = a;
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(j, 16)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(j, 16)
        a.v[j] -= b.v[j];
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(j, 16)
        a.v[j] *= b.v[j];
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(j, 16)
        a.v[j] = fma_f64(a.v[j], b.v[j], c.v[j]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(j, 16)
        a.v[j] = mul_error_f64(a.v[j], b.v[j], p.v[j]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    EACH(j, 16)
        e.v[j] = scale_f64(e.v[j], hi.v[j], lo.v[j]);
    return e;
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(j, 16)
        a.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(j, 16)
        a.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(j, 16)
        a.v[j] = fabs(a.v[j]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    EACH(j, 16)
        x.v[j] = low.v[j] > x.v[j] ? low.v[j] : x.v[j];
    return x;
}

FSM_INLINE vec vec_flush(vec x) {
    EACH(j, 16)
        x.v[j] = fabs(x.v[j]) < 0x1p-1022 ? 0 : x.v[j];
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(j, 16)
        a.v[j] = a.v[j] < b.v[j] ? yes.v[j] : no.v[j];
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    uint64_t bits[16];
    memcpy(bits, z.v, sizeof bits);
    EACH(j, 16)
        bits[j] <<= 52;
    memcpy(z.v, bits, sizeof bits);
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    uint64_t bits_a[16], bits_b[16];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 16)
        bits_a[j] -= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    uint64_t bits_a[16], bits_b[16];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 16)
        bits_a[j] |= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE double vec_hmax(vec a) {
    EACH(j, 16)
        a.v[0] = a.v[j] > a.v[0] ? a.v[j] : a.v[0];
    return a.v[0];
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    bool any = false;
    EACH(j, 16)
        any |= a.v[j] < b.v[j];
    return any;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    int j = 0;
    while (j < 16 && !(a.v[j] == b.v[j]))
        j++;
    return j;
}

FSM_INLINE vec_acc vec_acc_zero(void) {
    return (vec_acc){{{0, 0}}};
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(j, 16)
        s.v[j] = fsm_two_sum(s.v[j], (fsm_sum){a.v[j], 0});
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    EACH(j, 16)
        a.v[j] = fsm_two_sum(a.v[j], b.v[j]);
    return a;
}

FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    for (int width = 8; width > 0; width /= 2)
        EACH(j, width)
            s.v[j] = fsm_two_sum(s.v[j], s.v[j + width]);
    return s.v[0];
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    EACH(j, 16) {
        hi[j] = s.v[j].hi;
        lo[j] = s.v[j].lo;
    }
}

#endif

#endif
