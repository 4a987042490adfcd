/* log1p, log and exp of one double: for what is computed once a row, whatever its precision and the instruction set,
 * so that no result depends on a C library. Every step is in fixed order, and fma() where a product is not rounded:
 * an instruction in the files of instruction sets that have one, the C library's exact function elsewhere. Nothing
 * branches, so that compilers vectorise loops over the rows of a panel (GCC 12 and Clang 14 do, where there is an
 * instruction).
 *
 *   log(2^k * (1+f)) = k*ln2 + f - (f^2/2 - s*(f^2/2 + R)),   s = f/(2+f),   1+f from sqrt(1/2) to sqrt(2)
 *
 * since log((1+s)/(1-s)) = 2*s + s*R(s^2) = f - s*f + s*R, and s*f = f^2/2 - s*f^2/2 (as fdlibm does it). The sum of f
 * and k times the leading bits of ln2 is kept exactly; what joins it is at most f^2/2, so its rounding counts little.
 *
 * Worst errors met on 40 million x or more each (python tools/log_constants.py): log1p 0.765 ULP at
 * x = -0.2989273639058888, log 0.765 ULP at x = 0.7010726360941112, exp 0.924 ULP at x = -50.92643769901032. */
#ifndef FSM_SCALAR_MATH_H
#define FSM_SCALAR_MATH_H

#include "../fsm.h"

#include <math.h>
#include <string.h>

/* From tools/exp_constants.py: exp(t) within 0.043 ULP for |t| <= 0.375; highest power first. bind_f64.h uses them. */
#define FSM_LOG2E  0x1.71547652b82fep+0
#define FSM_LN2_HI 0x1.62e42fecp-1
#define FSM_LN2_LO 0x1.d1cf79abc9e3bp-32
#define FSM_EXP_POLYNOMIAL                                                                                             \
    {0x1.ad6a481ef5ebcp-26,                                                                                            \
     0x1.28cf8f2f806fp-22,                                                                                             \
     0x1.71df6e4a0e59p-19,                                                                                             \
     0x1.a01973d3e0058p-16,                                                                                            \
     0x1.a01a00eb2136ap-13,                                                                                            \
     0x1.6c16c192a5c19p-10,                                                                                            \
     0x1.1111111139c4dp-7,                                                                                             \
     0x1.555555554c555p-5,                                                                                             \
     0x1.5555555555496p-3,                                                                                             \
     0x1.0000000000015p-1,                                                                                             \
     1,                                                                                                                \
     1}

/* From tools/log_constants.py: log((1+s)/(1-s)) = s*(2 + R(s^2)) within 0.006 ULP; of R, highest power first. */
#define FSM_LOG_POLYNOMIAL                                                                                             \
    {0x1.2f13556b0aa5bp-3, 0x1.39a06e3a8cba5p-3, 0x1.74664aec051a8p-3, 0x1.c71c51d33059dp-3,                           \
     0x1.249249422e3c9p-2, 0x1.999999997f9dp-2,  0x1.5555555555593p-1, 0}

FSM_ALWAYS_INLINE uint64_t fsm_f64_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

FSM_ALWAYS_INLINE double fsm_f64_of_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^n, for n from -1022 to 1023. */
FSM_ALWAYS_INLINE double fsm_two_to(int n) {
    return fsm_f64_of_bits((uint64_t)(1023 + n) << 52);
}

/* condition ? yes : no, in integers: for doubles GCC would make it a branch around what `no` takes to compute. */
FSM_ALWAYS_INLINE double fsm_select(bool condition, double yes, double no) {
    const uint64_t mask = UINT64_C(0) - condition;
    return fsm_f64_of_bits((fsm_f64_bits(yes) & mask) | (fsm_f64_bits(no) & ~mask));
}

/* The polynomial with these coefficients, highest power first. */
FSM_ALWAYS_INLINE double fsm_polynomial(const double *c, size_t count, double x) {
    double p = c[0];
    FSM_UNROLL
    for (size_t i = 1; i < count; i++)
        p = fma(p, x, c[i]);
    return p;
}

/* log(2^-shift * (hi + lo)), where hi is positive and normal, and |lo| at most half an ULP of it. For any other
 * numbers, some number. */
