/* softmax_grad: dx = y*(grad - sum(grad*y))/T, from grad (x of the arguments) and the saved y.
 *
 * Two sweeps: the sum, by the order of passes.h; then the result. y of wide rows is subnormal in places, and so is the
 * result: operands and results that cost a hundred cycles each on many CPUs. Therefore y is taken times 2^SCALE, grad
 * times the power of two that brings its largest element near 1, and the result is brought back by integers
 * (FN(unscale)). Powers of two change no bit. Rows in which |y| is beyond what a softmax can be are computed as they
 * are.
 *
 * The power of two of grad is guessed from the first chunk of a row, or piece of a column; if the largest element turns
 * out to be GUESS times that and more, the row is done again with it. */
