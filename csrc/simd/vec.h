/* The contract: what an instruction set defines, in the precision of the translation unit. The prototypes stand here so
 * that the compiler checks every instruction set against them.
 *
 *   real      float or double
 *   vec       a block of LANES reals: 32 float32 or 16 float64, whatever the register size
 *   vec_acc   a running sum for each lane: a float64, or for float64 a pair hi + lo
 *
 * Every function works lane by lane and rounds once, to nearest, unless its line says otherwise.
 *
 * FSM_SIMD names the instruction set's header. Where nobody has said which, as in an editor that opens one header, it
 * is the scalar reference. */
#ifndef FSM_VEC_H
#define FSM_VEC_H

#include "real.h"

#if !defined(FSM_SIMD)
#define FSM_SIMD "scalar.h"
#endif
#include FSM_SIMD

/* Whether results may go past the caches: the instruction set has its own vec_nt_store(). */
#if !defined(FSM_HAS_NT_STORE)
#define FSM_HAS_NT_STORE 0
#endif

/* Whether it pays to ask for memory ahead of a sweep that does next to nothing with it. */
#if !defined(FSM_ASKS_AHEAD)
#define FSM_ASKS_AHEAD 1
#endif

/* Memory: p needs no alignment; only the n elements at p are touched, 0 <= n <= LANES. */
FSM_INLINE vec vec_load(const real *p);
FSM_INLINE vec vec_load_n(const real *p, ptrdiff_t n, real fill); /* lanes from n on are fill */
FSM_INLINE void vec_store(real *p, vec a);
FSM_INLINE void vec_store_n(real *p, ptrdiff_t n, vec a);
FSM_INLINE void vec_nt_store(real *p, vec a); /* past the caches where FSM_HAS_NT_STORE is 1; p is a multiple of 64 */
FSM_INLINE void vec_nt_store_line(real *p, const real *from); /* the same of one cache line; both are multiples of 64 */
FSM_INLINE void vec_nt_end(void); /* what was streamed is there for other threads that are told so */

/* SIDE rows of SIDE reals at `from`, a number of bytes apart, turned into its columns at `to`. No alignment either. */
FSM_INLINE void vec_transpose(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step);

/* IEEE binary16 numbers, or bfloat16 ones, at p, LANES of them; p needs no alignment. The load is exact. The store
 * rounds once, to nearest even, whatever the precision, with gradual underflow and overflow to infinity. A NaN becomes
 * a quiet NaN, the canonical one stays so. */
FSM_INLINE vec vec_load_f16(const uint16_t *p);
FSM_INLINE void vec_store_f16(uint16_t *p, vec a);
FSM_INLINE vec vec_load_bf16(const uint16_t *p);
FSM_INLINE void vec_store_bf16(uint16_t *p, vec a);

/* Arithmetic. */
FSM_INLINE vec vec_set1(real a);
FSM_INLINE vec vec_add(vec a, vec b);
FSM_INLINE vec vec_sub(vec a, vec b);
FSM_INLINE vec vec_mul(vec a, vec b);
FSM_INLINE vec vec_fma(vec a, vec b, vec c);       /* a*b + c */
FSM_INLINE vec vec_mul_error(vec a, vec b, vec p); /* a*b - p, exactly, where p is a*b rounded */
FSM_INLINE vec vec_scale(vec e, vec hi, vec lo);   /* e*hi + e*lo: fma(e, hi, e*lo) */
FSM_INLINE vec vec_max(vec a, vec b);              /* a NaN gives either operand or NaN */
FSM_INLINE vec vec_min(vec a, vec b);              /* a NaN gives either operand or NaN */
FSM_INLINE vec vec_abs(vec a);
FSM_INLINE vec vec_clamp(vec x, vec low); /* max(x, low); a NaN in x stays NaN */
FSM_INLINE vec vec_flush(vec x);          /* x; where subnormal operands cost time, 0 for a subnormal one */
FSM_INLINE vec vec_select_lt(vec a, vec b, vec yes, vec no); /* a < b ? yes : no; a NaN is not less */

/* Bit patterns, as integers of the size of real. */
FSM_INLINE vec vec_pow2(vec z);            /* the lowest bits of z become the exponent field: z << mantissa bits */
FSM_INLINE vec vec_bits_sub(vec a, vec b); /* bits(a) - bits(b) */
FSM_INLINE vec vec_bits_or(vec a, vec b);  /* bits(a) | bits(b) */

/* Across the lanes, in any order: no bit depends on it. */
FSM_INLINE real vec_hmax(vec a);
FSM_INLINE bool vec_any_lt(vec a, vec b); /* a < b in some lane */
FSM_INLINE int vec_find_eq(vec a, vec b); /* the first lane where a == b, or LANES; a NaN equals nothing */

/* Sums. For float32 "+" below is the float64 sum. For float64 it is TwoSum (Knuth, TAOCP 4.2.2, theorem
 * B): hi takes the rounded sum, lo takes (lo of both, added) + the rounding error. */
FSM_INLINE vec_acc vec_acc_zero(void);
FSM_INLINE vec_acc vec_acc_add(vec_acc s, vec a);
FSM_INLINE vec_acc vec_acc_merge(vec_acc a, vec_acc b);
FSM_INLINE fsm_sum vec_acc_fold(vec_acc s);                     /* lane j + lane j+w, for w = LANES/2, ..., 2, 1 */
FSM_INLINE void vec_acc_get(vec_acc s, double *hi, double *lo); /* LANES each */

/* Rows of n elements that lie one after the other at p, side by side in a block: `parts` of them, each in LANES/parts
 * lanes, n or more. parts is 1, 2, 4 or 8. A store may change what lies between the last row and p + LANES. */
FSM_INLINE vec vec_load_parts(const real *p, ptrdiff_t n, int parts, real fill); /* lanes from n on are fill */
FSM_INLINE void vec_store_parts(real *p, ptrdiff_t n, int parts, vec a);
FSM_INLINE vec vec_set_parts(const real *p, int parts);           /* p[i] in all lanes of row i */
FSM_INLINE void vec_max_parts(vec a, int parts, real *max);       /* vec_hmax of each row */
FSM_INLINE void vec_find_parts(vec a, vec b, int parts, int *at); /* vec_find_eq of each row, or LANES/parts */
FSM_INLINE vec_acc vec_acc_of(vec a); /* vec_acc_add to vec_acc_zero, but for the sign of zeros */
FSM_INLINE void vec_acc_fold_parts(vec_acc s, int parts, double *hi, double *lo); /* vec_acc_fold of each row */

/* By way of memory, short rows side by side take up to 1.7 times as long as they do as columns. */
#if defined(FSM_HAS_PARTS)
#define IF_PARTS_PAY(function) (function)
#else
#include "parts.h"
#define IF_PARTS_PAY(function) (false ? (function) : NULL)
#endif

#include "registers.h"

#endif
