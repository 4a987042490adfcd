/* The pool: workers that help a caller with its units, or, where these are few long rows, with the chunks of one row
 * after the other (fsm_parallel_for). Knows neither what a task computes nor the operating system.
 *
 * There is one pool a process, and one job at a time; a caller that finds it busy does its own job alone. A job's units
 * are cut into tasks (split.h), and these into one range for each thread: a thread takes tasks from the front of its
 * own range, so that it walks through memory in one direction and meets what its cache holds from the last call on the
 * same arrays; when that is empty, it takes them from the back of the others'.
 *
 * A call that begins while others run takes no more threads than these leave CPUs, with one for each of them: threads
 * that keep calling take longer than in turn when workers come too.
 *
 * The caller opens the gate, starts at once, and closes the gate when no task is left; then it waits for the workers
 * inside, at most for a task each. A worker that is late, or was never woken, finds the gate closed, and what would
 * have been its range done.
 *
 * A worker without a job spins for SPIN_NANOSECONDS, then sleeps. Workers start when they are first needed, are
 * detached, leave signals to the threads that were there, and never end: the process takes them along. The child of a
 * fork has none of them and leaves the parent's pool behind, in whatever state it is, for a new one.
 *
 * Figures: docs/tuning.md, "Thread pool". */
#include "os.h"

#include "../fsm.h"
#include "split.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A sleeping worker takes about as long to come, so it pays to wait that long for the next job. */
#define SPIN_NANOSECONDS 100000

/* With more workers than this there is nearly always an idle CPU, and place_workers takes a system call for each. */
#define MAX_PLACED 8

/* ---- the pool, and what is in it */

/* The gate, one word: how many workers may still come in, and how many are in. */
#define WORKER  UINT32_C(1)
#define WORKERS UINT32_C(0xffff)
#define SEAT    (UINT32_C(1) << 16)
#define SEATS   (UINT32_C(0xffff) << 16)
_Static_assert(FSM_MAX_THREADS <= 0xffff, "a half of the gate holds as many");

/* Tasks that nobody has taken yet, [first, end): first * FIRST + end. */
typedef struct {
    _Atomic uint64_t tasks;
    char apart[64 - sizeof(uint64_t)];
} range;

#define FIRST (UINT64_C(1) << 32)

typedef struct {
    atomic_bool busy;   /* a caller has the pool */
    atomic_int callers; /* in a call that is worth several threads, whether they have the pool or not */

    /* The job. Constant while the gate is open or a worker is in. */
    fsm_task *task;
    const void *context;
    fsm_split split;
    int threads;
    int rounding; /* the caller's mode: no bit may depend on who computes a unit */
    bool wake;    /* worth waking workers for */

    /* Read and written by the caller that has the pool. */
    int started; /* workers */
    bool full;   /* the system gives no more */
    os_thread workers[FSM_MAX_THREADS];
    os_affinity affinity; /* where the first `placed` of them may run */
    int placed;
    int64_t last_end;

    atomic_int numbered; /* workers that have taken a number */
    atomic_bool spins;   /* workers may */

    os_mutex mutex; /* for sleeping only */
    os_condition job_opened, workers_left;
    atomic_bool caller_sleeps;

    char apart_1[128]; /* the following change often, each on a cache line of its own */
    atomic_int sleepers;
    char apart_2[128];
    atomic_uint_least32_t gate;
    char apart_3[128];
    range ranges[FSM_MAX_THREADS]; /* as many as the job has threads */
} pool;

static _Atomic(pool *) the_pool;

static void forget_pool(void) {
    atomic_store(&the_pool, NULL);
}

/* NULL if there is no memory for it. */
static pool *get_pool(void) {
    static atomic_bool expecting_forks;
    pool *existing = atomic_load_explicit(&the_pool, memory_order_acquire);
    if (existing)
        return existing;
    if (!atomic_load(&expecting_forks)) { /* twice does no harm; a pool without it would */
        os_at_fork(forget_pool);
        atomic_store(&expecting_forks, true);
    }
    pool *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    os_mutex_init(&made->mutex);
    os_condition_init(&made->job_opened);
    os_condition_init(&made->workers_left);
    if (atomic_compare_exchange_strong(&the_pool, &existing, made))
        return made;
    free(made);
    return existing;
}

/* After a change of what they wait for: those who saw the old state hold the lock until they wait. */
static void signal_to(pool *p, os_condition *c) {
    os_mutex_lock(&p->mutex);
    os_mutex_unlock(&p->mutex);
    os_condition_signal(c);
}

