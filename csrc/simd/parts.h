/* Rows side by side in a block: `parts` of them, of n elements, that lie one after the other in memory, each in
 * LANES/parts lanes, n or more. parts is 1, 2, 4 or 8.
 *
 * What stands here goes by way of memory. An instruction set that does better in registers has a file of its own for
 * these functions, which it names FSM_PARTS. */
#ifndef FSM_SIMD_PARTS_H
#define FSM_SIMD_PARTS_H

#include "block.h"

#include <string.h>

FSM_INLINE vec vec_load_parts(const real *p, ptrdiff_t n, int parts, real fill); /* lanes from n on are fill */
FSM_INLINE void vec_store_parts(real *p, ptrdiff_t n, int parts, vec a); /* may write up to p + LANES after the rows */
FSM_INLINE vec vec_set_parts(const real *p, int parts);                  /* p[i] in all lanes of row i */
FSM_INLINE void vec_max_parts(vec a, int parts, real *max);              /* vec_hmax of each row */
FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo); /* vec_acc_fold of each row */

#if defined(FSM_PARTS)

#include FSM_PARTS
#define FSM_HAS_PARTS          1
#define IF_PARTS_PAY(function) (function)

#else

/* By way of memory, short rows side by side take longer than as columns. */
#define IF_PARTS_PAY(function) (false ? (function) : NULL)

FSM_INLINE vec vec_load_parts(const real *p, ptrdiff_t n, int parts, real fill) {
    const ptrdiff_t width = LANES / parts;
    real lanes[LANES];
    for (ptrdiff_t j = 0; j < LANES; j++)
        lanes[j] = fill;
    for (ptrdiff_t i = 0; i < parts; i++)
        memcpy(lanes + i * width, p + i * n, (size_t)n * sizeof *p);
    return vec_load(lanes);
}

FSM_INLINE void vec_store_parts(real *p, ptrdiff_t n, int parts, vec a) {
    const ptrdiff_t width = LANES / parts;
    real lanes[LANES];
    vec_store(lanes, a);
    for (ptrdiff_t i = 0; i < parts; i++)
        memcpy(p + i * n, lanes + i * width, (size_t)n * sizeof *p);
}

FSM_INLINE vec vec_set_parts(const real *p, int parts) {
    real lanes[LANES];
    for (int j = 0; j < LANES; j++)
        lanes[j] = p[j / (LANES / parts)];
    return vec_load(lanes);
}

FSM_INLINE void vec_max_parts(vec a, int parts, real *max) {
    const int width = LANES / parts;
    real lanes[LANES];
    vec_store(lanes, a);
    for (int i = 0; i < parts; i++) {
        max[i] = lanes[i * width];
        for (int j = 1; j < width; j++)
            max[i] = lanes[i * width + j] > max[i] ? lanes[i * width + j] : max[i];
    }
}

FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo) {
    double lanes_hi[LANES], lanes_lo[LANES];
    vec_acc_get(s, lanes_hi, lanes_lo);
    for (int i = 0; i < parts; i++) {
        double *row_hi = lanes_hi + i * (LANES / parts), *row_lo = lanes_lo + i * (LANES / parts);
        for (int width = LANES / parts / 2; width > 0; width /= 2)
            for (int j = 0; j < width; j++) {
                const fsm_sum a = {row_hi[j], row_lo[j]}, b = {row_hi[j + width], row_lo[j + width]};
                const fsm_sum sum = sum_merge(a, b);
                row_hi[j] = sum.hi;
                row_lo[j] = sum.lo;
            }
        hi[i] = row_hi[0];
        lo[i] = row_lo[0];
    }
}

#endif

/* vec_find_eq of each row, or LANES/parts. */
FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    const uint64_t bits = eq_bits_of_block(a, b);
    const int width = LANES / parts;
    FSM_UNROLL
    for (int i = 0; i < parts; i++)
        at[i] = lowest_bit(bits >> (i * width) | UINT64_C(1) << width);
}

#endif
