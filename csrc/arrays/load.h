/* Loaders: elements of any storage, byte order, stride and mask, as contiguous numbers of the compute type. */
#ifndef FSM_ARRAYS_LOAD_H
#define FSM_ARRAYS_LOAD_H

#include "../simd/vec.h"
#include "half.h"
#include "strides.h"

#include <string.h>

/* `count` halves at `from`. */
#define HALF(name)                                                                                                     \
    static void convert_##name(const char *from, ptrdiff_t count, real *to) {                                          \
        uint16_t bits[LANES] = {0};                                                                                    \
        for (; count >= LANES; count -= LANES, from += sizeof bits, to += LANES)                                       \
            vec_store(to, vec_load_##name((const uint16_t *)from));                                                    \
        if (count > 0) {                                                                                               \
            memcpy(bits, from, (size_t)count * sizeof *bits);                                                          \
            vec_store_n(to, count, vec_load_##name(bits));                                                             \
        }                                                                                                              \
    }
#define FLOAT(name, type)
#define INTEGER(name, type)
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER

/* `count` numbers side by side at `from`, in the machine's byte order. */
FSM_OUTLINE void convert(int storage, const char *from, ptrdiff_t count, real *to) {
    switch (storage) {
#define HALF(name)                                                                                                     \
    case FSM_STORAGE_##name:                                                                                           \
        convert_##name(from, count, to);                                                                               \
        break;
#define FLOAT(name, type)                                                                                              \
    case FSM_STORAGE_##name:                                                                                           \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                        \
            type number;                                                                                               \
            memcpy(&number, from + i * (ptrdiff_t)sizeof number, sizeof number);                                       \
            to[i] = (real)number;                                                                                      \
        }                                                                                                              \
        break;
#define INTEGER(name, type) FLOAT(name, type)
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
    default:
        break;
    }
}

/* Elements [begin, begin + count) of an operand's row at `row`. */
static void load(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, real *to) {
    const fsm_operand *operand = &args->operands[which];
    const int size = fsm_size_of[operand->storage];
    if (fsm_is_contiguous(args, which)) {
        convert(operand->storage, row + begin * size, count, to);
        return;
    }
    if (operand->storage == STORED_REAL) {
        fsm_gather(args, which, row, begin, count, (char *)to);
        return;
    }
    char raw[FSM_CHUNK * sizeof(long double)];
    for (ptrdiff_t c = 0; c < count; c += FSM_CHUNK) {
        const ptrdiff_t here = fsm_min(count - c, FSM_CHUNK);
        fsm_gather(args, which, row, begin + c, here, raw);
        convert(operand->storage, raw, here, to + c);
    }
}

/* Element i of an operand's row at `row`. */
FSM_ALWAYS_INLINE real element(const fsm_args *args, int which, char *row, ptrdiff_t i) {
    const fsm_operand *operand = &args->operands[which];
    real number;
    if (operand->storage == STORED_REAL && !operand->swapped && args->axes == 1)
        memcpy(&number, row + i * operand->step[0], sizeof number);
    else
        load(args, which, row, i, 1, &number);
    return number;
}

/* Copies `count` numbers, with `instead` where the mask says that an element takes no part. x may be `to`. */
FSM_ALWAYS_INLINE void mask_numbers(const uint8_t *mask_of, ptrdiff_t count, const real *x, real *to, real instead) {
    for (ptrdiff_t i = 0; i < count; i++) {
        real number;
        memcpy(&number, x + i, sizeof number);
        to[i] = mask_of[i] ? number : instead;
    }
}

/* Masks elements [begin, begin + count) of a row whose mask is at `mask`. */
static void mask_row(const fsm_args *args, char *mask, ptrdiff_t begin, ptrdiff_t count, const real *x, real *to,
                     real instead) {
    if (fsm_is_contiguous(args, FSM_MASK)) {
        mask_numbers((const uint8_t *)mask + begin, count, x, to, instead);
        return;
    }
    uint8_t mask_of[FSM_CHUNK];
    for (ptrdiff_t c = 0; c < count; c += FSM_CHUNK) {
        const ptrdiff_t here = fsm_min(count - c, FSM_CHUNK);
        fsm_gather(args, FSM_MASK, mask, begin + c, here, (char *)mask_of);
        mask_numbers(mask_of, here, x + c, to + c, instead);
    }
}

