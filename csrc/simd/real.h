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

#endif
