/* float32: what the names of vec.h mean, and what else belongs to the precision. unbind.h ends it. */
#define real               float
#define FN(name)           FSM_NAME(name, f32)
#define LANES              FSM_STRIP(FSM_F32)
#define SIDE               8 /* of the squares of vec_turn */

#define vec                vf32
#define vec_acc            vf32_acc
#define vec_load           vf32_load
#define vec_load_n         vf32_load_n
#define vec_store          vf32_store
#define vec_store_n        vf32_store_n
#define vec_stream         vf32_stream
#define vec_stream_line    vf32_stream_line
#define vec_stream_end     vf32_stream_end
#define vec_turn           vf32_turn
#define vec_load_f16       vf32_load_f16
#define vec_store_f16      vf32_store_f16
#define vec_load_bf16      vf32_load_bf16
#define vec_store_bf16     vf32_store_bf16
#define vec_set1           vf32_set1
#define vec_add            vf32_add
#define vec_sub            vf32_sub
#define vec_mul            vf32_mul
#define vec_fma            vf32_fma
#define vec_mul_error      vf32_mul_error
#define vec_scale          vf32_scale
#define vec_max            vf32_max
#define vec_min            vf32_min
#define vec_abs            vf32_abs
#define vec_clamp          vf32_clamp
#define vec_flush          vf32_flush
#define vec_select_lt      vf32_select_lt
#define vec_pow2           vf32_pow2
#define vec_bits_sub       vf32_bits_sub
#define vec_bits_or        vf32_bits_or
#define vec_hmax           vf32_hmax
#define vec_any_lt         vf32_any_lt
#define vec_find_eq        vf32_find_eq
#define vec_acc_zero       vf32_acc_zero
#define vec_acc_add        vf32_acc_add
#define vec_acc_merge      vf32_acc_merge
#define vec_acc_fold       vf32_acc_fold
#define vec_acc_get        vf32_acc_get
#define vec_load_parts     vf32_load_parts
#define vec_store_parts    vf32_store_parts
#define vec_set_parts      vf32_set_parts
#define vec_max_parts      vf32_max_parts
#define vec_find_parts     vf32_find_parts
#define vec_acc_of         vf32_acc_of
#define vec_acc_fold_parts vf32_acc_fold_parts

/* The format. */
#define MIN_NORMAL     0x1p-126f
#define MANTISSA_BITS  23
#define QUIET_NAN_BITS UINT32_C(0x7fc00000)
#define real_bits      uint32_t

/* load.h, store.h */
#define STORED_REAL FSM_STORAGE_f32

/* kernels/math.h: exponentials e carry a factor of 2^64, quotients y one of 2^120 until they are finished. */
#define ROUND_TO_INT  0x1.8p23f /* added to a number, leaves its integer in the low bits */
#define LOWEST        173       /* e is 0 from 2^-173 of the row's power of two down (kernels/math.h) */
#define EXP_SCALE     0x1p18f   /* 64 + 127 - LOWEST, the middle one being the exponent bias */
#define Y_UNIT        0x1p-7f   /* Y_POWER in the exponent field */
#define Y_POWER       120
#define LEAST_SHARE   -130     /* factors of quotients: their exponents, from here ... */
#define MOST_SHARE    100      /* ... to here */
#define E_FACTOR      0x1p64f  /* of e */
#define MINUS_E_FIELD -0x1p65f /* its bits are 64 in the exponent field, negated */
#define C_POWER       100      /* shares that something is added to carry a factor of 2^C_POWER, ... */
#define MOST_C        20       /* or less if a term is beyond this power */
#define MOST_GRAD     0x1p58f  /* of log_softmax: gradients below this may be taken times E_FACTOR */
#define MOST_SUM      0x1p127  /* of terms that have a factor */

/* From tools/exp_constants.py: exp(t) within 0.046 ULP for |t| <= 0.375; highest power first. */
#define LOG2E          0x1.715476p+0f
#define LN2            0x1.62e43p-1f
#define LN2_HI         0x1.62e43p-1f
#define LN2_LO         -0x1.05c61p-29f
#define EXP_POLYNOMIAL {0x1.69867ep-10f, 0x1.126af8p-7f, 0x1.555acep-5f, 0x1.55544cp-3f, 0x1.fffff8p-2f, 1, 1}

/* Totals of chunks, added in order: a float64 holds the sum of float32 lanes to well below 1 ULP. */
FSM_INLINE fsm_sum FN(sum_merge)(fsm_sum a, fsm_sum b) {
    return (fsm_sum){a.hi + b.hi, 0};
}

/* What multiplies e to give factor*y: factor * 2^120/S as hi + lo. */
FSM_INLINE void FN(sum_reciprocal)(fsm_sum sum, double factor, real *hi, real *lo) {
    double r = 0x1p120 / sum.hi * factor;
    *hi = (float)r;
    *lo = (float)(r - *hi);
}
