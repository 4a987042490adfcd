/* Blocks of LANES reals over the registers of any instruction set (vec.h): what kernels compute with.
 *
 *   vec         a block: 32 float32 or 16 float64, whatever the register size
 *   vec_acc     a running sum for each lane: a float64, or for float64 a pair hi + lo
 *
 * A function does to each lane what that of its name does to a register's. */
#ifndef FSM_SIMD_BLOCK_H
#define FSM_SIMD_BLOCK_H

#include "isa.h"

#include <string.h>
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

typedef struct {
    reg v[REGS];
} vec;

#define EACH(i)                                                                                                        \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < REGS; i++)

/* ---- memory: p needs no alignment; only the n elements at p are touched, 0 <= n <= LANES */

FSM_INLINE vec vec_load(const real *p) {
    vec r;
    EACH(i)
        r.v[i] = reg_load(p + i * REG_LANES);
    return r;
}

FSM_INLINE void vec_store(real *p, vec a) {
    EACH(i)
        reg_store(p + i * REG_LANES, a.v[i]);
}

FSM_INLINE vec vec_set1(real a) {
    vec r;
    EACH(i)
        r.v[i] = reg_set1(a);
    return r;
}

/* Lanes from n on are `fill`. */
FSM_INLINE vec vec_load_n(const real *p, ptrdiff_t n, real fill) {
#if FSM_HAS_PARTIAL
    vec r;
    EACH(i)
        r.v[i] = reg_load_n(p, n, i * REG_LANES, fill);
    return r;
#else
    real lanes[LANES];
    vec_store(lanes, vec_set1(fill));
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vec_load(lanes);
#endif
}

FSM_INLINE void vec_store_n(real *p, ptrdiff_t n, vec a) {
#if FSM_HAS_PARTIAL
    EACH(i)
        reg_store_n(p, n, i * REG_LANES, a.v[i]);
#else
    real lanes[LANES];
    vec_store(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof *p);
#endif
}

/* Past the caches where FSM_HAS_NT_STORE is 1; p is a multiple of 64. */
FSM_INLINE void vec_nt_store(real *p, vec a) {
#if FSM_HAS_NT_STORE
    EACH(i)
        reg_nt_store(p + i * REG_LANES, a.v[i]);
#else
    vec_store(p, a);
#endif
}

/* One cache line, past the caches; both are multiples of 64. */
FSM_INLINE void vec_nt_store_line(real *p, const real *from) {
#if FSM_HAS_NT_STORE
    FSM_UNROLL
    for (int i = 0; i < 64 / (int)sizeof(reg); i++)
        reg_nt_store(p + i * REG_LANES, reg_load(from + i * REG_LANES));
#else
    memcpy(p, from, 64);
#endif
}

/* What went past the caches is there for other threads that are told so. */
FSM_INLINE void vec_nt_end(void) {
#if FSM_HAS_NT_STORE
    reg_nt_end();
#endif
}

/* SIDE rows of SIDE reals at `from`, a number of bytes apart, transposed into its columns at `to`. */
FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    reg_transpose(to, to_step, from, from_step);
}

FSM_INLINE vec vec_load_f16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = reg_load_f16(p + i * REG_LANES);
    return r;
}

FSM_INLINE void vec_store_f16(uint16_t *p, vec a) {
    EACH(i)
        reg_store_f16(p + i * REG_LANES, a.v[i]);
}

FSM_INLINE vec vec_load_bf16(const uint16_t *p) {
    vec r;
    EACH(i)
        r.v[i] = reg_load_bf16(p + i * REG_LANES);
    return r;
}

FSM_INLINE void vec_store_bf16(uint16_t *p, vec a) {
    EACH(i)
        reg_store_bf16(p + i * REG_LANES, a.v[i]);
}

/* ---- arithmetic, bit patterns */

