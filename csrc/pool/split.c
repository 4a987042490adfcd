/* How the units of a call, rows or panels, are cut into tasks, and how many threads are worth having for them. A task
 * is what a thread takes at a time: units that follow each other. Where there are few units and these are long rows,
 * what threads take is chunks of one row after the other.
 *
 * Any cut gives the same bits; all of this is for speed. Figures: docs/tuning.md, "Thread pool". */
#include "split.h"

/* Work is counted in bytes of x; a row takes ROW_WORK besides.
 *
 * To wake a sleeping worker, or to start one, takes the caller's own time: it pays from WAKE_WORK on, and for less if
 * calls follow each other so closely that the worker will not sleep again. A worker that spins costs nothing to call;
 * work below SHARED_WORK stays with the caller all the same. */
#define ROW_WORK    400
#define SHARED_WORK 200000
#define WAKE_WORK   6000000

/* About the work of a task, unless a unit is more: little, so that nobody waits long for the last. */
#define TASK_WORK 32768

/* Threads take chunks of rows of so many bytes, if there are fewer of them than ROWS_A_THREAD for each thread. */
#define LONG_ROW      1000000
#define ROWS_A_THREAD 8
_Static_assert(LONG_ROW > FSM_SCRATCH, "no kernel packs such a row into one thread's scratch");

/* Fewer panels than this side by side are not separated: two threads would often write to the same cache line. And of
 * columns that are not packed, fewer than MIN_UNPACKED_PANELS: two threads, with a few each, take longer than one with
 * all of them. */
#define MIN_PANELS          4
#define MIN_UNPACKED_PANELS 8

/* Panels side by side; 1 without columns. */
static ptrdiff_t panels_of(const fsm_args *args, int dtype) {
    return args->columns ? fsm_panels(args->columns, FSM_LANES(dtype)) : 1;
}

ptrdiff_t fsm_units(const fsm_args *args, int dtype) {
    ptrdiff_t units = panels_of(args, dtype);
    for (int d = 0; d < args->ndim; d++)
        units *= args->shape[d];
    return units;
}

fsm_split fsm_split_of(const fsm_args *args, int dtype, int threads) {
    const ptrdiff_t panels = panels_of(args, dtype);
    /* Not as integers: a broadcast row may have 2^61 elements. */
    const double unit_elements = (double)args->n * (args->columns ? FSM_LANES(dtype) : 1);
    const double unit_bytes = (dtype == FSM_F32 ? 4 : 8) * unit_elements, unit_work = unit_bytes + ROW_WORK;
    const ptrdiff_t fit = (ptrdiff_t)(FSM_SCRATCH / unit_bytes); /* nearly: kernels keep a part for themselves */
    const bool packed = fit >= FSM_PANELS_PACKED;
    const ptrdiff_t min_panels = packed ? MIN_PANELS : MIN_UNPACKED_PANELS;
    const ptrdiff_t together = panels < min_panels ? panels : packed ? 1 : min_panels; /* units not separated */
    fsm_split s = {.units = fsm_units(args, dtype), .threads = 1};
    s.task_units = ((ptrdiff_t)(TASK_WORK / unit_work) / together + 1) * together;
    if (args->columns) {
        /* As many panels as are fast together, if all threads get some. */
        ptrdiff_t wide = packed && fit < FSM_MAX_PANELS ? fit : FSM_MAX_PANELS;
        while (wide > 1 && s.units / wide < threads)
            wide /= 2;
        if (wide > s.task_units)
            s.task_units = (wide - 1) / together * together + together;
    } else if (s.task_units > FSM_LANES(dtype)) {
        s.task_units = s.task_units / FSM_LANES(dtype) * FSM_LANES(dtype); /* short rows are taken as panels */
    }
    s.task_units += s.units / UINT32_MAX; /* the pool counts tasks in 32 bits */
    s.tasks = (s.units - 1) / s.task_units + 1;
    const double work = (double)s.units * unit_work;
    s.large = work >= WAKE_WORK;
    ptrdiff_t max_threads = s.tasks;
    if (args->divisible && !args->columns && unit_bytes >= LONG_ROW && s.units < ROWS_A_THREAD * (ptrdiff_t)threads) {
        s.by_chunks = true;
        max_threads = (ptrdiff_t)(unit_bytes / TASK_WORK);
    }
    if (work >= SHARED_WORK)
        s.threads = max_threads < FSM_MAX_THREADS ? (int)max_threads : FSM_MAX_THREADS;
    return s;
}

fsm_split fsm_split_of_chunks(ptrdiff_t count, ptrdiff_t work) {
    fsm_split s = {.units = count, .task_units = TASK_WORK / work + 1};
    s.tasks = (count - 1) / s.task_units + 1;
    return s;
}

int fsm_useful_threads(const fsm_args *args, int dtype) {
    return fsm_split_of(args, dtype, FSM_MAX_THREADS).threads;
}
