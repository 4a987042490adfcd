/* AVX2, FMA and F16C: a block is four registers. */
#ifndef FSM_AVX2_H
#define FSM_AVX2_H

#include "real.h"

#include <immintrin.h>
#include <string.h>

#define FSM_ISA          avx2
#define FSM_HAS_NT_STORE 1
#define FSM_ASKS_AHEAD   0
#define FSM_REGISTERS    4
#define EACH(i)                                                                                                        \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < 4; i++)

#include "x86_bits.h"
#include "x86_turn.h"

#if FSM_REAL == 32

typedef struct {
    __m256 v[4];
} vec;

typedef struct {
    __m256d v[8];
} vec_acc;

#endif

/* All ones in the lanes of register i that are among the first n of the block. */
FSM_INLINE __m256i lanes32(ptrdiff_t n, int i) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8 * i), lane);
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load(const float *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_loadu_ps(p + 8 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const float *p, ptrdiff_t n, float fill) {
    vec r;
    EACH(i) {
        __m256i lanes = lanes32(n, i);
        r.v[i] =
            _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p + 8 * i, lanes), _mm256_castsi256_ps(lanes));
    }
    return r;
}

FSM_INLINE void vec_store(float *p, vec a) {
    EACH(i)
        _mm256_storeu_ps(p + 8 * i, a.v[i]);
}

#endif

/* The first n of 8 lanes. Instructions for that cost AMD's CPUs tens of cycles, as many as a block takes otherwise:
 * (64, 1000) float32 softmax takes 0.81 times as long without (Zen 3). */
FSM_INLINE void store_some_f32(float *p, ptrdiff_t n, __m256 a) {
    __m128 rest = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(a, 1);
        p += 4;
    }
    if (n & 2) {
        const double two = _mm_cvtsd_f64(_mm_castps_pd(rest));
        memcpy(p, &two, sizeof two);
        rest = _mm_movehl_ps(rest, rest);
        p += 2;
    }
    if (n & 1) {
        const float one = _mm_cvtss_f32(rest);
        memcpy(p, &one, sizeof one);
    }
}

#if FSM_REAL == 32

FSM_INLINE void vec_store_n(float *p, ptrdiff_t n, vec a) {
    EACH(i) {
        const ptrdiff_t left = n - 8 * i;
        if (left >= 8)
            _mm256_storeu_ps(p + 8 * i, a.v[i]);
        else if (left > 0)
            store_some_f32(p + 8 * i, left, a.v[i]);
    }
}

FSM_INLINE void vec_nt_store(float *p, vec a) {
    EACH(i)
        _mm256_stream_ps(p + 8 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store_line(float *p, const float *from) {
    _mm256_stream_ps(p, _mm256_load_ps(from));
    _mm256_stream_ps(p + 8, _mm256_load_ps(from + 8));
}

FSM_INLINE void vec_nt_end(void) {
    _mm_sfence();
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8 * i)));
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        _mm_storeu_si128((__m128i *)(p + 8 * i), _mm256_cvtps_ph(a.v[i], _MM_FROUND_TO_NEAREST_INT));
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i) {
        __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8 * i)));
        r.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    }
    return r;
}

#endif

/* fsm_f32_to_bf16 (half.h). */
FSM_INLINE __m128i round_bf16(__m256 a) {
    __m256i bits = _mm256_castps_si256(a), last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
    __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256 is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    __m256 which = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(nan), is_nan);
    __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(which), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

#if FSM_REAL == 32

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    EACH(i)
        _mm_storeu_si128((__m128i *)(p + 8 * i), round_bf16(a.v[i]));
}

FSM_INLINE vec vec_set1(float a) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_set1_ps(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_add_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_sub_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_mul_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = _mm256_fmadd_ps(a.v[i], b.v[i], c.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = _mm256_fmsub_ps(a.v[i], b.v[i], p.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_max_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_min_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v[i]);
    return a;
}

/* Of two operands, one of them NaN, vmaxps gives the second. */
FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(low, x);
}

