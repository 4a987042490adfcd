/* AVX-512 F, DQ, BW, VL: a block is two registers. */
#ifndef FSM_AVX512_H
#define FSM_AVX512_H

#include "real.h"

#include <immintrin.h>

#define FSM_ISA          avx512
#define FSM_HAS_NT_STORE 1
#define EACH(i)                                                                                                        \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < 2; i++)

#include "x86_bits.h"
#include "x86_turn.h"

#if FSM_REAL == 32

typedef struct {
    __m512 v[2];
} vec;

typedef struct {
    __m512d v[4];
} vec_acc;

#endif

/* The lanes of register i that are among the first n of the block. */
FSM_INLINE __mmask16 lanes32(ptrdiff_t n, int i) {
    return (__mmask16)(((UINT64_C(1) << n) - 1) >> (16 * i));
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load(const float *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_loadu_ps(p + 16 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const float *p, ptrdiff_t n, float fill) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_mask_loadu_ps(_mm512_set1_ps(fill), lanes32(n, i), p + 16 * i);
    return r;
}

FSM_INLINE void vec_store(float *p, vec a) {
    EACH(i)
        _mm512_storeu_ps(p + 16 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(float *p, ptrdiff_t n, vec a) {
    EACH(i)
        _mm512_mask_storeu_ps(p + 16 * i, lanes32(n, i), a.v[i]);
}

FSM_INLINE void vec_nt_store(float *p, vec a) {
    EACH(i)
        _mm512_stream_ps(p + 16 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store_line(float *p, const float *from) {
    _mm512_stream_ps(p, _mm512_load_ps(from));
}

FSM_INLINE void vec_nt_end(void) {
    _mm_sfence();
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p + 16 * i)));
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        _mm256_storeu_si256((__m256i *)(p + 16 * i), _mm512_cvtps_ph(a.v[i], _MM_FROUND_TO_NEAREST_INT));
}

#endif

FSM_INLINE __m512 load_bf16(const uint16_t *p) {
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

/* fsm_f32_to_bf16 (half.h); the result is in the upper halves. */
FSM_INLINE __m512i round_bf16(__m512 a) {
    __m512i bits = _mm512_castps_si512(a), last = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    return (vec){{load_bf16(p), load_bf16(p + 16)}};
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    uint16_t upper[32];
    FSM_UNROLL
    for (int j = 0; j < 32; j++)
        upper[j] = (uint16_t)(2 * j + 1);
    __m512i halves = _mm512_permutex2var_epi16(round_bf16(a.v[0]), _mm512_loadu_si512(upper), round_bf16(a.v[1]));
    _mm512_storeu_si512(p, halves);
}

FSM_INLINE vec vec_set1(float a) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_set1_ps(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_add_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_sub_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_mul_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = _mm512_fmadd_ps(a.v[i], b.v[i], c.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = _mm512_fmsub_ps(a.v[i], b.v[i], p.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_max_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_min_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = _mm512_abs_ps(a.v[i]);
    return a;
}

/* Of two operands, one of them NaN, vmaxps gives the second. */
FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(low, x);
}

FSM_INLINE vec vec_flush(vec x) {
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    EACH(i)
        x.v[i] = _mm512_maskz_mov_ps(_mm512_test_epi32_mask(_mm512_castps_si512(x.v[i]), exponent), x.v[i]);
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v[i], b.v[i], _CMP_LT_OQ), no.v[i], yes.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(z.v[i]), 23));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(a.v[i]), _mm512_castps_si512(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_or_ps(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE float vec_hmax(vec a) {
    return _mm512_reduce_max_ps(_mm512_max_ps(a.v[0], a.v[1]));
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    return _mm512_cmp_ps_mask(a.v[0], b.v[0], _CMP_LT_OQ) | _mm512_cmp_ps_mask(a.v[1], b.v[1], _CMP_LT_OQ);
}

/* A bit for each lane where a == b. */
FSM_INLINE uint32_t equal32(vec a, vec b) {
    uint32_t equal = 0;
    EACH(i)
        equal |= (uint32_t)_mm512_cmp_ps_mask(a.v[i], b.v[i], _CMP_EQ_OQ) << (16 * i);
    return equal;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    return trailing_zeros(equal32(a, b));
}

FSM_INLINE vec_acc vec_acc_zero(void) {
    return (vec_acc){{_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()}};
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    EACH(i) {
        __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v[i]));
        __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v[i], 1));
        s.v[2 * i] = _mm512_add_pd(s.v[2 * i], low);
        s.v[2 * i + 1] = _mm512_add_pd(s.v[2 * i + 1], high);
    }
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    FSM_UNROLL
    for (int i = 0; i < 4; i++)
        a.v[i] = _mm512_add_pd(a.v[i], b.v[i]);
    return a;
}

