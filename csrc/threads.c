/* The pool: workers that help a caller with its work units.
 *
 * There is one pool a process, and one job at a time. The caller opens the job's gate, starts at once, and takes
 * blocks of units from a counter that it shares with every worker that comes through the gate. When no block is left,
 * it closes the gate and waits for those inside, at most a block each; a worker that is late, or was never woken,
 * finds the gate closed and is missed by nobody. A caller that finds the pool busy with another thread's job does its
 * own alone.
 *
 * A worker without a job spins for SPIN_NANOSECONDS, then sleeps. Workers start when they are first needed, are
 * detached, take no signals, and never end: the process takes them along. The child of a fork has none of them and
 * leaves the parent's pool behind, in whatever state it is, for a new one. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np */
#endif
#include "fsm.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>

/* A sleeping worker takes 30 to 125 us to come, a spinning one 0.3 us; so it pays to wait about as long. */
#define SPIN_NANOSECONDS 100000

/* What a thread takes from the counter at a time, at least a unit. */
#define BLOCK_ELEMENTS 8192

/* ---- the two systems */

#if defined(_WIN32)

#include <windows.h>

typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;

static void mutex_init(mutex *m) {
    InitializeSRWLock(m);
}

static void mutex_lock(mutex *m) {
    AcquireSRWLockExclusive(m);
}

static void mutex_unlock(mutex *m) {
    ReleaseSRWLockExclusive(m);
}

static void condition_init(condition *c) {
    InitializeConditionVariable(c);
}

static void condition_wait(condition *c, mutex *m) {
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}

static void condition_signal(condition *c) {
    WakeConditionVariable(c);
}

static int64_t nanoseconds(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (int64_t)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
}

static void pause_briefly(void) {
    YieldProcessor();
}

static void forget_pool_in_children(void) {
}

int fsm_cpu_count(void) {
    DWORD_PTR process, system;
    int count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process; process &= process - 1)
            count++;
    return count ? count : 1;
}

static void work(void *pool);

static DWORD WINAPI worker_main(void *pool) {
    work(pool);
    return 0;
}

static bool start_worker(void *pool) {
    HANDLE thread = CreateThread(NULL, 0, worker_main, pool, 0, NULL);
    if (!thread)
        return false;
    CloseHandle(thread);
    return true;
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;

static void mutex_init(mutex *m) {
    pthread_mutex_init(m, NULL);
}

static void mutex_lock(mutex *m) {
    pthread_mutex_lock(m);
}

static void mutex_unlock(mutex *m) {
    pthread_mutex_unlock(m);
}

static void condition_init(condition *c) {
    pthread_cond_init(c, NULL);
}

static void condition_wait(condition *c, mutex *m) {
    pthread_cond_wait(c, m);
}

static void condition_signal(condition *c) {
    pthread_cond_signal(c);
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_briefly(void) {
#if defined(FSM_X86_64)
    __builtin_ia32_pause();
#elif defined(FSM_AARCH64)
    __asm__ volatile("isb"); /* yield is no pause on most cores */
#endif
}

static void forget_pool(void);

static void forget_pool_in_children(void) {
    pthread_atfork(NULL, NULL, forget_pool);
}

int fsm_cpu_count(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN); /* also where there are more CPUs than cpu_set_t holds */
    return count > 0 ? (int)count : 1;
}

static void work(void *pool);

static void *worker_main(void *pool) {
    work(pool);
    return NULL;
}

static bool start_worker(void *pool) {
    pthread_t thread;
    pthread_attr_t detached;
    sigset_t all, before;
    if (pthread_attr_init(&detached) != 0)
        return false;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, &detached, worker_main, pool) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
#if defined(__linux__)
    if (started)
        pthread_setname_np(thread, "fastsoftmax");
#endif
    return started;
}

#endif

/* ---- the pool */

/* The gate, one word: how many workers may still come in, and how many are in. */
#define WORKER  UINT32_C(1)
#define WORKERS UINT32_C(0xffff)
#define SEAT    (UINT32_C(1) << 16)
#define SEATS   (UINT32_C(0xffff) << 16)
_Static_assert(FSM_MAX_THREADS <= 0xffff, "a half of the gate holds as many");

typedef struct {
    atomic_bool busy; /* a caller has the pool */

    /* The job. Constant while the gate is open or a worker is in. */
    fsm_kernel *kernel;
    const fsm_args *args;
    ptrdiff_t units, block;
    fenv_t environment; /* the caller's: no bit may depend on who computes a unit */

    int started; /* workers; read and written by the caller that has the pool */
    bool full;   /* the system gives no more */
    atomic_bool spins;

    mutex mutex; /* for sleeping only */
    condition job_opened, workers_left;
    atomic_bool caller_sleeps;

    char apart_1[64]; /* the following change often, each on a cache line of its own */
    atomic_int sleepers;
    char apart_2[64];
    atomic_uint_least32_t gate;
    char apart_3[64];
    atomic_ptrdiff_t next; /* the first unit that nobody has taken */
    char apart_4[64];
} pool;

static _Atomic(pool *) the_pool;

#if !defined(_WIN32)
static void forget_pool(void) {
    atomic_store(&the_pool, NULL);
}
#endif

/* NULL if there is no memory for it. */
static pool *get_pool(void) {
    static atomic_bool prepared;
    pool *existing = atomic_load_explicit(&the_pool, memory_order_acquire);
    if (existing)
        return existing;
    if (!atomic_exchange(&prepared, true))
        forget_pool_in_children();
    pool *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    mutex_init(&made->mutex);
    condition_init(&made->job_opened);
    condition_init(&made->workers_left);
    if (atomic_compare_exchange_strong(&the_pool, &existing, made))
        return made;
    free(made);
    return existing;
}

