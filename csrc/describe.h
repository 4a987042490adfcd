/* From arrays as the caller has them to the description of a call: fsm_begin() and fsm_set_operand() for each array,
 * then how they lie, by fsm_describe_rows() or by fsm_describe(), and, for kernels that take columns,
 * fsm_choose_columns(). The first two are inlined: a call of ten numbers would notice. */
#ifndef FSM_DESCRIBE_H
#define FSM_DESCRIBE_H

#include "fsm.h"

/* The dimensions of an array in the caller's order, as many as x has. */
typedef struct {
    const ptrdiff_t *shape;   /* as that of x, or 1 where one element serves all */
    const ptrdiff_t *strides; /* in bytes; along a dimension of length 1 any number */
} fsm_layout;

/* No operands yet, and every option its default. */
FSM_ALWAYS_INLINE void fsm_begin(fsm_args *args) {
    for (int o = 0; o < FSM_OPERANDS; o++)
        args->operands[o].data = NULL;
    args->used = 0;
    args->temperature = 1;
    args->zero_if_all_neg_inf = false;
    args->flush_below = 0;
    args->loss = (fsm_loss){.divisor = 1, .z_divisor = 1};
    args->beyond_caches = false;
    args->divisible = true;
    args->helpers = 0;
}

/* `swapped`: its bytes are in the order that is not the machine's. */
FSM_ALWAYS_INLINE void fsm_set_operand(fsm_args *args, int which, char *data, int storage, bool swapped) {
    args->operands[which].data = data;
    args->operands[which].storage = storage;
    args->operands[which].swapped = swapped;
    if (which >= args->used)
        args->used = which + 1;
}

/* The operands that were set are `rows` contiguous rows of `n` elements, one after the other. */
void fsm_describe_rows(fsm_args *args, ptrdiff_t n, ptrdiff_t rows);

/* After fsm_describe_rows(): this operand has a single element for each row, one after the other. */
void fsm_one_a_row(fsm_args *args, int which);

/* The operands that were set lie as `layouts` say; the other layouts are not read. No length of x is 0. Bit d of
 * `joined`: dimension d is part of a row. Every unit of work becomes a row. */
void fsm_describe(fsm_args *args, int ndim, const fsm_layout layouts[FSM_OPERANDS], uint64_t joined);

/* After fsm_describe(): where kernels are faster so, rows that lie side by side become columns. */
void fsm_choose_columns(fsm_args *args, int dtype);

#endif