/* Lanes 0-7 += 8-15 is the last step between registers; here 4, 2 and 1 within one. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    __m512d w8 = _mm512_add_pd(_mm512_add_pd(s.v[0], s.v[2]), _mm512_add_pd(s.v[1], s.v[3]));
    __m256d w4 = _mm256_add_pd(_mm512_castpd512_pd256(w8), _mm512_extractf64x4_pd(w8, 1));
    __m128d w2 = _mm_add_pd(_mm256_castpd256_pd128(w4), _mm256_extractf128_pd(w4, 1));
    return (fsm_sum){_mm_cvtsd_f64(_mm_add_sd(w2, _mm_unpackhi_pd(w2, w2))), 0};
}

FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    FSM_UNROLL
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_pd(hi + 8 * i, s.v[i]);
        _mm512_storeu_pd(lo + 8 * i, _mm512_setzero_pd());
    }
}

#endif

#if FSM_REAL == 64

typedef struct {
    __m512d v[2];
} vec;

#endif

FSM_INLINE __mmask8 lanes64(ptrdiff_t n, int i) {
    return (__mmask8)(((UINT32_C(1) << n) - 1) >> (8 * i));
}

#if FSM_REAL == 64

FSM_INLINE vec vec_load(const double *p) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_loadu_pd(p + 8 * i);
    return r;
}

FSM_INLINE vec vec_load_n(const double *p, ptrdiff_t n, double fill) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_mask_loadu_pd(_mm512_set1_pd(fill), lanes64(n, i), p + 8 * i);
    return r;
}

FSM_INLINE void vec_store(double *p, vec a) {
    EACH(i)
        _mm512_storeu_pd(p + 8 * i, a.v[i]);
}

FSM_INLINE void vec_store_n(double *p, ptrdiff_t n, vec a) {
    EACH(i)
        _mm512_mask_storeu_pd(p + 8 * i, lanes64(n, i), a.v[i]);
}

FSM_INLINE void vec_nt_store(double *p, vec a) {
    EACH(i)
        _mm512_stream_pd(p + 8 * i, a.v[i]);
}

FSM_INLINE void vec_nt_store_line(double *p, const double *from) {
    _mm512_stream_pd(p, _mm512_load_pd(from));
}

FSM_INLINE void vec_nt_end(void) {
    _mm_sfence();
}

FSM_INLINE vec widened(__m512 a) {
    return (vec){{_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))}};
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    return widened(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)));
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    return widened(load_bf16(p));
}

#endif

/* Rounded to odd (half.h): truncated, and the last bit set if that lost something. */
FSM_INLINE __m256 odd_f32(__m512d a) {
    __m256 toward_zero = _mm512_cvt_roundpd_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    __mmask8 inexact = _mm512_cmp_pd_mask(_mm512_cvtps_pd(toward_zero), a, _CMP_NEQ_OQ);
    __m256i bits = _mm256_castps_si256(toward_zero);
    return _mm256_castsi256_ps(_mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1)));
}

#if FSM_REAL == 64

FSM_INLINE __m512 both_odd_f32(vec a) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(odd_f32(a.v[0])), odd_f32(a.v[1]), 1);
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(both_odd_f32(a), _MM_FROUND_TO_NEAREST_INT));
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    __m512i bits = _mm512_srli_epi32(round_bf16(both_odd_f32(a)), 16);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(bits));
}