static void signal_to(pool *p, condition *c) {
    mutex_lock(&p->mutex);
    condition_signal(c);
    mutex_unlock(&p->mutex);
}

static void take_blocks(pool *p) {
    for (;;) {
        ptrdiff_t begin = atomic_fetch_add_explicit(&p->next, p->block, memory_order_relaxed);
        if (begin >= p->units)
            return;
        p->kernel(p->args, begin, p->units - begin < p->block ? p->units : begin + p->block);
    }
}

/* ---- workers */

/* Comes through the gate, or returns false if it is closed. */
static bool enter(pool *p) {
    uint_least32_t gate = atomic_load(&p->gate);
    while (gate & SEATS)
        if (atomic_compare_exchange_weak(&p->gate, &gate, gate - SEAT + WORKER)) {
            /* The caller woke one at most; each wakes the next. */
            if (((gate - SEAT) & SEATS) && atomic_load(&p->sleepers) > 0)
                signal_to(p, &p->job_opened);
            return true;
        }
    return false;
}

/* Nothing is left to do, so the gate closes too. */
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
    const int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do
        for (int i = 0; i < 16; i++) {
            if (((atomic_load_explicit(&p->gate, memory_order_acquire) & bits) != 0) == set)
                return true;
            pause_briefly();
        }
    while (nanoseconds() < end);
    return false;
}

static void wait_for_job(pool *p) {
    if (atomic_load_explicit(&p->spins, memory_order_relaxed) && spin(p, SEATS, true))
        return;
    mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (!(atomic_load(&p->gate) & SEATS))
        condition_wait(&p->job_opened, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    mutex_unlock(&p->mutex);
}

static void work(void *argument) {
    pool *p = argument;
    for (;;) {
        if (enter(p)) {
            fesetenv(&p->environment);
            take_blocks(p);
            leave(p);
        }
        wait_for_job(p);
    }
}

/* ---- the caller */

static void start_workers(pool *p, int wanted) {
    if (p->started >= wanted || p->full)
        return;
    while (p->started < wanted && !p->full)
        if (start_worker(p))
            p->started++;
        else
            p->full = true;
    /* One that spins where there is no CPU for it holds up those who work. */
    atomic_store_explicit(&p->spins, p->started < fsm_cpu_count(), memory_order_relaxed);
}

static void open_gate(pool *p, int seats) {
    atomic_store(&p->gate, (uint_least32_t)seats * SEAT);
    int asleep = atomic_load(&p->sleepers);
    if (asleep > 0 && p->started - asleep < seats)
        signal_to(p, &p->job_opened);
}

static void close_gate(pool *p) {
    if ((atomic_fetch_and(&p->gate, WORKERS) & WORKERS) == 0 || spin(p, WORKERS, false))
        return;
    mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->gate) & WORKERS)
        condition_wait(&p->workers_left, &p->mutex);
    atomic_store(&p->caller_sleeps, false);
    mutex_unlock(&p->mutex);
}

/* Whether the job was done. */
static bool run_in_pool(fsm_kernel *kernel, const fsm_args *args, ptrdiff_t units, ptrdiff_t block, int threads) {
    pool *p = get_pool();
    if (!p || atomic_exchange_explicit(&p->busy, true, memory_order_acquire))
        return false;
    start_workers(p, threads - 1);
    p->kernel = kernel;
    p->args = args;
    p->units = units;
    p->block = block;
    fegetenv(&p->environment);
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    open_gate(p, threads - 1 < p->started ? threads - 1 : p->started);
    take_blocks(p);
    close_gate(p);
    atomic_store_explicit(&p->busy, false, memory_order_release);
    return true;
}

ptrdiff_t fsm_units(const fsm_args *args, int dtype) {
    ptrdiff_t units = 1;
    for (int d = 0; d < args->ndim; d++)
        units *= args->shape[d];
    if (args->columns)
        units *= (args->columns - 1) / FSM_STRIP(dtype) + 1;
    return units;
}

void fsm_run(fsm_kernel *kernel, const fsm_args *args, int dtype, int threads) {
    const ptrdiff_t units = fsm_units(args, dtype);
    const ptrdiff_t unit_elements = args->n * (args->columns ? FSM_STRIP(dtype) : 1);
    const ptrdiff_t block = unit_elements < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / unit_elements : 1;
    const ptrdiff_t blocks = (units - 1) / block + 1;
    if (blocks < threads)
        threads = (int)blocks;
    if (threads <= 1 || !run_in_pool(kernel, args, units, block, threads))
        kernel(args, 0, units);
}

/* ---- how many threads a call takes */

static atomic_int wanted_threads; /* 0: as many as there are CPUs, at most automatic_limit */
static atomic_int automatic_limit = FSM_MAX_THREADS;

void fsm_set_num_threads(int threads) {
    atomic_store_explicit(&wanted_threads, threads, memory_order_relaxed);
}

void fsm_limit_num_threads(int threads) {
    atomic_store_explicit(&automatic_limit, threads, memory_order_relaxed);
}

int fsm_num_threads(void) {
    int wanted = atomic_load_explicit(&wanted_threads, memory_order_relaxed);
    if (wanted)
        return wanted;
    int limit = atomic_load_explicit(&automatic_limit, memory_order_relaxed);
    int cpus = fsm_cpu_count();
    return cpus < limit ? cpus : limit;
}
