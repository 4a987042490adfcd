# What other compiled modules call as C functions (_softmax.pxd and its like).

cpdef normalize(
    int op, x, axis_of_x, out, dtype_of_result, where, temperature, all_neg_inf, subnormals, num_threads, saved=*
)
cpdef loss_of_labels(int op, logits, target, axis_of_logits, tuple options, out, num_threads, bint with_grad)
cpdef reduce(int op, x, axis_of_x, keepdims, out, dtype_of_result, where, temperature, num_threads)
