# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: freethreading_compatible=True
"""The only binding: NumPy buffers to kernels. Nothing here raises for an argument; see _check.py."""

from contextvars import ContextVar

import numpy as np

cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

cnp.import_array()

cdef extern from "numpy/arrayobject.h" nogil:
    cnp.ndarray PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, cnp.PyArray_Descr *dtype, int subok)

cdef extern from "fsm.h" nogil:
    ctypedef struct fsm_args:
        const void *x
        void *y
        ptrdiff_t n
        ptrdiff_t x_step
        ptrdiff_t y_step
        ptrdiff_t columns
        int ndim
        ptrdiff_t *shape
        ptrdiff_t *x_stride
        ptrdiff_t *y_stride
    ctypedef void fsm_kernel(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end) noexcept
    ctypedef struct fsm_isa:
        const char *name
        fsm_kernel *(*kernels)[2]
    enum:
        FSM_MAX_DIMS
        FSM_MAX_THREADS
    int FSM_OPS, FSM_F32, FSM_F64
    const fsm_isa *const *fsm_isas
    int fsm_isa_count
    bint fsm_isa_usable(int isa)
    const fsm_isa *fsm_active_isa()
    void fsm_activate_isa(int isa)
    const char *const *fsm_op_names
    const double *fsm_op_max_ulp
    const char *fsm_compiler
    void fsm_run(fsm_kernel *kernel, const fsm_args *args, int dtype, int threads)
    int fsm_useful_threads(const fsm_args *args, int dtype)
    int fsm_cpu_count()
    int fsm_num_threads()
    void fsm_set_num_threads(int threads)
    void fsm_limit_num_threads(int threads)

# From this many elements on, the GIL is released: handing it over costs about as much as computing them.
cdef ptrdiff_t GIL_ELEMENTS = 1000

# From this many columns on, they are computed side by side; fewer are gathered one by one. Measured on arrays
# (outer, n, c): the two are equal at c = 4 to 5 for n = 10, at 8 to 10 for n = 100 and 1000 (AVX2, AVX-512).
cdef ptrdiff_t MIN_COLUMNS = 8


def ops():
    """Name of each operation, in the order of their numbers, and its bound in ULP."""
    return {fsm_op_names[i].decode(): fsm_op_max_ulp[i] for i in range(FSM_OPS)}


def isas():
    """The instruction sets built, best first, and whether this machine can run each."""
    return {fsm_isas[i].name.decode(): fsm_isa_usable(i) for i in range(fsm_isa_count)}


def compiler():
    return fsm_compiler.decode()


def active_isa():
    return fsm_active_isa().name.decode()


def activate_isa(name):
    """Use the instruction set `name`, one that isas() calls usable, for every later call of this process."""
    fsm_activate_isa(list(isas()).index(name))


MAX_THREADS = FSM_MAX_THREADS
context_threads = ContextVar("fastsoftmax.num_threads", default=0)
"""Threads that a call in this context takes; 0: as many as the process says."""


def cpu_count():
    """How many CPUs the calling thread may run on."""
    return fsm_cpu_count()


def num_threads():
    """How many threads a call takes in this context."""
    cdef int here = context_threads.get()
    return here if here else fsm_num_threads()


def set_num_threads(int threads):
    fsm_set_num_threads(threads)


def limit_num_threads(int threads):
    """As long as set_num_threads was not called: as many as there are CPUs, but at most these."""
    fsm_limit_num_threads(threads)


def normalize(int op, x, axis_of_x, out, int threads):
    """Operation number `op` on x along an axis, into `out` or, if that is None, a new array.

    `threads`: how many may work on it, 0 for what num_threads() says.

    Returns None, and has done nothing, if the arguments are not plain arrays that a kernel can take as they
    are: native float32 or float64, strides of whole elements, one dtype and shape, `out` writeable and either
    x itself or apart from it, with no element twice.
    """
    cdef cnp.ndarray a, y
    cdef int dtype, axis
    cdef fsm_args args

    if type(x) is not cnp.ndarray:
        return None
    a = <cnp.ndarray>x
    if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT:
        dtype = FSM_F32
    elif cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE:
        dtype = FSM_F64
    else:
        return None
    try:
        axis = axis_of_x
    except OverflowError:
        return None
    if axis < 0:
        axis += cnp.PyArray_NDIM(a)
    if axis < 0 or axis >= cnp.PyArray_NDIM(a) or not cnp.PyArray_ISNOTSWAPPED(a):
        return None

    if out is None:
        if cnp.PyArray_IS_C_CONTIGUOUS(a):
            y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a), 0)
        else:
            y = PyArray_NewLikeArray(a, cnp.NPY_KEEPORDER, NULL, 0)
    elif type(out) is cnp.ndarray:
        y = <cnp.ndarray>out
        if (cnp.PyArray_TYPE(y) != cnp.PyArray_TYPE(a) or not cnp.PyArray_ISNOTSWAPPED(y)
                or not cnp.PyArray_ISWRITEABLE(y) or not cnp.PyArray_SAMESHAPE(a, y) or repeats(y) or overlap(a, y)):
            return None
    else:
        return None

    if cnp.PyArray_SIZE(a) == 0:
        return y
    if not describe(&args, a, y, axis):
        return None
    run(op, dtype, &args, cnp.PyArray_SIZE(a), threads)
    return y


