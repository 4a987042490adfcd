/* AVX-512 F, DQ, BW, VL. */
#ifndef FSM_AVX512_H
#define FSM_AVX512_H

#include "real.h"
#include "x86.h"

#include <immintrin.h>
#include <math.h>

#define FSM_ISA          avx512
#define FSM_HAS_NT_STORE 1
#define FSM_HAS_PARTIAL  1
#define FSM_PARTS        "avx512_parts.h"

typedef __m512d wide;

#if FSM_REAL == 32
typedef __m512 reg;
typedef __mmask16 reg_mask;
#define MM(op)           _mm512_##op##_ps
#define MM_INT(op)       _mm512_##op##_epi32
#define MM_CMP(a, b, is) _mm512_cmp_ps_mask(a, b, is)
#define MM_TEST(a, b)    _mm512_test_epi32_mask(a, b)
#define MM_BITS(a)       _mm512_castps_si512(a)
#define MM_OF_BITS(a)    _mm512_castsi512_ps(a)
#else
typedef __m512d reg;
typedef __mmask8 reg_mask;
#define MM(op)           _mm512_##op##_pd
#define MM_INT(op)       _mm512_##op##_epi64
#define MM_CMP(a, b, is) _mm512_cmp_pd_mask(a, b, is)
#define MM_TEST(a, b)    _mm512_test_epi64_mask(a, b)
#define MM_BITS(a)       _mm512_castpd_si512(a)
#define MM_OF_BITS(a)    _mm512_castsi512_pd(a)
#endif

FSM_ALWAYS_INLINE reg reg_load(const real *p) {
    return MM(loadu)(p);
}

FSM_ALWAYS_INLINE void reg_store(real *p, reg a) {
    MM(storeu)(p, a);
}

/* A register that begins at lane `first` of a block: which of its lanes are among the first n of the block. */
FSM_ALWAYS_INLINE reg_mask lanes_below(ptrdiff_t n, int first) {
    return (reg_mask)(((UINT64_C(1) << n) - 1) >> first);
}

FSM_ALWAYS_INLINE reg reg_load_n(const real *p, ptrdiff_t n, int first, real fill) {
    return MM(mask_loadu)(MM(set1)(fill), lanes_below(n, first), p + first);
}

FSM_ALWAYS_INLINE void reg_store_n(real *p, ptrdiff_t n, int first, reg a) {
    MM(mask_storeu)(p + first, lanes_below(n, first), a);
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
    return MM(abs)(a);
}

/* vmaxps gives the second of two operands if one of them is a NaN. */
FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low) {
    return MM(max)(low, x);
}

FSM_ALWAYS_INLINE reg reg_flush(reg x) {
    return MM(maskz_mov)(MM_TEST(MM_BITS(x), MM_BITS(MM(set1)((real)INFINITY))), x);
}

FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no) {
    return MM(mask_blend)(MM_CMP(a, b, _CMP_LT_OQ), no, yes);
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

FSM_ALWAYS_INLINE real reg_hmax(reg a) {
    return MM(reduce_max)(a);
}

FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b) {
    return MM_CMP(a, b, _CMP_LT_OQ);
}

FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b) {
    return (reg_mask)(a | b);
}

FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a) {
    return a != 0;
}

FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b) {
    return MM_CMP(a, b, _CMP_EQ_OQ);
}

FSM_ALWAYS_INLINE wide wide_zero(void) {
    return _mm512_setzero_pd();
}

FSM_ALWAYS_INLINE wide wide_add(wide a, wide b) {
    return _mm512_add_pd(a, b);
}

FSM_ALWAYS_INLINE wide wide_upper(wide a, int width) {
    return width == 4   ? _mm512_shuffle_f64x2(a, a, 0x0e)
           : width == 2 ? _mm512_shuffle_f64x2(a, a, 0x01)
                        : _mm512_unpackhi_pd(a, a);
}

FSM_ALWAYS_INLINE void wide_store(double *p, wide a) {
    _mm512_storeu_pd(p, a);
}

FSM_ALWAYS_INLINE double wide_first(wide a) {
    return _mm512_cvtsd_f64(a);
}

#if FSM_REAL == 32

FSM_ALWAYS_INLINE wide reg_widen_low(reg a) {
    return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}

FSM_ALWAYS_INLINE wide reg_widen_high(reg a) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    const __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
}

/* fsm_f32_to_bf16 (half.h). */
FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    const __m512i bits = MM_BITS(a), last = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
    const __mmask16 nan = MM_CMP(a, a, _CMP_UNORD_Q);
    const __m512i which = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x00400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(which, 16)));
}

#else

FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p) {
    return _mm512_cvtps_pd(_mm256_maskz_cvtph_ps(0xff, _mm_loadu_si128((const __m128i *)p)));
}

FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p) {
    return _mm512_cvtps_pd(of_bf16(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p))));
}

/* Rounded to odd (half.h): truncated, and the last bit set if that lost something. */
FSM_ALWAYS_INLINE __m256 odd_f32(reg a) {
    const __m256 toward_zero = _mm512_cvt_roundpd_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __mmask8 inexact = MM_CMP(_mm512_cvtps_pd(toward_zero), a, _CMP_NEQ_OQ);
    const __m256i bits = _mm256_castps_si256(toward_zero);
    return _mm256_castsi256_ps(_mm256_mask_or_epi32(bits, inexact, bits, _mm256_set1_epi32(1)));
}

FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a) {
    _mm_storeu_si128((__m128i *)p, _mm256_maskz_cvtps_ph(0xff, odd_f32(a), _MM_FROUND_TO_NEAREST_INT));
}

FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a) {
    _mm_storeu_si128((__m128i *)p, to_bf16(odd_f32(a)));
}

#endif

#endif
