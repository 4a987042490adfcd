/* What no implementation can beat, shared among threads by the pool that the kernels use (csrc/pool/). */
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

enum { PAGE = 4096, LINE = 64 }; /* bytes in a unit of work, and in a cache line */

/* A byte of each cache line, unless there is nothing to read. */
static void read_lines(const volatile char *x, ptrdiff_t from, ptrdiff_t n) {
    for (ptrdiff_t i = from; x && i < from + n; i += LINE)
        (void)x[i];
}

static void copy_pages(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    (void)scratch;
    const ptrdiff_t from = begin * PAGE, n = (end - begin) * PAGE;
    read_lines(args->operands[FSM_SAVED].data, from, n);
    copy_plainly(args->operands[FSM_Y].data + from, args->operands[FSM_X].data + from, n);
}

static void copy_pages_past_caches(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    (void)scratch;
    const ptrdiff_t from = begin * PAGE, n = (end - begin) * PAGE;
    read_lines(args->operands[FSM_SAVED].data, from, n);
    copy_past_caches(args->operands[FSM_Y].data + from, args->operands[FSM_X].data + from, n);
}

/* Reads n bytes of `saved`, unless that is NULL, and copies as many of x; `times` times. */
void bench_copy(char *y, char *x, char *saved, ptrdiff_t n, ptrdiff_t times, int past_caches, int threads);

void bench_copy(char *y, char *x, char *saved, ptrdiff_t n, ptrdiff_t times, int past_caches, int threads) {
    fsm_args args = {.n = PAGE / sizeof(float), .ndim = 1, .shape = {n / PAGE}};
    args.operands[FSM_X].data = x;
    args.operands[FSM_Y].data = y;
    args.operands[FSM_SAVED].data = saved;
    const ptrdiff_t rest = n / PAGE * PAGE;
    for (ptrdiff_t t = 0; t < times; t++) {
        if (rest)
            fsm_run(past_caches ? copy_pages_past_caches : copy_pages, &args, FSM_F32, threads);
        read_lines(saved, rest, n - rest);
        (past_caches ? copy_past_caches : copy_plainly)(y + rest, x + rest, n - rest);
        __asm__ volatile("" ::: "memory"); /* every copy is made */
    }
}

/* ---- the arithmetic floor: a kernel on one row, again and again, which so stays in L1; on every thread at once */

/* The build says which instruction set: BENCH_ISA. */
#define KERNELS(isa, precision)  KERNELS_(isa, precision)
#define KERNELS_(isa, precision) fsm_kernels_##isa##_##precision
extern fsm_kernel *const KERNELS(BENCH_ISA, f32)[FSM_OPS], *const KERNELS(BENCH_ISA, f64)[FSM_OPS];

typedef struct {
    fsm_kernel *kernel;
    fsm_args args; /* of PASSES rows, all in the same place */
} floor_job;

enum { PASSES = 20 }; /* in a unit of work */

static void floor_units(const fsm_args *units, ptrdiff_t begin, ptrdiff_t end, void *scratch) {
    const floor_job *job = (const void *)units->operands[FSM_X].data;
    fsm_args args = job->args;
    double y[FSM_CHUNK], loss;
    args.operands[FSM_Y].data = (char *)y;
    args.operands[FSM_LOSS].data = (char *)&loss;
    for (ptrdiff_t i = begin; i < end; i++)
        job->kernel(&args, 0, PASSES, scratch);
}

/* Does the arithmetic of `op` for n <= FSM_CHUNK elements, of size 4 or 8, PASSES * units times. `saved`: of a
 * gradient, else NULL. What a row has one of is x[0], and its class the first. */
void bench_floor(int op, int size, char *x, char *saved, ptrdiff_t n, ptrdiff_t units, int threads);

void bench_floor(int op, int size, char *x, char *saved, ptrdiff_t n, ptrdiff_t units, int threads) {
    const int dtype = size == 4 ? FSM_F32 : FSM_F64;
    floor_job job = {
        .kernel = (dtype == FSM_F32 ? KERNELS(BENCH_ISA, f32) : KERNELS(BENCH_ISA, f64))[op],
        .args = {.n = n, .axes = 1, .length = {n}, .ndim = 1, .shape = {PASSES}, .temperature = 1},
    };
    int64_t first = 0;
    fsm_operand *operands = job.args.operands;
    job.args.used = FSM_OPERANDS;
    job.args.loss = (fsm_loss){.divisor = 1, .z_divisor = 1};
    operands[FSM_X].data = operands[FSM_GRAD].data = x; /* floor_units() has its own y and loss */
    operands[FSM_SAVED].data = saved;
    operands[FSM_TARGET].data = (char *)&first;
    for (int o = 0; o < FSM_OPERANDS; o++) {
        operands[o].storage = size == 4 ? FSM_STORAGE_f32 : FSM_STORAGE_f64;
        operands[o].step[0] = o == FSM_GRAD || o == FSM_TARGET || o == FSM_LOSS ? 0 : size;
    }
    operands[FSM_TARGET].storage = FSM_STORAGE_i64;
    operands[FSM_LOSS].storage = FSM_STORAGE_f64;
    fsm_args units_args = {.n = n * PASSES, .ndim = 1, .shape = {units}};
    units_args.operands[FSM_X].data = (char *)&job;
    fsm_run(floor_units, &units_args, dtype, threads);
}
