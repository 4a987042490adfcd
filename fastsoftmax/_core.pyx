# cython: boundscheck=False, wraparound=False, cdivision=True
"""The only binding: NumPy buffers to kernels. Nothing here raises for an argument; see _check.py."""

from contextvars import ContextVar

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_NoMemory
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *data, cnp.PyArray_Descr *dtype, object base)

cdef extern from "numpy/arrayobject.h" nogil:
    cnp.ndarray PyArray_NewLikeArray(cnp.ndarray prototype, cnp.NPY_ORDER order, cnp.PyArray_Descr *dtype, int subok)

cdef extern from "fsm.h" nogil:
    enum:
        FSM_MAX_DIMS
        FSM_MAX_THREADS
        FSM_OPERANDS
    ctypedef struct fsm_operand:
        int storage
        bint swapped
    ctypedef struct fsm_loss:
        double divisor
        double smoothing
        double z
        double z_divisor
        double softcap
        bint ignores
        int64_t ignore_index
    ctypedef struct fsm_args:
        double temperature
        bint zero_if_all_neg_inf
        double flush_below
        fsm_loss loss
        bint beyond_caches
        bint divisible
    ctypedef void fsm_kernel(const fsm_args *args, ptrdiff_t begin, ptrdiff_t end, void *scratch) noexcept
    ctypedef struct fsm_isa:
        const char *name
        fsm_kernel *const *kernels[2]
    int FSM_OPS, FSM_F32, FSM_F64, FSM_X, FSM_Y, FSM_MASK, FSM_WEIGHT, FSM_SIGN, FSM_SAVED, FSM_TARGET, FSM_LOSS
    int FSM_STORAGE_f16, FSM_STORAGE_bf16, FSM_STORAGE_f32, FSM_STORAGE_f64, FSM_STORAGE_longdouble
    int FSM_STORAGE_boolean, FSM_STORAGE_i8, FSM_STORAGE_u8, FSM_STORAGE_i16, FSM_STORAGE_u16
    int FSM_STORAGE_i32, FSM_STORAGE_u32, FSM_STORAGE_i64, FSM_STORAGE_u64
    const fsm_isa *fsm_isas
    int fsm_isa_count
    bint fsm_isa_usable(int isa)
    const fsm_isa *fsm_active_isa()
    void fsm_activate_isa(int isa)
    const char *const *fsm_op_names
    const double *fsm_op_max_ulp
    const char *const *fsm_op_bound
    const char *fsm_compiler
    fsm_kernel *const *fsm_longdouble_kernels
    bint fsm_run(fsm_kernel *kernel, fsm_args *args, int dtype, int threads)
    int fsm_useful_threads(const fsm_args *args, int dtype)
    int fsm_cpu_count()
    ptrdiff_t fsm_cache_share(int cpus)
    int fsm_num_threads()
    void fsm_set_num_threads(int threads)
    void fsm_limit_num_threads(int threads)

cdef extern from "describe.h" nogil:
    ctypedef struct fsm_layout:
        const ptrdiff_t *shape
        const ptrdiff_t *strides
    void fsm_begin(fsm_args *args)
    void fsm_set_operand(fsm_args *args, int which, char *data, int storage, bint swapped)
    void fsm_describe_rows(fsm_args *args, ptrdiff_t n, ptrdiff_t rows)
    void fsm_one_a_row(fsm_args *args, int which)
    void fsm_describe(fsm_args *args, int ndim, const fsm_layout *layouts, uint64_t joined)
    void fsm_choose_columns(fsm_args *args, int dtype)

cdef extern from "arrays/strides.h" nogil:
    enum:
        FSM_MAX_INTEGERS
    void fsm_load_integers(const fsm_operand *operand, const char *at, ptrdiff_t step, ptrdiff_t count, int64_t *to)

# Results of more bytes than this go past the caches, unless they replace their input; -1: not known yet. A result that
# the caches may still hold is soon read again.
cdef ptrdiff_t STREAM_FROM = -1

# From this many elements on, the GIL is released: handing it over costs about as much as computing them.
cdef ptrdiff_t GIL_ELEMENTS = 1000


def ops():
    """{name: (bound, what it is relative to)} of each operation, in the order of their numbers; see csrc/ops.def."""
    return {
        fsm_op_names[i].decode(): (fsm_op_max_ulp[i], fsm_op_bound[i].decode().replace("_", " "))
        for i in range(FSM_OPS)
    }


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


# ---- calls