FSM_INLINE vec vec_flush(vec x) {
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    EACH(i) {
        __m256i field = _mm256_and_si256(_mm256_castps_si256(x.v[i]), exponent);
        __m256i zero = _mm256_cmpeq_epi32(field, _mm256_setzero_si256());
        x.v[i] = _mm256_andnot_ps(_mm256_castsi256_ps(zero), x.v[i]);
    }
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = _mm256_blendv_ps(no.v[i], yes.v[i], _mm256_cmp_ps(a.v[i], b.v[i], _CMP_LT_OQ));
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(z.v[i]), 23));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(a.v[i]), _mm256_castps_si256(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_or_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE float vec_hmax(vec a) {
    __m256 w8 = _mm256_max_ps(_mm256_max_ps(a.v[0], a.v[1]), _mm256_max_ps(a.v[2], a.v[3]));
    __m128 w4 = _mm_max_ps(_mm256_castps256_ps128(w8), _mm256_extractf128_ps(w8, 1));
    __m128 w2 = _mm_max_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_max_ss(w2, _mm_movehdup_ps(w2)));
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_cmp_ps(a.v[i], b.v[i], _CMP_LT_OQ);
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_or_ps(a.v[0], a.v[1]), _mm256_or_ps(a.v[2], a.v[3])));
}

/* A bit for each lane where a == b. */
FSM_INLINE uint32_t equal32(vec a, vec b) {
    uint32_t equal = 0;
    EACH(i)
        equal |= (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.v[i], b.v[i], _CMP_EQ_OQ)) << (8 * i);
    return equal;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    return trailing_zeros(equal32(a, b));
}

FSM_INLINE vec_acc vec_acc_zero(void) {
    vec_acc s;
    FSM_UNROLL
    for (int i = 0; i < 8; i++)
        s.v[i] = _mm256_setzero_pd();
    return s;
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(i) {
        s.v[2 * i] = _mm256_add_pd(s.v[2 * i], _mm256_cvtps_pd(_mm256_castps256_ps128(a.v[i])));
        s.v[2 * i + 1] = _mm256_add_pd(s.v[2 * i + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(a.v[i], 1)));
    }
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    FSM_UNROLL
    for (int i = 0; i < 8; i++)
        a.v[i] = _mm256_add_pd(a.v[i], b.v[i]);
    return a;
}

/* Registers fold first (16, 8 and 4 lanes apart), then the lanes of the one that is left. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    FSM_UNROLL
    for (int width = 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            s.v[i] = _mm256_add_pd(s.v[i], s.v[i + width]);
    __m128d w2 = _mm_add_pd(_mm256_castpd256_pd128(s.v[0]), _mm256_extractf128_pd(s.v[0], 1));
    return (fsm_sum){_mm_cvtsd_f64(_mm_add_sd(w2, _mm_unpackhi_pd(w2, w2))), 0};
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    FSM_UNROLL
    for (int i = 0; i < 8; i++) {
        _mm256_storeu_pd(hi + 4 * i, s.v[i]);
        _mm256_storeu_pd(lo + 4 * i, _mm256_setzero_pd());
    }
}

#endif

#if FSM_REAL == 64

typedef struct {
    __m256d v[4];
} vec;

#endif

FSM_INLINE __m256i lanes64(ptrdiff_t n, int i) {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n - 4 * i), lane);
}

#if FSM_REAL == 64

FSM_INLINE vec vec_load(const double *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_loadu_pd(p + 4 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const double *p, ptrdiff_t n, double fill) {
    vec r;
    EACH(i) {
        __m256i lanes = lanes64(n, i);
        r.v[i] =
            _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_maskload_pd(p + 4 * i, lanes), _mm256_castsi256_pd(lanes));
    }
    return r;
}

FSM_INLINE void vec_store(double *p, vec a) {
    EACH(i)
        _mm256_storeu_pd(p + 4 * i, a.v[i]);
}

#endif

/* The first n of 4 lanes. */
FSM_INLINE void store_some_f64(double *p, ptrdiff_t n, __m256d a) {
    __m128d rest = _mm256_castpd256_pd128(a);
    if (n & 2) {
        _mm_storeu_pd(p, rest);
        rest = _mm256_extractf128_pd(a, 1);
        p += 2;
    }
    if (n & 1) {
        const double one = _mm_cvtsd_f64(rest);
        memcpy(p, &one, sizeof one);
    }
}

#if FSM_REAL == 64

