#include "fsm.h"
fsm_kernel *const fsm_longdouble_kernels[FSM_OPS];
