/* Storers: the way back from contiguous elements of the compute type. */

/* `count` elements from `buffer` to y, `step` apart. y need not be aligned. */
FSM_INLINE void FN(store_chunk)(real *y, ptrdiff_t step, ptrdiff_t count, const real *buffer) {
    for (ptrdiff_t i = 0; i < count; i++)
        memcpy(y + i * step, buffer + i, sizeof *y);
}
