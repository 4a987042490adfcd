/* Exponentials relative to a power of two, and quotients that go subnormal without a trap.
 *
 *   exp(x) = 2^n * exp(t),   n = round(x * log2(e)),   t = x - n*ln2
 *
 * x itself is reduced, not x - max, which would be rounded by up to half an ULP of itself. A row's
 * exponentials only share an integer: with k = round(max * log2(e)) they are all kept as
 *
 *   e = exp(x) * 2^(E-k) = EXP_SCALE*exp(t) * 2^(n-k+LOWEST-bias),   E = 64 (float32), 200 (float64)
 *
 * As rows differ by powers of two only, changing k changes no bit. The large factor on the polynomial's side leaves so
 * much room below that e is never subnormal, nor is its product with 1/S or a rounding error of its sum, down to
 * quotients that round to zero; there e is +0 (but see softmax_least() and quotients_raised()). A subnormal operand or
 * result costs a hundred cycles on many CPUs.
 *
 * k folds into the constant that rounds: z = x*log2(e) + magic, magic = 1.5*2^M + LOWEST - k, has n-k+LOWEST in its low
 * bits, which a shift makes an exponent field. |k| < 2^22 is needed for magic to be exact, and |x| < 2^21 for t to stay
 * in the polynomial's range; rows beyond that (frame.shift) subtract their maximum first, which is harmless there:
 * elements that matter are within a factor of 2 of it, so the difference is exact. x is raised to `low`, where the
 * field is 0 and so e = +0. A quotient rounds to zero 20 powers of two above that; that far down terms still count in
 * an entropy near the smallest normal number, where a chunk may have 2^11 of them, each times 2^7.
 *
 * Worst errors of e met in 4 million x from the smallest normal result to 1: float32 0.908 ULP at x = -82.119278,
 * float64 0.890 ULP at x = -611.69167 (python tools/exp_constants.py). */
#ifndef FSM_MATH_EXP_H
#define FSM_MATH_EXP_H

#include "../simd/vec.h"
#include "scalar_math.h"

/* 1 / temperature as hi + lo. Scaling x first, rounded, would cost 122 ULP at T = 0.7; so what the product x*hi loses
 * joins t. `floor` is below every x that gives e > 0 and keeps that loss small and finite. */
typedef struct {
    real hi, lo, floor;
    bool scaled; /* it is not 1 */
} beta_t;

FSM_INLINE beta_t beta_of(double temperature) {
    const double b = 1 / temperature;
    const real hi = (real)b;
    const real lo = (real)((b - hi) + fma(-b, temperature, 1) * b);
    return (beta_t){hi, lo, (real)(-0x1p22 * temperature), temperature != 1};
}

typedef struct {
    vec magic;
    vec low;
    vec shift; /* subtracted from x in rows that need it, else 0 */
    beta_t beta;
} exp_frame_t;

/* Rows whose maximum (times beta) has a smaller magnitude need no shift. */
#define DIRECT ((real)0x1p21)

FSM_INLINE bool in_direct_range(real max) {
    return max > -DIRECT && max < DIRECT;
}

/* a, or what takes the place of an element that is not finite. */
FSM_INLINE vec finite_or(vec a, vec other) {
    return vec_select_lt(vec_abs(a), vec_set1((real)INFINITY), a, other);
}

/* The shift of rows with these maxima, which are finite. */
FSM_INLINE vec shift_of(vec max, beta_t beta) {
    return vec_select_lt(vec_abs(vec_mul(max, vec_set1(beta.hi))), vec_set1(DIRECT), vec_set1(0), max);
}

/* max: of the row, finite. */
FSM_INLINE exp_frame_t exp_frame_of(vec max, vec shift, beta_t beta) {
    const vec round = vec_set1(ROUND_TO_INT);
    vec scaled = vec_mul(vec_sub(vec_flush(max), shift), vec_set1(beta.hi));
    vec k = vec_sub(vec_fma(scaled, vec_set1(LOG2E), round), round);
    return (exp_frame_t){
        .magic = vec_sub(vec_set1(ROUND_TO_INT + LOWEST), k),
        .low = vec_mul(vec_sub(k, vec_set1(LOWEST)), vec_set1(LN2)),
        .shift = shift,
        .beta = beta,
    };
}

/* k, which the frame's exponentials are relative to. */
FSM_INLINE vec exp_frame_k(const exp_frame_t *frame) {
    return vec_sub(vec_set1(ROUND_TO_INT + LOWEST), frame->magic);
}

/* How many blocks, or registers of blocks (simd/block.h), go through the steps of an exponential together: four
 * registers keep a CPU busy, and leave room for what else is in some. */
#define EXP_TOGETHER (FSM_REGISTERS > 1 ? 4 : 1)

/* e, in place of `count` <= EXP_TOGETHER, a constant, x. `special`: for rows with a shift, a temperature or subnormal
 * x. */
