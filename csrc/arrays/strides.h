/* Where elements lie: from row to row, and bytes along a row. The same for every precision. */
#ifndef FSM_ARRAYS_STRIDES_H
#define FSM_ARRAYS_STRIDES_H

#include "../fsm.h"

/* Element 0 of a row, or of the first of columns, in every operand that is used. */
typedef struct {
    char *at[FSM_OPERANDS];
} fsm_row;

typedef struct {
    fsm_row row;
    ptrdiff_t index[FSM_MAX_DIMS];
} fsm_cursor;

/* Row number `row`, or so many times `columns` rows, in C order of the dimensions of args. */
void fsm_cursor_to(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t row);

/* On by `count` rows, no further than to the end of the last dimension. */
void fsm_cursor_advance(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t count);

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

/* Bytes of an element, by storage. */
extern const unsigned char fsm_size_of[FSM_STORAGES];

/* Copies `count` elements of `size` bytes, or few of these side by side, in steps of bytes, their bytes reversed if
 * `swapped`. */
void fsm_copy(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count, int size,
              bool swapped);

FSM_ALWAYS_INLINE bool fsm_has_integers(const fsm_operand *operand) {
    return operand->storage >= FSM_STORAGE_boolean;
}

/* `count` <= FSM_MAX_INTEGERS of an operand that has them, `step` bytes apart at `from`. */
#define FSM_MAX_INTEGERS 32
void fsm_load_integers(const fsm_operand *operand, const char *from, ptrdiff_t step, ptrdiff_t count, int64_t *to);

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

/* Elements [begin, begin + count) of an operand's row at `row`, to or from a buffer, where they lie side by side in the
 * machine's byte order. */
void fsm_gather(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *to);
void fsm_scatter(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *from);

/* Whether a row's elements lie side by side in the machine's byte order. */
FSM_ALWAYS_INLINE bool fsm_is_contiguous(const fsm_args *args, int which) {
    const fsm_operand *operand = &args->operands[which];
    return args->axes == 1 && !operand->swapped && (operand->step[0] == fsm_size_of[operand->storage] || args->n == 1);
}

#endif
