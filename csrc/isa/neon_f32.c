/* NEON, float32. */
#define FSM_REAL 32
#define FSM_SIMD "neon.h"
#include "../kernels/table.h"
