/* The layout of a call, from shapes and strides: which elements are a row, in which order the rows are walked, and
 * whether these are rows or columns to a kernel.
 *
 * The joined dimensions keep their order: the elements of a row are in C order of them, and the bits of a result depend
 * on it. The order of the other dimensions is free, and becomes that in which x lies in memory. A dimension that
 * carries on where the one before it ends, in every operand, is merged with it: kernels are fast along the innermost
 * dimension, so that should be long. A dimension of length 1 is left out.
 *
 * Nothing here knows the operation, or looks at an element. */
#include "describe.h"

#include <string.h>

#include "arrays/strides.h"

_Static_assert(FSM_MAX_DIMS <= 64, "a uint64_t says which dimensions are joined");

/* Where rows of that many bytes, gaps included, interleave, each can be gathered by itself: they are in the cache until
 * the last has been. */
#define GATHERED_BYTES (1 << 20)

/* From this many columns on, longer rows are computed side by side. */
#define MIN_COLUMNS 8

void fsm_describe_rows(fsm_args *args, ptrdiff_t n, ptrdiff_t rows) {
    args->n = args->length[0] = n;
    args->axes = args->ndim = 1;
    args->shape[0] = rows;
    args->columns = 0;
    for (int o = 0; o < args->used; o++) {
        fsm_operand *operand = &args->operands[o];
        if (!operand->data)
            continue;
        const ptrdiff_t size = fsm_size_of[operand->storage];
        operand->step[0] = size;
        operand->stride[0] = operand->row_stride = n * size;
    }
}

void fsm_one_a_row(fsm_args *args, int which) {
    fsm_operand *operand = &args->operands[which];
    operand->step[0] = 0;
    operand->stride[0] = operand->row_stride = fsm_size_of[operand->storage];
}

static ptrdiff_t magnitude(ptrdiff_t stride) {
    return stride < 0 ? -stride : stride;
}

/* A description has two lists of dimensions: the joined ones, and the others. These are the lengths in one of them. */
static ptrdiff_t *lengths_of(fsm_args *args, bool joined) {
    return joined ? args->length : args->shape;
}

/* An operand's strides along the dimensions of a list. */
static ptrdiff_t *strides_of(fsm_operand *operand, bool joined) {
    return joined ? operand->step : operand->stride;
}

/* Entry `from` of a list becomes entry `to`. */
static void move(fsm_args *args, bool joined, int from, int to) {
    lengths_of(args, joined)[to] = lengths_of(args, joined)[from];
    for (int o = 0; o < args->used; o++)
        strides_of(&args->operands[o], joined)[to] = strides_of(&args->operands[o], joined)[from];
}

/* Dimension d of the layouts becomes entry `at` of a list. An operand that is not there hinders no merge: its strides
 * are 0, as along a dimension of length 1. */
static void put(fsm_args *args, bool joined, int at, const fsm_layout *layouts, int d) {
    lengths_of(args, joined)[at] = layouts[FSM_X].shape[d];
    for (int o = 0; o < args->used; o++)
        strides_of(&args->operands[o], joined)[at] =
            args->operands[o].data && layouts[o].shape[d] > 1 ? layouts[o].strides[d] : 0;
}

/* Whether entry d of a list carries on, in every operand, where entry `before` ends. */
static bool continues(fsm_args *args, bool joined, int d, int before) {
    const ptrdiff_t length = lengths_of(args, joined)[d];
    for (int o = 0; o < args->used; o++) {
        const ptrdiff_t *strides = strides_of(&args->operands[o], joined);
        if (strides[before] != length * strides[d])
            return false;
    }
    return true;
}

/* Makes one entry of those that carry on; returns how many of the first `count` that leaves. */
static int merge(fsm_args *args, bool joined, int count) {
    int merged = 0;
    for (int d = 0; d < count; d++) {
        ptrdiff_t length = lengths_of(args, joined)[d];
        if (merged > 0 && continues(args, joined, d, merged - 1))
            length *= lengths_of(args, joined)[--merged];
        move(args, joined, d, merged);
        lengths_of(args, joined)[merged++] = length;
    }
    return merged;
}

void fsm_describe(fsm_args *args, int ndim, const fsm_layout layouts[FSM_OPERANDS], uint64_t joined) {
    const ptrdiff_t *others = args->operands[FSM_X].stride;
    args->n = 1;
    args->axes = args->ndim = 0;
    for (int d = 0; d < ndim; d++) {
        const ptrdiff_t length = layouts[FSM_X].shape[d], stride = magnitude(layouts[FSM_X].strides[d]);
        if (length == 1)
            continue;
        if (joined >> d & 1) {
            args->n *= length;
            put(args, true, args->axes++, layouts, d);
            continue;
        }
        int at = args->ndim++; /* insertion sort by the size of the stride, the largest first */
        for (; at > 0 && magnitude(others[at - 1]) < stride; at--)
            move(args, false, at - 1, at);
        put(args, false, at, layouts, d);
    }
    args->axes = merge(args, true, args->axes);
    args->ndim = merge(args, false, args->ndim);

    if (args->axes == 0) {
        args->axes = args->length[0] = 1;
        for (int o = 0; o < args->used; o++)
            args->operands[o].step[0] = 0;
    }
    for (int o = 0; o < args->used; o++)
        args->operands[o].row_stride = args->ndim ? args->operands[o].stride[args->ndim - 1] : 0;
    args->columns = 0;
}

/* Whether rows along the last dimension lie closer to each other than the elements of a row. */
static bool side_by_side(const fsm_args *args) {
    const fsm_operand *x = &args->operands[FSM_X];
    const ptrdiff_t step = magnitude(x->step[args->axes - 1]);
    return args->n == 1 || (step != fsm_size_of[x->storage] && magnitude(x->row_stride) < step);
}

/* So many rows that lie side by side are columns; fewer remain rows. Short ones then fill panels together
 * (kernels/schedule.h), others are gathered one by one. */
static ptrdiff_t fewest_columns(const fsm_args *args, int dtype) {
    const ptrdiff_t panel = FSM_LANES(dtype);
    if (args->n <= FSM_MAX_BLOCKS * panel)
        return panel;
    if (args->n * magnitude(args->operands[FSM_X].step[args->axes - 1]) <= GATHERED_BYTES)
        return panel / 2 + 1;
    return MIN_COLUMNS;
}

void fsm_choose_columns(fsm_args *args, int dtype) {
    const int last = args->ndim - 1;
    if (last >= 0 && side_by_side(args) && args->shape[last] >= fewest_columns(args, dtype)) {
        args->columns = args->shape[last];
        args->ndim = last;
    }
}
