/* Loaders: a stretch of a row as contiguous elements of the compute type. */

/* The `count` elements from x on, `step` apart: where they lie, if that is side by side, else gathered
 * into `buffer`. x need not be aligned. */
FSM_INLINE const real *FN(load_chunk)(const real *x, ptrdiff_t step, ptrdiff_t count, real *buffer) {
    if (step == 1)
        return x;
    for (ptrdiff_t i = 0; i < count; i++)
        memcpy(buffer + i, x + i * step, sizeof *x);
    return buffer;
}
