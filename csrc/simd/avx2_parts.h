/* Rows side by side in a block (parts.h) for AVX2, in registers: a block is four, of which a row takes four, two, one
 * or half of one. */
#ifndef FSM_AVX2_PARTS_H
#define FSM_AVX2_PARTS_H

#include "avx2.h"
#include "block.h"

/* On half a register; the halves of one, and one of two halves; all ones in the first n lanes of a half. */
#if FSM_REAL == 32
#define MM_HALF(op)         _mm_##op##_ps
#define MM_JOIN(high, low)  _mm256_set_m128(high, low)
#define MM_LOW(a)           _mm256_castps256_ps128(a)
#define MM_HIGH(a)          _mm256_extractf128_ps(a, 1)
#define FIRST_LANES_HALF(n) _mm_cmpgt_epi32(_mm_set1_epi32((int)(n)), _mm_setr_epi32(0, 1, 2, 3))
#else
#define MM_HALF(op)         _mm_##op##_pd
#define MM_JOIN(high, low)  _mm256_set_m128d(high, low)
#define MM_LOW(a)           _mm256_castpd256_pd128(a)
#define MM_HIGH(a)          _mm256_extractf128_pd(a, 1)
#define FIRST_LANES_HALF(n) _mm_cmpgt_epi64(_mm_set1_epi64x(n), _mm_set_epi64x(1, 0))
#endif

FSM_INLINE vec vec_load_parts(const real *p, ptrdiff_t n, int parts, real fill) {
    const __m128i half = FIRST_LANES_HALF(n);
    vec r;
    EACH(i) {
        const int registers = parts == 8 ? 1 : 4 / parts; /* of a row */
        __m256i lanes = lanes_below(n, i % registers * REG_LANES);
        reg a;
        if (parts == 8) {
            lanes = _mm256_set_m128i(half, half);
            a = MM_JOIN(MM_HALF(maskload)(p + (2 * i + 1) * n, half), MM_HALF(maskload)(p + 2 * i * n, half));
        } else {
            a = MM(maskload)(p + i / registers * n + i % registers * REG_LANES, lanes);
        }
        r.v[i] = MM(blendv)(reg_set1(fill), a, MM_OF_BITS(lanes));
    }
    return r;
}

/* In order: what is written beyond a row is written again. */
FSM_INLINE void vec_store_parts(real *p, ptrdiff_t n, int parts, vec a) {
    const int registers = parts == 8 ? 1 : 4 / parts;
    EACH(i) {
        if (parts == 8) {
            MM_HALF(storeu)(p + 2 * i * n, MM_LOW(a.v[i]));
            MM_HALF(storeu)(p + (2 * i + 1) * n, MM_HIGH(a.v[i]));
        } else {
            reg_store(p + i / registers * n + i % registers * REG_LANES, a.v[i]);
        }
    }
}

FSM_INLINE vec vec_set_parts(const real *p, int parts) {
    vec r;
    EACH(i)
        r.v[i] =
            parts == 8 ? MM_JOIN(MM_HALF(set1)(p[2 * i + 1]), MM_HALF(set1)(p[2 * i])) : reg_set1(p[i * parts / 4]);
    return r;
}

/* The lower and the upper lanes of the rows in two registers that are folded to one. Rows have 16 float64, 8, 4
 * or 2. */
FSM_ALWAYS_INLINE wide lower_of(int lanes, wide a, wide b) {
    return lanes >= 8 ? a : lanes == 4 ? _mm256_permute2f128_pd(a, b, 0x20) : _mm256_unpacklo_pd(a, b);
}

FSM_ALWAYS_INLINE wide upper_of(int lanes, wide a, wide b) {
    return lanes >= 8 ? b : lanes == 4 ? _mm256_permute2f128_pd(a, b, 0x31) : _mm256_unpackhi_pd(a, b);
}

