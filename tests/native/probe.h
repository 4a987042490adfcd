/* The vector layer and the sums, each as one function, for tests/test_native.py. Compiled into an instruction set's
 * file, once a precision, where the build defines FSM_PROBE as the path of this file. */
#include "arrays/half.h"
#include "kernels/table.h"
#include "math/scalar_math.h"

/* Runs vec_<function>, or one of the portable headers, on blocks a, b, c and an integer n; writes its result and
 * returns the bytes written. */
size_t FSM_OF_THIS_UNIT(probe)(const char *function, const real *a, const real *b, const real *c, ptrdiff_t n,
                               void *result);

size_t FSM_OF_THIS_UNIT(probe)(const char *function, const real *a, const real *b, const real *c, ptrdiff_t n,
                               void *result) {
    const vec va = vec_load(a), vb = vec_load(b), vc = vec_load(c);
    real *out = result;
#define IS(name) (strcmp(function, #name) == 0)
#define BLOCK(name, value)                                                                                             \
    if (IS(name)) {                                                                                                    \
        vec_store(out, value);                                                                                         \
        return LANES * sizeof(real);                                                                                   \
    }
#define EACH_LANE(name, value)                                                                                         \
    if (IS(name)) {                                                                                                    \
        for (int j = 0; j < LANES; j++)                                                                                \
            out[j] = (real)(value);                                                                                    \
        return LANES * sizeof(real);                                                                                   \
    }
    BLOCK(load, va)
    BLOCK(load_n, vec_load_n(a, n, b[0]))
    BLOCK(set1, vec_set1(a[0]))
    BLOCK(add, vec_add(va, vb))
    BLOCK(sub, vec_sub(va, vb))
    BLOCK(mul, vec_mul(va, vb))
    BLOCK(fma, vec_fma(va, vb, vc))
    BLOCK(mul_error, vec_mul_error(va, vb, vec_mul(va, vb)))
    BLOCK(scale, vec_scale(va, vb, vc))
    BLOCK(max, vec_max(va, vb))
    BLOCK(min, vec_min(va, vb))
    BLOCK(abs, vec_abs(va))
    BLOCK(clamp, vec_clamp(va, vb))
    BLOCK(flush, vec_flush(va))
    BLOCK(select_lt, vec_select_lt(va, vb, vc, va))
    BLOCK(pow2, vec_pow2(va))
    BLOCK(bits_sub, vec_bits_sub(va, vb))
    BLOCK(bits_or, vec_bits_or(va, vb))
    if (IS(store)) {
        vec_store(out, va);
        return LANES * sizeof(real);
    }
    if (IS(nt_store) || IS(nt_end)) { /* the driver's `result` begins a cache line */
        vec_nt_store(out, va);
        vec_nt_end();
        return LANES * sizeof(real);
    }
    if (IS(nt_store_line)) {
        _Alignas(64) real line[64 / sizeof(real)];
        memcpy(line, a, sizeof line);
        vec_nt_store_line(out, line);
        vec_nt_end();
        return sizeof line;
    }
    if (IS(transpose)) { /* SIDE rows, n bytes apart, of a, b and c, to rows that are packed */
        real rows[3 * LANES];
        vec_store(rows, va);
        vec_store(rows + LANES, vb);
        vec_store(rows + 2 * LANES, vc);
        vec_transpose((char *)out, SIDE * sizeof(real), (const char *)rows, n);
        return SIDE * SIDE * sizeof(real);
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

    /* Rows side by side: n is their length, times 16, and how many share a block. */
    const int parts = n % 16;
    BLOCK(load_parts, vec_load_parts(a, n / 16, parts, b[0]))
    BLOCK(set_parts, vec_set_parts(a, parts))
    if (IS(store_parts)) {
        vec_store(out, vc);
        vec_store_parts(out, n / 16, parts, va);
        return LANES * sizeof(real);
    }
    if (IS(find_parts)) {
        int at[LANES];
        vec_find_parts(va, vb, parts, at);
        for (int i = 0; i < parts; i++)
            out[i] = (real)at[i];
        return (size_t)parts * sizeof(real);
    }
    if (IS(max_parts)) {
        vec_max_parts(va, parts, out);
        return (size_t)parts * sizeof(real);
    }

    EACH_LANE(log1p, fsm_log1p(a[j]))
    EACH_LANE(log, fsm_log(a[j]))
    EACH_LANE(exp, fsm_exp(a[j]))

    /* Half precision: 16-bit numbers are LANES at the start of a block. */
    uint16_t half[LANES];
    memcpy(half, a, sizeof half);
    BLOCK(load_f16, vec_load_f16(half))
    BLOCK(load_bf16, vec_load_bf16(half))
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
            vec_store_bf16(half, va);
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
    if (IS(acc_of))
        sum = vec_acc_of(va);
    if (IS(acc_fold_parts)) {
        vec_acc_fold_parts(sum, parts, lanes, lanes + parts);
        return 2 * (size_t)parts * sizeof(double);
    }
    if (IS(acc_of) || IS(acc_zero) || IS(acc_add) || IS(acc_merge) || IS(acc_get)) {
        vec_acc_get(sum, lanes, lanes + LANES);
        return 2 * LANES * sizeof(double);
    }
    return 0;
#undef IS
#undef BLOCK
#undef EACH_LANE
}

/* The exponentials that softmax adds up, and their sum: for one row of n (columns = 0), or for n rows of fewer than
 * LANES columns. Writes n * max(columns, 1) exponentials and max(columns, 1) sums. */
void FSM_OF_THIS_UNIT(probe_sums)(const real *x, ptrdiff_t n, ptrdiff_t columns, real *e, fsm_sum *sums);

void FSM_OF_THIS_UNIT(probe_sums)(const real *x, ptrdiff_t n, ptrdiff_t columns, real *e, fsm_sum *sums) {
    range_t range = range_of(vec_set1(1));
    for (ptrdiff_t i = 0; columns == 0 && i < n; i += FSM_CHUNK)
        range = range_join(range, range_of_row(x + i, fsm_min(n - i, FSM_CHUNK)));
    for (ptrdiff_t i = 0; columns && i < n; i++)
        range = range_join(range, range_of(vec_load_n(x + i * columns, columns, 1)));
    softmax_plan_t plan = columns ? softmax_plan_of_panel(range, beta_of(1)) : softmax_plan_of_row(range, beta_of(1));

    fsm_sum total = {0, 0};
    for (ptrdiff_t c = 0; columns == 0 && c < n; c += FSM_CHUNK) {
        total = sum_merge(total, sum_exp_kept(x + c, e + c, fsm_min(n - c, FSM_CHUNK), -1, NULL, &plan.frame));
        sums[0] = total;
    }

    real numbers[QUAD * LANES];
    vec_acc lanes[LANES], sum = vec_acc_zero();
    softmax_panel_t panel = {.range = range, .plan = plan};
    softmax_pass_t pass = {.panels = &panel, .lanes = lanes, .keeps = true};
    for (ptrdiff_t c = 0; columns && c < n; c += FSM_CHUNK) {
        const ptrdiff_t end = fsm_min(n, c + FSM_CHUNK);
        clear_lanes(lanes, 1, LANES);
        for (ptrdiff_t p = c; p < end; p += QUAD) {
            const ptrdiff_t count = fsm_min(end - p, QUAD);
            pass.quads.x = pass.quads.y = (panel_quad_t){(char *)numbers, LANES * sizeof(real), 0, count, false};
            for (ptrdiff_t i = 0; i < count; i++)
                vec_store(numbers + i * LANES, vec_load_n(x + (p + i) * columns, columns, 1));
            for (ptrdiff_t i = 0; i < LANES && i < count; i++)
                softmax_add_lane(&pass, 0, i, count == QUAD);
            for (ptrdiff_t i = 0; i < count; i++)
                memcpy(e + (p + i) * columns, numbers + i * LANES, (size_t)columns * sizeof *e);
        }
        sum = vec_acc_merge(sum, fold_lanes(lanes, LANES));
    }
    double hi[LANES], lo[LANES];
    vec_acc_get(sum, hi, lo);
    for (ptrdiff_t j = 0; j < columns; j++)
        sums[j] = (fsm_sum){hi[j], lo[j]};
}
