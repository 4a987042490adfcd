/* A block register by register. Where a block is several registers, of 16 in all, a step that has 4 blocks at once
 * moves most of them to memory and back: the first sweep of softmax_grad had 299 instructions for 128 numbers, 160 of
 * which touched the stack, and took 1.5 times as long (AVX2, Zen 3). So such a step is a loop over the registers of a
 * block (FSM_EACH_REGISTER), whose body takes register i of what it computes, as it does of the exponentials that are
 * added four at a time. What it computes of others is dead code, of which the compiler leaves no instruction.
 *
 * An instruction set's file that wants that defines FSM_REGISTERS, and has them in v[]. */
#ifndef FSM_SIMD_REGISTERS_H
#define FSM_SIMD_REGISTERS_H

#include "real.h"

#include <string.h>

#if !defined(FSM_REGISTERS)
#define FSM_REGISTERS 1
#endif

#if !defined(FSM_EACH_REGISTER)
#define ALL_REGISTERS (-1)
#define FSM_EACH_REGISTER(i)                                                                                           \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < FSM_REGISTERS; i++)
#endif

/* The first `count` of four blocks; `count` is a constant where that is inlined. Clang unrolls a loop that ends at it
 * as if it could be anything: softmax_grad then took 3 to 32 times as long. */
#if !defined(FSM_EACH_BLOCK)
#define FSM_EACH_BLOCK(i, count)                                                                                       \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < FSM_MAX_BLOCKS; i++)                                                                           \
        if (i < (count))
#endif

/* Of the block at p. The others are 0, since what is loaded ahead would be kept until its turn. */
FSM_ALWAYS_INLINE vec load_register(const real *p, int i) {
#if FSM_REGISTERS == 1
    (void)i;
    return vec_load(p);
#else
    vec a = vec_set1(0);
    memcpy(&a.v[i], p + i * (LANES / FSM_REGISTERS), sizeof a.v[i]);
    return a;
#endif
}

/* Only that is touched. */
FSM_ALWAYS_INLINE void store_register(real *p, int i, vec a) {
#if FSM_REGISTERS == 1
    (void)i;
    vec_store(p, a);
#else
    memcpy(p + i * (LANES / FSM_REGISTERS), &a.v[i], sizeof a.v[i]);
#endif
}

/* a with register i of b. */
FSM_ALWAYS_INLINE vec set_register(vec a, int i, vec b) {
#if FSM_REGISTERS == 1
    (void)a, (void)i;
    return b;
#else
    a.v[i] = b.v[i];
    return a;
#endif
}

/* a, whose lanes are all the same: the compiler is told that one register stands for them all. */
FSM_ALWAYS_INLINE vec uniform(vec a) {
#if FSM_REGISTERS > 1
    FSM_EACH_REGISTER(i)
        a.v[i] = a.v[0];
#endif
    return a;
}

/* vec_any_lt of register i, or of all. */
FSM_ALWAYS_INLINE bool any_lt_register(vec a, vec b, int i) {
#if FSM_REGISTERS > 1
    vec of_a = a, of_b = b;
    FSM_EACH_REGISTER(j) {
        of_a.v[j] = a.v[i == ALL_REGISTERS ? j : i];
        of_b.v[j] = b.v[i == ALL_REGISTERS ? j : i];
    }
    return vec_any_lt(of_a, of_b);
#else
    (void)i;
    return vec_any_lt(a, b);
#endif
}

#endif
