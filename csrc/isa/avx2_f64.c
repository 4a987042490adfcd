/* AVX2, float64. */
#define FSM_REAL 64
#define FSM_SIMD "avx2.h"
#include "../kernels/table.h"
