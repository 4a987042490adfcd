/* Bits, one a lane, for the instruction sets of x86-64 that compare into them. */
#ifndef FSM_SIMD_X86_BITS_H
#define FSM_SIMD_X86_BITS_H

#include "../fsm.h"

#include <immintrin.h>

/* 32 for 0. */
FSM_INLINE int trailing_zeros(uint32_t a) {
    return _mm_popcnt_u32(~a & (a - 1));
}

/* The first bit of each of `parts` rows of `width` lanes, or `width`. */
FSM_INLINE void first_of_parts(uint32_t bits, int width, int parts, int *at) {
    FSM_UNROLL
    for (int i = 0; i < parts; i++)
        at[i] = trailing_zeros((uint32_t)((uint64_t)bits >> (i * width) | UINT64_C(1) << width));
}

#endif