/* `count` <= LANES numbers, `step` bytes apart at `from`. */
FSM_OUTLINE void load_across(const fsm_operand *operand, const char *from, ptrdiff_t step, ptrdiff_t count, real *to) {
    const int size = fsm_size_of[operand->storage];
    char raw[LANES * sizeof(long double)];
    if (step != size || operand->swapped) {
        fsm_copy(raw, size, from, step, count, size, operand->swapped);
        from = raw;
    }
    convert(operand->storage, from, count, to);
}

/* fsm_copy() of LANES numbers, without a loop. */
FSM_ALWAYS_INLINE void copy_block(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step) {
    FSM_UNROLL
    for (int j = 0; j < LANES; j++)
        memcpy(to + j * to_step, from + j * from_step, sizeof(real));
}

/* How the LANES numbers of a block lie in an operand: what is common goes without a detour. The loops over blocks are
 * compiled for each. */
#define BLOCK_KINDS(KIND) KIND(REALS) KIND(REALS_APART) KIND(F16) KIND(BF16) KIND(OTHERS)

typedef enum {
#define KIND(name) name,
    BLOCK_KINDS(KIND)
#undef KIND
} block_kind_t;

FSM_ALWAYS_INLINE block_kind_t block_kind_of(const fsm_operand *operand) {
    const bool side_by_side = operand->row_stride == fsm_size_of[operand->storage];
    if (operand->swapped || (!side_by_side && operand->storage != STORED_REAL))
        return OTHERS;
    if (operand->storage == STORED_REAL)
        return side_by_side ? REALS : REALS_APART;
    if (operand->storage == FSM_STORAGE_f16)
        return F16;
    return operand->storage == FSM_STORAGE_bf16 ? BF16 : OTHERS;
}

/* `rows` rows of `count` numbers, as rows of their columns. Neither is less than SIDE; where one is no multiple of it,
 * the last squares overlap with others. */
FSM_ALWAYS_INLINE void transpose_rows(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step,
                                      ptrdiff_t rows, ptrdiff_t count) {
    const ptrdiff_t size = sizeof(real);
    for (ptrdiff_t i = 0; i < rows; i += SIDE) {
        const ptrdiff_t row = i + SIDE <= rows ? i : rows - SIDE;
        for (ptrdiff_t j = 0; j < count; j += SIDE) {
            const ptrdiff_t at = j + SIDE <= count ? j : count - SIDE;
            vec_transpose(to + at * to_step + row * size, to_step, from + row * from_step + at * size, from_step);
        }
    }
}

/* How many of `columns` are transposed that way on their way from or to a panel: whole blocks of them, if they are rows
 * whose `count` elements lie side by side. */
FSM_ALWAYS_INLINE ptrdiff_t transposed_rows(const fsm_args *args, const fsm_operand *operand, ptrdiff_t count,
                                            ptrdiff_t columns) {
    const bool rows = args->axes == 1 && operand->step[0] == (ptrdiff_t)sizeof(real) && count >= SIDE;
    return rows && block_kind_of(operand) == REALS_APART ? columns - columns % LANES : 0;
}

FSM_ALWAYS_INLINE void load_block(const fsm_operand *operand, const char *from, real *to, const block_kind_t kind) {
    if (kind == REALS)
        vec_store(to, vec_load((const real *)from));
    else if (kind == REALS_APART)
        copy_block((char *)to, sizeof(real), from, operand->row_stride);
    else if (kind == F16)
        vec_store(to, vec_load_f16((const uint16_t *)from));
    else if (kind == BF16)
        vec_store(to, vec_load_bf16((const uint16_t *)from));
    else
        load_across(operand, from, operand->row_stride, LANES, to);
}

/* So many elements of columns are asked for ahead. */
#define LOADED_AHEAD 16

FSM_ALWAYS_INLINE void load_columns_body(const fsm_args *args, int which, char *first, ptrdiff_t begin, ptrdiff_t count,
                                         ptrdiff_t columns, real *to, ptrdiff_t pitch, const block_kind_t kind) {
    const fsm_operand *operand = &args->operands[which];
    const ptrdiff_t column = operand->row_stride, whole = columns / LANES, rest = columns % LANES;
    const ptrdiff_t step = operand->step[args->axes - 1];
    const bool ahead = kind != REALS_APART && fsm_asks_ahead(step);
    fsm_place place = fsm_place_of(args, operand, begin);
    for (ptrdiff_t i = 0; i < count; i++, to += LANES) {
        const char *from = first + place.offset;
        for (ptrdiff_t t = 0; t < whole; t++, from += LANES * column) {
            load_block(operand, from, to + t * pitch, kind);
            if (ahead)
                FSM_PREFETCH(from + LOADED_AHEAD * step);
        }
        if (rest) {
            vec_store(to + whole * pitch, vec_set1(1));
            load_across(operand, from, column, rest, to + whole * pitch);
        }
        fsm_place_advance(&place, args, operand, 1);
    }
}

