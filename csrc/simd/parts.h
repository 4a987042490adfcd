/* Rows side by side in a block (vec.h), by way of memory: for instruction sets without functions of their own. Those
 * with them define FSM_HAS_PARTS. */
#ifndef FSM_SIMD_PARTS_H
#define FSM_SIMD_PARTS_H

#include "real.h"

#include <string.h>

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

FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at) {
    const int width = LANES / parts;
    real lanes[LANES], wanted[LANES];
    vec_store(lanes, a);
    vec_store(wanted, b);
    for (int i = 0; i < parts; i++) {
        at[i] = 0;
        while (at[i] < width && !(lanes[i * width + at[i]] == wanted[i * width + at[i]]))
            at[i]++;
    }
}

FSM_INLINE vec_acc vec_acc_of(vec a) {
    return vec_acc_add(vec_acc_zero(), a);
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
