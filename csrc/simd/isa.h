/* The instruction set of a translation unit: FSM_SIMD names its header. Where nobody has said which, as in an editor
 * that opens one header, it is the scalar reference. */
#ifndef FSM_SIMD_ISA_H
#define FSM_SIMD_ISA_H

#include "real.h"

#if !defined(FSM_ISA)
#if !defined(FSM_SIMD)
#define FSM_SIMD "scalar.h"
#endif
#include FSM_SIMD
#endif

/* Whether it has reg_load_n and reg_store_n, and whether it has reg_nt_store and reg_nt_end. */
#if !defined(FSM_HAS_PARTIAL)
#define FSM_HAS_PARTIAL 0
#endif
#if !defined(FSM_HAS_NT_STORE)
#define FSM_HAS_NT_STORE 0
#endif

/* In how many turns, of so many registers of each block, a step goes that has 4 blocks at once (block.h). */
#if !defined(FSM_REGISTERS)
#define FSM_REGISTERS 1
#endif

#endif