FSM_INLINE vec vec_set1(double a) {
    vec r;
    EACH(i)
        r.v[i] = _mm512_set1_pd(a);
    return r;
}

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_add_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_sub_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_mul_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = _mm512_fmadd_pd(a.v[i], b.v[i], c.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = _mm512_fmsub_pd(a.v[i], b.v[i], p.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    return vec_fma(e, hi, vec_mul(e, lo));
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_max_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_min_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = _mm512_abs_pd(a.v[i]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    return vec_max(low, x);
}

FSM_INLINE vec vec_flush(vec x) {
    const __m512i exponent = _mm512_set1_epi64(0x7ff0000000000000);
    EACH(i)
        x.v[i] = _mm512_maskz_mov_pd(_mm512_test_epi64_mask(_mm512_castpd_si512(x.v[i]), exponent), x.v[i]);
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v[i], b.v[i], _CMP_LT_OQ), no.v[i], yes.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(z.v[i]), 52));
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_castsi512_pd(_mm512_sub_epi64(_mm512_castpd_si512(a.v[i]), _mm512_castpd_si512(b.v[i])));
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = _mm512_or_pd(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE double vec_hmax(vec a) {
    return _mm512_reduce_max_pd(_mm512_max_pd(a.v[0], a.v[1]));
}

FSM_INLINE bool vec_any_lt(vec a, vec b) {
    return _mm512_cmp_pd_mask(a.v[0], b.v[0], _CMP_LT_OQ) | _mm512_cmp_pd_mask(a.v[1], b.v[1], _CMP_LT_OQ);
}

FSM_INLINE uint32_t equal64(vec a, vec b) {
    uint32_t equal = 0;
    EACH(i)
        equal |= (uint32_t)_mm512_cmp_pd_mask(a.v[i], b.v[i], _CMP_EQ_OQ) << (8 * i);
    return equal;
}

FSM_INLINE int vec_find_eq(vec a, vec b) {
    return trailing_zeros(equal64(a, b) | UINT32_C(1) << 16);
}

#endif

/* ---- rows side by side */

FSM_INLINE __mmask16 first32(ptrdiff_t count) {
    return (__mmask16)((UINT32_C(1) << count) - 1);
}

FSM_INLINE __mmask8 first64(ptrdiff_t count) {
    return (__mmask8)((UINT32_C(1) << count) - 1);
}

/* The lanes in use of a register with one row, two or four. */
FSM_INLINE __mmask16 lanes_in_parts32(ptrdiff_t n, int parts) {
    return (__mmask16)(first32(n) * (parts == 8 ? 0x1111 : parts == 4 ? 0x0101 : 1));
}

FSM_INLINE __mmask8 lanes_in_parts64(ptrdiff_t n, int parts) {
    return (__mmask8)(first64(n) * (parts == 8 ? 0x55 : parts == 4 ? 0x11 : 1));
}

#if FSM_REAL == 32

FSM_INLINE vec vec_load_parts(const float *p, ptrdiff_t n, int parts, float fill) {
    if (parts == 1)
        return vec_load_n(p, n, fill);
    const ptrdiff_t count = n * (parts / 2);
    const __m512 none = _mm512_set1_ps(fill);
    vec r;
    EACH(i) {
        const __m512 a = _mm512_mask_loadu_ps(none, first32(count), p + i * count);
        r.v[i] = parts == 2 ? a : _mm512_mask_expand_ps(none, lanes_in_parts32(n, parts), a);
    }
    return r;
}

#endif

#if FSM_REAL == 64

FSM_INLINE vec vec_load_parts(const double *p, ptrdiff_t n, int parts, double fill) {
    if (parts == 1)
        return vec_load_n(p, n, fill);
    const ptrdiff_t count = n * (parts / 2);
    const __m512d none = _mm512_set1_pd(fill);
    vec r;
    EACH(i) {
        const __m512d a = _mm512_mask_loadu_pd(none, first64(count), p + i * count);
        r.v[i] = parts == 2 ? a : _mm512_mask_expand_pd(none, lanes_in_parts64(n, parts), a);
    }
    return r;
}

#endif

#if FSM_REAL == 32

FSM_INLINE void vec_store_parts(float *p, ptrdiff_t n, int parts, vec a) {
    const ptrdiff_t count = parts == 1 ? 16 : n * (parts / 2);
    EACH(i)
        _mm512_storeu_ps(p + i * count,
                         parts <= 2 ? a.v[i] : _mm512_maskz_compress_ps(lanes_in_parts32(n, parts), a.v[i]));
}

#endif

#if FSM_REAL == 64

FSM_INLINE void vec_store_parts(double *p, ptrdiff_t n, int parts, vec a) {
    const ptrdiff_t count = parts == 1 ? 8 : n * (parts / 2);
    EACH(i)
        _mm512_storeu_pd(p + i * count,
                         parts <= 2 ? a.v[i] : _mm512_maskz_compress_pd(lanes_in_parts64(n, parts), a.v[i]));
}

#endif

#if FSM_REAL == 32

FSM_INLINE vec vec_set_parts(const float *p, int parts) {
    if (parts <= 2)
        return (vec){{_mm512_set1_ps(p[0]), _mm512_set1_ps(p[parts / 2])}};
    const __m512 a = _mm512_castps256_ps512(parts == 4 ? _mm256_castps128_ps256(_mm_loadu_ps(p)) : _mm256_loadu_ps(p));
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row = _mm512_srli_epi32(lane, parts == 4 ? 3 : 2);
    return (vec){
        {_mm512_permutexvar_ps(row, a), _mm512_permutexvar_ps(_mm512_add_epi32(row, _mm512_set1_epi32(parts / 2)), a)}};
}

#endif

#if FSM_REAL == 64

FSM_INLINE vec vec_set_parts(const double *p, int parts) {
    if (parts <= 2)
        return (vec){{_mm512_set1_pd(p[0]), _mm512_set1_pd(p[parts / 2])}};
    const __m512d a = parts == 4 ? _mm512_castpd256_pd512(_mm256_loadu_pd(p)) : _mm512_loadu_pd(p);
    const __m512i row = _mm512_srli_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), parts == 4 ? 2 : 1);
    return (vec){
        {_mm512_permutexvar_pd(row, a), _mm512_permutexvar_pd(_mm512_add_epi64(row, _mm512_set1_epi64(parts / 2)), a)}};
}

