/* csrc/pool/ under stress and without Python, so that ThreadSanitizer sees all of it.
 *
 *   pool callers N      N threads call at once, over and over
 *   pool fork           fork while other threads call; the child calls too
 *   pool exit           the process ends while other threads call
 *   pool rounding       workers compute with the caller's rounding mode
 *
 * Exit status 0: every unit of every job was computed once, and the program ended. */
#include "fsm.h"

#include <fenv.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_UNITS = 3000, UNIT_ELEMENTS = 100 };

static void die(const char *what) {
    fprintf(stderr, "pool: %s\n", what);
    _exit(1);
}

/* Counts how often each unit is computed, with the whole scratch to itself. */
static void count_units(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const volatile double *work = (const volatile double *)args->operands[FSM_X].data;
    volatile ptrdiff_t *own = scratch;
    const size_t last = FSM_SCRATCH / sizeof *own - 1;
    double sum = 0;
    own[0] = own[last] = begin;
    for (ptrdiff_t i = begin; i < end; i++) {
        for (int j = 0; j < UNIT_ELEMENTS; j++)
            sum += work[j];
        args->operands[FSM_Y].data[i] += (char)(1 + (sum < 0));
    }
    if (own[0] != begin || own[last] != begin)
        die("two threads have one scratch");
}

/* Counts the chunks of a long row, as many as ignore_index says; twice, as kernels pass over a row twice. */
static void count_chunks(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    count_units(context, begin, end, scratch);
}

static void pass_twice(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    for (ptrdiff_t row = begin; row < end; row++)
        for (int pass = 0; pass < 2; pass++)
            fsm_parallel_for(args, count_chunks, args, args->loss.ignore_index, 8192, scratch);
}

static fsm_args args_of(const void *x, void *y, ptrdiff_t n, ptrdiff_t units) {
    fsm_args args = {.used = FSM_Y + 1, .n = n, .axes = 1, .length = {n}, .ndim = 1, .shape = {units}};
    args.operands[FSM_X].data = (char *)x;
    args.operands[FSM_Y].data = y;
    return args;
}

static void run_one(unsigned *seed) {
    static const double work[UNIT_ELEMENTS];
    unsigned char counts[MAX_UNITS + 1] = {0};
    /* What the pool takes for small work, for medium and for large. */
    static const ptrdiff_t row_lengths[] = {10, 1000, 100000};
    ptrdiff_t units = 1 + rand_r(seed) % MAX_UNITS;
    fsm_args args = args_of(work, counts, row_lengths[rand_r(seed) % 3], units);
    if (!fsm_run(count_units, &args, FSM_F32, 1 + rand_r(seed) % 6))
        die("no memory");
    for (ptrdiff_t i = 0; i < MAX_UNITS + 1; i++)
        if (counts[i] != (i < units))
            die("a unit was not computed exactly once");

    unsigned char chunks[MAX_UNITS + 1] = {0};
    fsm_args row = args_of(work, chunks, 1000000, 1);
    row.divisible = true;
    row.loss.ignore_index = units;
    if (!fsm_run(pass_twice, &row, FSM_F32, 1 + rand_r(seed) % 6))
        die("no memory");
    for (ptrdiff_t i = 0; i < MAX_UNITS + 1; i++)
        if (chunks[i] != 2 * (i < units))
            die("a chunk was not computed once in each pass");
    if (rand_r(seed) % 64 == 0)
        usleep(300); /* workers fall asleep */
}

static void *call_often(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    for (int i = 0; i < 500; i++)
        run_one(&state);
    return NULL;
}

static void *call_forever(void *seed) {
    unsigned state = (unsigned)(size_t)seed;
    for (;;)
        run_one(&state);
    return NULL;
}

static void start(void *(*function)(void *), pthread_t *threads, int count) {
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, function, (void *)(size_t)(i + 1)) != 0)
            die("no thread");
}

static void callers(int count) {
    pthread_t threads[64];
    if (count > 64)
        die("at most 64 callers");
    start(call_often, threads, count);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static void fork_while_busy(void) {
    pthread_t threads[3];
    start(call_forever, threads, 3);
    for (unsigned i = 0; i < 40; i++) {
        usleep(500);
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            for (int j = 0; j < 20; j++)
                run_one(&i);
            _exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            die("a child failed");
    }
    _exit(0);
}

/* Adds numbers whose sum depends on the rounding mode. */
static void add(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const volatile double *x = (const volatile double *)args->operands[FSM_X].data;
    double *y = (double *)(void *)args->operands[FSM_Y].data;
    (void)scratch;
    for (ptrdiff_t i = begin; i < end; i++)
        y[i] = x[0] + x[1];
}

static void rounding(void) {
    static const double x[] = {1, 0x1p-60};
    static double y[100000];
    fsm_args args = args_of(x, y, 1000, 100000);
    for (int round = 0; round < 100; round++) {
        const bool up = round % 2;
        fesetround(up ? FE_UPWARD : FE_TONEAREST);
        fsm_run(add, &args, FSM_F64, 4);
        for (int i = 0; i < 100000; i++)
            if ((y[i] > 1) != up)
                die("a worker rounded in its own way");
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "callers") == 0)
        callers(atoi(argv[2]));
    else if (argc == 2 && strcmp(argv[1], "fork") == 0)
        fork_while_busy();
    else if (argc == 2 && strcmp(argv[1], "exit") == 0) {
        pthread_t threads[3];
        start(call_forever, threads, 3);
        usleep(20000);
    } else if (argc == 2 && strcmp(argv[1], "rounding") == 0)
        rounding();
    else
        die("usage: see the head of pool.c");
    return 0;
}
