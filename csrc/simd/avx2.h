/* AVX2, FMA and F16C. */
#ifndef FSM_AVX2_H
#define FSM_AVX2_H

#include "real.h"
#include "x86.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define FSM_ISA          avx2
#define FSM_HAS_NT_STORE 1
#define FSM_REGISTERS    4
#define FSM_HAS_PARTIAL  1
#define FSM_PARTS        "avx2_parts.h"

typedef __m256d wide;

#if FSM_REAL == 32
typedef __m256 reg;
#define MM(op)        _mm256_##op##_ps
#define MM_INT(op)    _mm256_##op##_epi32
#define MM_BITS(a)    _mm256_castps_si256(a)
#define MM_OF_BITS(a) _mm256_castsi256_ps(a)
#else
typedef __m256d reg;
#define MM(op)        _mm256_##op##_pd
#define MM_INT(op)    _mm256_##op##_epi64
#define MM_BITS(a)    _mm256_castpd_si256(a)
#define MM_OF_BITS(a) _mm256_castsi256_pd(a)
#endif

typedef reg reg_mask; /* all ones, or zeros */

FSM_ALWAYS_INLINE reg reg_load(const real *p) {
    return MM(loadu)(p);
}

FSM_ALWAYS_INLINE void reg_store(real *p, reg a) {
    MM(storeu)(p, a);
}

FSM_ALWAYS_INLINE void reg_nt_store(real *p, reg a) {
    MM(stream)(p, a);
}

FSM_ALWAYS_INLINE reg reg_set1(real a) {
    return MM(set1)(a);
}

FSM_ALWAYS_INLINE reg reg_add(reg a, reg b) {
    return MM(add)(a, b);
}

FSM_ALWAYS_INLINE reg reg_sub(reg a, reg b) {
    return MM(sub)(a, b);
}

FSM_ALWAYS_INLINE reg reg_mul(reg a, reg b) {
    return MM(mul)(a, b);
}

FSM_ALWAYS_INLINE reg reg_fma(reg a, reg b, reg c) {
    return MM(fmadd)(a, b, c);
}

FSM_ALWAYS_INLINE reg reg_mul_error(reg a, reg b, reg p) {
    return MM(fmsub)(a, b, p);
}

FSM_ALWAYS_INLINE reg reg_scale(reg e, reg hi, reg lo) {
    return reg_fma(e, hi, reg_mul(e, lo));
}

FSM_ALWAYS_INLINE reg reg_max(reg a, reg b) {
    return MM(max)(a, b);
}

FSM_ALWAYS_INLINE reg reg_min(reg a, reg b) {
    return MM(min)(a, b);
}

FSM_ALWAYS_INLINE reg reg_abs(reg a) {
    return MM(andnot)(MM(set1)((real)-0.0), a);
}

/* vmaxps gives the second of two operands if one of them is a NaN. */
FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low) {
    return MM(max)(low, x);
}

FSM_ALWAYS_INLINE reg reg_flush(reg x) {
    const __m256i exponent = _mm256_and_si256(MM_BITS(x), MM_BITS(MM(set1)((real)INFINITY)));
    return MM(andnot)(MM_OF_BITS(MM_INT(cmpeq)(exponent, _mm256_setzero_si256())), x);
}

FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b) {
    return MM(cmp)(a, b, _CMP_LT_OQ);
}

FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b) {
    return MM(or)(a, b);
}

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    return MM(movemask)(a) != 0;
}

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    return (uint32_t)MM(movemask)(MM(cmp)(a, b, _CMP_EQ_OQ));
}

FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no) {
    return MM(blendv)(no, yes, reg_lt(a, b));
}

FSM_ALWAYS_INLINE reg reg_pow2(reg z) {
    return MM_OF_BITS(MM_INT(slli)(MM_BITS(z), MANTISSA_BITS));
}

FSM_ALWAYS_INLINE reg reg_bits_sub(reg a, reg b) {
    return MM_OF_BITS(MM_INT(sub)(MM_BITS(a), MM_BITS(b)));
}

FSM_ALWAYS_INLINE reg reg_bits_or(reg a, reg b) {
    return MM(or)(a, b);
}

FSM_ALWAYS_INLINE wide wide_zero(void) {
    return _mm256_setzero_pd();
}

