/* How the units of a call are cut into tasks. */
#ifndef FSM_POOL_SPLIT_H
#define FSM_POOL_SPLIT_H

#include "../fsm.h"

typedef struct {
    ptrdiff_t units;             /* rows, panels, or chunks of one row */
    ptrdiff_t task_units, tasks; /* units in a task, but for the last, which may have fewer; and tasks in all */
    int threads;                 /* that can be of use */
    bool large;                  /* worth waking workers for */
    bool by_chunks;              /* rows are computed one after the other, and threads take the chunks of each */
} fsm_split;

/* A call's rows or panels, for so many threads. */
fsm_split fsm_split_of(const fsm_args *args, int dtype, int threads);

/* `count` chunks of one row, each `work` bytes. */
fsm_split fsm_split_of_chunks(ptrdiff_t count, ptrdiff_t work);

#endif