#endif

/* Of two registers that are folded to one, the lower and the upper lanes of the rows, which have 8 float64, 4 or 2. The
 * last of these folds leaves rows in the order 0, 4, 1, 5, 2, 6, 3, 7. */
#define LOWER(lanes, a, b)                                                                                             \
    ((lanes) == 8   ? _mm512_shuffle_f64x2(a, b, 0x44)                                                                 \
     : (lanes) == 4 ? _mm512_shuffle_f64x2(a, b, 0x88)                                                                 \
                    : _mm512_unpacklo_pd(a, b))
#define UPPER(lanes, a, b)                                                                                             \
    ((lanes) == 8   ? _mm512_shuffle_f64x2(a, b, 0xee)                                                                 \
     : (lanes) == 4 ? _mm512_shuffle_f64x2(a, b, 0xdd)                                                                 \
                    : _mm512_unpackhi_pd(a, b))

/* Stores one float64 of each of 2 rows, of 4, in the first of their lanes, or of 8, which the last fold has brought
 * together. */
FSM_INLINE void store_folded(double *p, int parts, __m512d a) {
    if (parts == 2)
        _mm_storeu_pd(p, _mm_unpacklo_pd(_mm512_castpd512_pd128(a), _mm512_extractf64x2_pd(a, 2)));
    else if (parts == 4)
        _mm256_storeu_pd(p, _mm512_castpd512_pd256(_mm512_maskz_compress_pd(0x55, a)));
    else
        _mm512_storeu_pd(p, _mm512_permutexvar_pd(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), a));
}

#if FSM_REAL == 32

FSM_INLINE void vec_max_parts(vec a, int parts, float *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    /* Rows of 4 lanes or, of two rows, of 8. */
    const __m512 b = a.v[0], c = a.v[1];
    __m512 m = parts == 2   ? _mm512_max_ps(_mm512_shuffle_f32x4(b, c, 0x44), _mm512_shuffle_f32x4(b, c, 0xee))
               : parts == 4 ? _mm512_max_ps(_mm512_shuffle_f32x4(b, c, 0x88), _mm512_shuffle_f32x4(b, c, 0xdd))
                            : _mm512_max_ps(_mm512_shuffle_ps(b, c, 0x44), _mm512_shuffle_ps(b, c, 0xee));
    if (parts == 2)
        m = _mm512_max_ps(m, _mm512_shuffle_f32x4(m, m, 0xb1));
    if (parts <= 4)
        m = _mm512_max_ps(m, _mm512_permute_ps(m, 0x4e));
    m = _mm512_max_ps(m, _mm512_permute_ps(m, 0xb1));
    if (parts == 2) {
        max[0] = _mm512_cvtss_f32(m);
        max[1] = _mm_cvtss_f32(_mm512_extractf32x4_ps(m, 2));
    } else if (parts == 4) {
        _mm_storeu_ps(max, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, m)));
    } else {
        const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
        _mm256_storeu_ps(max, _mm512_castps512_ps256(_mm512_permutexvar_ps(lanes, m)));
    }
}

#endif

#if FSM_REAL == 64

FSM_INLINE void vec_max_parts(vec a, int parts, double *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    const int lanes = 16 / parts;
    __m512d m = _mm512_max_pd(LOWER(lanes, a.v[0], a.v[1]), UPPER(lanes, a.v[0], a.v[1]));
    if (parts == 2)
        m = _mm512_max_pd(m, _mm512_shuffle_f64x2(m, m, 0xb1));
    if (parts <= 4)
        m = _mm512_max_pd(m, _mm512_permute_pd(m, 0x55));
    store_folded(max, parts, m);
}

