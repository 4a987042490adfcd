/* What an instruction set's file ends with: compiles every kernel once a precision and defines the one
 * symbol that leaves the file, fsm_isa_<FSM_ISA>. */
#include <limits.h>
#include <math.h>
#include <string.h>

#define FSM_NAME(name, dtype)        FSM_NAME_(name, dtype, FSM_ISA)
#define FSM_NAME_(name, dtype, isa)  FSM_NAME__(name, dtype, isa)
#define FSM_NAME__(name, dtype, isa) fsm_##name##_##dtype##_##isa

/* Whether results may go past the caches: the instruction set has its own vec_stream(). */
#if !defined(FSM_STREAMS)
#define FSM_STREAMS 0
#endif

/* Whether it pays to ask for memory ahead of a sweep that does next to nothing with it. */
#if !defined(FSM_ASKS_AHEAD)
#define FSM_ASKS_AHEAD 1
#endif

#include "half.h"
#include "scalar_math.h"
#include "walk.h"

#include "bind_f32.h"
#include "kernels/all.h"
#include "unbind.h"

#include "bind_f64.h"
#include "kernels/all.h"
#include "unbind.h"

#define FSM_STRING(text)  FSM_STRING_(text)
#define FSM_STRING_(text) #text
#define FSM_SYMBOL(isa)   FSM_SYMBOL_(isa)
#define FSM_SYMBOL_(isa)  fsm_isa_##isa

extern const fsm_isa FSM_SYMBOL(FSM_ISA);
const fsm_isa FSM_SYMBOL(FSM_ISA) = {
    .name = FSM_STRING(FSM_ISA),
    .kernels =
        {
#define OP(name, max_ulp, kind) {FSM_NAME(name, f32), FSM_NAME(name, f64)},
#include "ops.def"
#undef OP
        },
};
