/* The vector layer. This file is the contract: what an instruction set defines, in the precision of the translation
 * unit, on one register. The prototypes stand here so that the compiler checks every instruction set against them.
 * block.h and parts.h build on it what kernels compute with, blocks of 32 float32 or 16 float64, whatever the register
 * size.
 *
 *   real        float or double
 *   reg         a register of REG_LANES reals, which divide a block
 *   reg_mask    a truth value for each of them
 *   wide        a register of WIDE_LANES float64, for sums: half of REG_LANES, but for float64 it is reg
 *
 * Every function works lane by lane and rounds once, to nearest, unless its line says otherwise. An instruction set
 * that has no instruction for one emulates it. */
#ifndef FSM_VEC_H
#define FSM_VEC_H

#include "isa.h"

/* Memory: REG_LANES elements at p, which needs no alignment. */
FSM_ALWAYS_INLINE reg reg_load(const real *p);
FSM_ALWAYS_INLINE void reg_store(real *p, reg a);

/* The part of a block that begins at its lane `first`, where only the n elements at p are touched, 0 <= n <= LANES:
 * lane j is p[first + j], and `fill` from element n on. With FSM_HAS_PARTIAL only; without, block.h goes by way of
 * memory. */
#if FSM_HAS_PARTIAL
FSM_ALWAYS_INLINE reg reg_load_n(const real *p, ptrdiff_t n, int first, real fill);
FSM_ALWAYS_INLINE void reg_store_n(real *p, ptrdiff_t n, int first, reg a);
#endif

/* A store past the caches, p a multiple of 64; and what makes such stores visible to threads that are told of them
 * later. With FSM_HAS_NT_STORE only. */
#if FSM_HAS_NT_STORE
FSM_ALWAYS_INLINE void reg_nt_store(real *p, reg a);
FSM_ALWAYS_INLINE void reg_nt_end(void);
#endif

/* SIDE rows of SIDE reals at `from`, a number of bytes apart, become the columns at `to`. No alignment either. */
FSM_ALWAYS_INLINE void reg_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step);

/* IEEE binary16 numbers, or bfloat16 ones, at p, REG_LANES of them; p needs no alignment. The load is exact. The store
 * rounds once, to nearest even, whatever the precision, with gradual underflow and overflow to infinity. A NaN becomes
 * a quiet NaN, the canonical one stays so. */
FSM_ALWAYS_INLINE reg reg_load_f16(const uint16_t *p);
FSM_ALWAYS_INLINE void reg_store_f16(uint16_t *p, reg a);
FSM_ALWAYS_INLINE reg reg_load_bf16(const uint16_t *p);
FSM_ALWAYS_INLINE void reg_store_bf16(uint16_t *p, reg a);

/* Arithmetic. */
FSM_ALWAYS_INLINE reg reg_set1(real a);
FSM_ALWAYS_INLINE reg reg_add(reg a, reg b);
FSM_ALWAYS_INLINE reg reg_sub(reg a, reg b);
FSM_ALWAYS_INLINE reg reg_mul(reg a, reg b);
FSM_ALWAYS_INLINE reg reg_fma(reg a, reg b, reg c);       /* a*b + c */
FSM_ALWAYS_INLINE reg reg_mul_error(reg a, reg b, reg p); /* a*b - p, exactly, where p is a*b rounded */
FSM_ALWAYS_INLINE reg reg_scale(reg e, reg hi, reg lo);   /* e*hi + e*lo: fma(e, hi, e*lo) */
FSM_ALWAYS_INLINE reg reg_max(reg a, reg b);              /* a NaN gives either operand or NaN */
FSM_ALWAYS_INLINE reg reg_min(reg a, reg b);              /* a NaN gives either operand or NaN */
FSM_ALWAYS_INLINE reg reg_abs(reg a);
FSM_ALWAYS_INLINE reg reg_clamp(reg x, reg low); /* max(x, low); a NaN in x stays NaN */
FSM_ALWAYS_INLINE reg reg_flush(reg x);          /* x; where subnormal operands cost time, 0 for a subnormal one */
FSM_ALWAYS_INLINE reg reg_select_lt(reg a, reg b, reg yes, reg no); /* a < b ? yes : no; a NaN is not less */

/* Bit patterns, as integers of the size of real. */
FSM_ALWAYS_INLINE reg reg_pow2(reg z); /* the lowest bits of z become the exponent field: z << mantissa bits */
FSM_ALWAYS_INLINE reg reg_bits_sub(reg a, reg b); /* bits(a) - bits(b) */
FSM_ALWAYS_INLINE reg reg_bits_or(reg a, reg b);  /* bits(a) | bits(b) */

/* Across the lanes, in any order: no bit depends on it. */
FSM_ALWAYS_INLINE real reg_hmax(reg a);
FSM_ALWAYS_INLINE reg_mask reg_lt(reg a, reg b); /* a < b; a NaN is not less */
FSM_ALWAYS_INLINE reg_mask reg_mask_or(reg_mask a, reg_mask b);
FSM_ALWAYS_INLINE bool reg_mask_any(reg_mask a);
FSM_ALWAYS_INLINE uint32_t reg_eq_bits(reg a, reg b); /* bit j: a == b in lane j; a NaN equals nothing */

/* Sums of float64. */
#if FSM_REAL == 32
FSM_ALWAYS_INLINE wide reg_widen_low(reg a); /* the lower half of the lanes */
FSM_ALWAYS_INLINE wide reg_widen_high(reg a);
#endif
FSM_ALWAYS_INLINE wide wide_zero(void);
FSM_ALWAYS_INLINE wide wide_add(wide a, wide b);
FSM_ALWAYS_INLINE wide wide_upper(wide a,
                                  int width); /* lane j is lane j + width, for j < width; what others are is free */
FSM_ALWAYS_INLINE void wide_store(double *p, wide a);
FSM_ALWAYS_INLINE double wide_first(wide a); /* lane 0 */

#include "block.h"
#include "parts.h"

#endif
