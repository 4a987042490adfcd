/* NEON, float64. */
#define FSM_REAL 64
#define FSM_SIMD "neon.h"
#include "../kernels/table.h"
