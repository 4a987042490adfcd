/* The pool: workers that help a caller with its work units, or, where these are few long rows, with the pieces of one
 * after the other (fsm_parallel_for).
 *
 * There is one pool a process, and one job at a time; a caller that finds it busy does its own job alone. A job's units
 * are cut into blocks, and these into one range for each thread: a thread takes blocks from the front of its own range,
 * so that it walks through memory in one direction and meets what its cache holds from the last call on the same
 * arrays; when that is empty, it takes them from the back of the others'.
 *
 * A call that begins while others run takes no more threads than these leave CPUs, with one for each of them. Two
 * threads that kept calling, on two CPUs, took up to 1.3 times as long as in turn when the worker came too.
 *
 * The caller opens the gate, starts at once, and closes the gate when no block is left; then it waits for the workers
 * inside, at most for a block each. A worker that is late, or was never woken, finds the gate closed, and what would
 * have been its range done.
 *
 * A worker without a job spins for SPIN_NANOSECONDS, then sleeps. Workers start when they are first needed, are
 * detached, leave signals to the threads that were there, and never end: the process takes them along. The child of a
 * fork has none of them and leaves the parent's pool behind, in whatever state it is, for a new one. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np */
#endif
#include "fsm.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A sleeping worker takes 30 to 125 us to come, a spinning one 0.3 us; so it pays to wait about as long. */
#define SPIN_NANOSECONDS 100000

/* Work is counted in bytes of x; a row takes ROW_WORK besides.
 *
 * To wake a sleeping worker costs the caller 10 to 20 us (and to start one more): it pays from WAKE_WORK on (300 us of
 * work), and for less if calls follow each other so closely that the worker will not sleep again. A worker that spins
 * costs nothing to call; work below SHARED_WORK (10 us) stays with the caller all the same. (Two cores of a Zen 5 with
 * AVX-512, calls 1.5 ms apart and back to back.) */
#define ROW_WORK    400
#define SHARED_WORK 200000
#define WAKE_WORK   6000000

/* What a thread takes at a time, so that nobody waits long for the last. */
#define BLOCK_WORK 32768

/* Rows of so much are shared, if there are fewer of them than ROWS_A_THREAD for each thread. */
#define PIECES_WORK   1000000
#define ROWS_A_THREAD 8
_Static_assert(PIECES_WORK > FSM_SCRATCH, "no kernel holds such a row in one thread's scratch");

/* Fewer strips than this side by side are not shared: two threads would often write to the same cache line. And of
 * columns that do not stay in the scratch, fewer than WIDE_STRIPS: two threads with two strips of (32000, 128) float32
 * each take twice as long as one with all four. */
#define MIN_STRIPS  4
#define WIDE_STRIPS 8

/* With more workers than this there is nearly always an idle CPU, and place_workers takes a system call for each. */
#define MOST_PLACED 8

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

static void expect_forks(void) {
}

int fsm_cpu_count(void) {
    DWORD_PTR process, system;
    int count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process; process &= process - 1)
            count++;
    if (count == 0) /* in several groups of processors */
        count = (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return count ? count : 1;
}

static void *aligned_memory(size_t bytes) {
    return _aligned_malloc(bytes, 64);
}

static void free_aligned(void *memory) {
    _aligned_free(memory);
}

typedef HANDLE thread;
static void work(void *pool);

static DWORD WINAPI worker_main(void *pool) {
    work(pool);
    return 0;
}

