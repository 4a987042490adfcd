/* Threads, locks, the clock, memory and CPUs by the Windows API. Knows nothing of the pool. What a function is to do
 * stands in os_posix.h, where it has the same name. */
#ifndef FSM_POOL_OS_WINDOWS_H
#define FSM_POOL_OS_WINDOWS_H

#define NOMINMAX /* no macros min and max */

#include <malloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <windows.h>

/* ---- locks */

typedef SRWLOCK os_mutex;
typedef CONDITION_VARIABLE os_condition;

static inline void os_mutex_init(os_mutex *m) {
    InitializeSRWLock(m);
}

static inline void os_mutex_lock(os_mutex *m) {
    AcquireSRWLockExclusive(m);
}

static inline void os_mutex_unlock(os_mutex *m) {
    ReleaseSRWLockExclusive(m);
}

static inline void os_condition_init(os_condition *c) {
    InitializeConditionVariable(c);
}

static inline void os_condition_wait(os_condition *c, os_mutex *m) {
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}

static inline void os_condition_signal(os_condition *c) {
    WakeConditionVariable(c);
}

/* ---- threads */

typedef HANDLE os_thread;

#define OS_THREAD_MAIN(name) static DWORD WINAPI name(void *argument)

static inline bool os_thread_start(os_thread *t, LPTHREAD_START_ROUTINE run, void *argument) {
    *t = CreateThread(NULL, 0, run, argument, 0, NULL);
    return *t != NULL;
}

/* There are no forks. */
static inline void os_at_fork(void (*in_child)(void)) {
    (void)in_child;
}

/* ---- the clock */

static inline int64_t os_nanoseconds(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (int64_t)((double)count.QuadPart * 1e9 / (double)frequency.QuadPart);
}

static inline void os_pause(void) {
    YieldProcessor();
}

/* ---- memory */

static inline void *os_aligned_alloc(size_t bytes) {
    return _aligned_malloc(bytes, 64);
}

static inline void os_aligned_free(void *memory) {
    _aligned_free(memory);
}

/* ---- CPUs */

static inline int os_cpu_count(void) {
    DWORD_PTR process, system;
    int count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process; process &= process - 1)
            count++;
    if (count == 0) /* in several groups of processors */
        count = (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return count ? count : 1;
}

/* The system alone says where a thread runs. */
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
