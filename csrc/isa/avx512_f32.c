/* AVX-512, float32. */
#define FSM_REAL 32
#define FSM_SIMD "avx512.h"
#include "../kernels/table.h"
