/* The vector layer and the sums, each as one function, for tests/test_native.py. Compiled into an instruction set's
 * file, once a precision, where the build defines FSM_PROBE as the path of this file. */
#include "half.h"

/* Runs vec_<function>, or one of the portable headers, on blocks a, b, c and an integer n; writes its result and
 * returns the bytes written. */
size_t FN(probe)(const char *function, const real *a, const real *b, const real *c, ptrdiff_t n, void *result);

size_t FN(probe)(const char *function, const real *a, const real *b, const real *c, ptrdiff_t n, void *result) {
    const vec va = vec_load(a), vb = vec_load(b), vc = vec_load(c);
    real *out = result;
#define IS(name) (strcmp(function, #name) == 0)
#define BLOCK(name, value)                                                                                             \
    if (IS(name)) {                                                                                                    \
        vec_store(out, value);                                                                                         \
        return LANES * sizeof(real);                                                                                   \
    }
    BLOCK(load, va)
    BLOCK(load_n, vec_load_n(a, n, b[0]))
    BLOCK(set1, vec_set1(a[0]))
    BLOCK(add, vec_add(va, vb))
    BLOCK(sub, vec_sub(va, vb))
    BLOCK(mul, vec_mul(va, vb))
    BLOCK(fma, vec_fma(va, vb, vc))
    BLOCK(scale, vec_scale(va, vb, vc))
    BLOCK(max, vec_max(va, vb))
    BLOCK(min, vec_min(va, vb))
    BLOCK(abs, vec_abs(va))
    BLOCK(clamp, vec_clamp(va, vb))
    BLOCK(flush, vec_flush(va))
    BLOCK(select_lt, vec_select_lt(va, vb, vc, va))
    BLOCK(pow2, vec_pow2(va))
    BLOCK(bits_sub, vec_bits_sub(va, vb))
    if (IS(store)) {
        vec_store(out, va);
        return LANES * sizeof(real);
    }
    if (IS(store_n)) {
        vec_store(out, vc);
        vec_store_n(out, n, va);
        return LANES * sizeof(real);
    }
    if (IS(hmax) || IS(any_lt) || IS(find_eq)) {
        *out = IS(hmax) ? vec_hmax(va) : IS(any_lt) ? vec_any_lt(va, vb) : vec_find_eq(va, vb);
        return sizeof(real);
    }

    /* Half precision: 16-bit numbers are LANES at the start of a block. */
    uint16_t half[LANES];
    memcpy(half, a, sizeof half);
    BLOCK(load_f16, vec_load_f16(half))
    if (IS(load_bf16)) {
        for (int j = 0; j < LANES; j++)
            out[j] = fsm_bf16_to_f32(half[j]);
        return LANES * sizeof(real);
    }
    if (IS(odd)) {
        float *odd = result;
        for (int j = 0; j < LANES; j++)
            odd[j] = fsm_f64_to_f32_odd(a[j]);
        return LANES * sizeof(float);
    }
    if (IS(store_f16) || IS(store_bf16)) {
        if (IS(store_f16))
            vec_store_f16(half, va);
        else
            for (int j = 0; j < LANES; j++)
                half[j] = fsm_f32_to_bf16(fsm_f64_to_f32_odd(a[j]));
        memcpy(result, half, sizeof half);
        return sizeof half;
    }

    /* Sums: a + b + c in each lane, and the fold of that. */
    double *lanes = result;
    vec_acc sum = vec_acc_add(vec_acc_add(vec_acc_add(vec_acc_zero(), va), vb), vc);
    if (IS(acc_zero))
        sum = vec_acc_zero();
    if (IS(acc_merge))
        sum = vec_acc_merge(sum, vec_acc_add(vec_acc_add(vec_acc_zero(), vc), vb));
    if (IS(acc_fold)) {
        fsm_sum total = vec_acc_fold(sum);
        memcpy(result, &total, sizeof total);
        return sizeof total;
    }
    if (IS(acc_zero) || IS(acc_add) || IS(acc_merge) || IS(acc_get)) {
        vec_acc_get(sum, lanes, lanes + LANES);
        return 2 * LANES * sizeof(double);
    }
    return 0;
#undef IS
#undef BLOCK
}

/* The exponentials that softmax adds up, and their sum: for one row of n (columns = 0), or for n rows of fewer than
 * LANES columns. Writes n * max(columns, 1) exponentials and max(columns, 1) sums. */
void FN(probe_sums)(const real *x, ptrdiff_t n, ptrdiff_t columns, real *e, fsm_sum *sums);

void FN(probe_sums)(const real *x, ptrdiff_t n, ptrdiff_t columns, real *e, fsm_sum *sums) {
    if (columns == 0) {
        const fsm_args args = {.n = n, .x_step = 1, .y_step = 1};
        real buffer[FSM_CHUNK];
        const FN(softmax_plan) plan = FN(softmax_plan_row)(&args, x, buffer);
        sums[0] = FN(softmax_exp_row)(&args, x, e, &plan, buffer);
        return;
    }
    const FN(range) range = FN(range_strip)(x, columns, n, columns);
    const FN(exp_frame) frame = FN(exp_frame_of)(range.max, vec_set1(0));
    double hi[LANES], lo[LANES];
    vec_acc_get(FN(exp_strip)(x, columns, e, columns, n, columns, &frame, false), hi, lo);
    for (ptrdiff_t j = 0; j < columns; j++)
        sums[j] = (fsm_sum){hi[j], lo[j]};
}
