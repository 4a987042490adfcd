/* The 16-bit formats, IEEE binary16 (f16) and bfloat16 (bf16), one element at a time in portable C. Loads are exact;
 * stores round to nearest even, overflow to infinity and underflow gradually; a NaN becomes a quiet NaN of the same
 * sign and leading payload. Nothing branches, so that compilers can vectorise loops over arrays (GCC 12: all but f16
 * itself, which instruction sets have instructions for), and no arithmetic meets a subnormal float, which would cost
 * time. */
#ifndef FSM_HALF_H
#define FSM_HALF_H

#include "../fsm.h"

#include <math.h>
#include <string.h>

FSM_ALWAYS_INLINE uint32_t fsm_f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

FSM_ALWAYS_INLINE float fsm_f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

FSM_ALWAYS_INLINE float fsm_f16_to_f32(uint16_t h) {
    const uint32_t magnitude = h & 0x7fff, fields = magnitude << 13; /* exponent and mantissa in their places */
    const uint32_t subnormal = fsm_f32_bits((float)(int32_t)magnitude * 0x1p-24f);
    const uint32_t normal = fields + (112u << 23); /* 127 - 15 between the exponent biases */
    const uint32_t quiet = magnitude > 0x7c00 ? 0x00400000 : 0;
    const uint32_t special = fields | 0x7f800000 | quiet;
    const uint32_t bits = magnitude < 0x0400 ? subnormal : magnitude < 0x7c00 ? normal : special;
    return fsm_f32_of_bits(bits | (uint32_t)(h & 0x8000) << 16);
}

FSM_ALWAYS_INLINE uint16_t fsm_f32_to_f16(float x) {
    const uint32_t bits = fsm_f32_bits(x), magnitude = bits & 0x7fffffff;
    /* 0.5 + |x| has the result's unit, 2^-24, as its last bit, and rounds. What is below 2^-26 gives 0 like 2^-26. */
    const uint32_t least = 0x32800000, larger = magnitude > least ? magnitude : least;
    const uint32_t subnormal = fsm_f32_bits(0.5f + fsm_f32_of_bits(larger)) - 0x3f000000;
    /* Just below half a unit, or half a unit where that rounds up to even; a carry may go into the exponent. */
    const uint32_t normal = (magnitude - (112u << 23) + 0x0fff + (magnitude >> 13 & 1)) >> 13;
    const uint32_t nan = 0x7e00 | (magnitude >> 13 & 0x03ff);
    const uint32_t special = magnitude > 0x7f800000 ? nan : 0x7c00;
    const uint32_t half = magnitude < 0x38800000 ? subnormal : magnitude < 0x47800000 ? normal : special;
    return (uint16_t)(half | (bits >> 16 & 0x8000));
}

FSM_ALWAYS_INLINE float fsm_bf16_to_f32(uint16_t h) {
    return fsm_f32_of_bits((uint32_t)h << 16);
}

FSM_ALWAYS_INLINE uint16_t fsm_f32_to_bf16(float x) {
    const uint32_t bits = fsm_f32_bits(x);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    const uint32_t nan = bits | 0x00400000;
    return (uint16_t)(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16);
}

/* x rounded to odd: if no float equals x, that of its two neighbours whose last bit is 1. It lies on the same side of
 * every 16-bit number, and of the midpoint between two, as x does, so rounding it to 16 bits rounds x once (Boldo and
 * Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008). A finite x
 * stays finite, and nonzero. */
FSM_ALWAYS_INLINE float fsm_f64_to_f32_odd(double x) {
    const float nearest = (float)x;
    const double back = nearest;
    const uint32_t up = fabs(back) > fabs(x);      /* away from 0 */
    const uint32_t inexact = back < x || back > x; /* not for a NaN */
    return fsm_f32_of_bits((fsm_f32_bits(nearest) - up) | inexact);
}

#endif
