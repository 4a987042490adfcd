/* Storers: the way back from contiguous numbers of the compute type. What is stored is rounded once. */
#ifndef FSM_ARRAYS_STORE_H
#define FSM_ARRAYS_STORE_H

#include "load.h"

#define HALF(name)                                                                                                     \
    static void unconvert_##name(const real *from, ptrdiff_t count, char *to) {                                        \
        uint16_t bits[LANES];                                                                                          \
        for (; count >= LANES; count -= LANES, from += LANES, to += sizeof bits)                                       \
            vec_store_##name((uint16_t *)to, vec_load(from));                                                          \
        if (count > 0) {                                                                                               \
            vec_store_##name(bits, vec_load_n(from, count, 0));                                                        \
            memcpy(to, bits, (size_t)count * sizeof *bits);                                                            \
        }                                                                                                              \
    }
#define FLOAT(name, type)
#define INTEGER(name, type)
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER

/* `count` numbers, side by side at `to` in the machine's byte order. */
FSM_OUTLINE void unconvert(int storage, const real *from, ptrdiff_t count, char *to) {
    switch (storage) {
#define HALF(name)                                                                                                     \
    case FSM_STORAGE_##name:                                                                                           \
        unconvert_##name(from, count, to);                                                                             \
        break;
#define FLOAT(name, type)                                                                                              \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            const type number = (type)from[i];                                                                         \
            memcpy(to + i * (ptrdiff_t)sizeof number, &number, sizeof number);                                         \
        }                                                                                                              \
        break;
#define INTEGER(name, type)
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    default:
        break;
    }
}

/* Elements [begin, begin + count) of an operand's row at `row`. */
static void store(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, const real *from) {
    const fsm_operand *operand = &args->operands[which];
    const int size = fsm_size_of[operand->storage];
    if (fsm_is_contiguous(args, which)) {
        unconvert(operand->storage, from, count, row + begin * size);
        return;
    }
    char raw[FSM_CHUNK * sizeof(long double)];
    for (ptrdiff_t c = 0; c < count; c += FSM_CHUNK) {
        const ptrdiff_t here = fsm_min(count - c, FSM_CHUNK);
        unconvert(operand->storage, from + c, here, raw);
        fsm_scatter(args, which, row, begin + c, here, raw);
    }
}

/* `count` <= LANES numbers, `step` bytes apart at `to`. */
FSM_OUTLINE void store_across(const fsm_operand *operand, char *to, ptrdiff_t step, ptrdiff_t count, const real *from) {
    const int size = fsm_size_of[operand->storage];
    if (step == size && !operand->swapped) {
        unconvert(operand->storage, from, count, to);
        return;
    }
    char raw[LANES * sizeof(long double)];
    unconvert(operand->storage, from, count, raw);
    fsm_copy(to, step, raw, size, count, size, operand->swapped);
}

/* Stores a block where load_block() would load it. */
FSM_ALWAYS_INLINE void store_block(const fsm_operand *operand, char *to, const real *from, const block_kind_t kind) {
    if (kind == REALS)
        vec_store((real *)to, vec_load(from));
    else if (kind == REALS_APART)
        copy_block(to, operand->row_stride, (const char *)from, sizeof(real));
    else if (kind == F16)
        vec_store_f16((uint16_t *)to, vec_load(from));
    else if (kind == BF16)
        vec_store_bf16((uint16_t *)to, vec_load(from));
    else
        store_across(operand, to, operand->row_stride, LANES, from);
}

FSM_ALWAYS_INLINE void store_columns_body(const fsm_args *args, int which, char *first, ptrdiff_t begin,
                                          ptrdiff_t count, ptrdiff_t columns, const real *from, ptrdiff_t pitch,
                                          const block_kind_t kind) {
    const fsm_operand *operand = &args->operands[which];
    const ptrdiff_t column = operand->row_stride, whole = columns / LANES, rest = columns % LANES;
    fsm_place place = fsm_place_of(args, operand, begin);
    for (ptrdiff_t i = 0; i < count; i++, from += LANES) {
        char *to = first + place.offset;
        for (ptrdiff_t t = 0; t < whole; t++, to += LANES * column)
            store_block(operand, to, from + t * pitch, kind);
        if (rest)
            store_across(operand, to, column, rest, from + whole * pitch);
        fsm_place_advance(&place, args, operand, 1);
    }
}

/* Stores what load_columns() would load. */
static void store_columns(const fsm_args *args, int which, char *first, ptrdiff_t begin, ptrdiff_t count,
                          ptrdiff_t columns, const real *from, ptrdiff_t pitch) {
    const fsm_operand *operand = &args->operands[which];
    const ptrdiff_t transposed = transposed_rows(args, operand, count, columns);
    char *rows = first + begin * operand->step[0];
    for (ptrdiff_t t = 0; t < transposed / LANES; t++)
        transpose_rows(rows + t * LANES * operand->row_stride, operand->row_stride, (const char *)(from + t * pitch),
                       LANES * sizeof(real), count, LANES);
    first += transposed * operand->row_stride;
    from += transposed / LANES * pitch;
    columns -= transposed;
    if (columns == 0)
        return;
    switch (block_kind_of(operand)) {
#define KIND(name)                                                                                                     \
    case name:                                                                                                         \
        store_columns_body(args, which, first, begin, count, columns, from, pitch, name);                              \
        break;
        BLOCK_KINDS(KIND)
#undef KIND
    }
}

/* Stores what load_some_columns() would load. */
static void store_some_columns(const fsm_args *args, int which, char *first, ptrdiff_t begin, ptrdiff_t count,
                               ptrdiff_t columns, const real *from) {
    const fsm_operand *operand = &args->operands[which];
    if (columns == LANES) {
        store_columns(args, which, first, begin, count, LANES, from, 0);
    } else if (copies_columns(args, which, columns)) {
        fsm_copy(first + begin * operand->step[0], operand->step[0], (const char *)from, LANES * sizeof(real), count,
                 (int)columns * (int)sizeof(real), false);
    } else {
        real column[FSM_CHUNK];
        for (ptrdiff_t j = 0; j < columns; j++)
            for (ptrdiff_t c = 0; c < count; c += FSM_CHUNK) {
                const ptrdiff_t here = fsm_min(count - c, FSM_CHUNK);
                fsm_copy((char *)column, sizeof(real), (const char *)(from + c * LANES + j), LANES * sizeof(real), here,
                         sizeof(real), false);
                store(args, which, first + j * operand->row_stride, begin + c, here, column);
            }
    }
}

#endif
