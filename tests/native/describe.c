/* csrc/describe.c without arrays or kernels: in which order the elements of a call are walked.
 *
 *   describe DTYPE JOINED OPERAND...
 *
 * JOINED: the numbers of the joined dimensions. OPERAND, the first of which is x: LENGTHS:STRIDES in bytes, or "none".
 * Each of these is a list with commas; x is of DTYPE. stdout: int64 N, AXES, NDIM, COLUMNS, then for each row and each
 * operand that is there, in the order in which a kernel walks them, how far the row's elements are from the first of
 * the array, in bytes. */
#include "describe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays/strides.h"

/* Where every array begins. Nothing is there: no element is looked at. */
#define ORIGIN ((char *)((uintptr_t)1 << 40))

/* A list of numbers; returns how many there are. */
static int read_list(const char *text, ptrdiff_t *numbers) {
    int count = 0;
    char *end;
    for (;; text = end + 1) {
        const ptrdiff_t number = strtoll(text, &end, 10);
        if (end == text)
            return count;
        if (count == FSM_MAX_DIMS)
            exit(2);
        numbers[count++] = number;
        if (*end != ',')
            return count;
    }
}

static void write_number(int64_t number) {
    fwrite(&number, sizeof number, 1, stdout);
}

static void write_row(const fsm_args *args, fsm_row row) {
    for (int o = 0; o < args->used; o++)
        for (ptrdiff_t i = 0; row.at[o] && i < args->n; i++)
            write_number(row.at[o] - ORIGIN + fsm_place_of(args, &args->operands[o], i).offset);
}

int main(int argc, char **argv) {
    static ptrdiff_t shapes[FSM_OPERANDS][FSM_MAX_DIMS], strides[FSM_OPERANDS][FSM_MAX_DIMS];
    fsm_layout layouts[FSM_OPERANDS];
    ptrdiff_t axes[FSM_MAX_DIMS];
    fsm_args args;
    if (argc < 4 || argc - 3 > FSM_OPERANDS)
        return 2;

    const int dtype = strcmp(argv[1], "f32") == 0 ? FSM_F32 : FSM_F64;
    uint64_t joined = 0;
    for (int i = read_list(argv[2], axes) - 1; i >= 0; i--)
        joined |= (uint64_t)1 << axes[i];
    int ndim = 0;
    memset(&args, 0xA5, sizeof args); /* nothing may depend on what was there */
    fsm_begin(&args);
    for (int o = 0; o < argc - 3; o++) {
        const char *colon = strchr(argv[3 + o], ':');
        if (!colon)
            continue;
        ndim = read_list(argv[3 + o], shapes[o]);
        read_list(colon + 1, strides[o]);
        layouts[o] = (fsm_layout){.shape = shapes[o], .strides = strides[o]};
        fsm_set_operand(&args, o, ORIGIN, dtype == FSM_F32 ? FSM_STORAGE_f32 : FSM_STORAGE_f64, false);
    }
    fsm_describe(&args, ndim, layouts, joined);
    fsm_choose_columns(&args, dtype);

    write_number(args.n);
    write_number(args.axes);
    write_number(args.ndim);
    write_number(args.columns);
    ptrdiff_t groups = 1;
    for (int d = 0; d < args.ndim; d++)
        groups *= args.shape[d];
    for (ptrdiff_t group = 0; group < groups; group++) {
        fsm_cursor cursor;
        fsm_cursor_to(&cursor, &args, group);
        for (ptrdiff_t column = 0; column < (args.columns ? args.columns : 1); column++)
            write_row(&args, fsm_row_across(cursor.row, &args, column));
    }
    return 0;
}