#endif

FSM_INLINE __m512d fold32(int lanes, __m512d a, __m512d b) {
    return _mm512_add_pd(LOWER(lanes, a, b), UPPER(lanes, a, b));
}

#if FSM_REAL == 32

FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    first_of_parts(equal32(a, b), 32 / parts, parts, at);
}

FSM_INLINE vec_acc vec_acc_of(vec a) {
    vec_acc s;
    EACH(i) {
        s.v[2 * i] = _mm512_cvtps_pd(_mm512_castps512_ps256(a.v[i]));
        s.v[2 * i + 1] = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v[i], 1));
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
    __m512d a;
    if (parts == 8) {
        a = fold32(2, fold32(4, s.v[0], s.v[1]), fold32(4, s.v[2], s.v[3]));
    } else {
        a = parts == 4 ? fold32(4, fold32(8, s.v[0], s.v[1]), fold32(8, s.v[2], s.v[3]))
                       : fold32(8, _mm512_add_pd(s.v[0], s.v[1]), _mm512_add_pd(s.v[2], s.v[3]));
        if (parts == 2)
            a = _mm512_add_pd(a, _mm512_shuffle_f64x2(a, a, 0xb1));
        a = _mm512_add_pd(a, _mm512_permute_pd(a, 0x55));
    }
    store_folded(hi, parts, a);
}

#endif

#if FSM_REAL == 64

#include "two_sum.h"

/* Each step brings the upper half of the lanes that are left down to the lower; what the others then hold
 * no longer counts. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    vec_acc upper = s;
    upper.hi.v[0] = s.hi.v[1];
    upper.lo.v[0] = s.lo.v[1];
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = _mm512_shuffle_f64x2(s.hi.v[0], s.hi.v[0], 0x0e);
    upper.lo.v[0] = _mm512_shuffle_f64x2(s.lo.v[0], s.lo.v[0], 0x0e);
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = _mm512_shuffle_f64x2(s.hi.v[0], s.hi.v[0], 0x01);
    upper.lo.v[0] = _mm512_shuffle_f64x2(s.lo.v[0], s.lo.v[0], 0x01);
    s = vec_acc_merge(s, upper);
    upper.hi.v[0] = _mm512_unpackhi_pd(s.hi.v[0], s.hi.v[0]);
    upper.lo.v[0] = _mm512_unpackhi_pd(s.lo.v[0], s.lo.v[0]);
    s = vec_acc_merge(s, upper);
    return (fsm_sum){_mm512_cvtsd_f64(s.hi.v[0]), _mm512_cvtsd_f64(s.lo.v[0])};
}

FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    first_of_parts(equal64(a, b), 16 / parts, parts, at);
}

FSM_INLINE vec_acc vec_acc_of(vec a) {
    return (vec_acc){a, vec_set1(0)};
}

/* What a fold leaves in registers beyond the first does not count. */
FSM_INLINE vec_acc fold64(int lanes, vec_acc s) {
    vec_acc lower = s, upper = s;
    lower.hi.v[0] = LOWER(lanes, s.hi.v[0], s.hi.v[1]);
    lower.lo.v[0] = LOWER(lanes, s.lo.v[0], s.lo.v[1]);
    upper.hi.v[0] = UPPER(lanes, s.hi.v[0], s.hi.v[1]);
    upper.lo.v[0] = UPPER(lanes, s.lo.v[0], s.lo.v[1]);
    return vec_acc_merge(lower, upper);
}

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    if (parts == 1) {
        const fsm_sum sum = vec_acc_fold(s);
        *hi = sum.hi;
        *lo = sum.lo;
        return;
    }
    s = fold64(16 / parts, s);
    vec_acc upper = s;
    if (parts == 2) {
        upper.hi.v[0] = _mm512_shuffle_f64x2(s.hi.v[0], s.hi.v[0], 0xb1);
        upper.lo.v[0] = _mm512_shuffle_f64x2(s.lo.v[0], s.lo.v[0], 0xb1);
        s = vec_acc_merge(s, upper);
    }
    if (parts <= 4) {
        upper.hi.v[0] = _mm512_permute_pd(s.hi.v[0], 0x55);
        upper.lo.v[0] = _mm512_permute_pd(s.lo.v[0], 0x55);
        s = vec_acc_merge(s, upper);
    }
    store_folded(hi, parts, s.hi.v[0]);
    store_folded(lo, parts, s.lo.v[0]);
}

#endif

#define FSM_HAS_PARTS 1

#endif
