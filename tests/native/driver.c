/* Kernels and the vector layer without Python: one build for each compiler and machine, run natively or under an
 * emulator. Binary input and output are in the machine's own (little-endian) format.
 *
 *   driver isas                                    names of the instruction sets that can run here
 *   driver run OP ISA DTYPE OUTER N INNER          stdin: an array (OUTER, N, INNER), of a gradient also the forward
 *                                                  result; stdout: OP along axis 1
 *   driver vec FUNCTION ISA DTYPE LANES            stdin: records of int64 n and blocks a, b, c; stdout: results
 *   driver sums ISA DTYPE N COLUMNS                stdin: an array; stdout: its exponentials, then pairs hi, lo
 * (probe.h)
 */
#include "fsm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef size_t probe_f32(const char *, const float *, const float *, const float *, ptrdiff_t, void *);
typedef size_t probe_f64(const char *, const double *, const double *, const double *, ptrdiff_t, void *);

typedef void sums_f32(const float *, ptrdiff_t, ptrdiff_t, float *, fsm_sum *);
typedef void sums_f64(const double *, ptrdiff_t, ptrdiff_t, double *, fsm_sum *);

#define ISA(name)                                                                                                      \
    probe_f32 fsm_probe_f32_##name;                                                                                    \
    probe_f64 fsm_probe_f64_##name;                                                                                    \
    sums_f32 fsm_probe_sums_f32_##name;                                                                                \
    sums_f64 fsm_probe_sums_f64_##name;
#include "isa.def"
#undef ISA

static probe_f32 *const probes_f32[] = {
#define ISA(name) fsm_probe_f32_##name,
#include "isa.def"
#undef ISA
};

static probe_f64 *const probes_f64[] = {
#define ISA(name) fsm_probe_f64_##name,
#include "isa.def"
#undef ISA
};

static sums_f32 *const all_sums_f32[] = {
#define ISA(name) fsm_probe_sums_f32_##name,
#include "isa.def"
#undef ISA
};

static sums_f64 *const all_sums_f64[] = {
#define ISA(name) fsm_probe_sums_f64_##name,
#include "isa.def"
#undef ISA
};

static void die(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(2);
}

static int find_isa(const char *name) {
    for (int i = 0; i < fsm_isa_count; i++)
        if (strcmp(fsm_isas[i]->name, name) == 0 && fsm_isa_usable(i))
            return i;
    die("no such instruction set here");
    return -1;
}

static int find_dtype(const char *name) {
    if (strcmp(name, "f32") == 0)
        return FSM_F32;
    if (strcmp(name, "f64") == 0)
        return FSM_F64;
    die("no such dtype");
    return -1;
}

static int run(char **argv) {
    int op = 0;
    while (op < FSM_OPS && strcmp(fsm_op_names[op], argv[0]) != 0)
        op++;
    if (op == FSM_OPS)
        die("no such operation");
    const fsm_isa *isa = fsm_isas[find_isa(argv[1])];
    int dtype = find_dtype(argv[2]);
    ptrdiff_t outer = atol(argv[3]), n = atol(argv[4]), inner = atol(argv[5]);
    size_t bytes = (size_t)(outer * n * inner) * (dtype == FSM_F32 ? sizeof(float) : sizeof(double));

    const bool gradient = op == FSM_OP_softmax_grad || op == FSM_OP_log_softmax_grad;
    char *x = malloc(bytes), *saved = malloc(bytes), *y = malloc(bytes);
    if (!x || !saved || !y || fread(x, 1, bytes, stdin) != bytes)
        die("short input");
    if (gradient && fread(saved, 1, bytes, stdin) != bytes)
        die("short second input");
    char *memory = malloc(FSM_SCRATCH + 64);
    if (!memory)
        die("no memory");
    void *scratch = memory + (64 - (uintptr_t)memory % 64);
    const bool reduces = op == FSM_OP_logsumexp || op == FSM_OP_logmeanexp || op == FSM_OP_softmax_entropy;
    const ptrdiff_t size = dtype == FSM_F32 ? 4 : 8, rows = reduces ? 1 : n;
    fsm_args args = {.n = n, .axes = 1, .ndim = 1, .temperature = 1};
    args.used = (gradient ? FSM_SAVED : FSM_Y) + 1;
    args.operands[FSM_X].data = x;
    args.operands[FSM_Y].data = y;
    args.operands[FSM_SAVED].data = gradient ? saved : NULL;
    args.columns = inner > 1 ? inner : 0;
    args.length[0] = n;
    args.shape[0] = outer;
    for (int o = 0; o < args.used; o++) {
        fsm_operand *operand = &args.operands[o];
        operand->storage = dtype == FSM_F32 ? FSM_STORAGE_f32 : FSM_STORAGE_f64;
        operand->step[0] = inner * size;
        operand->stride[0] = (o == FSM_Y ? rows : n) * inner * size;
        operand->across = inner > 1 ? size : operand->stride[0];
    }
    isa->kernels[op][dtype](&args, 0, fsm_units(&args, dtype), scratch);
    fwrite(y, 1, bytes / (size_t)n * (size_t)rows, stdout);
    free(x);
    free(saved);
    free(y);
    free(memory);
    return 0;
}

static int vec(char **argv) {
    int isa = find_isa(argv[1]), dtype = find_dtype(argv[2]);
    size_t block = (size_t)atol(argv[3]) * (dtype == FSM_F32 ? sizeof(float) : sizeof(double));
    int64_t n;
    union {
        float f32[3][32];
        double f64[3][16];
    } in;
    double out[2 * 32];
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        if (3 * block > sizeof in || fread(&in, block, 3, stdin) != 3)
            die("short input");
        size_t written = dtype == FSM_F32 ? probes_f32[isa](argv[0], in.f32[0], in.f32[1], in.f32[2], n, out)
                                          : probes_f64[isa](argv[0], in.f64[0], in.f64[1], in.f64[2], n, out);
        if (written == 0)
            die("no such function");
        fwrite(out, 1, written, stdout);
    }
    return 0;
}

static int sums(char **argv) {
    int isa = find_isa(argv[0]), dtype = find_dtype(argv[1]);
    ptrdiff_t n = atol(argv[2]), columns = atol(argv[3]);
    size_t rows = columns ? (size_t)columns : 1;
    size_t bytes = (size_t)n * rows * (dtype == FSM_F32 ? sizeof(float) : sizeof(double));
    void *x = malloc(bytes), *e = malloc(bytes);
    fsm_sum totals[32];
    if (!x || !e || rows >= 32 || fread(x, 1, bytes, stdin) != bytes)
        die("short input");
    if (dtype == FSM_F32)
        all_sums_f32[isa](x, n, columns, e, totals);
    else
        all_sums_f64[isa](x, n, columns, e, totals);
    fwrite(e, 1, bytes, stdout);
    fwrite(totals, sizeof *totals, rows, stdout);
    free(x);
    free(e);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "isas") == 0) {
        for (int i = 0; i < fsm_isa_count; i++)
            if (fsm_isa_usable(i))
                puts(fsm_isas[i]->name);
        return 0;
    }
    if (argc == 8 && strcmp(argv[1], "run") == 0)
        return run(argv + 2);
    if (argc == 6 && strcmp(argv[1], "vec") == 0)
        return vec(argv + 2);
    if (argc == 6 && strcmp(argv[1], "sums") == 0)
        return sums(argv + 2);
    die("usage: see the head of driver.c");
}
