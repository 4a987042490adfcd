/* AVX2, float32. */
#define FSM_REAL 32
#define FSM_SIMD "avx2.h"
#include "../kernels/table.h"