FSM_INLINE void vec_store_n(double *p, ptrdiff_t n, vec a) {
    EACH(i) {
        const ptrdiff_t left = n - 4 * i;
        if (left >= 4)
            _mm256_storeu_pd(p + 4 * i, a.v[i]);
        else if (left > 0)
            store_some_f64(p + 4 * i, left, a.v[i]);
    }
}

FSM_INLINE void vec_nt_store(double *p, vec a) {
    EACH(i)
        _mm256_stream_pd(p + 4 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store_line(double *p, const double *from) {
    _mm256_stream_pd(p, _mm256_load_pd(from));
    _mm256_stream_pd(p + 4, _mm256_load_pd(from + 4));
}

FSM_INLINE void vec_nt_end(void) {
    _mm_sfence();
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(p + 4 * i))));
    return r;
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i) {
        __m128i bits = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)(p + 4 * i)));
        r.v[i] = _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(bits, 16)));
    }
    return r;
}

#endif

/* Of four lanes of all ones or all zeros, the lower halves. */
FSM_INLINE __m128i narrow(__m256d lanes) {
    __m256 halves = _mm256_castpd_ps(lanes);
    __m128 low = _mm256_castps256_ps128(halves), high = _mm256_extractf128_ps(halves, 1);
    return _mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
}

/* fsm_f64_to_f32_odd (half.h). */
FSM_INLINE __m128 odd_f32(__m256d a) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    __m128 nearest = _mm256_cvtpd_ps(a);
    __m256d back = _mm256_cvtps_pd(nearest);
    __m256d up = _mm256_cmp_pd(_mm256_andnot_pd(sign, back), _mm256_andnot_pd(sign, a), _CMP_GT_OQ);
    __m256d inexact = _mm256_cmp_pd(back, a, _CMP_NEQ_OQ);
    __m128i bits = _mm_add_epi32(_mm_castps_si128(nearest), narrow(up)); /* all ones are -1 */
    return _mm_castsi128_ps(_mm_or_si128(bits, _mm_srli_epi32(narrow(inexact), 31)));
}

#if FSM_REAL == 64

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        _mm_storel_epi64((__m128i *)(p + 4 * i), _mm_cvtps_ph(odd_f32(a.v[i]), _MM_FROUND_TO_NEAREST_INT));
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    FSM_UNROLL
    for (int i = 0; i < 2; i++) {
        __m256 odd = _mm256_set_m128(odd_f32(a.v[2 * i + 1]), odd_f32(a.v[2 * i]));
        _mm_storeu_si128((__m128i *)(p + 8 * i), round_bf16(odd));
    }
}

