/* What no implementation can beat, shared among threads by the pool that the kernels use (csrc/threads.c). */
#include "fsm.h"

#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH        64
#define STREAM(y, x) _mm512_stream_si512((__m512i *)(y), _mm512_loadu_si512(x))
#elif defined(__AVX__)
#include <immintrin.h>
#define WIDTH        32
#define STREAM(y, x) _mm256_stream_si256((__m256i *)(y), _mm256_loadu_si256((const __m256i *)(x)))
#elif defined(__SSE2__)
#include <emmintrin.h>
#define WIDTH        16
#define STREAM(y, x) _mm_stream_si128((__m128i *)(y), _mm_loadu_si128((const __m128i *)(x)))
#endif

/* ---- the best plain copy: as memcpy does it, or past the caches with the widest stores that the build's flags allow
 * (elsewhere than on x86 memcpy decides that by itself) */

static void copy_plainly(char *y, const char *x, ptrdiff_t n) {
    memcpy(y, x, (size_t)n);
}

static void copy_past_caches(char *y, const char *x, ptrdiff_t n) {
#if defined(WIDTH)
    const ptrdiff_t unaligned = (ptrdiff_t)(-(uintptr_t)y % WIDTH);
    ptrdiff_t i = unaligned < n ? unaligned : n;
    memcpy(y, x, (size_t)i);
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        STREAM(y + i, x + i);
        STREAM(y + i + WIDTH, x + i + WIDTH);
        STREAM(y + i + 2 * WIDTH, x + i + 2 * WIDTH);
        STREAM(y + i + 3 * WIDTH, x + i + 3 * WIDTH);
    }
    memcpy(y + i, x + i, (size_t)(n - i));
    _mm_sfence();
#else
    copy_plainly(y, x, n);
#endif
}

enum { PAGE = 4096 }; /* bytes in a unit of work */

static void copy_pages(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    (void)scratch;
    const ptrdiff_t from = begin * PAGE;
    copy_plainly(args->operands[FSM_Y].data + from, args->operands[FSM_X].data + from, (end - begin) * PAGE);
}

static void copy_pages_past_caches(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    (void)scratch;
    const ptrdiff_t from = begin * PAGE;
    copy_past_caches(args->operands[FSM_Y].data + from, args->operands[FSM_X].data + from, (end - begin) * PAGE);
}

/* Copies n bytes `times` times. */
void bench_copy(char *y, char *x, ptrdiff_t n, ptrdiff_t times, int past_caches, int threads);

void bench_copy(char *y, char *x, ptrdiff_t n, ptrdiff_t times, int past_caches, int threads) {
    fsm_args args = {.n = PAGE / sizeof(float), .ndim = 1, .shape = {n / PAGE}};
    args.operands[FSM_X].data = x;
    args.operands[FSM_Y].data = y;
    const ptrdiff_t rest = n / PAGE * PAGE;
    for (ptrdiff_t t = 0; t < times; t++) {
        if (rest)
            fsm_run(past_caches ? copy_pages_past_caches : copy_pages, &args, FSM_F32, threads);
        (past_caches ? copy_past_caches : copy_plainly)(y + rest, x + rest, n - rest);
        __asm__ volatile("" ::: "memory"); /* every copy is made */
    }
}

/* ---- the arithmetic floor (floor.h), on every thread at once */

typedef void floor_function(const void *x, void *y, ptrdiff_t n, ptrdiff_t times);

typedef struct {
    floor_function *floor;
    const void *x;
    ptrdiff_t n;
} floor_job;

enum { PASSES = 20 }; /* in a unit of work */

static void floor_units(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    (void)scratch;
    const floor_job *job = (const void *)args->operands[FSM_X].data;
    double y[FSM_CHUNK];
    for (ptrdiff_t i = begin; i < end; i++)
        job->floor(job->x, y, job->n, PASSES);
}

/* Does the arithmetic of a chunk of n elements PASSES * units times. */
void bench_floor(floor_function *floor, const void *x, ptrdiff_t n, ptrdiff_t units, int threads);

void bench_floor(floor_function *floor, const void *x, ptrdiff_t n, ptrdiff_t units, int threads) {
    floor_job job = {floor, x, n};
    fsm_args args = {.n = n * PASSES, .ndim = 1, .shape = {units}};
    args.operands[FSM_X].data = (char *)&job;
    fsm_run(floor_units, &args, FSM_F32, threads);
}
