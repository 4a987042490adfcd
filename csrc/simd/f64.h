/* float64: the type of the numbers that kernels compute with, and the constants that belong to it. */
#ifndef FSM_F64_H
#define FSM_F64_H

#include "../math/scalar_math.h"

#define real  double
#define LANES FSM_LANES(FSM_F64)
#define SIDE  4 /* of the squares of reg_transpose */

/* The format. */
#define MIN_NORMAL     0x1p-1022
#define MANTISSA_BITS  52
#define QUIET_NAN_BITS UINT64_C(0x7ff8000000000000)
#define real_bits      uint64_t

/* load.h, store.h */
#define STORED_REAL FSM_STORAGE_f64

/* math/exp.h: exponentials e carry a factor of 2^200, quotients y one of 2^320 until they are finished. */
#define ROUND_TO_INT        0x1.8p52 /* added to a number, leaves its integer in the low bits */
#define LOWEST              1100     /* e is 0 from 2^-1100 of the row's power of two down (math/exp.h) */
#define EXP_SCALE           0x1p123  /* 200 + 1023 - LOWEST, the middle one being the exponent bias */
#define Y_UNIT              0x1p-703 /* Y_POWER in the exponent field */
#define Y_POWER             320
#define MIN_FACTOR_EXPONENT -1000    /* factors of quotients: their exponents, from here ... */
#define MAX_FACTOR_EXPONENT 300      /* ... to here */
#define E_FACTOR            0x1p200  /* of e */
#define MINUS_E_FIELD       -0x1p825 /* its bits are 200 in the exponent field, negated */
#define C_POWER             200      /* shares that something is added to carry a factor of 2^C_POWER, ... */
#define MAX_C_EXPONENT      500      /* or less if a term is beyond this power */
#define MAX_GRAD            0x1p400  /* of log_softmax: gradients below this may be taken times E_FACTOR */
#define MAX_SUM             0x1p1023 /* of terms that have a factor */

/* For the exponential; LN2 is from tools/exp_constants.py too. */
#define LOG2E          FSM_LOG2E
#define LN2            0x1.62e42fefa39efp-1
#define LN2_HI         FSM_LN2_HI
#define LN2_LO         FSM_LN2_LO
#define EXP_POLYNOMIAL FSM_EXP_POLYNOMIAL

/* Totals of chunks, added in order: TwoSum, as in vec.h. */
FSM_INLINE fsm_sum sum_merge(fsm_sum a, fsm_sum b) {
    return fsm_two_sum(a, b);
}

/* What multiplies e to give factor*y: factor * 2^320/S as hi + lo. */
FSM_INLINE void sum_reciprocal(fsm_sum sum, double factor, real *hi, real *lo) {
    double s = sum.hi + sum.lo;
    double rest = sum.lo - (s - sum.hi);
    if (fabs(rest) < s * 0x1p-110)
        rest = 0; /* too small to count; its products could be subnormal */
    double r = 1 / s, y = r * 0x1p320;
    *hi = y * factor;
    *lo = fma(y, factor, -*hi) + (fma(-s, r, 1) - rest * r) * *hi;
}

#endif