FSM_ALWAYS_INLINE wide wide_add(wide a, wide b) {
    return _mm256_add_pd(a, b);
}

FSM_ALWAYS_INLINE wide wide_upper(wide a, int width) {
    return width == 2 ? _mm256_castpd128_pd256(_mm256_extractf128_pd(a, 1)) : _mm256_unpackhi_pd(a, a);
}

FSM_ALWAYS_INLINE void wide_store(double *p, wide a) {
    _mm256_storeu_pd(p, a);
}

FSM_ALWAYS_INLINE double wide_first(wide a) {
    return _mm256_cvtsd_f64(a);
}

#if FSM_REAL == 32

/* A register that begins at lane `first` of a block: all ones in those of its lanes that are among the first n of the
 * block. */
FSM_ALWAYS_INLINE __m256i lanes_below(ptrdiff_t n, int first) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n lanes. Instructions for that cost AMD's CPUs tens of cycles, as many as a block takes
 * otherwise. */
FSM_ALWAYS_INLINE void store_some(float *p, ptrdiff_t n, __m256 a) {
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

FSM_ALWAYS_INLINE float reg_hmax(reg a) {
    const __m128 w4 = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 w2 = _mm_max_ps(w4, _mm_movehl_ps(w4, w4));
    return _mm_cvtss_f32(_mm_max_ss(w2, _mm_movehdup_ps(w2)));
}

FSM_ALWAYS_INLINE wide reg_widen_low(reg a) {
    return _mm256_cvtps_pd(_mm256_castps256_ps128(a));
}

FSM_ALWAYS_INLINE wide reg_widen_high(reg a) {
    return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return of_bf16(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)));
}

FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    _mm_storeu_si128((__m128i *)p, to_bf16(a));
}

#else

FSM_ALWAYS_INLINE __m256i lanes_below(ptrdiff_t n, int first) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n - first), _mm256_setr_epi64x(0, 1, 2, 3));
}

FSM_ALWAYS_INLINE void store_some(double *p, ptrdiff_t n, __m256d a) {
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

FSM_ALWAYS_INLINE double reg_hmax(reg a) {
    const __m128d w2 = _mm_max_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_max_sd(w2, _mm_unpackhi_pd(w2, w2)));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p)));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    const __m128i halves = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(halves, 16)));
}

/* The lower halves of four lanes, which are all ones or all zeros. */
FSM_ALWAYS_INLINE __m128i narrow(__m256d lanes) {
    const __m256 halves = _mm256_castpd_ps(lanes);
    const __m128 low = _mm256_castps256_ps128(halves), high = _mm256_extractf128_ps(halves, 1);
    return _mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
}

/* fsm_f64_to_f32_odd (half.h). */
FSM_ALWAYS_INLINE __m128 odd_f32(reg a) {
    const __m128 nearest = _mm256_cvtpd_ps(a);
    const __m256d back = _mm256_cvtps_pd(nearest);
    const __m256d up = _mm256_cmp_pd(reg_abs(back), reg_abs(a), _CMP_GT_OQ);
    const __m256d inexact = _mm256_cmp_pd(back, a, _CMP_NEQ_OQ);
    const __m128i bits = _mm_add_epi32(_mm_castps_si128(nearest), narrow(up)); /* all ones are -1 */
    return _mm_castsi128_ps(_mm_or_si128(bits, _mm_srli_epi32(narrow(inexact), 31)));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    _mm_storel_epi64((__m128i *)p, _mm_cvtps_ph(odd_f32(a), _MM_FROUND_TO_NEAREST_INT));
}

/* The other half is the lower one once more. */
FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    const __m128 odd = odd_f32(a);
    _mm_storel_epi64((__m128i *)p, to_bf16(_mm256_set_m128(odd, odd)));
}

#endif

FSM_ALWAYS_INLINE reg reg_load_n(const real *p, ptrdiff_t n, int first, real fill) {
    const __m256i lanes = lanes_below(n, first);
    return MM(blendv)(MM(set1)(fill), MM(maskload)(p + first, lanes), MM_OF_BITS(lanes));
}

FSM_ALWAYS_INLINE void reg_store_n(real *p, ptrdiff_t n, int first, reg a) {
    const ptrdiff_t left = n - first;
    if (left >= REG_LANES)
        reg_store(p + first, a);
    else if (left > 0)
        store_some(p + first, left, a);
}

#endif
