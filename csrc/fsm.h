/* The whole internal interface: what a kernel is given, and how one is found. */
#ifndef FSM_H
#define FSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How kernels and the functions of vec.h are defined: FSM_INLINE, unless the instruction set's file asks for
 * functions that stay functions (simd/lanes.h). */
#if defined(_MSC_VER) && !defined(__clang__)
#define FSM_ALWAYS_INLINE static __forceinline
#define FSM_OUTLINE       static __declspec(noinline)
#define FSM_UNROLL
#define FSM_PREFETCH(address) ((void)(address))
#define FSM_RARELY(condition) (condition)
#else
#define FSM_ALWAYS_INLINE static inline __attribute__((always_inline, unused))
#if defined(__clang__)
#define FSM_OUTLINE static __attribute__((noinline, unused))
#else
#define FSM_OUTLINE static __attribute__((noinline, noclone, unused))
#endif
#define FSM_UNROLL            _Pragma("GCC unroll 16")
/* For a read; the address may be any. */
#define FSM_PREFETCH(address) __builtin_prefetch(address)
/* A condition of a branch that is to stay out of the way. */
#define FSM_RARELY(condition) __builtin_expect(condition, 0)
#endif
#if defined(FSM_KEEP_FUNCTIONS)
#define FSM_INLINE FSM_OUTLINE
#else
#define FSM_INLINE FSM_ALWAYS_INLINE
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define FSM_X86_64 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define FSM_AARCH64 1
#endif

/* A row is summed in chunks of this many elements; the order of summation, and so the bits of every
 * result, depends on it (kernels/sum.h). */
#define FSM_CHUNK 2048

/* As many dimensions as a NumPy array can have. */
#define FSM_MAX_DIMS 64

enum {
#define OP(name, max_ulp, kind) FSM_OP_##name,
#include "ops.def"
#undef OP
    FSM_OPS
};

/* The compute types: what kernels work in. */
enum { FSM_F32, FSM_F64, FSM_DTYPES };

/* What elements may be stored as; loaders and storers convert (load.h, store.h). */
enum {
#define HALF(name)          FSM_STORAGE_##name,
#define FLOAT(name, type)   FSM_STORAGE_##name,
#define INTEGER(name, type) FSM_STORAGE_##name,
#include "storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    FSM_STORAGES
};

FSM_ALWAYS_INLINE ptrdiff_t fsm_min(ptrdiff_t a, ptrdiff_t b) {
    return a < b ? a : b;
}

/* More threads than this cannot be asked for. */
#define FSM_MAX_THREADS 1024

/* An array as a kernel walks it. Steps and strides are in bytes and may be negative or 0; nothing need be aligned. */
typedef struct {
    char *data; /* element 0 of row 0; NULL: there is none */
    int storage;
    bool swapped;                   /* bytes in the order that is not the machine's */
    ptrdiff_t row_stride;           /* from one column to the next; without columns, along the last other dimension */
    ptrdiff_t step[FSM_MAX_DIMS];   /* along each of the joined axes (but in the result of a reduction) */
    ptrdiff_t stride[FSM_MAX_DIMS]; /* along each of the other dimensions */
} fsm_operand;

/* The arrays of a call. y may be x, with the same steps and strides. */
enum {
    FSM_X,
    FSM_Y,      /* the result; of a reduction: one element a row */
    FSM_MASK,   /* bool: which elements take part */
    FSM_WEIGHT, /* factors of the exponentials; those that are 0 take no part */
    FSM_SIGN,   /* a second result: the sign of a weighted sum */
    FSM_SAVED,  /* of a gradient: the forward result; x is then what came back, but of logsumexp_grad */
    FSM_GRAD,   /* what came back to logsumexp: one element a row */
    FSM_TARGET, /* of a loss: integers, one a row, or probabilities of the shape of x */
    FSM_CLASS_WEIGHT,
    FSM_LOSS, /* a second result: float64 (of long double: long double), one a row */
    FSM_OPERANDS
};

/* What a loss is made of (kernels/cross_entropy.h). */
typedef struct {
    double divisor;       /* of the sum of the losses, and so of every row's gradient */
    double smoothing;     /* the part of every target that is spread over the classes */
    double z, z_divisor;  /* factor of the square of logsumexp(x), and what divides the sum of these */
    double softcap;       /* x is softcap * tanh(x / softcap); 0: x itself */
    bool ignores;         /* rows whose target is ... */
    int64_t ignore_index; /* ... this */
} fsm_loss;

