/* Where elements lie: from row to row, and bytes along a row. The same for every precision. */
#ifndef FSM_ARRAYS_STRIDES_H
#define FSM_ARRAYS_STRIDES_H

#include "../fsm.h"

#include <string.h>

/* Element 0 of a row, or of the first of columns, in every operand that is used. */
typedef struct {
    char *at[FSM_OPERANDS];
} fsm_row;

typedef struct {
    fsm_row row;
    ptrdiff_t index[FSM_MAX_DIMS];
} fsm_cursor;

/* Row number `row`, or so many times `columns` rows,, in C order of the dimensions of args. */
FSM_ALWAYS_INLINE void fsm_cursor_to(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t row) {
    for (int o = 0; o < args->used; o++)
        cursor->row.at[o] = args->operands[o].data;
    for (int d = args->ndim - 1; d >= 0; d--) {
        const ptrdiff_t i = row % args->shape[d];
        row /= args->shape[d];
        cursor->index[d] = i;
        for (int o = 0; o < args->used; o++)
            if (cursor->row.at[o])
                cursor->row.at[o] += i * args->operands[o].stride[d];
    }
}

/* On by `count` rows, no further than to the end of the last dimension. */
FSM_ALWAYS_INLINE void fsm_cursor_advance(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t count) {
    for (int d = args->ndim - 1; d >= 0; d--) {
        cursor->index[d] += count;
        const bool wraps = cursor->index[d] == args->shape[d];
        const ptrdiff_t steps = wraps ? count - args->shape[d] : count;
        for (int o = 0; o < args->used; o++)
            if (cursor->row.at[o])
                cursor->row.at[o] += steps * args->operands[o].stride[d];
        if (!wraps)
            return;
        cursor->index[d] = 0;
        count = 1;
    }
}

/* The one rule of asking for memory ahead of its use. Hardware follows what lies in line, within a page of 4 KB.
 * Elements of a column that are further apart it does not foresee, and so they are asked for. But where they are a
 * multiple of 4 KB apart, all of them compete for the same few places of the L1 cache, and what is asked for early
 * drives out what is still needed. Rows that lie in line are never asked for. (Figures: docs/tuning.md.) */
FSM_ALWAYS_INLINE bool fsm_asks_ahead(ptrdiff_t step) {
    return step % 4096 != 0;
}

/* The row `count` columns on; without columns, so many along the last dimension. */
FSM_ALWAYS_INLINE fsm_row fsm_row_across(fsm_row row, const fsm_args *args, ptrdiff_t count) {
    for (int o = 0; o < args->used; o++)
        if (row.at[o])
            row.at[o] += count * args->operands[o].row_stride;
    return row;
}

static const unsigned char fsm_size_of[FSM_STORAGES] = {
#define HALF(name)          sizeof(uint16_t),
#define FLOAT(name, type)   sizeof(type),
#define INTEGER(name, type) sizeof(type),
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
};

/* ---- bytes: `count` elements of `size` bytes, or few of these side by side, in steps of bytes, their bytes reversed
 * if `swapped` */

FSM_ALWAYS_INLINE void fsm_copy_sized(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step,
                                      ptrdiff_t count, const int size, const bool swapped) {
    for (; !swapped && count >= 4; count -= 4, to += 4 * to_step, from += 4 * from_step) {
        FSM_UNROLL
        for (int k = 0; k < 4; k++)
            memcpy(to + k * to_step, from + k * from_step, (size_t)size);
    }
    for (; count > 0; count--, to += to_step, from += from_step) {
        if (swapped)
            for (int k = 0; k < size; k++)
                to[k] = from[size - 1 - k];
        else
            memcpy(to, from, (size_t)size);
    }
}

FSM_OUTLINE void fsm_copy(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count, int size,
                          bool swapped) {
    if (to_step == size && from_step == size && !swapped) {
        memcpy(to, from, (size_t)(count * size));
        return;
    }
    switch (swapped ? -size : size) {
#define COPY(bytes, swap)                                                                                              \
    case (swap ? -bytes : bytes):                                                                                      \
        fsm_copy_sized(to, to_step, from, from_step, count, bytes, swap);                                              \
        break
        COPY(1, false);
        COPY(2, false);
        COPY(4, false);
        COPY(8, false);
        COPY(12, false);
        COPY(16, false);
        COPY(20, false);
        COPY(24, false);
        COPY(28, false);
        COPY(32, false);
        COPY(2, true);
        COPY(4, true);
        COPY(8, true);
#undef COPY
    default:
        fsm_copy_sized(to, to_step, from, from_step, count, size, swapped);
    }
}