FSM_ALWAYS_INLINE double fsm_log_sum(double hi, double lo, double shift) {
    static const double c[] = FSM_LOG_POLYNOMIAL;
    /* hi = 2^k * m, m from sqrt(1/2) to sqrt(2). The numbers are bit patterns, of sqrt(1/2), and of 2^52, whose last
     * bit is 1; bias, in the exponent's place, keeps the field positive. */
    const uint64_t bias = UINT64_C(1024) << 52;
    const uint64_t bits = fsm_f64_bits(hi), field = (bits - 0x3fe6a09e667f3bcd + bias) >> 52; /* 1024 + k */
    const double m = fsm_f64_of_bits(bits - (field << 52) + bias);
    const double k = fsm_f64_of_bits(field | 0x4330000000000000) - (0x1p52 + 1024) - shift;
    const double half_unit = fsm_f64_of_bits((2048 - field) << 52); /* 2^(1-k), or 0 for k = 1024 */

    /* 1+f = m + lo*2^-k. For k = 0, f is all of it; else half an ULP of f may remain, which counts where k*ln2 + f is
     * small. */
    const double rest = 0.5 * lo * half_unit;
    const double f = (m - 1) + rest;
    const double f_lo = rest - (f - (m - 1));

    const double s = f / (2 + f), z = s * s;
    const double half = 0.5 * f * f, half_lo = fma(0.5 * f, f, -half);
    const double r = fsm_polynomial(c, sizeof c / sizeof *c, z);
    const double of_f_lo = f_lo * fma(-2 * s, 1 - s, 1); /* f_lo/(1+f), nearly */

    const double sum = fma(k, FSM_LN2_HI, f); /* the product is exact, and 0 or larger than f */
    const double sum_lo = f - fma(-k, FSM_LN2_HI, sum);
    const double small = fma(s, half + r, fma(k, FSM_LN2_LO, of_f_lo - half_lo));
    return sum + (sum_lo + (small - half));
}

/* x >= -1; NaN below. */
FSM_ALWAYS_INLINE double fsm_log1p(double x) {
    const bool tiny = fabs(x) < 0x1p-60; /* log1p(x) is x; nor need anything compute with subnormals */
    const fsm_sum u = fsm_two_sum((fsm_sum){1, 0}, (fsm_sum){fsm_select(tiny, 0, x), 0});
    double y = fsm_log_sum(u.hi, u.lo, 0);
    y = fsm_select(tiny || x == INFINITY, x, y);
    y = fsm_select(x > -1, y, NAN);
    return fsm_select(x == -1, -INFINITY, y);
}

/* x >= 0; NaN below. */
FSM_ALWAYS_INLINE double fsm_log(double x) {
    const bool subnormal = x < 0x1p-1022;
    double y = fsm_log_sum(fsm_select(subnormal, x * 0x1p54, x), 0, fsm_select(subnormal, 54, 0));
    y = fsm_select(x == INFINITY, x, y);
    y = fsm_select(x > 0, y, NAN);
    return fsm_select(x == 0, -INFINITY, y);
}

/* x <= 0, as in math/exp.h; 0 below -700. */
FSM_ALWAYS_INLINE double fsm_exp(double x) {
    static const double c[] = FSM_EXP_POLYNOMIAL;
    const double round = 0x1.8p52 + 1023; /* leaves n + 1023 in the low bits */
    const double z = fma(x, FSM_LOG2E, round);
    const double n = z - round;
    const double t = fma(n, -FSM_LN2_LO, fma(n, -FSM_LN2_HI, x));
    const double y = fsm_polynomial(c, sizeof c / sizeof *c, t) * fsm_f64_of_bits(fsm_f64_bits(z) << 52);
    return fsm_select(x < -700, 0, y);
}

/* e^(2x) - 1 over e^(2x) + 1, the former as 2^n * (e^t - 1) + (2^n - 1). */
FSM_ALWAYS_INLINE double fsm_tanh(double x) {
    static const double c[] = FSM_EXP_POLYNOMIAL;
    const double round = 0x1.8p52 + 1023, size = fabs(x), a = 2 * fsm_select(size > 20, 20, size); /* 1 beyond 20 */
    const double z = fma(a, FSM_LOG2E, round), n = z - round;
    const double t = fma(n, -FSM_LN2_LO, fma(n, -FSM_LN2_HI, a)), power = fsm_f64_of_bits(fsm_f64_bits(z) << 52);
    const double e = fma(power, t * fsm_polynomial(c, sizeof c / sizeof *c - 1, t), power - 1);
    return copysign(e / (e + 2), x);
}

#endif
