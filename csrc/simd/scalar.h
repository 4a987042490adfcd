/* One lane at a time with a true fused multiply-add: slow, and the reference whose bits every other file is tested
 * against. */
#ifndef FSM_SIMD_SCALAR_H
#define FSM_SIMD_SCALAR_H

#define FSM_ISA scalar

#include "lanes.h"

#endif
