/* Blocks without vector instructions: plain loops over the lanes. The including file defines FSM_ISA and
 * fma_f32, fma_f64, mul_error_f32, mul_error_f64, scale_f32 and scale_f64, which act on one lane.
 * Functions stay functions: 32 copies of each inline would come to megabytes. */
#define FSM_KEEP_FUNCTIONS
#include "../fsm.h"
#include "../half.h"

#include <math.h>
#include <string.h>

#define EACH(j, lanes) for (int j = 0; j < (lanes); j++)

/* ---- float32 */

typedef struct {
    float v[32];
} vf32;

typedef struct {
    double v[32];
} vf32_acc;

FSM_INLINE vf32 vf32_load(const float *p) {
    vf32 r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

FSM_INLINE vf32 vf32_load_n(const float *p, ptrdiff_t n, float fill) {
    vf32 r;
    EACH(j, 32)
        r.v[j] = fill;
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}

FSM_INLINE void vf32_store(float *p, vf32 a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_INLINE void vf32_store_n(float *p, ptrdiff_t n, vf32 a) {
    memcpy(p, a.v, (size_t)n * sizeof *p);
}

FSM_INLINE void vf32_stream(float *p, vf32 a) {
    vf32_store(p, a);
}

FSM_INLINE void vf32_stream_line(float *p, const float *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vf32_stream_end(void) {
}

FSM_INLINE void vf32_turn(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    for (ptrdiff_t i = 0; i < 8; i++)
        for (ptrdiff_t j = 0; j < 8; j++)
            memcpy(to + j * to_step + i * 4, from + i * from_step + j * 4, 4);
}

FSM_INLINE vf32 vf32_load_f16(const uint16_t *p) {
    vf32 r;
    uint16_t half[32];
    memcpy(half, p, sizeof half);
    EACH(j, 32)
        r.v[j] = fsm_f16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vf32_store_f16(uint16_t *p, vf32 a) {
    uint16_t half[32];
    EACH(j, 32)
        half[j] = fsm_f32_to_f16(a.v[j]);
    memcpy(p, half, sizeof half);
}

FSM_INLINE vf32 vf32_load_bf16(const uint16_t *p) {
    vf32 r;
    uint16_t half[32];
    memcpy(half, p, sizeof half);
    EACH(j, 32)
        r.v[j] = fsm_bf16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vf32_store_bf16(uint16_t *p, vf32 a) {
    uint16_t half[32];
    EACH(j, 32)
        half[j] = fsm_f32_to_bf16(a.v[j]);
    memcpy(p, half, sizeof half);
}

FSM_INLINE vf32 vf32_set1(float a) {
    vf32 r;
    EACH(j, 32)
        r.v[j] = a;
    return r;
}

FSM_INLINE vf32 vf32_add(vf32 a, vf32 b) {
    EACH(j, 32)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE vf32 vf32_sub(vf32 a, vf32 b) {
    EACH(j, 32)
        a.v[j] -= b.v[j];
    return a;
}

FSM_INLINE vf32 vf32_mul(vf32 a, vf32 b) {
    EACH(j, 32)
        a.v[j] *= b.v[j];
    return a;
}

FSM_INLINE vf32 vf32_fma(vf32 a, vf32 b, vf32 c) {
    EACH(j, 32)
        a.v[j] = fma_f32(a.v[j], b.v[j], c.v[j]);
    return a;
}

FSM_INLINE vf32 vf32_mul_error(vf32 a, vf32 b, vf32 p) {
    EACH(j, 32)
        a.v[j] = mul_error_f32(a.v[j], b.v[j], p.v[j]);
    return a;
}

FSM_INLINE vf32 vf32_scale(vf32 e, vf32 hi, vf32 lo) {
    EACH(j, 32)
        e.v[j] = scale_f32(e.v[j], hi.v[j], lo.v[j]);
    return e;
}

FSM_INLINE vf32 vf32_max(vf32 a, vf32 b) {
    EACH(j, 32)
        a.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vf32 vf32_min(vf32 a, vf32 b) {
    EACH(j, 32)
        a.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vf32 vf32_abs(vf32 a) {
    EACH(j, 32)
        a.v[j] = fabsf(a.v[j]);
    return a;
}

FSM_INLINE vf32 vf32_clamp(vf32 x, vf32 low) {
    EACH(j, 32)
        x.v[j] = low.v[j] > x.v[j] ? low.v[j] : x.v[j];
    return x;
}

FSM_INLINE vf32 vf32_flush(vf32 x) {
    EACH(j, 32)
        x.v[j] = fabsf(x.v[j]) < 0x1p-126f ? 0 : x.v[j];
    return x;
}

FSM_INLINE vf32 vf32_select_lt(vf32 a, vf32 b, vf32 yes, vf32 no) {
    EACH(j, 32)
        a.v[j] = a.v[j] < b.v[j] ? yes.v[j] : no.v[j];
    return a;
}

FSM_INLINE vf32 vf32_pow2(vf32 z) {
    uint32_t bits[32];
    memcpy(bits, z.v, sizeof bits);
    EACH(j, 32)
        bits[j] <<= 23;
    memcpy(z.v, bits, sizeof bits);
    return z;
}

FSM_INLINE vf32 vf32_bits_sub(vf32 a, vf32 b) {
    uint32_t bits_a[32], bits_b[32];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 32)
        bits_a[j] -= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE vf32 vf32_bits_or(vf32 a, vf32 b) {
    uint32_t bits_a[32], bits_b[32];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 32)
        bits_a[j] |= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE float vf32_hmax(vf32 a) {
    EACH(j, 32)
        a.v[0] = a.v[j] > a.v[0] ? a.v[j] : a.v[0];
    return a.v[0];
}

FSM_INLINE bool vf32_any_lt(vf32 a, vf32 b) {
    bool any = false;
    EACH(j, 32)
        any |= a.v[j] < b.v[j];
    return any;
}

FSM_INLINE int vf32_find_eq(vf32 a, vf32 b) {
    int j = 0;
    while (j < 32 && !(a.v[j] == b.v[j]))
        j++;
    return j;
}

FSM_INLINE vf32_acc vf32_acc_zero(void) {
    return (vf32_acc){{0}};
}

FSM_INLINE vf32_acc vf32_acc_add(vf32_acc s, vf32 a) {
    EACH(j, 32)
        s.v[j] += (double)a.v[j];
    return s;
}

FSM_INLINE vf32_acc vf32_acc_merge(vf32_acc a, vf32_acc b) {
    EACH(j, 32)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE fsm_sum vf32_acc_fold(vf32_acc s) {
    for (int width = 16; width > 0; width /= 2)
        EACH(j, width)
            s.v[j] += s.v[j + width];
    return (fsm_sum){s.v[0], 0};
}

FSM_INLINE void vf32_acc_get(vf32_acc s, double *hi, double *lo) {
    EACH(j, 32) {
        hi[j] = s.v[j];
        lo[j] = 0;
    }
}

/* ---- float64 */

typedef struct {
    double v[16];
} vf64;

typedef struct {
    fsm_sum v[16];
} vf64_acc;

FSM_INLINE vf64 vf64_load(const double *p) {
    vf64 r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

FSM_INLINE vf64 vf64_load_n(const double *p, ptrdiff_t n, double fill) {
    vf64 r;
    EACH(j, 16)
        r.v[j] = fill;
    memcpy(r.v, p, (size_t)n * sizeof *p);
    return r;
}

FSM_INLINE void vf64_store(double *p, vf64 a) {
    memcpy(p, a.v, sizeof a.v);
}

FSM_INLINE void vf64_store_n(double *p, ptrdiff_t n, vf64 a) {
    memcpy(p, a.v, (size_t)n * sizeof *p);
}

FSM_INLINE void vf64_stream(double *p, vf64 a) {
    vf64_store(p, a);
}

FSM_INLINE void vf64_stream_line(double *p, const double *from) {
    memcpy(p, from, 64);
}

FSM_INLINE void vf64_stream_end(void) {
}

FSM_INLINE void vf64_turn(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    for (ptrdiff_t i = 0; i < 4; i++)
        for (ptrdiff_t j = 0; j < 4; j++)
            memcpy(to + j * to_step + i * 8, from + i * from_step + j * 8, 8);
}

FSM_INLINE vf64 vf64_load_f16(const uint16_t *p) {
    vf64 r;
    uint16_t half[16];
    memcpy(half, p, sizeof half);
    EACH(j, 16)
        r.v[j] = fsm_f16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vf64_store_f16(uint16_t *p, vf64 a) {
    uint16_t half[16];
    EACH(j, 16)
        half[j] = fsm_f32_to_f16(fsm_f64_to_f32_odd(a.v[j]));
    memcpy(p, half, sizeof half);
}

FSM_INLINE vf64 vf64_load_bf16(const uint16_t *p) {
    vf64 r;
    uint16_t half[16];
    memcpy(half, p, sizeof half);
    EACH(j, 16)
        r.v[j] = fsm_bf16_to_f32(half[j]);
    return r;
}

FSM_INLINE void vf64_store_bf16(uint16_t *p, vf64 a) {
    uint16_t half[16];
    EACH(j, 16)
        half[j] = fsm_f32_to_bf16(fsm_f64_to_f32_odd(a.v[j]));
    memcpy(p, half, sizeof half);
}

FSM_INLINE vf64 vf64_set1(double a) {
    vf64 r;
    EACH(j, 16)
        r.v[j] = a;
    return r;
}

FSM_INLINE vf64 vf64_add(vf64 a, vf64 b) {
    EACH(j, 16)
        a.v[j] += b.v[j];
    return a;
}

FSM_INLINE vf64 vf64_sub(vf64 a, vf64 b) {
    EACH(j, 16)
        a.v[j] -= b.v[j];
    return a;
}

FSM_INLINE vf64 vf64_mul(vf64 a, vf64 b) {
    EACH(j, 16)
        a.v[j] *= b.v[j];
    return a;
}

FSM_INLINE vf64 vf64_fma(vf64 a, vf64 b, vf64 c) {
    EACH(j, 16)
        a.v[j] = fma_f64(a.v[j], b.v[j], c.v[j]);
    return a;
}

FSM_INLINE vf64 vf64_mul_error(vf64 a, vf64 b, vf64 p) {
    EACH(j, 16)
        a.v[j] = mul_error_f64(a.v[j], b.v[j], p.v[j]);
    return a;
}

FSM_INLINE vf64 vf64_scale(vf64 e, vf64 hi, vf64 lo) {
    EACH(j, 16)
        e.v[j] = scale_f64(e.v[j], hi.v[j], lo.v[j]);
    return e;
}

FSM_INLINE vf64 vf64_max(vf64 a, vf64 b) {
    EACH(j, 16)
        a.v[j] = a.v[j] > b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vf64 vf64_min(vf64 a, vf64 b) {
    EACH(j, 16)
        a.v[j] = a.v[j] < b.v[j] ? a.v[j] : b.v[j];
    return a;
}

FSM_INLINE vf64 vf64_abs(vf64 a) {
    EACH(j, 16)
        a.v[j] = fabs(a.v[j]);
    return a;
}

FSM_INLINE vf64 vf64_clamp(vf64 x, vf64 low) {
    EACH(j, 16)
        x.v[j] = low.v[j] > x.v[j] ? low.v[j] : x.v[j];
    return x;
}

FSM_INLINE vf64 vf64_flush(vf64 x) {
    EACH(j, 16)
        x.v[j] = fabs(x.v[j]) < 0x1p-1022 ? 0 : x.v[j];
    return x;
}

FSM_INLINE vf64 vf64_select_lt(vf64 a, vf64 b, vf64 yes, vf64 no) {
    EACH(j, 16)
        a.v[j] = a.v[j] < b.v[j] ? yes.v[j] : no.v[j];
    return a;
}

FSM_INLINE vf64 vf64_pow2(vf64 z) {
    uint64_t bits[16];
    memcpy(bits, z.v, sizeof bits);
    EACH(j, 16)
        bits[j] <<= 52;
    memcpy(z.v, bits, sizeof bits);
    return z;
}

FSM_INLINE vf64 vf64_bits_sub(vf64 a, vf64 b) {
    uint64_t bits_a[16], bits_b[16];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 16)
        bits_a[j] -= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE vf64 vf64_bits_or(vf64 a, vf64 b) {
    uint64_t bits_a[16], bits_b[16];
    memcpy(bits_a, a.v, sizeof bits_a);
    memcpy(bits_b, b.v, sizeof bits_b);
    EACH(j, 16)
        bits_a[j] |= bits_b[j];
    memcpy(a.v, bits_a, sizeof bits_a);
    return a;
}

FSM_INLINE double vf64_hmax(vf64 a) {
    EACH(j, 16)
        a.v[0] = a.v[j] > a.v[0] ? a.v[j] : a.v[0];
    return a.v[0];
}

FSM_INLINE bool vf64_any_lt(vf64 a, vf64 b) {
    bool any = false;
    EACH(j, 16)
        any |= a.v[j] < b.v[j];
    return any;
}

FSM_INLINE int vf64_find_eq(vf64 a, vf64 b) {
    int j = 0;
    while (j < 16 && !(a.v[j] == b.v[j]))
        j++;
    return j;
}

FSM_INLINE vf64_acc vf64_acc_zero(void) {
    return (vf64_acc){{{0, 0}}};
}

FSM_INLINE vf64_acc vf64_acc_add(vf64_acc s, vf64 a) {
    EACH(j, 16)
        s.v[j] = fsm_two_sum(s.v[j], (fsm_sum){a.v[j], 0});
    return s;
}

FSM_INLINE vf64_acc vf64_acc_merge(vf64_acc a, vf64_acc b) {
    EACH(j, 16)
        a.v[j] = fsm_two_sum(a.v[j], b.v[j]);
    return a;
}

FSM_INLINE fsm_sum vf64_acc_fold(vf64_acc s) {
    for (int width = 8; width > 0; width /= 2)
        EACH(j, width)
            s.v[j] = fsm_two_sum(s.v[j], s.v[j + width]);
    return s.v[0];
}

FSM_INLINE void vf64_acc_get(vf64_acc s, double *hi, double *lo) {
    EACH(j, 16) {
        hi[j] = s.v[j].hi;
        lo[j] = s.v[j].lo;
    }
}

#include "../kernels.h"
