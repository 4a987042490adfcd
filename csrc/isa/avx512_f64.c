/* AVX-512, float64. */
#define FSM_REAL 64
#define FSM_SIMD "avx512.h"
#include "../kernels/table.h"
