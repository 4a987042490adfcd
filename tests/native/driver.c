/* Kernels and the vector layer without Python: one build for each compiler and machine, run natively or under an
 * emulator. Binary input and output are in the machine's own (little-endian) format.
 *
 *   driver isas                                    names of the instruction sets that can run here
 *   driver run OP ISA DTYPE OUTER N INNER [OPERAND...] [loss=SMOOTHING,Z,SOFTCAP]
 *                                                  stdin: an array (OUTER, N, INNER), and the operands (see `extras`);
 *                                                  stdout: OP along axis 1, of a loss its gradient, then the losses
 *   driver serve                                   stdin: lines of arguments of `run`, each followed by its input;
 *                                                  stdout: for each, int64 bytes of the output, and the output
 *   driver vec FUNCTION ISA DTYPE LANES            stdin: records of int64 n and blocks a, b, c; stdout: results
 *   driver sums ISA DTYPE N COLUMNS                stdin: an array; stdout: its exponentials, then pairs hi, lo
 * (probe.h)
 */
#include "describe.h"
#include "fsm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef size_t probe_f32(const char *, const float *, const float *, const float *, ptrdiff_t, void *);
typedef size_t probe_f64(const char *, const double *, const double *, const double *, ptrdiff_t, void *);

typedef void sums_f32(const float *, ptrdiff_t, ptrdiff_t, float *, fsm_sum *);
typedef void sums_f64(const double *, ptrdiff_t, ptrdiff_t, double *, fsm_sum *);

#define ISA(name)                                                                                                      \
    probe_f32 fsm_probe_##name##_f32;                                                                                  \
    probe_f64 fsm_probe_##name##_f64;                                                                                  \
    sums_f32 fsm_probe_sums_##name##_f32;                                                                              \
    sums_f64 fsm_probe_sums_##name##_f64;
#include "isa.def"
#undef ISA

static probe_f32 *const probes_f32[] = {
#define ISA(name) fsm_probe_##name##_f32,
#include "isa.def"
#undef ISA
};

static probe_f64 *const probes_f64[] = {
#define ISA(name) fsm_probe_##name##_f64,
#include "isa.def"
#undef ISA
};

static sums_f32 *const all_sums_f32[] = {
#define ISA(name) fsm_probe_sums_##name##_f32,
#include "isa.def"
#undef ISA
};

static sums_f64 *const all_sums_f64[] = {
#define ISA(name) fsm_probe_sums_##name##_f64,
#include "isa.def"
#undef ISA
};

static void die(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(2);
}