F32, F64, LONGDOUBLE = FSM_F32, FSM_F64, FSM_F64 + 1
"""What the arithmetic can be done in."""


cdef object NOT_A_GRADIENT = object()


cpdef normalize(
    int op, x, axis_of_x, out, dtype_of_result, where, temperature, all_neg_inf, subnormals, num_threads,
    saved=NOT_A_GRADIENT,
):
    """The quick way for operation number `op`, whose result has the shape of x, along one axis or over all, into `out`
    or, if that is None, a new array. `saved`: of a gradient, what was the forward result, which may be anything. The
    other arguments are as the public functions take them; to look at them here saves a small call 8 % of its time.

    Returns None, and has done nothing, if the options are not the defaults (temperature and num_threads: or a number
    that any call may have), or the arrays are not plain ones that a kernel can take as they are: native float16,
    bfloat16, float32 or float64, one dtype and shape, `out` writeable and either x (or `saved`) itself or apart from
    it, with no element twice.
    """
    cdef cnp.ndarray a, b = None, y
    cdef int dtype, storage, axis, threads
    cdef fsm_args args
    cdef fsm_layout layouts[FSM_OPERANDS]
    cdef bint contiguous
    cdef ptrdiff_t n, size

    if dtype_of_result is not None or where is not None or not is_plain_temperature(temperature):
        return None
    if type(all_neg_inf) is not str or all_neg_inf != "nan" or type(subnormals) is not str or subnormals != "keep":
        return None
    threads = plain_threads(num_threads)
    if threads < 0 or not is_plain(x, axis_of_x, &axis):
        return None
    a = <cnp.ndarray>x
    dtype = FSM_F64 if cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE else FSM_F32
    storage = plain_storage(a)

    y = plain_result(a, out)
    if y is None:
        return None
    contiguous = cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(y)
    if saved is not NOT_A_GRADIENT:
        if type(saved) is not cnp.ndarray:
            return None
        b = <cnp.ndarray>saved
        if (cnp.PyArray_TYPE(b) != cnp.PyArray_TYPE(a) or not cnp.PyArray_ISNOTSWAPPED(b)
                or not cnp.PyArray_SAMESHAPE(a, b) or overlaps(b, y)):
            return None
        contiguous = contiguous and cnp.PyArray_IS_C_CONTIGUOUS(b)

    size = cnp.PyArray_SIZE(a)
    if size == 0:
        return y
    fsm_begin(&args)
    args.temperature = temperature
    operand(&args, layouts, FSM_X, a, storage)
    operand(&args, layouts, FSM_Y, y, storage)
    if b is not None:
        operand(&args, layouts, FSM_SAVED, b, storage)
    if contiguous and (axis < 0 or axis == cnp.PyArray_NDIM(a) - 1):
        n = size if axis < 0 else cnp.PyArray_DIM(a, axis)
        fsm_describe_rows(&args, n, size // n)
    else:
        fsm_describe(&args, cnp.PyArray_NDIM(a), layouts, joined_along(axis))
        fsm_choose_columns(&args, dtype)
    run(fsm_active_isa().kernels[dtype][op], dtype, &args, size, threads)
    return y


cdef cnp.ndarray plain_result(cnp.ndarray a, out):
    """Where a result of the shape and dtype of a goes: into `out`, or a new array; None if `out` is not a plain one."""
    cdef cnp.ndarray y
    if out is None:
        if cnp.PyArray_IS_C_CONTIGUOUS(a):
            return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a), 0)
        return PyArray_NewLikeArray(a, cnp.NPY_KEEPORDER, NULL, 0)
    if type(out) is not cnp.ndarray:
        return None
    y = <cnp.ndarray>out
    if (cnp.PyArray_TYPE(y) != cnp.PyArray_TYPE(a) or not cnp.PyArray_ISNOTSWAPPED(y)
            or not cnp.PyArray_ISWRITEABLE(y) or not cnp.PyArray_SAMESHAPE(a, y) or has_repeats(y) or overlaps(a, y)):
        return None
    return y


cdef int plain_threads(num_threads) noexcept:
    """The number, 0 for None, or -1 for what _check.py has to look at."""
    if num_threads is None:
        return 0
    if type(num_threads) is not int or not 0 < num_threads <= FSM_MAX_THREADS:
        return -1
    return num_threads


