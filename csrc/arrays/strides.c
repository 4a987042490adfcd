/* Where elements lie, and copies of their bytes: the same for every precision and instruction set, and so compiled
 * once. */
#include "strides.h"

#include <string.h>

void fsm_cursor_to(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t row) {
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

void fsm_cursor_advance(fsm_cursor *cursor, const fsm_args *args, ptrdiff_t count) {
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

const unsigned char fsm_size_of[FSM_STORAGES] = {
#define HALF(name)          sizeof(uint16_t),
#define FLOAT(name, type)   sizeof(type),
#define INTEGER(name, type) sizeof(type),
#include "../storage.def"
#undef HALF
#undef FLOAT
#undef INTEGER
};

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

void fsm_copy(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count, int size,
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

void fsm_load_integers(const fsm_operand *operand, const char *from, ptrdiff_t step, ptrdiff_t count, int64_t *to) {
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

void fsm_gather(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *to) {
    fsm_move(args, &args->operands[which], row, begin, count, to, false);
}

void fsm_scatter(const fsm_args *args, int which, char *row, ptrdiff_t begin, ptrdiff_t count, char *from) {
    fsm_move(args, &args->operands[which], row, begin, count, from, true);
}