/* Elements [begin, begin + count) of `columns` <= LANES * panels columns, each panel as blocks of LANES columns:
 * element i of column t * LANES + j at to[t * pitch + i * LANES + j]. Columns that do not exist hold 1, which needs no
 * care. */
static void load_columns(const fsm_args *args, int which, char *first, ptrdiff_t begin, ptrdiff_t count,
                         ptrdiff_t columns, real *to, ptrdiff_t pitch) {
    const fsm_operand *operand = &args->operands[which];
    const ptrdiff_t transposed = transposed_rows(args, operand, count, columns);
    const char *rows = first + begin * operand->step[0];
    for (ptrdiff_t t = 0; t < transposed / LANES; t++)
        transpose_rows((char *)(to + t * pitch), LANES * sizeof(real), rows + t * LANES * operand->row_stride,
                       operand->row_stride, LANES, count);
    first += transposed * operand->row_stride;
    to += transposed / LANES * pitch;
    columns -= transposed;
    if (columns == 0)
        return;
    switch (block_kind_of(operand)) {
#define KIND(name)                                                                                                     \
    case name:                                                                                                         \
        load_columns_body(args, which, first, begin, count, columns, to, pitch, name);                                 \
        break;
        BLOCK_KINDS(KIND)
#undef KIND
    }
}

/* mask_row() in place for panels of columns. */
static void mask_columns(const fsm_args *args, char *first, ptrdiff_t begin, ptrdiff_t count, ptrdiff_t columns,
                         real *x, ptrdiff_t pitch, real instead) {
    const fsm_operand *operand = &args->operands[FSM_MASK];
    const ptrdiff_t column = operand->row_stride;
    fsm_place place = fsm_place_of(args, operand, begin);
    for (ptrdiff_t i = 0; i < count; i++, x += LANES) {
        const char *mask = first + place.offset;
        for (ptrdiff_t t = 0; t * LANES < columns; t++, mask += LANES * column) {
            real *block = x + t * pitch;
            const ptrdiff_t here = columns - t * LANES < LANES ? columns - t * LANES : LANES;
            if (column == 0 && here == LANES) {
                if (!*mask)
                    vec_store(block, vec_set1(instead));
            } else if (column == 1 && here == LANES) {
                mask_numbers((const uint8_t *)mask, LANES, block, block, instead);
            } else {
                uint8_t mask_of[LANES];
                fsm_copy((char *)mask_of, 1, mask, column, here, 1, false);
                mask_numbers(mask_of, here, block, block, instead);
            }
        }
        fsm_place_advance(&place, args, operand, 1);
    }
}

/* ---- some columns of a panel: `columns` <= LANES of its columns, from `to` or `x` on; the others are left alone */

/* Whether elements of such columns are copied as they are, side by side. */
FSM_ALWAYS_INLINE bool copies_columns(const fsm_args *args, int which, ptrdiff_t columns) {
    const fsm_operand *operand = &args->operands[which];
    return args->axes == 1 && operand->storage == STORED_REAL && !operand->swapped &&
           (operand->row_stride == sizeof(real) || columns == 1);
}

/* Elements [begin, begin + count). */
static void load_some_columns(const fsm_args *args, int which, char *first, ptrdiff_t begin, ptrdiff_t count,
                              ptrdiff_t columns, real *to) {
    const fsm_operand *operand = &args->operands[which];
    if (columns == LANES) {
        load_columns(args, which, first, begin, count, LANES, to, 0);
    } else if (copies_columns(args, which, columns)) {
        fsm_copy((char *)to, LANES * sizeof(real), first + begin * operand->step[0], operand->step[0], count,
                 (int)columns * (int)sizeof(real), false);
    } else {
        real column[FSM_CHUNK];
        for (ptrdiff_t j = 0; j < columns; j++)
            for (ptrdiff_t c = 0; c < count; c += FSM_CHUNK) {
                const ptrdiff_t here = fsm_min(count - c, FSM_CHUNK);
                load(args, which, first + j * operand->row_stride, begin + c, here, column);
                fsm_copy((char *)(to + c * LANES + j), LANES * sizeof(real), (char *)column, sizeof(real), here,
                         sizeof(real), false);
            }
    }
}

#endif