cpdef reduce(int op, x, axis_of_x, keepdims, out, dtype_of_result, where, temperature, num_threads):
    """The quick way for a reduction along one axis, or over all, into a new array or a scalar; see normalize().

    Returns None, and has done nothing, if the options are not the defaults (keepdims, temperature and num_threads: or
    what any call may have), or x is not a plain C-contiguous array.
    """
    cdef cnp.ndarray a, y = None, results
    cdef int dtype, axis, d, storage, ndim = 0
    cdef int threads = plain_threads(num_threads)
    cdef bint keeps
    cdef cnp.npy_intp dims[FSM_MAX_DIMS]
    cdef ptrdiff_t n, size
    cdef double scalar
    cdef fsm_args args
    cdef fsm_layout layouts[FSM_OPERANDS]

    if out is not None or dtype_of_result is not None or where is not None or not is_plain_temperature(temperature):
        return None
    if threads < 0 or type(keepdims) is not bool or not is_plain(x, axis_of_x, &axis):
        return None
    a = <cnp.ndarray>x
    size = cnp.PyArray_SIZE(a)
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) or size == 0:
        return None
    dtype = FSM_F64 if cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE else FSM_F32
    storage = plain_storage(a)
    keeps = keepdims
    for d in range(cnp.PyArray_NDIM(a)):
        if keeps or not (axis < 0 or d == axis):
            dims[ndim] = 1 if axis < 0 or d == axis else cnp.PyArray_DIM(a, d)
            ndim += 1

    fsm_begin(&args)
    args.temperature = temperature
    operand(&args, layouts, FSM_X, a, storage)
    if ndim > 0:
        y = cnp.PyArray_EMPTY(ndim, dims, cnp.PyArray_TYPE(a), 0)
    if axis < 0 or axis == cnp.PyArray_NDIM(a) - 1:
        fsm_set_operand(&args, FSM_Y, cnp.PyArray_BYTES(y) if ndim > 0 else <char *>&scalar, storage, False)
        n = size if axis < 0 else cnp.PyArray_DIM(a, axis)
        fsm_describe_rows(&args, n, size // n)
        fsm_one_a_row(&args, FSM_Y)
    else:
        kept = list(x.shape)
        kept[axis] = 1
        results = y.reshape(kept)
        operand(&args, layouts, FSM_Y, results, storage)
        fsm_describe(&args, cnp.PyArray_NDIM(a), layouts, joined_along(axis))
        fsm_choose_columns(&args, dtype)
    run(fsm_active_isa().kernels[dtype][op], dtype, &args, size, threads)
    return y if ndim > 0 else PyArray_Scalar(&scalar, cnp.PyArray_DESCR(a), None)


cdef object FLOAT32 = np.dtype(np.float32)
cdef object FLOAT64 = np.dtype(np.float64)


cpdef loss_of_labels(int op, logits, target, axis_of_logits, tuple options, out, num_threads, bint with_grad):
    """The quick way for a loss against class indices along the last axis, and its gradient; `options` are those of
    _call.Loss(), from weight on. See normalize().

    Returns None, and has done nothing, if an option but `reduction` is not the default, logits, target or out is not a
    plain C-contiguous array, or an index is out of range.
    """
    cdef cnp.ndarray a, t, losses, y = None
    cdef int dtype, axis, d, storage
    cdef int threads = plain_threads(num_threads)
    cdef ptrdiff_t rows
    cdef float single
    cdef double value
    cdef fsm_args args
    cdef fsm_layout layouts[FSM_OPERANDS]

    weight, ignore_index, label_smoothing, reduction, z_loss, softcap = options
    if threads < 0 or weight is not None or ignore_index is not None or softcap is not None:
        return None
    if not is_zero(label_smoothing) or not is_zero(z_loss):
        return None
    if type(reduction) is not str or reduction not in ("mean", "sum", "none"):
        return None
    if type(axis_of_logits) is not int or not is_plain(logits, axis_of_logits, &axis):
        return None
    if type(target) is not cnp.ndarray:
        return None
    a = <cnp.ndarray>logits
    t = <cnp.ndarray>target
    if axis != cnp.PyArray_NDIM(a) - 1 or cnp.PyArray_NDIM(t) != axis or cnp.PyArray_SIZE(a) == 0:
        return None
    for d in range(axis):
        if cnp.PyArray_DIM(t, d) != cnp.PyArray_DIM(a, d):
            return None
    storage = storage_of(t.dtype)
    if storage <= FSM_STORAGE_boolean or not cnp.PyArray_ISNOTSWAPPED(t):
        return None
    if not cnp.PyArray_IS_C_CONTIGUOUS(a) or not cnp.PyArray_IS_C_CONTIGUOUS(t):
        return None
    if count_labels(t, cnp.PyArray_DIM(a, axis), None)[1] >= 0:
        return None
    if with_grad:
        y = plain_result(a, out)
        if y is None or not cnp.PyArray_IS_C_CONTIGUOUS(y) or overlaps(t, y):
            return None

    dtype = FSM_F64 if cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE else FSM_F32
    losses = cnp.PyArray_EMPTY(axis, cnp.PyArray_DIMS(t), cnp.NPY_DOUBLE, 0)
    rows = cnp.PyArray_SIZE(t)
    fsm_begin(&args)
    args.loss.divisor = args.loss.z_divisor = rows if reduction == "mean" else 1
    operand(&args, layouts, FSM_X, a, plain_storage(a))
    if with_grad:
        operand(&args, layouts, FSM_Y, y, plain_storage(a))
    operand(&args, layouts, FSM_TARGET, t, storage)
    operand(&args, layouts, FSM_LOSS, losses, FSM_STORAGE_f64)
    fsm_describe_rows(&args, cnp.PyArray_DIM(a, axis), rows)
    fsm_one_a_row(&args, FSM_TARGET)
    fsm_one_a_row(&args, FSM_LOSS)
    run(fsm_active_isa().kernels[dtype][op], dtype, &args, cnp.PyArray_SIZE(a), threads)

    if reduction == "none":
        result = (losses if dtype == FSM_F64 else singles(losses))[()]
    else:
        value = halves(<const double *>cnp.PyArray_DATA(losses), rows) / args.loss.divisor
        single = value
        if dtype == FSM_F64:
            result = PyArray_Scalar(&value, <cnp.PyArray_Descr *>FLOAT64, None)
        else:
            result = PyArray_Scalar(&single, <cnp.PyArray_Descr *>FLOAT32, None)
    return (result, y) if with_grad else result


cdef bint is_ordered(a) noexcept:
    return type(a) is cnp.ndarray and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a)


