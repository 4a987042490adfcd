/* Plain C, float64. */
/* 32 copies of each function inline would come to megabytes. */
#define FSM_KEEP_FUNCTIONS
#define FSM_REAL 64
#define FSM_SIMD "base.h"
#include "../kernels/table.h"