/* Stores one float64 a row, which the last fold leaves in the order 0, 2, 1, 3 in each register. */
FSM_ALWAYS_INLINE void store_folded(double *p, int parts, wide a, wide b) {
    a = _mm256_permute4x64_pd(a, 0xd8);
    if (parts == 2)
        _mm_storeu_pd(p, _mm256_castpd256_pd128(a));
    else
        _mm256_storeu_pd(p, a);
    if (parts == 8)
        _mm256_storeu_pd(p + 4, _mm256_permute4x64_pd(b, 0xd8));
}

#if FSM_REAL == 32

FSM_ALWAYS_INLINE __m256 max_of_halves(__m256 a, __m256 b) {
    return _mm256_max_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

FSM_ALWAYS_INLINE __m256 max_of_shuffled(__m256 a, __m256 b) {
    return _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}

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
    const __m256 first = max_of_halves(a.v[0], parts == 2 ? a.v[2] : a.v[1]);
    __m256 m = max_of_shuffled(first, parts == 4 ? max_of_halves(a.v[2], a.v[3]) : first);
    m = _mm256_max_ps(m, _mm256_permute_ps(m, 0xb1));
    const __m128 even = _mm256_castps256_ps128(m), odd = _mm256_extractf128_ps(m, 1);
    const __m128 all = _mm_permute_ps(_mm_shuffle_ps(even, odd, 0x88), 0xd8);
    if (parts == 4)
        _mm_storeu_ps(max, all);
    else
        _mm_storel_pi((__m64 *)max, all);
}

FSM_ALWAYS_INLINE acc acc_fold(int lanes, acc a, acc b) {
    return wide_add(lower_of(lanes, a, b), upper_of(lanes, a, b));
}

FSM_ALWAYS_INLINE void store_sums(double *hi, double *lo, int parts, acc a, acc b) {
    for (int i = 0; i < parts; i++)
        lo[i] = 0;
    store_folded(hi, parts, a, b);
}

#else

FSM_ALWAYS_INLINE vec fold_max(int lanes, vec a) {
    FSM_UNROLL
    for (int i = 0; i < REGS / 2; i++)
        a.v[i] = reg_max(lower_of(lanes, a.v[2 * i], a.v[2 * i + 1]), upper_of(lanes, a.v[2 * i], a.v[2 * i + 1]));
    return a;
}

FSM_INLINE void vec_max_parts(vec a, int parts, double *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    if (parts == 2)
        a = fold_max(8, a);
    if (parts <= 4)
        a = fold_max(4, a);
    a = fold_max(2, a);
    store_folded(max, parts, a.v[0], a.v[1]);
}

FSM_ALWAYS_INLINE acc acc_fold(int lanes, acc a, acc b) {
    const acc lower = {lower_of(lanes, a.hi, b.hi), lower_of(lanes, a.lo, b.lo)};
    const acc upper = {upper_of(lanes, a.hi, b.hi), upper_of(lanes, a.lo, b.lo)};
    return acc_merge(lower, upper);
}

FSM_ALWAYS_INLINE void store_sums(double *hi, double *lo, int parts, acc a, acc b) {
    store_folded(hi, parts, a.hi, b.hi);
    store_folded(lo, parts, a.lo, b.lo);
}

#endif

/* Rows of so many lanes, in one register or more, or several to one, become rows of half as many. */
FSM_ALWAYS_INLINE vec_acc fold_rows(int lanes, vec_acc s) {
    const int apart = lanes > 2 * WIDE_LANES ? lanes / (2 * WIDE_LANES) : 1; /* registers that are folded to one */
    FSM_UNROLL
    for (int i = 0; i < ACCS / 2; i++) {
        const int at = 2 * apart * (i / apart) + i % apart;
        s.v[i] = acc_fold(lanes, s.v[at], s.v[at + apart]);
    }
    return s;
}

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    if (parts == 1) {
        const fsm_sum sum = vec_acc_fold(s);
        *hi = sum.hi;
        *lo = sum.lo;
        return;
    }
    const int lanes = LANES / parts;
    if (lanes >= 16)
        s = fold_rows(16, s);
    if (lanes >= 8)
        s = fold_rows(8, s);
    if (lanes >= 4)
        s = fold_rows(4, s);
    s = fold_rows(2, s);
    store_sums(hi, lo, parts, s.v[0], s.v[1]);
}

#endif