static bool start_worker(void *pool, thread *t) {
    *t = CreateThread(NULL, 0, worker_main, pool, 0, NULL);
    return *t != NULL;
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

static void expect_forks(void) {
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

static void *aligned_memory(size_t bytes) {
    void *memory;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

static void free_aligned(void *memory) {
    free(memory);
}

typedef pthread_t thread;

static void work(void *pool);

static void *worker_main(void *pool) {
    work(pool);
    return NULL;
}

static bool start_worker(void *pool, thread *t) {
    pthread_attr_t detached;
    sigset_t others, before;
    if (pthread_attr_init(&detached) != 0)
        return false;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    /* All but those that a thread's own instructions raise: a handler of the program's may have to see them. */
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigfillset(&others);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&others, own[i]);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    bool started = pthread_create(t, &detached, worker_main, pool) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
#if defined(__linux__)
    if (started)
        pthread_setname_np(*t, "fastsoftmax");
#endif
    return started;
}

#endif

#if defined(__linux__)

typedef cpu_set_t cpu_mask;

/* The CPUs that the calling thread may run on, without the one that it is on; false if there are none. */
static bool mask_besides_this(cpu_mask *mask) {
    CPU_ZERO(mask);
    const int here = sched_getcpu();
    if (sched_getaffinity(0, sizeof *mask, mask) != 0 || here < 0 || here >= CPU_SETSIZE)
        return false;
    CPU_CLR(here, mask);
    return CPU_COUNT(mask) > 0;
}

static void set_mask(thread t, const cpu_mask *mask) {
    pthread_setaffinity_np(t, sizeof *mask, mask); /* if that fails, it runs where it ran */
}

#else

typedef char cpu_mask;

static bool mask_besides_this(cpu_mask *mask) {
    (void)mask;
    return false;
}

static void set_mask(thread t, const cpu_mask *mask) {
    (void)t;
    (void)mask;
}

#endif

/* ---- how work is split */

/* Strips side by side; 1 without columns. */
static ptrdiff_t strips_of(const fsm_args *args, int dtype) {
    return args->columns ? fsm_panels(args->columns, FSM_LANES(dtype)) : 1;
}

ptrdiff_t fsm_units(const fsm_args *args, int dtype) {
    ptrdiff_t units = strips_of(args, dtype);
    for (int d = 0; d < args->ndim; d++)
        units *= args->shape[d];
    return units;
}

typedef struct {
    ptrdiff_t units, block, blocks; /* units in a block, and blocks in all */
    int threads;                    /* that can be of use */
    bool large;                     /* worth waking workers for */
    bool pieces;                    /* it is rows that are shared, a piece at a time, one after the other */
} split;

/* For so many threads. */
static split split_of(const fsm_args *args, int dtype, int threads) {
    const ptrdiff_t strips = strips_of(args, dtype);
    /* Not as integers: a broadcast row may have 2^61 elements. */
    const double unit_elements = (double)args->n * (args->columns ? FSM_LANES(dtype) : 1);
    const double unit_bytes = (dtype == FSM_F32 ? 4 : 8) * unit_elements, unit_work = unit_bytes + ROW_WORK;
    const ptrdiff_t fit = (ptrdiff_t)(FSM_SCRATCH / unit_bytes); /* nearly: kernels keep a part for themselves */
    const bool held = fit >= FSM_PANELS_PACKED;
    const ptrdiff_t least = held ? MIN_STRIPS : WIDE_STRIPS;
    const ptrdiff_t together = strips < least ? strips : held ? 1 : least; /* units that are not separated */
    split s = {.units = fsm_units(args, dtype), .threads = 1};
    s.block = ((ptrdiff_t)(BLOCK_WORK / unit_work) / together + 1) * together;
    if (args->columns) {
        /* As many strips as are fast together, if all threads get some. */
        ptrdiff_t wide = held && fit < FSM_MAX_PANELS ? fit : FSM_MAX_PANELS;
        while (wide > 1 && s.units / wide < threads)
            wide /= 2;
        if (wide > s.block)
            s.block = (wide - 1) / together * together + together;
    } else if (s.block > FSM_LANES(dtype)) {
        s.block = s.block / FSM_LANES(dtype) * FSM_LANES(dtype); /* short rows are taken as strips */
    }
    s.block += s.units / UINT32_MAX; /* a range counts blocks in 32 bits */
    s.blocks = (s.units - 1) / s.block + 1;
    const double work = (double)s.units * unit_work;
    s.large = work >= WAKE_WORK;
    ptrdiff_t most = s.blocks;
    if (args->divisible && !args->columns && unit_bytes >= PIECES_WORK &&
        s.units < ROWS_A_THREAD * (ptrdiff_t)threads) {
        s.pieces = true;
        most = (ptrdiff_t)(unit_bytes / BLOCK_WORK);
    }
    if (work >= SHARED_WORK)
        s.threads = most < FSM_MAX_THREADS ? (int)most : FSM_MAX_THREADS;
    return s;
}

/* ---- the pool */

/* The gate, one word: how many workers may still come in, and how many are in. */
#define WORKER  UINT32_C(1)
#define WORKERS UINT32_C(0xffff)
#define SEAT    (UINT32_C(1) << 16)
#define SEATS   (UINT32_C(0xffff) << 16)
_Static_assert(FSM_MAX_THREADS <= 0xffff, "a half of the gate holds as many");

/* Blocks that nobody has taken yet: first * FIRST + end. */
typedef struct {
    _Atomic uint64_t blocks;
    char apart[64 - sizeof(uint64_t)];
} range;

#define FIRST (UINT64_C(1) << 32)

typedef struct {
    atomic_bool busy;   /* a caller has the pool */
    atomic_int callers; /* in a call that is worth sharing, whether they have the pool or not */

    /* The job. Constant while the gate is open or a worker is in. */
    fsm_piece *piece;
    const void *context;
    split work;
    int threads;
    int rounding; /* the caller's mode: no bit may depend on who computes a unit */
    bool wake;    /* worth waking workers for */

    /* Read and written by the caller that has the pool. */
    int started; /* workers */
    bool full;   /* the system gives no more */
    thread workers[FSM_MAX_THREADS];
    cpu_mask mask; /* where the first `placed` of them may run */
    int placed;
    int64_t last_end;

    atomic_int numbered; /* workers that have taken a number */
    atomic_bool spins;   /* workers may */

    mutex mutex; /* for sleeping only */
    condition job_opened, workers_left;
    atomic_bool caller_sleeps;

    char apart_1[128]; /* the following change often, each on a cache line of its own */
    atomic_int sleepers;
    char apart_2[128];
    atomic_uint_least32_t gate;
    char apart_3[128];
    range ranges[FSM_MAX_THREADS]; /* as many as the job has threads */
} pool;

static _Atomic(pool *) the_pool;

#if !defined(_WIN32)
static void forget_pool(void) {
    atomic_store(&the_pool, NULL);
}
#endif

/* NULL if there is no memory for it. */
static pool *get_pool(void) {
    static atomic_bool expecting_forks;
    pool *existing = atomic_load_explicit(&the_pool, memory_order_acquire);
    if (existing)
        return existing;
    if (!atomic_load(&expecting_forks)) { /* twice does no harm; a pool without it would */
        expect_forks();
        atomic_store(&expecting_forks, true);
    }
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

/* After a change of what they wait for: those who saw the old state hold the lock until they wait. */
static void signal_to(pool *p, condition *c) {
    mutex_lock(&p->mutex);
    mutex_unlock(&p->mutex);
    condition_signal(c);
}

/* The next block of a range, from its front or from its back; -1 if there is none. */
static ptrdiff_t take_block(range *r, bool front) {
    uint64_t blocks = atomic_load_explicit(&r->blocks, memory_order_relaxed);
    for (;;) {
        const uint64_t first = blocks / FIRST, end = blocks % FIRST;
        if (first >= end)
            return -1;
        const uint64_t rest = front ? blocks + FIRST : blocks - 1;
        if (atomic_compare_exchange_weak_explicit(&r->blocks, &blocks, rest, memory_order_relaxed,
                                                  memory_order_relaxed))
            return (ptrdiff_t)(front ? first : end - 1);
    }
}

/* Computes what is left of the thread's own range, and then of the others'. */
static void take_blocks(pool *p, int own, void *scratch) {
    for (int i = 0; i < p->threads; i++) {
        range *r = &p->ranges[(own + i) % p->threads];
        ptrdiff_t block;
        while ((block = take_block(r, i == 0)) >= 0) {
            const ptrdiff_t begin = block * p->work.block;
            const ptrdiff_t end = block == p->work.blocks - 1 ? p->work.units : begin + p->work.block;
            p->piece(p->context, begin, end, scratch);
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
    const int number = 1 + atomic_fetch_add(&p->numbered, 1); /* the caller is 0 */
    void *scratch = NULL;
    for (;;) {
        if (enter(p)) {
            fesetround(p->rounding);
            if (!scratch)
                scratch = aligned_memory(FSM_SCRATCH);
            if (scratch)
                take_blocks(p, number % p->threads, scratch);
            leave(p);
        }
        wait_for_job(p);
    }
}

/* ---- the caller */

/* As many workers as `wanted`, if the system gives them. */
static int start_workers(pool *p, int wanted) {
    while (p->started < wanted && !p->full)
        if (start_worker(p, &p->workers[p->started]))
            p->started++;
        else
            p->full = true; /* is not asked again */
    return p->started < wanted ? p->started : wanted;
}

/* Workers stay off the caller's CPU. Left alone, Linux may wake one there although another is idle, if all have been
 * busy of late, and leaves it there for many ms: (1024, 1024) float32 after another library's threads, on two CPUs,
 * then takes 0.25 to 0.32 ms instead of 0.15 (Linux 6.18, Zen 5). */
static void place_workers(pool *p) {
    cpu_mask mask;
    if (p->started > MOST_PLACED || !mask_besides_this(&mask))
        return;
    if (memcmp(&mask, &p->mask, sizeof mask) != 0) {
        p->mask = mask;
        p->placed = 0;
    }
    for (; p->placed < p->started; p->placed++)
        set_mask(p->workers[p->placed], &p->mask);
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
    mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->gate) & WORKERS)
        condition_wait(&p->workers_left, &p->mutex);
    atomic_store(&p->caller_sleeps, false);
    mutex_unlock(&p->mutex);
}

static void share(pool *p, fsm_piece *piece, const void *context, split work, int helpers, void *scratch) {
    const int threads = helpers + 1;
    p->piece = piece;
    p->context = context;
    p->work = work;
    p->threads = threads;
    p->rounding = fegetround();
    /* A worker that spins where there is no CPU for it holds up those who work. */
    atomic_store_explicit(&p->spins, helpers < fsm_cpu_count(), memory_order_relaxed);
    place_workers(p);
    for (int i = 0; i < threads; i++) {
        const uint64_t first = (uint64_t)(work.blocks * i / threads);
        const uint64_t end = (uint64_t)(work.blocks * (i + 1) / threads);
        atomic_store_explicit(&p->ranges[i].blocks, first * FIRST + end, memory_order_relaxed);
    }
    open_gate(p, helpers);
    take_blocks(p, 0, scratch);
    close_gate(p);
}

/* A kernel's units as pieces. */
typedef struct {
    fsm_kernel *kernel;
    const fsm_args *args;
} units;

static void run_units(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const units *u = context;
    u->kernel(u->args, begin, end, scratch);
}

void fsm_parallel_for(const fsm_args *args, fsm_piece *piece, const void *context, ptrdiff_t count, ptrdiff_t work,
               void *scratch) {
    split s = {.units = count, .block = BLOCK_WORK / work + 1};
    s.blocks = (count - 1) / s.block + 1;
    if (args->helpers > 0 && s.blocks > 1)
        share(get_pool(), piece, context, s, args->helpers, scratch); /* which this call has */
    else
        piece(context, 0, count, scratch);
}

/* Whether the job was done. */
static bool run_in_pool(pool *p, fsm_kernel *kernel, fsm_args *args, split work, int threads, void *scratch) {
    if (atomic_exchange_explicit(&p->busy, true, memory_order_acquire))
        return false;
    p->wake = work.large || nanoseconds() - p->last_end < SPIN_NANOSECONDS;
    int helpers = threads - 1;
    if (p->wake)
        helpers = start_workers(p, helpers);
    else if (helpers > p->started - atomic_load(&p->sleepers))
        helpers = p->started - atomic_load(&p->sleepers);
    const units all = {kernel, args};
    if (helpers > 0 && !work.pieces) {
        share(p, run_units, &all, work, helpers, scratch);
    } else {
        args->helpers = work.pieces ? helpers : 0;
        kernel(args, 0, work.units, scratch);
        args->helpers = 0;
    }
    p->last_end = nanoseconds();
    atomic_store_explicit(&p->busy, false, memory_order_release);
    return true;
}

int fsm_useful_threads(const fsm_args *args, int dtype) {
    return split_of(args, dtype, FSM_MAX_THREADS).threads;
}

/* The scratch of the last caller, for the next: NULL while somebody has it. */
static _Atomic(void *) spare_scratch;

bool fsm_run(fsm_kernel *kernel, fsm_args *args, int dtype, int threads) {
    const split s = threads > 1 ? split_of(args, dtype, threads) : (split){.units = fsm_units(args, dtype)};
    void *scratch = atomic_exchange_explicit(&spare_scratch, NULL, memory_order_acquire);
    if (!scratch && !(scratch = aligned_memory(FSM_SCRATCH)))
        return false;
    if (s.threads < threads)
        threads = s.threads;
    pool *p = threads > 1 ? get_pool() : NULL;
    const int others = p ? atomic_fetch_add_explicit(&p->callers, 1, memory_order_relaxed) : 0;
    if (others > 0) {
        const int left = fsm_cpu_count() - others;
        threads = left < threads ? left : threads;
    }
    if (!p || threads <= 1 || !run_in_pool(p, kernel, args, s, threads, scratch))
        kernel(args, 0, s.units, scratch);
    if (p)
        atomic_fetch_sub_explicit(&p->callers, 1, memory_order_relaxed);
    void *none = NULL;
    if (!atomic_compare_exchange_strong_explicit(&spare_scratch, &none, scratch, memory_order_release,
                                                 memory_order_relaxed))
        free_aligned(scratch);
    return true;
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
