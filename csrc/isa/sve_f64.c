/* SVE, float64. */
#define FSM_REAL 64
#define FSM_SIMD "sve.h"
#include "../kernels/table.h"