FSM_INLINE vec vec_add(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_add(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_sub(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_mul(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_mul(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_fma(vec a, vec b, vec c) {
    EACH(i)
        a.v[i] = reg_fma(a.v[i], b.v[i], c.v[i]);
    return a;
}

FSM_INLINE vec vec_mul_error(vec a, vec b, vec p) {
    EACH(i)
        a.v[i] = reg_mul_error(a.v[i], b.v[i], p.v[i]);
    return a;
}

FSM_INLINE vec vec_scale(vec e, vec hi, vec lo) {
    EACH(i)
        e.v[i] = reg_scale(e.v[i], hi.v[i], lo.v[i]);
    return e;
}

FSM_INLINE vec vec_max(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_max(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_min(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_min(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_abs(vec a) {
    EACH(i)
        a.v[i] = reg_abs(a.v[i]);
    return a;
}

FSM_INLINE vec vec_clamp(vec x, vec low) {
    EACH(i)
        x.v[i] = reg_clamp(x.v[i], low.v[i]);
    return x;
}

FSM_INLINE vec vec_flush(vec x) {
    EACH(i)
        x.v[i] = reg_flush(x.v[i]);
    return x;
}

FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no) {
    EACH(i)
        a.v[i] = reg_select_lt(a.v[i], b.v[i], yes.v[i], no.v[i]);
    return a;
}

FSM_INLINE vec vec_pow2(vec z) {
    EACH(i)
        z.v[i] = reg_pow2(z.v[i]);
    return z;
}

FSM_INLINE vec vec_bits_sub(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_bits_sub(a.v[i], b.v[i]);
    return a;
}

FSM_INLINE vec vec_bits_or(vec a, vec b) {
    EACH(i)
        a.v[i] = reg_bits_or(a.v[i], b.v[i]);
    return a;
}

/* ---- across the lanes */

FSM_INLINE real vec_hmax(vec a) {
    FSM_UNROLL
    for (int left = REGS / 2; left > 0; left /= 2)
        for (int i = 0; i < left; i++)
            a.v[i] = reg_max(a.v[2 * i], a.v[2 * i + 1]);
    return reg_hmax(a.v[0]);
}

/* a < b in some lane. */
FSM_INLINE bool vec_any_lt(vec a, vec b) {
    reg_mask less[REGS];
    EACH(i)
        less[i] = reg_lt(a.v[i], b.v[i]);
    FSM_UNROLL
    for (int left = REGS / 2; left > 0; left /= 2)
        for (int i = 0; i < left; i++)
            less[i] = reg_mask_or(less[2 * i], less[2 * i + 1]);
    return reg_mask_any(less[0]);
}

/* Bit j: a == b in lane j. */
FSM_ALWAYS_INLINE uint64_t eq_bits_of_block(vec a, vec b) {
    uint64_t bits = 0;
    EACH(i)
        bits |= (uint64_t)reg_eq_bits(a.v[i], b.v[i]) << (i * REG_LANES);
    return bits;
}

/* The number of the lowest bit that is 1; there is one. */
FSM_ALWAYS_INLINE int lowest_bit(uint64_t bits) {
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long at;
    _BitScanForward64(&at, bits);
    return (int)at;
#else
    return __builtin_ctzll(bits);
#endif
}

/* The first lane where a == b, or LANES. */
FSM_INLINE int vec_find_eq(vec a, vec b) {
    return lowest_bit(eq_bits_of_block(a, b) | UINT64_C(1) << LANES);
}

/* ---- sums */

/* acc is the running sum of WIDE_LANES lanes, part i of a vec_acc. */
#if FSM_REAL == 32

typedef wide acc;

FSM_ALWAYS_INLINE acc acc_zero(void) {
    return wide_zero();
}

FSM_ALWAYS_INLINE acc acc_of(vec a, int i) {
    return i % 2 == 0 ? reg_widen_low(a.v[i / 2]) : reg_widen_high(a.v[i / 2]);
}

FSM_ALWAYS_INLINE acc acc_add(acc s, vec a, int i) {
    return wide_add(s, acc_of(a, i));
}

FSM_ALWAYS_INLINE acc acc_merge(acc a, acc b) {
    return wide_add(a, b);
}

FSM_ALWAYS_INLINE acc acc_upper(acc s, int width) {
    return wide_upper(s, width);
}

FSM_ALWAYS_INLINE fsm_sum acc_first(acc s) {
    return (fsm_sum){wide_first(s), 0};
}

FSM_ALWAYS_INLINE void acc_store(double *hi, double *lo, acc s) {
    wide_store(hi, s);
    wide_store(lo, wide_zero());
}

#else

/* TwoSum (Knuth, TAOCP 4.2.2, theorem B): hi takes the rounded sum, lo takes the sum of both lo, and the rounding error
 * on top of that. */
typedef struct {
    reg hi, lo;
} acc;

FSM_ALWAYS_INLINE acc acc_zero(void) {
    return (acc){wide_zero(), wide_zero()};
}

FSM_ALWAYS_INLINE acc acc_of(vec a, int i) {
    return (acc){a.v[i], wide_zero()};
}

/* The rounding error of hi = a + b. */
FSM_ALWAYS_INLINE reg two_sum_error(reg a, reg b, reg hi) {
    const reg of_b = reg_sub(hi, a);
    return reg_add(reg_sub(a, reg_sub(hi, of_b)), reg_sub(b, of_b));
}

FSM_ALWAYS_INLINE acc acc_add(acc s, vec a, int i) {
    const reg hi = reg_add(s.hi, a.v[i]);
    return (acc){hi, reg_add(s.lo, two_sum_error(s.hi, a.v[i], hi))};
}

FSM_ALWAYS_INLINE acc acc_merge(acc a, acc b) {
    const reg hi = reg_add(a.hi, b.hi);
    return (acc){hi, reg_add(reg_add(a.lo, b.lo), two_sum_error(a.hi, b.hi, hi))};
}

FSM_ALWAYS_INLINE acc acc_upper(acc s, int width) {
    return (acc){wide_upper(s.hi, width), wide_upper(s.lo, width)};
}

FSM_ALWAYS_INLINE fsm_sum acc_first(acc s) {
    return (fsm_sum){wide_first(s.hi), wide_first(s.lo)};
}

FSM_ALWAYS_INLINE void acc_store(double *hi, double *lo, acc s) {
    wide_store(hi, s.hi);
    wide_store(lo, s.lo);
}

#endif

#define ACCS (LANES / WIDE_LANES)

typedef struct {
    acc v[ACCS];
} vec_acc;

FSM_INLINE vec_acc vec_acc_zero(void) {
    vec_acc s;
    FSM_UNROLL
    for (int i = 0; i < ACCS; i++)
        s.v[i] = acc_zero();
    return s;
}

/* vec_acc_add to vec_acc_zero, but for the sign of zeros. */
FSM_INLINE vec_acc vec_acc_of(vec a) {
    vec_acc s;
    FSM_UNROLL
    for (int i = 0; i < ACCS; i++)
        s.v[i] = acc_of(a, i);
    return s;
}

FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a) {
    FSM_UNROLL
    for (int i = 0; i < ACCS; i++)
        s.v[i] = acc_add(s.v[i], a, i);
    return s;
}

FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b) {
    FSM_UNROLL
    for (int i = 0; i < ACCS; i++)
        a.v[i] = acc_merge(a.v[i], b.v[i]);
    return a;
}

/* Lane j + lane j+w, for w = LANES/2, ..., 2, 1: between registers, then within the one that is left. */
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s) {
    FSM_UNROLL
    for (int left = ACCS / 2; left > 0; left /= 2)
        for (int i = 0; i < left; i++)
            s.v[i] = acc_merge(s.v[i], s.v[i + left]);
    FSM_UNROLL
    for (int width = WIDE_LANES / 2; width > 0; width /= 2)
        s.v[0] = acc_merge(s.v[0], acc_upper(s.v[0], width));
    return acc_first(s.v[0]);
}

/* LANES of each. */
FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo) {
    FSM_UNROLL
    for (int i = 0; i < ACCS; i++)
        acc_store(hi + i * WIDE_LANES, lo + i * WIDE_LANES, s.v[i]);
}

/* ---- a block in turns */

/* Where a block is several registers, of 16 in all, a step that has 4 blocks at once moves most of them to memory and
 * back. So such a step is a loop of FSM_REGISTERS turns (FSM_EACH_REGISTER), whose body
 * takes what is in register i of the blocks that it computes, as it does of the exponentials that are added four at a
 * time. What it computes of others is dead code, of which the compiler leaves no instruction.
 *
 * Where FSM_REGISTERS is 1, there is one turn, and "register i" is the whole block. */
_Static_assert(FSM_REGISTERS == 1 || FSM_REGISTERS == REGS, "a turn is one register, or the block");

#define ALL_REGISTERS (-1)
#define FSM_EACH_REGISTER(i)                                                                                           \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < FSM_REGISTERS; i++)

/* The first `count` of four blocks; `count` is a constant where that is inlined. Clang unrolls a loop that ends at it
 * as if it could be anything. */
#define FSM_EACH_BLOCK(i, count)                                                                                       \
    FSM_UNROLL                                                                                                         \
    for (int i = 0; i < FSM_MAX_BLOCKS; i++)                                                                           \
        if (i < (count))

/* Register i of the block at p. The others are 0, since what is loaded ahead would be kept until its turn. By memcpy:
 * GCC 12 spills less of what is loaded so. */
FSM_ALWAYS_INLINE vec load_register(const real *p, int i) {
    if (FSM_REGISTERS == 1)
        return vec_load(p);
    vec a = vec_set1(0);
    memcpy(&a.v[i], p + i * REG_LANES, sizeof a.v[i]);
    return a;
}

/* Register i of a, into the block at p; nothing else is touched. */
FSM_ALWAYS_INLINE void store_register(real *p, int i, vec a) {
    if (FSM_REGISTERS == 1)
        vec_store(p, a);
    else
        memcpy(p + i * REG_LANES, &a.v[i], sizeof a.v[i]);
}

/* a with register i of b. */
FSM_ALWAYS_INLINE vec set_register(vec a, int i, vec b) {
    if (FSM_REGISTERS == 1)
        return b;
    a.v[i] = b.v[i];
    return a;
}

/* a, whose lanes are all the same: the compiler is told that one register stands for them all. */
FSM_ALWAYS_INLINE vec uniform(vec a) {
    if (FSM_REGISTERS > 1)
        EACH(i)
            a.v[i] = a.v[0];
    return a;
}

/* vec_any_lt of register i, or of all. */
FSM_ALWAYS_INLINE bool any_lt_register(vec a, vec b, int i) {
    if (FSM_REGISTERS == 1 || i == ALL_REGISTERS)
        return vec_any_lt(a, b);
    return reg_mask_any(reg_lt(a.v[i], b.v[i]));
}

#endif