/* The next task of a range, from its front or from its back; -1 if there is none. */
static ptrdiff_t take_task(range *r, bool front) {
    uint64_t tasks = atomic_load_explicit(&r->tasks, memory_order_relaxed);
    for (;;) {
        const uint64_t first = tasks / FIRST, end = tasks % FIRST;
        if (first >= end)
            return -1;
        const uint64_t rest = front ? tasks + FIRST : tasks - 1;
        if (atomic_compare_exchange_weak_explicit(&r->tasks, &tasks, rest, memory_order_relaxed, memory_order_relaxed))
            return (ptrdiff_t)(front ? first : end - 1);
    }
}

/* Computes what is left of the thread's own range, and then of the others'. */
static void take_tasks(pool *p, int own, void *scratch) {
    for (int i = 0; i < p->threads; i++) {
        range *r = &p->ranges[(own + i) % p->threads];
        ptrdiff_t task;
        while ((task = take_task(r, i == 0)) >= 0) {
            const ptrdiff_t begin = task * p->split.task_units;
            const ptrdiff_t end = task == p->split.tasks - 1 ? p->split.units : begin + p->split.task_units;
            p->task(p->context, begin, end, scratch);
        }
    }
}

/* ---- workers */

/* Comes through the gate, or returns false if it is closed. */
static bool enter(pool *p) {
    uint_least32_t gate = atomic_load(&p->gate);
    while (gate & SEATS)
        if (atomic_compare_exchange_weak(&p->gate, &gate, gate - SEAT + WORKER)) {
            /* The caller woke one at most; each wakes the next. */
            if (p->wake && ((gate - SEAT) & SEATS) && atomic_load(&p->sleepers) > 0)
                signal_to(p, &p->job_opened);
            return true;
        }
    return false;
}

/* Nothing is left to do (or to do it with), so the gate closes too. */
static void leave(pool *p) {
    uint_least32_t gate = atomic_load(&p->gate), after;
    do
        after = (gate & WORKERS) - WORKER;
    while (!atomic_compare_exchange_weak(&p->gate, &gate, after));
    if (after == 0 && atomic_load(&p->caller_sleeps))
        signal_to(p, &p->workers_left);
}

/* Whether all of `bits` of the gate become 0 (or, if `set`, one of them 1) within a time that is worth spinning. */
static bool spin(pool *p, uint_least32_t bits, bool set) {
    const int64_t end = os_nanoseconds() + SPIN_NANOSECONDS;
    do
        for (int i = 0; i < 16; i++) {
            if (((atomic_load_explicit(&p->gate, memory_order_acquire) & bits) != 0) == set)
                return true;
            os_pause();
        }
    while (os_nanoseconds() < end);
    return false;
}

static void wait_for_job(pool *p) {
    if (atomic_load_explicit(&p->spins, memory_order_relaxed) && spin(p, SEATS, true))
        return;
    os_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (!(atomic_load(&p->gate) & SEATS))
        os_condition_wait(&p->job_opened, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    os_mutex_unlock(&p->mutex);
}

/* A worker's life, which never ends. */
static void work(pool *p) {
    const int number = 1 + atomic_fetch_add(&p->numbered, 1); /* the caller is 0 */
    void *scratch = NULL;
    for (;;) {
        if (enter(p)) {
            fesetround(p->rounding);
            if (!scratch)
                scratch = os_aligned_alloc(FSM_SCRATCH);
            if (scratch)
                take_tasks(p, number % p->threads, scratch);
            leave(p);
        }
        wait_for_job(p);
    }
}

OS_THREAD_MAIN(worker_main) {
    work(argument);
    return 0;
}

/* ---- the caller */

/* As many workers as `wanted`, if the system gives them. */
static int start_workers(pool *p, int wanted) {
    while (p->started < wanted && !p->full)
        if (os_thread_start(&p->workers[p->started], worker_main, p))
            p->started++;
        else
            p->full = true; /* is not asked again */
    return p->started < wanted ? p->started : wanted;
}

/* Workers stay off the caller's CPU. Left alone, Linux may wake one there although another is idle, if all have been
 * busy of late, and leaves it there for many ms: calls then take about twice as long. */
static void place_workers(pool *p) {
    os_affinity affinity;
    if (p->started > MAX_PLACED || !os_affinity_elsewhere(&affinity))
        return;
    if (memcmp(&affinity, &p->affinity, sizeof affinity) != 0) {
        p->affinity = affinity;
        p->placed = 0;
    }
    for (; p->placed < p->started; p->placed++)
        os_thread_set_affinity(p->workers[p->placed], &p->affinity);
}

static void open_gate(pool *p, int seats) {
    atomic_store(&p->gate, (uint_least32_t)seats * SEAT);
    const int asleep = atomic_load(&p->sleepers);
    if (p->wake && asleep > 0 && p->started - asleep < seats)
        signal_to(p, &p->job_opened);
}

static void close_gate(pool *p) {
    if ((atomic_fetch_and(&p->gate, WORKERS) & WORKERS) == 0 || spin(p, WORKERS, false))
        return;
    os_mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->gate) & WORKERS)
        os_condition_wait(&p->workers_left, &p->mutex);
    atomic_store(&p->caller_sleeps, false);
    os_mutex_unlock(&p->mutex);
}