FSM_INLINE vec vec_set1(double a) {
    vec r;
    EACH(i)
        r.v[i] = _mm256_set1_pd(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_add_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_sub_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_mul_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = _mm256_fmadd_pd(a.v[i], b.v[i], c.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = _mm256_fmsub_pd(a.v[i], b.v[i], p.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_max_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_min_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v[i]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(low, x);
}

FSM_INLINE vec vec_flush(vec x) {
    const __m256i exponent = _mm256_set1_epi64x(0x7ff0000000000000);
    EACH(i) {
        __m256i field = _mm256_and_si256(_mm256_castpd_si256(x.v[i]), exponent);
        __m256i zero = _mm256_cmpeq_epi64(field, _mm256_setzero_si256());
        x.v[i] = _mm256_andnot_pd(_mm256_castsi256_pd(zero), x.v[i]);
    }
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = _mm256_blendv_pd(no.v[i], yes.v[i], _mm256_cmp_pd(a.v[i], b.v[i], _CMP_LT_OQ));
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(z.v[i]), 52));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_castsi256_pd(_mm256_sub_epi64(_mm256_castpd_si256(a.v[i]), _mm256_castpd_si256(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_or_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE double vec_hmax(vec a) {
    __m256d w4 = _mm256_max_pd(_mm256_max_pd(a.v[0], a.v[1]), _mm256_max_pd(a.v[2], a.v[3]));
    __m128d w2 = _mm_max_pd(_mm256_castpd256_pd128(w4), _mm256_extractf128_pd(w4, 1));
    return _mm_cvtsd_f64(_mm_max_sd(w2, _mm_unpackhi_pd(w2, w2)));
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm256_cmp_pd(a.v[i], b.v[i], _CMP_LT_OQ);
    return _mm256_movemask_pd(_mm256_or_pd(_mm256_or_pd(a.v[0], a.v[1]), _mm256_or_pd(a.v[2], a.v[3])));
}

FSM_INLINE uint32_t equal64(vec a, vec b) {
    uint32_t equal = 0;
    EACH(i)
        equal |= (uint32_t)_mm256_movemask_pd(_mm256_cmp_pd(a.v[i], b.v[i], _CMP_EQ_OQ)) << (4 * i);
    return equal;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    return trailing_zeros(equal64(a, b) | UINT32_C(1) << 16);
}

#endif

/* ---- rows side by side */

/* All ones in the first n lanes of half a register. */
FSM_INLINE __m128i half32(ptrdiff_t n) {
    return _mm_cmpgt_epi32(_mm_set1_epi32((int)n), _mm_setr_epi32(0, 1, 2, 3));
}

FSM_INLINE __m128i half64(ptrdiff_t n) {
    return _mm_cmpgt_epi64(_mm_set1_epi64x(n), _mm_set_epi64x(1, 0));
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load_parts(const float *p, ptrdiff_t n, int parts, float fill) {
    const __m128i half = half32(n);
    vec r;
    EACH(i) {
        const int registers = parts == 8 ? 1 : 4 / parts; /* of a row */
        __m256i lanes = lanes32(n, i % registers);
        __m256 a;
        if (parts == 8) {
            lanes = _mm256_set_m128i(half, half);
            a = _mm256_set_m128(_mm_maskload_ps(p + (2 * i + 1) * n, half), _mm_maskload_ps(p + 2 * i * n, half));
        } else {
            a = _mm256_maskload_ps(p + i / registers * n + 8 * (i % registers), lanes);
        }
        r.v[i] = _mm256_blendv_ps(_mm256_set1_ps(fill), a, _mm256_castsi256_ps(lanes));
    }
    return r;
}

/* In order: what is written beyond a row is written again. */
FSM_INLINE void vec_store_parts(float *p, ptrdiff_t n, int parts, vec a) {
    const int registers = parts == 8 ? 1 : 4 / parts;
    EACH(i) {
        if (parts == 8) {
            _mm_storeu_ps(p + 2 * i * n, _mm256_castps256_ps128(a.v[i]));
            _mm_storeu_ps(p + (2 * i + 1) * n, _mm256_extractf128_ps(a.v[i], 1));
        } else {
            _mm256_storeu_ps(p + i / registers * n + 8 * (i % registers), a.v[i]);
        }
    }
}

FSM_INLINE vec vec_set_parts(const float *p, int parts) {
    vec r;
    EACH(i)
        r.v[i] = parts == 8 ? _mm256_set_m128(_mm_set1_ps(p[2 * i + 1]), _mm_set1_ps(p[2 * i]))
                            : _mm256_set1_ps(p[i * parts / 4]);
    return r;
}

#endif

#if FSM_REAL == 64

FSM_INLINE vec vec_load_parts(const double *p, ptrdiff_t n, int parts, double fill) {
    const __m128i half = half64(n);
    vec r;
    EACH(i) {
        const int registers = parts == 8 ? 1 : 4 / parts; /* of a row */
        __m256i lanes = lanes64(n, i % registers);
        __m256d a;
        if (parts == 8) {
            lanes = _mm256_set_m128i(half, half);
            a = _mm256_set_m128d(_mm_maskload_pd(p + (2 * i + 1) * n, half), _mm_maskload_pd(p + 2 * i * n, half));
        } else {
            a = _mm256_maskload_pd(p + i / registers * n + 4 * (i % registers), lanes);
        }
        r.v[i] = _mm256_blendv_pd(_mm256_set1_pd(fill), a, _mm256_castsi256_pd(lanes));
    }
    return r;
}

/* In order: what is written beyond a row is written again. */
FSM_INLINE void vec_store_parts(double *p, ptrdiff_t n, int parts, vec a) {
    const int registers = parts == 8 ? 1 : 4 / parts;
    EACH(i) {
        if (parts == 8) {
            _mm_storeu_pd(p + 2 * i * n, _mm256_castpd256_pd128(a.v[i]));
            _mm_storeu_pd(p + (2 * i + 1) * n, _mm256_extractf128_pd(a.v[i], 1));
        } else {
            _mm256_storeu_pd(p + i / registers * n + 4 * (i % registers), a.v[i]);
        }
    }
}

FSM_INLINE vec vec_set_parts(const double *p, int parts) {
    vec r;
    EACH(i)
        r.v[i] = parts == 8 ? _mm256_set_m128d(_mm_set1_pd(p[2 * i + 1]), _mm_set1_pd(p[2 * i]))
                            : _mm256_set1_pd(p[i * parts / 4]);
    return r;
}

#endif

/* Of two registers that are folded to one, the lower and the upper lanes of the rows, which have 8 float64, 4 or 2. */
#define LOWER(lanes, a, b)                                                                                             \
    ((lanes) == 8 ? (a) : (lanes) == 4 ? _mm256_permute2f128_pd(a, b, 0x20) : _mm256_unpacklo_pd(a, b))
#define UPPER(lanes, a, b)                                                                                             \
    ((lanes) == 8 ? (b) : (lanes) == 4 ? _mm256_permute2f128_pd(a, b, 0x31) : _mm256_unpackhi_pd(a, b))

/* Stores one float64 a row, which the last fold leaves in the order 0, 2, 1, 3. */
FSM_INLINE void store_folded(double *p, int parts, const __m256d *folded) {
    if (parts == 2)
        _mm_storeu_pd(p, _mm256_castpd256_pd128(_mm256_permute4x64_pd(folded[0], 0xd8)));
    FSM_UNROLL
    for (int i = 0; i < parts / 4; i++)
        _mm256_storeu_pd(p + 4 * i, _mm256_permute4x64_pd(folded[i], 0xd8));
}

FSM_INLINE __m256 max_of_shuffled(__m256 a, __m256 b) {
    return _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}

#if FSM_REAL == 32

FSM_INLINE void vec_max_parts(vec a, int parts, float *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    if (parts == 8) {
        const __m256 b = max_of_shuffled(a.v[0], a.v[1]), c = max_of_shuffled(a.v[2], a.v[3]);
        const __m256 m = _mm256_max_ps(_mm256_shuffle_ps(b, c, 0x88), _mm256_shuffle_ps(b, c, 0xdd));
        const __m128 even = _mm256_castps256_ps128(m), odd = _mm256_extractf128_ps(m, 1);
        _mm_storeu_ps(max, _mm_unpacklo_ps(even, odd));
        _mm_storeu_ps(max + 4, _mm_unpackhi_ps(even, odd));
        return;
    }
    if (parts == 2)
        EACH(i)
            a.v[i] = _mm256_max_ps(a.v[i], a.v[i ^ 1]);
    const __m256 b = a.v[0], c = parts == 2 ? a.v[2] : a.v[1];
    __m256 m = _mm256_max_ps(_mm256_permute2f128_ps(b, c, 0x20), _mm256_permute2f128_ps(b, c, 0x31));
    __m256 rest = m;
    if (parts == 4)
        rest =
            _mm256_max_ps(_mm256_permute2f128_ps(a.v[2], a.v[3], 0x20), _mm256_permute2f128_ps(a.v[2], a.v[3], 0x31));
    m = max_of_shuffled(m, rest);
    m = _mm256_max_ps(m, _mm256_permute_ps(m, 0xb1));
    const __m128 even = _mm256_castps256_ps128(m), odd = _mm256_extractf128_ps(m, 1);
    const __m128 all = _mm_permute_ps(_mm_shuffle_ps(even, odd, 0x88), 0xd8);
    if (parts == 4)
        _mm_storeu_ps(max, all);
    else
        _mm_storel_pi((__m64 *)max, all);
}

#endif

#if FSM_REAL == 64

FSM_INLINE vec fold_max64(int lanes, vec a) {
    FSM_UNROLL
    for (int i = 0; i < 2; i++)
        a.v[i] = _mm256_max_pd(LOWER(lanes, a.v[2 * i], a.v[2 * i + 1]), UPPER(lanes, a.v[2 * i], a.v[2 * i + 1]));
    return a;
}

FSM_INLINE void vec_max_parts(vec a, int parts, double *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    if (parts == 2)
        a = fold_max64(8, a);
    if (parts <= 4)
        a = fold_max64(4, a);
    store_folded(max, parts, fold_max64(2, a).v);
}

#endif

#if FSM_REAL == 32

FSM_INLINE vec_acc fold32(int lanes, vec_acc s) {
    EACH(i) {
        const __m256d a = s.v[2 * i], b = s.v[2 * i + 1];
        s.v[i] = _mm256_add_pd(LOWER(lanes, a, b), UPPER(lanes, a, b));
    }
    return s;
}

FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    first_of_parts(equal32(a, b), 32 / parts, parts, at);
}

FSM_INLINE vec_acc vec_acc_of(vec a) {
    vec_acc s;
    EACH(i) {
        s.v[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(a.v[i]));
        s.v[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(a.v[i], 1));
    }
    return s;
}

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    for (int i = 0; i < parts; i++)
        lo[i] = 0;
    if (parts == 1) {
        *hi = vec_acc_fold(s).hi;
        return;
    }
    if (parts == 2) {
        s.v[0] = _mm256_add_pd(s.v[0], s.v[2]);
        s.v[1] = _mm256_add_pd(s.v[1], s.v[3]);
        s.v[2] = _mm256_add_pd(s.v[4], s.v[6]);
        s.v[3] = _mm256_add_pd(s.v[5], s.v[7]);
    }
    if (parts <= 4)
        s = fold32(8, s);
    s = fold32(2, fold32(4, s));
    store_folded(hi, parts, s.v);
}

#endif

#if FSM_REAL == 64

#include "two_sum.h"

/* Each step brings the upper half of the lanes that are left down to the lower; what the others then hold
 * no longer counts. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    vec_acc upper = {{{s.hi.v[2], s.hi.v[3], s.hi.v[2], s.hi.v[3]}}, {{s.lo.v[2], s.lo.v[3], s.lo.v[2], s.lo.v[3]}}};
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = s.hi.v[1];
    upper.lo.v[0] = s.lo.v[1];
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = _mm256_permute2f128_pd(s.hi.v[0], s.hi.v[0], 0x11);
    upper.lo.v[0] = _mm256_permute2f128_pd(s.lo.v[0], s.lo.v[0], 0x11);
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = _mm256_unpackhi_pd(s.hi.v[0], s.hi.v[0]);
    upper.lo.v[0] = _mm256_unpackhi_pd(s.lo.v[0], s.lo.v[0]);
    s = vec_acc_merge(s, upper);
    return (fsm_sum){_mm256_cvtsd_f64(s.hi.v[0]), _mm256_cvtsd_f64(s.lo.v[0])};
}

FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    first_of_parts(equal64(a, b), 16 / parts, parts, at);
}

FSM_INLINE vec_acc vec_acc_of(vec a) {
    return (vec_acc){a, vec_set1(0)};
}

FSM_INLINE vec_acc fold64(int lanes, vec_acc s) {
    vec_acc lower = s, upper = s;
    FSM_UNROLL
    for (int i = 0; i < 2; i++) {
        lower.hi.v[i] = LOWER(lanes, s.hi.v[2 * i], s.hi.v[2 * i + 1]);
        lower.lo.v[i] = LOWER(lanes, s.lo.v[2 * i], s.lo.v[2 * i + 1]);
        upper.hi.v[i] = UPPER(lanes, s.hi.v[2 * i], s.hi.v[2 * i + 1]);
        upper.lo.v[i] = UPPER(lanes, s.lo.v[2 * i], s.lo.v[2 * i + 1]);
    }
    return vec_acc_merge(lower, upper);
}

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    if (parts == 1) {
        const fsm_sum sum = vec_acc_fold(s);
        *hi = sum.hi;
        *lo = sum.lo;
        return;
    }
    if (parts == 2)
        s = fold64(8, s);
    if (parts <= 4)
        s = fold64(4, s);
    s = fold64(2, s);
    store_folded(hi, parts, s.hi.v);
    store_folded(lo, parts, s.lo.v);
}

#endif

#define FSM_HAS_PARTS 1

#endif