cdef cnp.ndarray singles(cnp.ndarray losses):
    """A C-contiguous float64 array in float32, without a warning where that overflows."""
    cdef cnp.ndarray result = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(losses), cnp.PyArray_DIMS(losses), cnp.NPY_FLOAT, 0)
    cdef const double *of = <const double *>cnp.PyArray_DATA(losses)
    cdef float *to = <float *>cnp.PyArray_DATA(result)
    cdef ptrdiff_t i
    for i in range(cnp.PyArray_SIZE(losses)):
        to[i] = <float>of[i]
    return result


cdef bint is_zero(number):
    return type(number) is float and <double>number == 0


def total(losses):
    """The sum of a float64 array, in C order by halves: an order that depends on how many there are only."""
    cdef cnp.ndarray a = losses if is_ordered(losses) else np.asarray(losses, order="C")
    return halves(<const double *>cnp.PyArray_DATA(a), cnp.PyArray_SIZE(a))


cdef double halves(const double *numbers, ptrdiff_t count) noexcept nogil:
    cdef double lanes[8]
    cdef ptrdiff_t i, half = count // 2
    cdef int width = 4
    if count > 128:
        return halves(numbers, half) + halves(numbers + half, count - half)
    memset(lanes, 0, sizeof(lanes))
    for i in range(count):
        lanes[i & 7] += numbers[i]
    while width > 0:
        for i in range(width):
            lanes[i] += lanes[i + width]
        width //= 2
    return lanes[0]


cdef bint is_plain(x, axis_of_x, int *axis):
    """Whether x is itself an array that plain_storage() knows, in native byte order, and axis_of_x one of its axes, or
    None and x C-contiguous: then axis becomes -1."""
    cdef cnp.ndarray a
    if type(x) is not cnp.ndarray:
        return False
    a = <cnp.ndarray>x
    if plain_storage(a) < 0 or not cnp.PyArray_ISNOTSWAPPED(a):
        return False
    if axis_of_x is None:
        axis[0] = -1
        return cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_NDIM(a) > 0
    if type(axis_of_x) is not int:
        return False
    try:
        axis[0] = axis_of_x
    except OverflowError:
        return False
    if axis[0] < 0:
        axis[0] += cnp.PyArray_NDIM(a)
    return 0 <= axis[0] < cnp.PyArray_NDIM(a)


