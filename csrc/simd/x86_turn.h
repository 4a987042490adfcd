/* Squares of numbers turned in registers, for the instruction sets of x86-64 that have AVX2. A register takes halves of
 * two rows from memory, so that what follows moves numbers within halves only. */
#ifndef FSM_SIMD_X86_TURN_H
#define FSM_SIMD_X86_TURN_H

#include "real.h"

#include <immintrin.h>

#if FSM_REAL == 32

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int half = 0; half < 2; half++) {
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
    }
}

#endif

#if FSM_REAL == 64

FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int half = 0; half < 2; half++) {
        __m256d rows[2];
        FSM_UNROLL
        for (int i = 0; i < 2; i++) {
            const char *low = from + i * from_step + 16 * half, *high = low + 2 * from_step;
            const __m256d lower = _mm256_castpd128_pd256(_mm_loadu_pd((const double *)low));
            rows[i] = _mm256_insertf128_pd(lower, _mm_loadu_pd((const double *)high), 1);
        }
        _mm256_storeu_pd((double *)(to + 2 * half * to_step), _mm256_unpacklo_pd(rows[0], rows[1]));
        _mm256_storeu_pd((double *)(to + (2 * half + 1) * to_step), _mm256_unpackhi_pd(rows[0], rows[1]));
    }
}

#endif

#endif
