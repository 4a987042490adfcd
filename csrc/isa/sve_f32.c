/* SVE, float32. */
#define FSM_REAL 32
#define FSM_SIMD "sve.h"
#include "../kernels/table.h"
