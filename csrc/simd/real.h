/* The precision of a translation unit: FSM_REAL is 32 or 64. Where nobody has said which, as in an editor that opens
 * one header, it is float32. */
#ifndef FSM_REAL_H
#define FSM_REAL_H

#if !defined(FSM_REAL)
#define FSM_REAL 32
#endif

#if FSM_REAL == 32
#include "f32.h"
#else
#include "f64.h"
#endif

/* Numbers in a register, whose types an instruction set defines (vec.h), and registers of a block. */
#define REG_LANES  ((int)(sizeof(reg) / sizeof(real)))
#define WIDE_LANES ((int)(sizeof(wide) / sizeof(double)))
#define REGS       (LANES / REG_LANES)

#endif