/* ---- integers */

FSM_ALWAYS_INLINE bool fsm_has_integers(const fsm_operand *operand) {
    return operand->storage >= FSM_STORAGE_boolean;
}

/* `count` <= FSM_MAX_INTEGERS of an operand that has them, `step` bytes apart at `from`. */
#define FSM_MAX_INTEGERS 32

FSM_OUTLINE void fsm_load_integers(const fsm_operand *operand, const char *from, ptrdiff_t step, ptrdiff_t count,
                                   int64_t *to) {
    const int size = fsm_size_of[operand->storage];
    char raw[FSM_MAX_INTEGERS * sizeof(int64_t)];
    switch (operand->storage) {
#define HALF(name)
#define FLOAT(name, type)
#define INTEGER(name, type)                                                                                            \
    case FSM_STORAGE_##name:                                                                                           \
        fsm_copy(raw, size, from, step, count, size, operand->swapped);                                                \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            type number;                                                                                               \
            memcpy(&number, raw + i * size, sizeof number);                                                            \
            to[i] = (int64_t)number;                                                                                   \
        }                                                                                                              \
        break;
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    default:
        break;
    }
}

/* A place on a row: elements are counted in C order of the joined axes. */
typedef struct {
    ptrdiff_t offset; /* in bytes */
    ptrdiff_t index[FSM_MAX_DIMS];
} fsm_place;

FSM_ALWAYS_INLINE fsm_place fsm_place_of(const fsm_args *args, const fsm_operand *operand, ptrdiff_t element) {
    fsm_place place;
    place.offset = 0;
    for (int d = args->axes - 1; d >= 0; d--) {
        place.index[d] = d ? element % args->length[d] : element;
        element /= args->length[d];
        place.offset += place.index[d] * operand->step[d];
    }
    return place;
}

/* On by `count` elements that do not go beyond the end of the innermost axis. */
FSM_ALWAYS_INLINE void fsm_place_advance(fsm_place *place, const fsm_args *args, const fsm_operand *operand,
                                         ptrdiff_t count) {
    int d = args->axes - 1;
    place->index[d] += count;
    place->offset += count * operand->step[d];
    for (; d > 0 && place->index[d] == args->length[d]; d--) {
        place->offset += operand->step[d - 1] - place->index[d] * operand->step[d];
        place->index[d] = 0;
        place->index[d - 1]++;
    }
}

/* Elements [begin, begin + count) of an operand's row at `row`, to or from `buffer`, where they lie side by side in the
 * machine's byte order. */
FSM_ALWAYS_INLINE void fsm_move(const fsm_args *args, const fsm_operand *operand, char *row, ptrdiff_t begin,
                                ptrdiff_t count, char *buffer, const bool store) {
    const int size = fsm_size_of[operand->storage], inner = args->axes - 1;
    const ptrdiff_t step = operand->step[inner];
    fsm_place place = fsm_place_of(args, operand, begin);
    while (count > 0) {
        const ptrdiff_t left = args->length[inner] - place.index[inner], run = count < left ? count : left;
        if (store)
            fsm_copy(row + place.offset, step, buffer, size, run, size, operand->swapped);
        else
            fsm_copy(buffer, size, row + place.offset, step, run, size, operand->swapped);
        buffer += run * size;
        count -= run;
        fsm_place_advance(&place, args, operand, run);
    }
}

FSM_OUTLINE void fsm_gather(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *to) {
    fsm_move(args, &args->operands[which], row, begin, count, to, false);
}

FSM_OUTLINE void fsm_scatter(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *from) {
    fsm_move(args, &args->operands[which], row, begin, count, from, true);
}

/* Whether a row's elements lie side by side in the machine's byte order. */
FSM_ALWAYS_INLINE bool fsm_is_contiguous(const fsm_args *args, int which) {
    const fsm_operand *operand = &args->operands[which];
    return args->axes == 1 && !operand->swapped && (operand->step[0] == fsm_size_of[operand->storage] || args->n == 1);
}

#endif