static int find_isa(const char *name) {
    for (int i = 0; i < fsm_isa_count; i++)
        if (strcmp(fsm_isas[i].name, name) == 0 && fsm_isa_usable(i))
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

/* What OPERAND may be: elements of (OUTER, INNER), of (N) or of both. Labels are int64, and rows labelled -1 ignored.
 */
static const struct {
    const char *name;
    int operand;
    bool each_row, along;
} extras[] = {
    {"saved", FSM_SAVED, true, true},   {"lse", FSM_SAVED, true, false},
    {"grad", FSM_GRAD, true, false},    {"labels", FSM_TARGET, true, false},
    {"target", FSM_TARGET, true, true}, {"class_weight", FSM_CLASS_WEIGHT, false, true},
};

/* What runs, on C-contiguous arrays of three dimensions: OUTER, N and INNER, or 1 in place of some. */
typedef struct {
    fsm_args args;
    ptrdiff_t outer, n, inner;
    fsm_layout layouts[FSM_OPERANDS];
    ptrdiff_t shapes[FSM_OPERANDS][3], strides[FSM_OPERANDS][3];
} call;

/* Room for an operand; returns its bytes. */
static size_t place(call *c, int which, int storage, bool each_row, bool along) {
    ptrdiff_t *shape = c->shapes[which], *strides = c->strides[which];
    ptrdiff_t bytes = storage == FSM_STORAGE_f32 ? 4 : 8;
    shape[0] = each_row ? c->outer : 1;
    shape[1] = along ? c->n : 1;
    shape[2] = each_row ? c->inner : 1;
    for (int d = 2; d >= 0; d--) {
        strides[d] = bytes;
        bytes *= shape[d];
    }
    c->layouts[which] = (fsm_layout){.shape = shape, .strides = strides};
    char *data = malloc((size_t)bytes);
    if (!data)
        die("no memory");
    fsm_set_operand(&c->args, which, data, storage, false);
    return (size_t)bytes;
}

static void read_operand(call *c, int which, size_t bytes) {
    if (fread(c->args.operands[which].data, 1, bytes, stdin) != bytes)
        die("short input");
}

static void read_extra(call *c, const char *name, int floats) {
    fsm_loss *loss = &c->args.loss;
    if (sscanf(name, "loss=%lf,%lf,%lf", &loss->smoothing, &loss->z, &loss->softcap) == 3)
        return;
    size_t i = 0;
    while (i < sizeof extras / sizeof *extras && strcmp(extras[i].name, name) != 0)
        i++;
    if (i == sizeof extras / sizeof *extras)
        die("no such operand");
    const bool labels = strcmp(name, "labels") == 0;
    loss->ignores |= labels;
    const int storage = labels ? FSM_STORAGE_i64 : floats, which = extras[i].operand;
    read_operand(c, which, place(c, which, storage, extras[i].each_row, extras[i].along));
}

/* Leaves no losses where they will be. */
static void run_loss_alone(fsm_kernel *kernel, const fsm_args *args, int dtype, void *scratch, char *losses, size_t n) {
    fsm_args alone = *args;
    alone.operands[FSM_Y].data = NULL;
    kernel(&alone, 0, fsm_units(&alone, dtype), scratch);
    memcpy(losses, args->operands[FSM_LOSS].data, n);
    memset(args->operands[FSM_LOSS].data, 0, n);
}

static int run(char **argv, int count, bool served) {
    int op = 0;
    while (op < FSM_OPS && strcmp(fsm_op_names[op], argv[0]) != 0)
        op++;
    if (op == FSM_OPS)
        die("no such operation");
    int dtype = find_dtype(argv[2]), floats = dtype == FSM_F32 ? FSM_STORAGE_f32 : FSM_STORAGE_f64;
    fsm_kernel *kernel = fsm_isas[find_isa(argv[1])].kernels[dtype][op];
    call c = {.outer = atol(argv[3]), .n = atol(argv[4]), .inner = atol(argv[5])};
    fsm_args *args = &c.args;

    const bool reduces = op == FSM_OP_logsumexp || op == FSM_OP_logmeanexp || op == FSM_OP_softmax_entropy;
    const bool loses = op == FSM_OP_cross_entropy;
    fsm_begin(args);
    args->loss.ignore_index = -1;
    read_operand(&c, FSM_X, place(&c, FSM_X, floats, true, true));
    for (int i = 6; i < count; i++)
        read_extra(&c, argv[i], floats);
    const size_t bytes = place(&c, FSM_Y, floats, true, !reduces);
    const size_t of_losses = loses ? place(&c, FSM_LOSS, FSM_STORAGE_f64, true, false) : 0;
    fsm_describe(args, 3, c.layouts, 1 << 1); /* along N */
    if (c.inner > 1)                          /* however few: columns of any number are tested */
        args->columns = args->shape[--args->ndim];
    char *memory = malloc(FSM_SCRATCH + 64), *losses = malloc(of_losses + 1);
    if (!memory || !losses)
        die("no memory");
    void *scratch = memory + (64 - (uintptr_t)memory % 64);

    if (loses)
        run_loss_alone(kernel, args, dtype, scratch, losses, of_losses);
    kernel(args, 0, fsm_units(args, dtype), scratch);
    if (loses && memcmp(losses, args->operands[FSM_LOSS].data, of_losses) != 0)
        die("the loss alone is another");
    const int64_t size = (int64_t)(bytes + of_losses);
    if (served)
        fwrite(&size, sizeof size, 1, stdout);
    fwrite(args->operands[FSM_Y].data, 1, bytes, stdout);
    fwrite(losses, 1, of_losses, stdout);
    for (int o = 0; o < args->used; o++)
        free(args->operands[o].data);
    free(memory);
    free(losses);
    return 0;
}

static int serve(void) {
    char line[1024], *argv[32];
    while (fgets(line, sizeof line, stdin)) {
        int count = 0;
        for (char *word = strtok(line, " \n"); word && count < 32; word = strtok(NULL, " \n"))
            argv[count++] = word;
        if (count < 6)
            die("short line");
        run(argv, count, true);
        fflush(stdout);
    }
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
    _Alignas(64) double out[2 * 32];
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
                puts(fsm_isas[i].name);
        return 0;
    }
    if (argc >= 8 && strcmp(argv[1], "run") == 0)
        return run(argv + 2, argc - 2, false);
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return serve();
    if (argc == 6 && strcmp(argv[1], "vec") == 0)
        return vec(argv + 2);
    if (argc == 6 && strcmp(argv[1], "sums") == 0)
        return sums(argv + 2);
    die("usage: see the head of driver.c");
}
