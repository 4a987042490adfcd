/* What a translation unit of csrc/isa/ is made of: every kernel, in one precision, for one instruction set; and the one
 * symbol that leaves it, the table fsm_kernels_<isa>_<precision>. */
#ifndef FSM_KERNELS_TABLE_H
#define FSM_KERNELS_TABLE_H

#include "cross_entropy.h"
#include "log_softmax.h"
#include "logsumexp_grad.h"
#include "reductions.h"
#include "softmax.h"
#include "softmax_grad.h"

#define FSM_OF_THIS_UNIT(name)           FSM_OF_THIS_UNIT_(name, FSM_ISA, FSM_REAL)
#define FSM_OF_THIS_UNIT_(name, isa, n)  FSM_OF_THIS_UNIT__(name, isa, n)
#define FSM_OF_THIS_UNIT__(name, isa, n) fsm_##name##_##isa##_f##n

extern fsm_kernel *const FSM_OF_THIS_UNIT(kernels)[FSM_OPS];
fsm_kernel *const FSM_OF_THIS_UNIT(kernels)[FSM_OPS] = {
#define OP(name, max_ulp, kind) name,
#include "../ops.def"
#undef OP
};

#if defined(FSM_PROBE) /* tests/native/probe.h: the vector layer, for tests */
#include FSM_PROBE
#endif

#endif
