/* How many threads a call takes unless it says otherwise: what was set, or one for each CPU. */
#include "os.h"

#include "../fsm.h"

#include <stdatomic.h>

static atomic_int wanted_threads; /* 0: as many as there are CPUs, at most automatic_limit */
static atomic_int automatic_limit = FSM_MAX_THREADS;

int fsm_cpu_count(void) {
    return os_cpu_count();
}

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