/* All tasks of a job, by the caller and so many workers. */
static void run_job(pool *p, fsm_task *task, const void *context, const fsm_split *split, int helpers, void *scratch) {
    const int threads = helpers + 1;
    p->task = task;
    p->context = context;
    p->split = *split;
    p->threads = threads;
    p->rounding = fegetround();
    /* A worker that spins where there is no CPU for it holds up those who work. */
    atomic_store_explicit(&p->spins, helpers < fsm_cpu_count(), memory_order_relaxed);
    place_workers(p);
    for (int i = 0; i < threads; i++) {
        const uint64_t first = (uint64_t)(split->tasks * i / threads);
        const uint64_t end = (uint64_t)(split->tasks * (i + 1) / threads);
        atomic_store_explicit(&p->ranges[i].tasks, first * FIRST + end, memory_order_relaxed);
    }
    open_gate(p, helpers);
    take_tasks(p, 0, scratch);
    close_gate(p);
}

void fsm_parallel_for(const fsm_args *args, fsm_task *task, const void *context, ptrdiff_t count, ptrdiff_t work,
                      void *scratch) {
    const fsm_split split = fsm_split_of_chunks(count, work);
    if (args->helpers > 0 && split.tasks > 1)
        run_job(get_pool(), task, context, &split, args->helpers, scratch); /* which this call has */
    else
        task(context, 0, count, scratch);
}

/* The context of kernel_task. */
typedef struct {
    fsm_kernel *kernel;
    const fsm_args *args;
} kernel_call;

static void kernel_task(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const kernel_call *call = context;
    call->kernel(call->args, begin, end, scratch);
}

/* Whether the job was done. */
static bool run_in_pool(pool *p, fsm_kernel *kernel, fsm_args *args, const fsm_split *split, int threads,
                        void *scratch) {
    if (atomic_exchange_explicit(&p->busy, true, memory_order_acquire))
        return false;
    p->wake = split->large || os_nanoseconds() - p->last_end < SPIN_NANOSECONDS;
    int helpers = threads - 1;
    if (p->wake)
        helpers = start_workers(p, helpers);
    else if (helpers > p->started - atomic_load(&p->sleepers))
        helpers = p->started - atomic_load(&p->sleepers);
    const kernel_call call = {kernel, args};
    if (helpers > 0 && !split->by_chunks) {
        run_job(p, kernel_task, &call, split, helpers, scratch);
    } else {
        args->helpers = split->by_chunks ? helpers : 0;
        kernel(args, 0, split->units, scratch);
        args->helpers = 0;
    }
    p->last_end = os_nanoseconds();
    atomic_store_explicit(&p->busy, false, memory_order_release);
    return true;
}

/* All units, by as many of the threads as are of use and to be had. */
static void run_on_threads(fsm_kernel *kernel, fsm_args *args, int dtype, int threads, void *scratch) {
    const fsm_split split = fsm_split_of(args, dtype, threads);
    if (split.threads < threads)
        threads = split.threads;
    pool *p = threads > 1 ? get_pool() : NULL;
    const int others = p ? atomic_fetch_add_explicit(&p->callers, 1, memory_order_relaxed) : 0;
    if (others > 0) {
        const int left = fsm_cpu_count() - others;
        threads = left < threads ? left : threads;
    }
    if (!p || threads <= 1 || !run_in_pool(p, kernel, args, &split, threads, scratch))
        kernel(args, 0, split.units, scratch);
    if (p)
        atomic_fetch_sub_explicit(&p->callers, 1, memory_order_relaxed);
}

/* The scratch of the last caller, for the next: NULL while somebody has it. */
static _Atomic(void *) spare_scratch;

bool fsm_run(fsm_kernel *kernel, fsm_args *args, int dtype, int threads) {
    void *scratch = atomic_exchange_explicit(&spare_scratch, NULL, memory_order_acquire);
    if (!scratch && !(scratch = os_aligned_alloc(FSM_SCRATCH)))
        return false;
    if (threads > 1)
        run_on_threads(kernel, args, dtype, threads, scratch);
    else
        kernel(args, 0, fsm_units(args, dtype), scratch);
    void *none = NULL;
    if (!atomic_compare_exchange_strong_explicit(&spare_scratch, &none, scratch, memory_order_release,
                                                 memory_order_relaxed))
        os_aligned_free(scratch);
    return true;
}
