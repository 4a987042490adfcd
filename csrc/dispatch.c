/* Which instruction sets were built, which of them this machine can run, and which one runs. */
#include "fsm.h"

#include <stdatomic.h>

#define ISA(name) extern fsm_kernel *const fsm_kernels_##name##_f32[FSM_OPS], *const fsm_kernels_##name##_f64[FSM_OPS];
#include "isa.def"
#undef ISA

const fsm_isa fsm_isas[] = {
#define ISA(name) {#name, {fsm_kernels_##name##_f32, fsm_kernels_##name##_f64}},
#include "isa.def"
#undef ISA
};

static bool (*const usable[])(void) = {
#define ISA(name) fsm_cpu_##name,
#include "isa.def"
#undef ISA
};

const int fsm_isa_count = sizeof fsm_isas / sizeof *fsm_isas;

const char *const fsm_op_names[FSM_OPS] = {
#define OP(name, max_ulp, kind) #name,
#include "ops.def"
#undef OP
};

const double fsm_op_max_ulp[FSM_OPS] = {
#define OP(name, max_ulp, kind) max_ulp,
#include "ops.def"
#undef OP
};

const char *const fsm_op_bound[FSM_OPS] = {
#define OP(name, max_ulp, kind) #kind,
#include "ops.def"
#undef OP
};

#if defined(__clang__)
const char fsm_compiler[] = "Clang " __clang_version__;
#elif defined(__GNUC__)
const char fsm_compiler[] = "GCC " __VERSION__;
#elif defined(_MSC_VER)
#define STRING(text)  STRING_(text)
#define STRING_(text) #text
const char fsm_compiler[] = "MSVC " STRING(_MSC_VER);
#else
const char fsm_compiler[] = "unknown";
#endif

/* 1 + the index of the active instruction set; 0 until somebody asks. */
static atomic_int active;

bool fsm_isa_usable(int isa) {
    return usable[isa]();
}

const fsm_isa *fsm_active_isa(void) {
    int chosen = atomic_load_explicit(&active, memory_order_relaxed);
    if (chosen == 0) {
        int best = 0;
        while (!usable[best]())
            best++; /* the last ones run everywhere */
        /* Threads that race here store the same value. */
        chosen = best + 1;
        atomic_store_explicit(&active, chosen, memory_order_relaxed);
    }
    return &fsm_isas[chosen - 1];
}

void fsm_activate_isa(int isa) {
    atomic_store_explicit(&active, isa + 1, memory_order_relaxed);
}