FSM_INLINE void exp_together(vec *x, const int count, const exp_frame_t *frame, bool special) {
    static const real c[] = EXP_POLYNOMIAL;
    vec lost[4], z[4], n[4], p[4];
    if (special) {
        const vec beta = vec_set1(frame->beta.hi);
        FSM_EACH_BLOCK(k, count)
            n[k] = vec_clamp(vec_sub(vec_flush(x[k]), frame->shift), vec_set1(frame->beta.floor));
        FSM_EACH_BLOCK(k, count)
            x[k] = vec_mul(n[k], beta);
        FSM_EACH_BLOCK(k, count)
            lost[k] = vec_fma(n[k], vec_set1(frame->beta.lo), vec_mul_error(n[k], beta, x[k]));
    }
    FSM_EACH_BLOCK(k, count)
        x[k] = vec_clamp(x[k], frame->low);
    FSM_EACH_BLOCK(k, count)
        z[k] = vec_fma(x[k], vec_set1(LOG2E), frame->magic);
    FSM_EACH_BLOCK(k, count)
        n[k] = vec_sub(z[k], frame->magic);
    FSM_EACH_BLOCK(k, count)
        x[k] = vec_fma(n[k], vec_set1(-LN2_HI), x[k]);
    FSM_EACH_BLOCK(k, count)
        x[k] = vec_fma(n[k], vec_set1(-LN2_LO), x[k]);
    if (special)
        FSM_EACH_BLOCK(k, count)
            x[k] = vec_add(x[k], lost[k]);
    FSM_EACH_BLOCK(k, count)
        p[k] = vec_set1(c[0] * EXP_SCALE);
    FSM_UNROLL
    for (size_t i = 1; i < sizeof c / sizeof *c; i++)
        FSM_EACH_BLOCK(k, count)
            p[k] = vec_fma(p[k], x[k], vec_set1(c[i] * EXP_SCALE));
    FSM_EACH_BLOCK(k, count)
        x[k] = vec_mul(p[k], vec_pow2(z[k]));
}

/* e of one block. */
FSM_INLINE vec exp_block(vec x, exp_frame_t frame, bool special) {
    exp_together(&x, 1, &frame, special);
    return x;
}

/* e of a register of 4 blocks. */
FSM_INLINE void exp_four(vec *x, const exp_frame_t *frame, bool special) {
    FSM_UNROLL
    for (int k = 0; k < 4; k += EXP_TOGETHER)
        exp_together(x + k, EXP_TOGETHER, frame, special);
}

FSM_OUTLINE void special_blocks(vec *a, int count, const exp_frame_t *frame) {
    for (int i = 0; i < count; i++)
        a[i] = exp_block(a[i], *frame, true);
}

/* e of whole blocks. The detour keeps `a` in registers elsewhere. */
FSM_INLINE void exp_blocks(vec *a, const int count, const exp_frame_t *frame, bool special) {
    if (special) {
        vec copy[4];
        for (int i = 0; i < count; i++)
            copy[i] = a[i];
        special_blocks(copy, count, frame);
        for (int i = 0; i < count; i++)
            a[i] = copy[i];
        return;
    }
    FSM_EACH_BLOCK(k, count)
        exp_together(&a[k], 1, frame, false);
}

/* 1/S as hi + lo, with the factors that e and y carry (sum_reciprocal). */
typedef struct {
    vec hi, lo;
} divisor_t;

/* y = e/S as e*hi + e*lo, rounded once, so that e/e is 1 and e/(e+e+e+e) is 0.25. `unit` has w, of which below, in its
 * exponent field; so has `off`, whose sign is that of the result.
 *
 * Up to here y carries a factor of 2^w that keeps every step normal; integer arithmetic takes it off, so that
 * nothing traps. Normal results: subtract w from the exponent field. Subnormal results: y/2 + 2^(w-bias) rounds y to
 * a multiple of the smallest subnormal, has w in its exponent field and the result's own bit pattern below it; so
 * the same subtraction finishes it, and it is the larger of the two exactly where the result is subnormal. A second
 * form for rows that need no care did not pay. */
FSM_INLINE vec scaled_quotient(vec e, divisor_t divisor, vec unit, vec off) {
    vec y = vec_scale(e, divisor.hi, divisor.lo);
    vec subnormal = vec_fma(y, vec_set1((real)0.5), unit);
    return vec_bits_sub(vec_max(y, subnormal), off);
}

FSM_INLINE vec quotient(vec e, divisor_t divisor) {
    return scaled_quotient(e, divisor, vec_set1(Y_UNIT), vec_set1(Y_UNIT));
}

/* For f*e/S with any finite f, whose exponent joins w, and whose sign the integer that is taken off: what divides,
 * `unit` and `off` of scaled_quotient(). Where f is so large that nothing can be subnormal, w is 0. */
FSM_ALWAYS_INLINE void scaled_divisor(fsm_sum sum, double f, real *hi, real *lo, real *unit, real *off) {
    const double size = fabs(f);
    int exponent = (int)(fsm_f64_bits(size) >> 52) - 1022;
    exponent = exponent < MIN_FACTOR_EXPONENT   ? MIN_FACTOR_EXPONENT
               : exponent > MAX_FACTOR_EXPONENT ? Y_POWER
                                                : exponent;
    sum_reciprocal(sum, size * fsm_two_to(-exponent), hi, lo);
    const real_bits sign = f < 0, w = (real_bits)(Y_POWER - exponent), field = w << MANTISSA_BITS;
    const real_bits signed_field = field | sign << (8 * sizeof(real) - 1);
    memcpy(unit, &field, sizeof field);
    memcpy(off, &signed_field, sizeof signed_field);
}

/* v, which is finite, without a factor of 2^w, rounded once, as quotients are, but of either sign. `unit`
 * has w in its exponent field. */
FSM_INLINE vec unscale(vec v, vec unit) {
    const vec size = vec_abs(v), subnormal = vec_fma(size, vec_set1((real)0.5), unit);
    return vec_bits_sub(vec_max(size, subnormal), vec_bits_sub(size, vec_bits_sub(v, unit)));
}

#endif
