/* Threads, locks, the clock, memory and CPUs by POSIX; and by Linux, where that can do more. Knows nothing of the pool.
 *
 * To be included before any other header (os.h). */
#ifndef FSM_POOL_OS_POSIX_H
#define FSM_POOL_OS_POSIX_H

#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np */
#endif

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* ---- locks */

typedef pthread_mutex_t os_mutex;
typedef pthread_cond_t os_condition;

static inline void os_mutex_init(os_mutex *m) {
    pthread_mutex_init(m, NULL);
}

static inline void os_mutex_lock(os_mutex *m) {
    pthread_mutex_lock(m);
}

static inline void os_mutex_unlock(os_mutex *m) {
    pthread_mutex_unlock(m);
}

static inline void os_condition_init(os_condition *c) {
    pthread_cond_init(c, NULL);
}

/* Gives the mutex up while it waits; may return without a signal. */
static inline void os_condition_wait(os_condition *c, os_mutex *m) {
    pthread_cond_wait(c, m);
}

/* To one of those who wait. */
static inline void os_condition_signal(os_condition *c) {
    pthread_cond_signal(c);
}

/* ---- threads */

typedef pthread_t os_thread;

/* Defines what a thread runs: a function of `void *argument`. If it ends, it returns 0. */
#define OS_THREAD_MAIN(name) static void *name(void *argument)

/* Starts a detached thread that takes no signals; false if the system gives none. */
static inline bool os_thread_start(os_thread *t, void *(*run)(void *), void *argument) {
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
    bool started = pthread_create(t, &detached, run, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
#if defined(__linux__)
    if (started)
        pthread_setname_np(*t, "fastsoftmax");
#endif
    return started;
}

/* Has every child of a fork call `in_child`, on the only thread that it has. */
static inline void os_at_fork(void (*in_child)(void)) {
    pthread_atfork(NULL, NULL, in_child);
}

/* ---- the clock */

static inline int64_t os_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* For loops that wait: leaves the core to its other thread for a moment. */
static inline void os_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* yield is no pause on most cores */
#endif
}

/* ---- memory */

/* Aligned to a cache line, 64 bytes; NULL if there is none. */
static inline void *os_aligned_alloc(size_t bytes) {
    void *memory;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : NULL;
}

static inline void os_aligned_free(void *memory) {
    free(memory);
}

/* ---- CPUs */

/* How many the calling thread may run on, at least 1. */
static inline int os_cpu_count(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN); /* also where there are more CPUs than cpu_set_t holds */
    return count > 0 ? (int)count : 1;
}

#if defined(__linux__)

typedef cpu_set_t os_affinity;

/* The CPUs that the calling thread may run on, without the one that it is on; false if there are none. */
static inline bool os_affinity_elsewhere(os_affinity *mask) {
    CPU_ZERO(mask);
    const int here = sched_getcpu();
    if (sched_getaffinity(0, sizeof *mask, mask) != 0 || here < 0 || here >= CPU_SETSIZE)
        return false;
    CPU_CLR(here, mask);
    return CPU_COUNT(mask) > 0;
}

/* Keeps a thread on those CPUs; if that fails, it runs where it ran. */
static inline void os_thread_set_affinity(os_thread t, const os_affinity *mask) {
    pthread_setaffinity_np(t, sizeof *mask, mask);
}

#else /* the system alone says where a thread runs */

typedef char os_affinity;

static inline bool os_affinity_elsewhere(os_affinity *mask) {
    (void)mask;
    return false;
}

static inline void os_thread_set_affinity(os_thread t, const os_affinity *mask) {
    (void)t;
    (void)mask;
}

#endif

#endif
