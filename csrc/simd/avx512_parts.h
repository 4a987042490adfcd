/* Rows side by side in a block (parts.h) for AVX-512, in registers: a block is two. */
#ifndef FSM_AVX512_PARTS_H
#define FSM_AVX512_PARTS_H

#include "avx512.h"
#include "block.h"

FSM_ALWAYS_INLINE reg_mask first_lanes(ptrdiff_t count) {
    return lanes_below(count, 0);
}

/* The lanes in use of a register with one row, two or four. */
FSM_ALWAYS_INLINE reg_mask lanes_in_parts(ptrdiff_t n, int parts) {
    const uint32_t two = 1 | UINT32_C(1) << (REG_LANES / 2), four = two | two << (REG_LANES / 4);
    return (reg_mask)(first_lanes(n) * (parts == 8 ? four : parts == 4 ? two : 1));
}

FSM_INLINE vec vec_load_parts(const real *p, ptrdiff_t n, int parts, real fill) {
    if (parts == 1)
        return vec_load_n(p, n, fill);
    const ptrdiff_t count = n * (parts / 2);
    const reg none = reg_set1(fill);
    vec r;
    EACH(i) {
        const reg a = MM(mask_loadu)(none, first_lanes(count), p + i * count);
        r.v[i] = parts == 2 ? a : MM(mask_expand)(none, lanes_in_parts(n, parts), a);
    }
    return r;
}

FSM_INLINE void vec_store_parts(real *p, ptrdiff_t n, int parts, vec a) {
    const ptrdiff_t count = parts == 1 ? REG_LANES : n * (parts / 2);
    EACH(i)
        reg_store(p + i * count, parts <= 2 ? a.v[i] : MM(maskz_compress)(lanes_in_parts(n, parts), a.v[i]));
}

FSM_INLINE vec vec_set_parts(const real *p, int parts) {
    if (parts <= 2)
        return (vec){{reg_set1(p[0]), reg_set1(p[parts / 2])}};
#if FSM_REAL == 32
    const reg a = _mm512_castps256_ps512(parts == 4 ? _mm256_castps128_ps256(_mm_loadu_ps(p)) : _mm256_loadu_ps(p));
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    const reg a = parts == 4 ? _mm512_castpd256_pd512(_mm256_loadu_pd(p)) : _mm512_loadu_pd(p);
    const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
#endif
    const __m512i row = MM_INT(srli)(lane, (REG_LANES == 16 ? 2 : 1) + (parts == 4));
    const __m512i next = MM_INT(add)(row, MM_INT(set1)(parts / 2));
    return (vec){{MM(permutexvar)(row, a), MM(permutexvar)(next, a)}};
}

/* The lower and the upper lanes of the rows in two registers that are folded to one. Rows have 16 float64, 8, 4 or 2.
 * The last of these folds leaves rows in the order 0, 4, 1, 5, 2, 6, 3, 7. */
FSM_ALWAYS_INLINE wide lower_of(int lanes, wide a, wide b) {
    return lanes == 16  ? a
           : lanes == 8 ? _mm512_shuffle_f64x2(a, b, 0x44)
           : lanes == 4 ? _mm512_shuffle_f64x2(a, b, 0x88)
                        : _mm512_unpacklo_pd(a, b);
}

FSM_ALWAYS_INLINE wide upper_of(int lanes, wide a, wide b) {
    return lanes == 16  ? b
           : lanes == 8 ? _mm512_shuffle_f64x2(a, b, 0xee)
           : lanes == 4 ? _mm512_shuffle_f64x2(a, b, 0xdd)
                        : _mm512_unpackhi_pd(a, b);
}

/* The halves of rows of 4 lanes, or of 2, change places. */
FSM_ALWAYS_INLINE wide swapped(int lanes, wide a) {
    return lanes == 4 ? _mm512_shuffle_f64x2(a, a, 0xb1) : _mm512_permute_pd(a, 0x55);
}

/* Stores one float64 of each of 2 rows, of 4, in the first of their lanes, or of 8, which the last fold has brought
 * together. */
FSM_ALWAYS_INLINE void store_folded(double *p, int parts, wide a) {
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

FSM_ALWAYS_INLINE acc acc_fold(int lanes, acc a, acc b) {
    return wide_add(lower_of(lanes, a, b), upper_of(lanes, a, b));
}

FSM_ALWAYS_INLINE acc acc_swapped(int lanes, acc a) {
    return swapped(lanes, a);
}

FSM_ALWAYS_INLINE void store_sums(double *hi, double *lo, int parts, acc s) {
    for (int i = 0; i < parts; i++)
        lo[i] = 0;
    store_folded(hi, parts, s);
}

#else

FSM_INLINE void vec_max_parts(vec a, int parts, double *max) {
    if (parts == 1) {
        *max = vec_hmax(a);
        return;
    }
    const int lanes = LANES / parts;
    reg m = reg_max(lower_of(lanes, a.v[0], a.v[1]), upper_of(lanes, a.v[0], a.v[1]));
    if (parts == 2)
        m = reg_max(m, swapped(4, m));
    if (parts <= 4)
        m = reg_max(m, swapped(2, m));
    store_folded(max, parts, m);
}

FSM_ALWAYS_INLINE acc acc_fold(int lanes, acc a, acc b) {
    const acc lower = {lower_of(lanes, a.hi, b.hi), lower_of(lanes, a.lo, b.lo)};
    const acc upper = {upper_of(lanes, a.hi, b.hi), upper_of(lanes, a.lo, b.lo)};
    return acc_merge(lower, upper);
}

FSM_ALWAYS_INLINE acc acc_swapped(int lanes, acc a) {
    return (acc){swapped(lanes, a.hi), swapped(lanes, a.lo)};
}

FSM_ALWAYS_INLINE void store_sums(double *hi, double *lo, int parts, acc s) {
    store_folded(hi, parts, s.hi);
    store_folded(lo, parts, s.lo);
}

#endif

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    if (parts == 1) {
        const fsm_sum sum = vec_acc_fold(s);
        *hi = sum.hi;
        *lo = sum.lo;
        return;
    }
    int lanes = LANES / parts;
    FSM_UNROLL
    for (int left = ACCS / 2; left > 0; left /= 2) {
        for (int i = 0; i < left; i++)
            s.v[i] = acc_fold(lanes, s.v[2 * i], s.v[2 * i + 1]);
        lanes /= 2;
    }
    acc a = s.v[0];
    if (parts == 2)
        a = acc_merge(a, acc_swapped(4, a));
    if (parts <= 4)
        a = acc_merge(a, acc_swapped(2, a));
    store_sums(hi, lo, parts, a);
}

#endif
