/* float32: the type of the numbers that kernels compute with, and the constants that belong to it. */
#ifndef FSM_F32_H
#define FSM_F32_H

#include "../fsm.h"

#define real  float
#define LANES FSM_LANES(FSM_F32)
#define SIDE  8 /* of the squares of reg_transpose */

/* The format. */
#define MIN_NORMAL     0x1p-126f
#define MANTISSA_BITS  23
#define QUIET_NAN_BITS UINT32_C(0x7fc00000)
#define real_bits      uint32_t

/* load.h, store.h */
#define STORED_REAL FSM_STORAGE_f32

/* math/exp.h: exponentials e carry a factor of 2^64, quotients y one of 2^120 until they are finished. */
#define ROUND_TO_INT        0x1.8p23f /* added to a number, leaves its integer in the low bits */
#define LOWEST              173       /* e is 0 from 2^-173 of the row's power of two down (math/exp.h) */
#define EXP_SCALE           0x1p18f   /* 64 + 127 - LOWEST, the middle one being the exponent bias */
#define Y_UNIT              0x1p-7f   /* Y_POWER in the exponent field */
#define Y_POWER             120
#define MIN_FACTOR_EXPONENT -130     /* factors of quotients: their exponents, from here ... */
#define MAX_FACTOR_EXPONENT 100      /* ... to here */
#define E_FACTOR            0x1p64f  /* of e */
#define MINUS_E_FIELD       -0x1p65f /* its bits are 64 in the exponent field, negated */
#define C_POWER             100      /* shares that something is added to carry a factor of 2^C_POWER, ... */
#define MAX_C_EXPONENT      20       /* or less if a term is beyond this power */
#define MAX_GRAD            0x1p58f  /* of log_softmax: gradients below this may be taken times E_FACTOR */
#define MAX_SUM             0x1p127  /* of terms that have a factor */

/* From tools/exp_constants.py: exp(t) within 0.046 ULP for |t| <= 0.375; highest power first. */
#define LOG2E          0x1.715476p+0f
#define LN2            0x1.62e43p-1f
#define LN2_HI         0x1.62e43p-1f
#define LN2_LO         -0x1.05c61p-29f
#define EXP_POLYNOMIAL {0x1.69867ep-10f, 0x1.126af8p-7f, 0x1.555acep-5f, 0x1.55544cp-3f, 0x1.fffff8p-2f, 1, 1}

/* Totals of chunks, added in order: a float64 holds the sum of float32 lanes to well below 1 ULP. */
FSM_INLINE fsm_sum sum_merge(fsm_sum a, fsm_sum b) {
    return (fsm_sum){a.hi + b.hi, 0};
}

/* What multiplies e to give factor*y: factor * 2^120/S as hi + lo. */
FSM_INLINE void sum_reciprocal(fsm_sum sum, double factor, real *hi, real *lo) {
    double r = 0x1p120 / sum.hi * factor;
    *hi = (float)r;
    *lo = (float)(r - *hi);
}

#endif