cdef int run(int op, int dtype, const fsm_args *args, ptrdiff_t size, int threads) except -1:
    cdef fsm_kernel *kernel = fsm_active_isa().kernels[op][dtype]
    if size < GIL_ELEMENTS:
        fsm_run(kernel, args, dtype, 1)
        return 0
    if threads == 0:
        threads = num_threads() if fsm_useful_threads(args, dtype) > 1 else 1
    with nogil:
        fsm_run(kernel, args, dtype, threads)
    return 0


cdef bint overlap(cnp.ndarray a, cnp.ndarray b):
    """Whether a and b may share memory in another way than element by element."""
    cdef char *a_low
    cdef char *a_high
    cdef char *b_low
    cdef char *b_high
    cdef int d
    cdef bint same = cnp.PyArray_BYTES(a) == cnp.PyArray_BYTES(b)
    for d in range(cnp.PyArray_NDIM(a)):
        same &= cnp.PyArray_STRIDE(a, d) == cnp.PyArray_STRIDE(b, d)
    if same:
        return False
    extent(a, &a_low, &a_high)
    extent(b, &b_low, &b_high)
    if a_high <= b_low or b_high <= a_low:
        return False
    try:
        return np.shares_memory(a, b, max_work=1)
    except np.exceptions.TooHardError:
        return True


cdef bint repeats(cnp.ndarray a) noexcept:
    """Whether two elements of a may lie on the same bytes: no dimension clears what the smaller ones span."""
    cdef ptrdiff_t strides[FSM_MAX_DIMS]
    cdef ptrdiff_t spans[FSM_MAX_DIMS]
    cdef ptrdiff_t stride, cleared
    cdef int d, k, count = 0
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) <= 1:
            continue
        stride = magnitude(cnp.PyArray_STRIDE(a, d))
        k = count
        while k > 0 and strides[k - 1] > stride:
            strides[k] = strides[k - 1]
            spans[k] = spans[k - 1]
            k -= 1
        strides[k] = stride
        spans[k] = stride * (cnp.PyArray_DIM(a, d) - 1)
        count += 1
    cleared = cnp.PyArray_ITEMSIZE(a)
    for d in range(count):
        if strides[d] < cleared:
            return True
        cleared += spans[d]
    return False


cdef inline ptrdiff_t magnitude(ptrdiff_t stride) noexcept nogil:
    return -stride if stride < 0 else stride


cdef void extent(cnp.ndarray a, char **low, char **high) noexcept:
    """The bytes of a lie in [low, high)."""
    cdef ptrdiff_t span
    cdef int d
    low[0] = cnp.PyArray_BYTES(a)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        span = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if cnp.PyArray_DIM(a, d) == 0:
            high[0] = low[0]
            return
        if span < 0:
            low[0] += span
        else:
            high[0] += span


cdef bint describe(fsm_args *args, cnp.ndarray x, cnp.ndarray y, int axis) noexcept:
    """Fills args: the dimensions besides the axis in the order they lie in memory, merged where they can be.

    False if a stride is not a whole number of elements. No dimension may be 0.
    """
    cdef ptrdiff_t itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef int ndim = cnp.PyArray_NDIM(x)
    cdef int d, k, last
    cdef ptrdiff_t length, x_stride, y_stride

    args.x = cnp.PyArray_DATA(x)
    args.y = cnp.PyArray_DATA(y)
    args.n = cnp.PyArray_DIM(x, axis)
    args.columns = 0
    if axis == ndim - 1 and cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_IS_C_CONTIGUOUS(y):
        args.x_step = args.y_step = 1
        args.ndim = 1
        args.shape[0] = cnp.PyArray_SIZE(x) // args.n
        args.x_stride[0] = args.y_stride[0] = args.n
        return True

    args.ndim = 0
    for d in range(ndim):
        length = cnp.PyArray_DIM(x, d)
        if length == 1:
            x_stride = y_stride = 1  # never taken
        elif cnp.PyArray_STRIDE(x, d) % itemsize or cnp.PyArray_STRIDE(y, d) % itemsize:
            return False
        else:
            x_stride = cnp.PyArray_STRIDE(x, d) // itemsize
            y_stride = cnp.PyArray_STRIDE(y, d) // itemsize
        if d == axis:
            args.x_step = x_stride
            args.y_step = y_stride
            continue
        if length == 1:
            continue
        # Insertion sort by the size of the stride, the largest first.
        k = args.ndim
        while k > 0 and magnitude(args.x_stride[k - 1]) < magnitude(x_stride):
            args.shape[k] = args.shape[k - 1]
            args.x_stride[k] = args.x_stride[k - 1]
            args.y_stride[k] = args.y_stride[k - 1]
            k -= 1
        args.shape[k] = length
        args.x_stride[k] = x_stride
        args.y_stride[k] = y_stride
        args.ndim += 1

    # Merge every dimension into the one before it that continues it, in both arrays.
    last = 0
    for d in range(1, args.ndim):
        if (args.x_stride[last] == args.shape[d] * args.x_stride[d]
                and args.y_stride[last] == args.shape[d] * args.y_stride[d]):
            args.shape[last] *= args.shape[d]
        else:
            last += 1
            args.shape[last] = args.shape[d]
        args.x_stride[last] = args.x_stride[d]
        args.y_stride[last] = args.y_stride[d]
    if args.ndim:
        args.ndim = last + 1

    if (args.ndim and args.shape[last] >= MIN_COLUMNS and args.x_stride[last] == 1 and args.y_stride[last] == 1
            and not (args.n > 1 and args.x_step == 1 and args.y_step == 1)):
        args.columns = args.shape[last]
        args.ndim -= 1
    return True