cdef bint is_plain_temperature(temperature):
    """Whether it is a number that arithmetic in any dtype can take (_call._COMPUTE)."""
    return type(temperature) is float and 2.0 ** -100 <= <double>temperature <= 2.0 ** 100


# The number under which bfloat16 was registered with NumPy, once storage_of() has seen it. Dtypes of a newer kind, of
# which there may be any number, all have -1.
cdef int BFLOAT16 = -1


cdef int plain_storage(cnp.ndarray a) noexcept:
    """storage_of() float32, float64, float16 and bfloat16, or -1."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT:
        return FSM_STORAGE_f32
    if number == cnp.NPY_DOUBLE:
        return FSM_STORAGE_f64
    if number == cnp.NPY_FLOAT16:
        return FSM_STORAGE_f16
    return FSM_STORAGE_bf16 if number >= 0 and number == BFLOAT16 else -1


def compute(
    int op, int compute_dtype, x, axes, y, int threads, *, mask=None, weights=None, sign=None, saved=None, grad=None,
    target=None, class_weight=None, losses=None, double temperature=1.0, bint zero_if_all_neg_inf=False,
    double flush_below=0.0, double divisor=1.0, double smoothing=0.0, double z=0.0, double z_divisor=1.0,
    double softcap=0.0, ignore_index=None,
):
    """Operation number `op` on x along `axes`, a tuple of different numbers from 0 on, into y.

    y is writeable, has no element twice, and is x itself, `saved` or `target`, or apart from all other arrays; it has
    the shape of x, or, for a reduction, 1 in place of the axes; of a loss it may be None. The other arrays are None or
    have one of the two shapes, as csrc/fsm.h says. All dtypes are among those that storage_of() knows. compute_dtype:
    F32, F64 or LONGDOUBLE. For what belongs to losses, from `divisor` on, see fsm_loss there.
    """
    cdef cnp.ndarray a = x
    cdef fsm_args args
    cdef fsm_layout layouts[FSM_OPERANDS]
    cdef fsm_kernel *kernel
    cdef uint64_t joined = 0
    cdef int o
    cdef int dtype = FSM_F64 if compute_dtype == LONGDOUBLE else compute_dtype

    if cnp.PyArray_SIZE(a) == 0:
        return
    fsm_begin(&args)
    args.temperature = temperature
    args.zero_if_all_neg_inf = zero_if_all_neg_inf
    args.flush_below = flush_below
    args.loss.divisor = divisor
    args.loss.smoothing = smoothing
    args.loss.z = z
    args.loss.z_divisor = z_divisor
    args.loss.softcap = softcap
    args.loss.ignores = ignore_index is not None
    args.loss.ignore_index = as_int64(ignore_index) if args.loss.ignores else 0
    for o, array in enumerate((x, y, mask, weights, sign, saved, grad, target, class_weight, losses)):
        if array is not None:
            operand(&args, layouts, o, array, storage_of(array.dtype))
    for axis in axes:
        joined |= joined_along(axis)
    fsm_describe(&args, cnp.PyArray_NDIM(a), layouts, joined)
    if compute_dtype == LONGDOUBLE:
        args.divisible = False
        kernel = fsm_longdouble_kernels[op]
    else:
        fsm_choose_columns(&args, dtype)
        kernel = fsm_active_isa().kernels[dtype][op]
    run(kernel, dtype, &args, cnp.PyArray_SIZE(a), threads)


cdef void operand(fsm_args *args, fsm_layout *layouts, int which, cnp.ndarray a, int storage) noexcept:
    fsm_set_operand(args, which, cnp.PyArray_BYTES(a), storage, not cnp.PyArray_ISNOTSWAPPED(a))
    layouts[which].shape = <const ptrdiff_t *>cnp.PyArray_DIMS(a)
    layouts[which].strides = <const ptrdiff_t *>cnp.PyArray_STRIDES(a)


cdef uint64_t joined_along(int axis) noexcept:
    """The joined dimensions, as fsm_describe() takes them; -1: all."""
    return <uint64_t>-1 if axis < 0 else <uint64_t>1 << axis


cdef bint streams(ptrdiff_t nbytes) noexcept:
    global STREAM_FROM
    if STREAM_FROM < 0:
        if nbytes < 1000000:  # no cache is so small, and to ask takes time
            return False
        STREAM_FROM = fsm_cache_share(fsm_cpu_count()) // 2
    return nbytes > STREAM_FROM


def stream_from(ptrdiff_t nbytes):
    """Results of more bytes than this go past the caches from now on; -1: what suits this machine."""
    global STREAM_FROM
    STREAM_FROM = nbytes


cdef int run(fsm_kernel *kernel, int dtype, fsm_args *args, ptrdiff_t size, int threads) except -1:
    cdef bint done
    args.beyond_caches = streams(size * (4 if dtype == FSM_F32 else 8))
    if size < GIL_ELEMENTS:
        done = fsm_run(kernel, args, dtype, 1)
    else:
        if threads == 0:
            threads = num_threads() if fsm_useful_threads(args, dtype) > 1 else 1
        with nogil:
            done = fsm_run(kernel, args, dtype, threads)
    if not done:
        PyErr_NoMemory()
    return 0


cpdef count_labels(target, ptrdiff_t classes, ignored):
    """How many of the integers in `target` are not `ignored`, an int or None; and the position, in C order, of the
    first of them that is not from 0 to classes - 1, or -1."""
    cdef cnp.ndarray a = target if is_ordered(target) else np.asarray(target, order="C")
    cdef fsm_operand integers
    cdef int64_t labels[FSM_MAX_INTEGERS]
    cdef ptrdiff_t i, count, begin = 0, size = cnp.PyArray_SIZE(a), itemsize = cnp.PyArray_ITEMSIZE(a), counted = 0
    cdef bint ignores = ignored is not None
    cdef int64_t ignore = as_int64(ignored) if ignores else 0
    integers.storage = storage_of(a.dtype)
    integers.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    while begin < size:
        count = min(size - begin, FSM_MAX_INTEGERS)
        fsm_load_integers(&integers, cnp.PyArray_BYTES(a) + begin * itemsize, itemsize, count, labels)
        for i in range(count):
            if ignores and labels[i] == ignore:
                continue
            counted += 1
            if labels[i] < 0 or labels[i] >= classes:
                return counted, begin + i
        begin += count
    return counted, -1


cdef int64_t as_int64(value) except? -1:
    """As kernels see it: from 2**63 on negative."""
    return value - (1 << 64) if value >= 1 << 63 else value


# ---- arrays

_STORAGES = {
    "float16": FSM_STORAGE_f16,
    "bfloat16": FSM_STORAGE_bf16,
    "float32": FSM_STORAGE_f32,
    "float64": FSM_STORAGE_f64,
    np.dtype(np.longdouble).name: FSM_STORAGE_f64 if np.dtype(np.longdouble).itemsize == 8 else FSM_STORAGE_longdouble,
    "bool": FSM_STORAGE_boolean,
    "int8": FSM_STORAGE_i8,
    "uint8": FSM_STORAGE_u8,
    "int16": FSM_STORAGE_i16,
    "uint16": FSM_STORAGE_u16,
    "int32": FSM_STORAGE_i32,
    "uint32": FSM_STORAGE_u32,
    "int64": FSM_STORAGE_i64,
    "uint64": FSM_STORAGE_u64,
}
_SUPPORTED = {}


cpdef int storage_of(dtype) except? -1:
    """How kernels know elements of a dtype, or -1 if they do not. bfloat16 is known by its name: it comes from packages
    that register it with NumPy, such as ml_dtypes."""
    global BFLOAT16
    storage = _SUPPORTED.get(dtype)
    if storage is None:
        storage = _STORAGES.get(dtype.name, -1)
        if storage >= 0:
            _SUPPORTED[dtype] = storage
        if storage == FSM_STORAGE_bf16:
            BFLOAT16 = dtype.num
    return storage


def is_float(dtype):
    """Whether a result may have this dtype."""
    return 0 <= storage_of(dtype) < FSM_STORAGE_boolean


cpdef bint overlaps(cnp.ndarray a, cnp.ndarray b) except -1:
    """Whether a and b may share memory in another way than element by element."""
    cdef char *a_low
    cdef char *a_high
    cdef char *b_low
    cdef char *b_high
    cdef int d
    cdef bint same = (cnp.PyArray_BYTES(a) == cnp.PyArray_BYTES(b) and cnp.PyArray_SAMESHAPE(a, b)
                      and cnp.PyArray_ITEMSIZE(a) == cnp.PyArray_ITEMSIZE(b))
    if same:
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


def repeats(cnp.ndarray a):
    """Whether two elements of a may lie on the same bytes."""
    return has_repeats(a)


cdef bint has_repeats(cnp.ndarray a) noexcept:
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
