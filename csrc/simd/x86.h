/* What the instruction sets of x86-64 share, in 256-bit registers. */
#ifndef FSM_X86_H
#define FSM_X86_H

#include "real.h"

#include <immintrin.h>

FSM_ALWAYS_INLINE void reg_nt_end(void) {
    _mm_sfence();
}

/* A register takes halves of two rows from memory, so that what follows moves numbers within halves only. */
FSM_ALWAYS_INLINE void reg_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int half = 0; half < 2; half++) {
#if FSM_REAL == 32
        __m256 rows[4];
        FSM_UNROLL
        for (int i = 0; i < 4; i++) {
            const char *low = from + i * from_step + 16 * half, *high = low + 4 * from_step;
            const __m256 lower = _mm256_castps128_ps256(_mm_loadu_ps((const float *)low));
            rows[i] = _mm256_insertf128_ps(lower, _mm_loadu_ps((const float *)high), 1);
        }
        const __m256 a = _mm256_unpacklo_ps(rows[0], rows[1]), b = _mm256_unpacklo_ps(rows[2], rows[3]);
        const __m256 c = _mm256_unpackhi_ps(rows[0], rows[1]), d = _mm256_unpackhi_ps(rows[2], rows[3]);
        const __m256 columns[4] = {
            _mm256_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 1, 0)),
            _mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 2, 3, 2)),
            _mm256_shuffle_ps(c, d, _MM_SHUFFLE(1, 0, 1, 0)),
            _mm256_shuffle_ps(c, d, _MM_SHUFFLE(3, 2, 3, 2)),
        };
        FSM_UNROLL
        for (int i = 0; i < 4; i++)
            _mm256_storeu_ps((float *)(to + (4 * half + i) * to_step), columns[i]);
#else
        __m256d rows[2];
        FSM_UNROLL
        for (int i = 0; i < 2; i++) {
            const char *low = from + i * from_step + 16 * half, *high = low + 2 * from_step;
            const __m256d lower = _mm256_castpd128_pd256(_mm_loadu_pd((const double *)low));
            rows[i] = _mm256_insertf128_pd(lower, _mm_loadu_pd((const double *)high), 1);
        }
        _mm256_storeu_pd((double *)(to + 2 * half * to_step), _mm256_unpacklo_pd(rows[0], rows[1]));
        _mm256_storeu_pd((double *)(to + (2 * half + 1) * to_step), _mm256_unpackhi_pd(rows[0], rows[1]));
#endif
    }
}

/* bfloat16 numbers in the lower halves of the lanes. */
FSM_ALWAYS_INLINE __m256 of_bf16(__m256i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16));
}

/* fsm_f32_to_bf16 (half.h). */
FSM_ALWAYS_INLINE __m128i to_bf16(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    const __m256 is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    const __m256 which = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(nan), is_nan);
    const __m256i halves = _mm256_srli_epi32(_mm256_castps_si256(which), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

#endif