/* Every row of the arrays: the elements that are joined, in C order of the axes that are joined. */
typedef struct {
    fsm_operand operands[FSM_OPERANDS];
    int used; /* operands from here on are not */

    ptrdiff_t n; /* length of a row, at least 1 */
    int axes;    /* the joined axes, at least 1 */
    ptrdiff_t length[FSM_MAX_DIMS];

    /* 0: a unit of work is a row. Otherwise this many rows lie side by side, and a unit is a panel of them. */
    ptrdiff_t columns;

    int ndim; /* the other dimensions: all but the axes and the columns */
    ptrdiff_t shape[FSM_MAX_DIMS];

    double temperature;       /* x / temperature is what counts */
    bool zero_if_all_neg_inf; /* what rows of -inf give: the result for a masked element, or NaN */
    double flush_below;       /* results of softmax below this become 0 (long double, which it cannot hold: if > 0) */
    fsm_loss loss;

    bool beyond_caches; /* more than the caches hold: results go past them, where they replace nothing
                           (kernels/nt_store.h) */
    bool divisible;     /* threads may take chunks of a row (fsm_parallel_for) */
    int helpers;        /* so many others may take them now; set by fsm_run() */
} fsm_args;

/* Computes work units [begin, end): rows, or panels of FSM_LANES(dtype) columns, in C order of the other dimensions.
 * `scratch` holds FSM_SCRATCH bytes, aligned to 64. Cannot fail, allocates nothing, and any split into ranges gives
 * the same bits. */
typedef void fsm_kernel(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch);

/* Columns of a panel: the lanes of a block. */
#define FSM_LANES(dtype) ((dtype) == FSM_F32 ? 32 : 16)

/* Rows of up to so many blocks are short: kernels take several at a time. Their sum is a single step of each lane
 * (kernels/sum.h). Rows of three blocks take four. */
#define FSM_MAX_BLOCKS 4

/* Panels of so many columns, the last of which may be narrower. */
FSM_ALWAYS_INLINE ptrdiff_t fsm_panels(ptrdiff_t columns, ptrdiff_t lanes) {
    return (columns - 1) / lanes + 1;
}

/* Panels that a kernel takes side by side, at most. */
#define FSM_MAX_PANELS 16

/* Columns stay in the scratch if so many panels of them fit. With fewer side by side it is faster to do without: memory
 * is read and written a few cache lines here and there. */
#define FSM_PANELS_PACKED 4

/* About half of a common L2 cache: what is loaded there is still there when it is stored. Four panels of 1024 fit. */
#define FSM_SCRATCH 688128

typedef struct {
    const char *name;
    fsm_kernel *const *kernels[FSM_DTYPES]; /* FSM_OPS each */
} fsm_isa;

/* A sum as hi + lo. */
typedef struct {
    double hi, lo;
} fsm_sum;

/* TwoSum: hi is the rounded sum, lo takes up its error (Knuth, TAOCP 4.2.2, theorem B). */
FSM_INLINE fsm_sum fsm_two_sum(fsm_sum a, fsm_sum b) {
    double hi = a.hi + b.hi;
    double of_b = hi - a.hi;
    double error = (a.hi - (hi - of_b)) + (b.hi - of_b);
    return (fsm_sum){hi, (a.lo + b.lo) + error};
}

/* dispatch.c */
extern const fsm_isa fsm_isas[]; /* those built for this architecture, best first */
extern const int fsm_isa_count;
bool fsm_isa_usable(int isa);
const fsm_isa *fsm_active_isa(void);
void fsm_activate_isa(int isa); /* one that is usable */
extern const char *const fsm_op_names[FSM_OPS];
extern const double fsm_op_max_ulp[FSM_OPS];
extern const char *const fsm_op_bound[FSM_OPS]; /* what max_ulp is relative to */
extern const char fsm_compiler[];

/* longdouble.c: the operations in long double. They take any storage, but rows only: columns == 0. */
extern fsm_kernel *const fsm_longdouble_kernels[FSM_OPS];

/* pool/pool.c */

/* All units, on at most so many threads; false: out of memory. */
bool fsm_run(fsm_kernel *kernel, fsm_args *args, int dtype, int threads);

/* Computes a task: [begin, end) of what is cut into tasks. */
typedef void fsm_task(const void *context, ptrdiff_t begin, ptrdiff_t end, void *scratch);

/* For kernels: `count` chunks of a row, each `work` bytes; on the calling thread alone, unless args->helpers. */
void fsm_parallel_for(const fsm_args *args, fsm_task *task, const void *context, ptrdiff_t count, ptrdiff_t work,
                      void *scratch);

/* pool/split.c */
ptrdiff_t fsm_units(const fsm_args *args, int dtype);
int fsm_useful_threads(const fsm_args *args, int dtype); /* 1 for small work */

/* pool/num_threads.c */
int fsm_cpu_count(void);                 /* CPUs that the calling thread may run on */
int fsm_num_threads(void);               /* that a call takes unless it says otherwise */
void fsm_set_num_threads(int threads);   /* 0: as many as there are CPUs ... */
void fsm_limit_num_threads(int threads); /* ... but at most these */

/* cpu.c */

/* Bytes of the last cache that `cpus` CPUs may count on, where others have a part of it; PTRDIFF_MAX: unknown. */
ptrdiff_t fsm_cache_share(int cpus);

/* Whether this CPU has, and the operating system saves, what an instruction set needs. */
#define ISA(name) bool fsm_cpu_##name(void);
#include "isa.def"
#undef ISA

#endif
