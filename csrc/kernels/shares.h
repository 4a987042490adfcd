/* Shares: y = f*softmax(x) + c, where f is a number for each row and c, if there is one, for each element: the second
 * sweep of logsumexp_grad and cross_entropy, after the first one of the log family.
 *
 * The exponentials are computed again, in the frame of the row's maximum, and y may be x. Those of rows of one chunk
 * are kept in y instead. Without c, every result is a quotient whose divisor has f in it (math.h). With c both terms
 * are taken times a power of two, and integers take that off where results are subnormal, as in gradients.h. */

/* f*softmax(x); the same from exponentials that the first sweep has kept; where no x counts as more than the maximum,
 * which is a logarithm of a sum; and with a c. */
typedef enum { FN(SHARES), FN(SHARES_OF_KEPT), FN(SHARES_OF_LSE), FN(SHARES_AND_C) } FN(share_kind);

/* Whether the exponentials of rows may be kept. */
FSM_INLINE_ bool FN(can_keep)(const FN(group) * g) {
    return g->args->n <= FSM_CHUNK && g->args->operands[FSM_Y].data && g->args->loss.softcap == 0;
}

/* Of up to LANES rows, or of the columns of a tile. */
typedef struct {
    real max[LANES], shift[LANES];
    real hi[LANES], lo[LANES];
    real unit[LANES], off[LANES]; /* of FN(share); with c: of FN(unscale) */
    real c_factor[LANES];         /* what c is multiplied by */
    ptrdiff_t index[LANES];       /* of the element whose result is `own`, or -1 */
    real own[LANES];
    bool filled[LANES]; /* with this, instead of a result: */
    real_bits fill[LANES];
    bool infinite[LANES]; /* f is */
} FN(shares);

/* Of the first `count`, from their states and f; the others do not exist. A row without a sum, or whose f is NaN, has
 * no result. No row has an own element yet. */
static void FN(shares_of)(FN(shares) * s, const FN(log_state) * of, const double *f, int count) {
    double factors[LANES];
    fsm_sum sums[LANES];
    memset(s, 0, sizeof *s);
    for (int j = 0; j < count; j++) {
        const bool none = (of->flags[j] != 0) | !(fabs(of->max[j]) < INFINITY) | (f[j] != f[j]);
        const fsm_sum sum = FN(sum_merge)(of->others[j], (fsm_sum){of->e[j], 0});
        s->max[j] = (real)fsm_select(none, 0, of->max[j]);
        s->shift[j] = (real)fsm_select(none, 0, of->shift[j]);
        sums[j] = (fsm_sum){fsm_select(none, 1, sum.hi), fsm_select(none, 0, sum.lo)};
        s->infinite[j] = fabs(f[j]) == INFINITY;
        factors[j] = fsm_select(none, 0, fsm_select(s->infinite[j], copysign(1, f[j]), f[j]));
        s->filled[j] = none;
    }
    for (int j = 0; j < count; j++) {
        FN(share_divisor)(sums[j], factors[j], &s->hi[j], &s->lo[j], &s->unit[j], &s->off[j]);
        s->fill[j] = QUIET_NAN_BITS;
    }
    for (int j = 0; j < LANES; j++)
        s->index[j] = -1;
}

/* The same with a c, which is multiplied by c_scale, and then is at most c_most in size. */
static void FN(shares_and_c_of)(FN(shares) * s, const FN(log_state) * of, const double *f, int count, double c_scale,
                                const double *c_most) {
    FN(shares_of)(s, of, f, count);
    for (int j = 0; j < count; j++) {
        const double size = fabs(f[j]) > c_most[j] ? fabs(f[j]) : c_most[j];
        const int exponent = (int)(fsm_f64_bits(size) >> 52) - 1022, over = exponent - MOST_C;
        int power = C_POWER - (over > 0 ? over : 0);
        power = power > 4 ? power : 4;
        const fsm_sum sum = FN(sum_merge)(of->others[j], (fsm_sum){of->e[j], 0});
        s->filled[j] |= s->infinite[j];
        s->infinite[j] = false;
        if (!s->filled[j])
            FN(sum_reciprocal)(sum, f[j] * fsm_two_to(power - Y_POWER), &s->hi[j], &s->lo[j]);
        s->c_factor[j] = (real)(c_scale * fsm_two_to(power));
        s->unit[j] = (real)(MIN_NORMAL * fsm_two_to(power - 1));
    }
}

/* Row r of y, which is +-softmax(x), times infinity. */
static void FN(times_infinity)(const FN(group) * g, ptrdiff_t r) {
    const fsm_args *args = g->args;
    const fsm_row row = FN(row_of)(g, r);
    const real_bits nan_bits = QUIET_NAN_BITS;
    real chunk[FSM_CHUNK];
    if (FN(stream_of)(g))
        FN(stream_flush)(FN(stream_of)(g));
    for (ptrdiff_t c = 0; c < args->n; c += FSM_CHUNK) {
        const ptrdiff_t count = args->n - c < FSM_CHUNK ? args->n - c : FSM_CHUNK;
        FN(load)(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
        for (ptrdiff_t i = 0; i < count; i++)
            if (!(fabs(chunk[i]) > 0))
                memcpy(&chunk[i], &nan_bits, sizeof nan_bits);
            else
                chunk[i] = chunk[i] > 0 ? (real)INFINITY : -(real)INFINITY;
        FN(store)(args, FSM_Y, row.at[FSM_Y], c, count, chunk);
    }
}

/* What is left of tile t of y. */
static void FN(share_special)(const FN(group) * g, int t, const FN(shares) * s) {
    for (int j = 0; j < FN(entries)(g, t); j++)
        if (s->filled[j])
            FN(fill)(g, t * LANES + j, s->fill[j], 0);
        else if (s->infinite[j])
            FN(times_infinity)(g, t * LANES + j);
}

/* What the second sweep of a row, or of a tile, works with. */
typedef struct {
    FN(exp_frame) frame;
    FN(divisor) divisor;
    vec max, unit, off, c_factor;
    bool careful;
    real softcap; /* 0: none */
} FN(share_terms);

FSM_INLINE FN(share_terms)
    FN(share_terms_of)(const FN(group) * g, const FN(shares) * s, ptrdiff_t j, bool columns, bool careful) {
    const vec max = columns ? vec_load(s->max) : vec_set1(s->max[j]);
    const vec shift = columns ? vec_load(s->shift) : vec_set1(s->shift[j]);
    return (FN(share_terms)){
        .frame = FN(exp_frame_of)(max, shift, g->beta),
        .divisor = {columns ? vec_load(s->hi) : vec_set1(s->hi[j]), columns ? vec_load(s->lo) : vec_set1(s->lo[j])},
        .max = max,
        .unit = columns ? vec_load(s->unit) : vec_set1(s->unit[j]),
        .off = columns ? vec_load(s->off) : vec_set1(s->off[j]),
        .c_factor = columns ? vec_load(s->c_factor) : vec_set1(s->c_factor[j]),
        .careful = careful,
        .softcap = (real)g->args->loss.softcap,
    };
}

/* The derivative of capped logits: 1 - (x/cap)^2. */
FSM_OUTLINE_ void FN(uncap)(vec *y, const vec *x, int count, real cap) {
    for (int i = 0; i < count; i++) {
        const vec t = vec_mul(x[i], vec_set1(1 / cap));
        y[i] = vec_mul(y[i], vec_fma(vec_sub(vec_set1(0), t), t, vec_set1(1)));
    }
}

/* `count` <= 4, a constant, blocks of results, in place of x; or, `plain`, a register of 4 blocks where neither a cap
 * nor an exponential needs care. */
FSM_INLINE void FN(share_blocks)(vec *a, vec *c, const int count, const FN(share_terms) * terms,
                                 const FN(share_kind) kind, const bool plain) {
    const bool capped = !plain && terms->softcap > 0;
    vec x[4];
    if (kind == FN(SHARES_OF_LSE) || capped)
        FSM_EACH_BLOCK(i, count)
            x[i] = a[i];
    if (kind == FN(SHARES_OF_LSE))
        FSM_EACH_BLOCK(i, count)
            a[i] = vec_select_lt(terms->max, a[i], terms->max, a[i]);
    if (kind != FN(SHARES_OF_KEPT) && plain)
        FN(exp_four)(a, &terms->frame, false);
    else if (kind != FN(SHARES_OF_KEPT))
        FN(exp_blocks)(a, count, &terms->frame, terms->careful);
    FSM_EACH_BLOCK(i, count) {
        if (kind == FN(SHARES_AND_C)) {
            const vec share = vec_scale(a[i], terms->divisor.hi, terms->divisor.lo);
            a[i] = FN(unscale)(vec_fma(c[i], terms->c_factor, share), terms->unit);
        } else {
            a[i] = FN(share)(a[i], terms->divisor, terms->unit, terms->off);
        }
    }
    if (kind == FN(SHARES_OF_LSE)) {
        real nan;
        memcpy(&nan, &(const real_bits){QUIET_NAN_BITS}, sizeof nan);
        FSM_EACH_BLOCK(i, count)
            a[i] = vec_select_lt(x[i], vec_set1((real)INFINITY), a[i], vec_set1(nan));
    }
    if (capped) {
        vec y[4];
        for (int i = 0; i < count; i++)
            y[i] = a[i];
        FN(uncap)(y, x, count, terms->softcap);
        for (int i = 0; i < count; i++)
            a[i] = y[i];
    }
}

/* Blocks [i, i + count) of tile t of a piece; count <= 4 is a constant. y may be x. */
FSM_INLINE void FN(share_piece)(FN(piece) x, FN(piece) c, FN(piece) y, ptrdiff_t t, ptrdiff_t i, const int count,
                                const FN(share_terms) * terms, const FN(share_kind) kind, bool stream) {
    const bool plain = count == 4 && !stream && !terms->careful && !(terms->softcap > 0);
    vec a[4], b[4];
    if (plain) {
        FSM_EACH_REGISTER(j) {
            FSM_UNROLL
            for (int k = 0; k < 4; k++) {
                a[k] = FN(load_register)(FN(in_piece)(x, t, i + k), j);
                b[k] = kind == FN(SHARES_AND_C) ? FN(load_register)(FN(in_piece)(c, t, i + k), j) : a[k];
            }
            FN(share_blocks)(a, b, 4, terms, kind, true);
            FSM_UNROLL
            for (int k = 0; k < 4; k++)
                FN(store_register)(FN(in_piece)(y, t, i + k), j, a[k]);
        }
        return;
    }
    FSM_EACH_BLOCK(k, count) {
        a[k] = vec_load(FN(in_piece)(x, t, i + k));
        b[k] = kind == FN(SHARES_AND_C) ? vec_load(FN(in_piece)(c, t, i + k)) : a[k];
    }
    FN(share_blocks)(a, b, count, terms, kind, false);
    FSM_EACH_BLOCK(k, count)
        FN(put)(FN(in_piece)(y, t, i + k), a[k], stream);
}

/* n elements of a row. y may be x, unless it is streamed. */
FSM_INLINE void FN(share_chunk)(const real *x, const real *c, real *y, ptrdiff_t n, const FN(share_terms) * of_row,
                                const FN(share_kind) kind, bool stream) {
    const ptrdiff_t step = LANES * sizeof(real), blocks = n / LANES, rest = n % LANES;
    const FN(piece) of_x = {(char *)x, step, 0, blocks}, of_c = {(char *)c, step, 0, blocks};
    const FN(piece) of_y = {(char *)y, step, 0, blocks};
    FN(share_terms) terms = *of_row; /* of one row: the same in all registers */
    terms.frame.magic = FN(uniform)(terms.frame.magic);
    terms.frame.low = FN(uniform)(terms.frame.low);
    terms.divisor.hi = FN(uniform)(terms.divisor.hi);
    terms.divisor.lo = FN(uniform)(terms.divisor.lo);
    terms.unit = FN(uniform)(terms.unit);
    terms.off = FN(uniform)(terms.off);
    terms.c_factor = FN(uniform)(terms.c_factor);
    ptrdiff_t i = 0;
    for (; i + 4 <= blocks; i += 4)
        FN(share_piece)(of_x, of_c, of_y, 0, i, 4, &terms, kind, stream);
    for (; i < blocks; i++)
        FN(share_piece)(of_x, of_c, of_y, 0, i, 1, &terms, kind, stream);
    if (rest) {
        vec a = vec_load_n(x + i * LANES, rest, 0);
        vec b = kind == FN(SHARES_AND_C) ? vec_load_n(c + i * LANES, rest, 0) : a;
        FN(share_blocks)(&a, &b, 1, &terms, kind, false);
        vec_store_n(y + i * LANES, rest, a);
    }
}

/* Results of a row as one that is written (FN(write_row)). */
typedef struct {
    const real *x, *c;
    const FN(share_terms) * terms;
    FN(share_kind) kind;
} FN(share_row);

FSM_INLINE void FN(share_results)(const void *of, ptrdiff_t begin, ptrdiff_t count, real *to, bool stream) {
    const FN(share_row) *row = of;
    FN(share_chunk)(row->x + begin, row->c + begin, to, count, row->terms, row->kind, stream);
}

/* c before it is multiplied by c_factor: elements [begin, begin + count) of row r, or of all tiles. */
static void FN(load_c)(const FN(group) * g, ptrdiff_t r, ptrdiff_t begin, ptrdiff_t count, real *c);
static FN(piece) FN(piece_of_c)(const FN(group) * g, ptrdiff_t begin, ptrdiff_t count);

/* Results of rows. */
typedef struct {
    const FN(log_state) * state;
    const FN(shares) * shares;
} FN(share_sweep);

FSM_INLINE void FN(share_chunks_body)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end,
                                      const FN(share_kind) kind) {
    const FN(log_state) *state = ((const FN(share_sweep) *)of)->state;
    const FN(shares) *s = ((const FN(share_sweep) *)of)->shares;
    const ptrdiff_t n = g->args->n;
    real *c_room = FN(spare_of)(g);
    for (ptrdiff_t c = begin * FSM_CHUNK; c < n && c < end * FSM_CHUNK; c += FSM_CHUNK) {
        const ptrdiff_t count = n - c < FSM_CHUNK ? n - c : FSM_CHUNK;
        if (!g->x_ready && !g->held)
            FN(load_group)(g, c, count);
        for (ptrdiff_t r = 0; r < g->rows; r++) {
            real *y = g->y_ready ? FN(in_place)(g, FSM_Y, r, c) : FN(in_scratch)(g, r, c);
            const real *x = kind == FN(SHARES_OF_KEPT) ? FN(kept_at)(g, r)
                            : g->x_ready               ? FN(in_place)(g, FSM_X, r, c)
                                                       : FN(in_scratch)(g, r, c);
            const FN(share_terms) terms = FN(share_terms_of)(g, s, r, false, state->careful[r]);
            if (kind == FN(SHARES_AND_C))
                FN(load_c)(g, r, c, count, c_room);
            if (FN(stream_of)(g)) {
                const ptrdiff_t index = s->index[r] - c;
                ptrdiff_t own = index >= 0 && index < count ? index : count;
                for (ptrdiff_t i = 0; i < count; i = own + 1, own = count) {
                    const FN(share_row) row = {x + i, c_room + i, &terms, kind};
                    FN(stream_row)(FN(stream_of)(g), y + i, own - i, FN(share_results), &row);
                    if (own < count)
                        FN(stream_copy)(FN(stream_of)(g), y + own, &s->own[r], 1);
                }
                continue;
            }
            FN(share_chunk)(x, c_room, y, count, &terms, kind, false);
            if (s->index[r] >= c && s->index[r] < c + count)
                memcpy(y + (s->index[r] - c), &s->own[r], sizeof *y);
        }
        if (!g->y_ready && !g->held)
            FN(store_group)(g, c, count);
    }
}

static void FN(share_chunks_shares)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    FN(share_chunks_body)(g, of, begin, end, FN(SHARES));
}

static void FN(share_chunks_of_kept)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    FN(share_chunks_body)(g, of, begin, end, FN(SHARES_OF_KEPT));
}

static void FN(share_chunks_of_lse)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    FN(share_chunks_body)(g, of, begin, end, FN(SHARES_OF_LSE));
}

static void FN(share_chunks_and_c)(const FN(group) * g, const void *of, ptrdiff_t begin, ptrdiff_t end) {
    FN(share_chunks_body)(g, of, begin, end, FN(SHARES_AND_C));
}

static void FN(share_rows)(const FN(group) * g, const FN(log_state) * state, const FN(shares) * s,
                           FN(share_kind) kind) {
    static FN(chunks) *const each[] = {FN(share_chunks_shares), FN(share_chunks_of_kept), FN(share_chunks_of_lse),
                                       FN(share_chunks_and_c)}; /* in the order of share_kind */
    FN(share_chunks)(g, each[kind], &(FN(share_sweep)){state, s}, 0, FN(chunks_of)(g));
    if (!g->y_ready && g->held)
        FN(store_group)(g, 0, g->args->n);
    FN(share_special)(g, 0, s);
}

/* Results of a batch of short rows, from their exponentials, which they overwrite. */
FSM_INLINE void FN(share_batch)(const FN(group) * g, const int parts, const int blocks, const FN(shares) * s, real *e) {
    const FN(batch) batch = FN(batch_of)(g, 0, parts, blocks);
    const int width = blocks * LANES / parts;
    real *results = FN(batch_results)(g, 0, batch, e);
    for (ptrdiff_t r = 0; r < batch.rows; r += parts) {
        const FN(divisor) divisor = {vec_set_parts(s->hi + r, parts), vec_set_parts(s->lo + r, parts)};
        const vec unit = vec_set_parts(s->unit + r, parts), off = vec_set_parts(s->off + r, parts);
        FSM_EACH_BLOCK(k, blocks) {
            const vec a = FN(share)(vec_load(e + r * width + k * LANES), divisor, unit, off);
            FN(store_short_block)(results, batch, r, k, a);
        }
    }
    for (ptrdiff_t r = 0; r < batch.rows; r++)
        if (s->index[r] >= 0)
            results[r * batch.n + s->index[r]] = s->own[r];
    FN(store_batch)(g, 0, batch, results);
    FN(share_special)(g, 0, s);
}

FSM_OUTLINE_ void FN(share_short)(const FN(group) * g, const FN(shares) * s, real *e) {
    WITH_PARTS(g, FN(share_batch)(g, parts, blocks, s, e));
}

/* Results of tiles. */
FSM_INLINE void FN(share_columns)(const FN(group) * g, const FN(log_state) * states, const FN(shares) * shares,
                                  const FN(share_kind) kind) {
    const ptrdiff_t n = g->args->n;
    const bool in_place = FN(lies_in_tiles)(g, FSM_Y);
    FN(share_terms) terms[LOG_TILES];
    for (int t = 0; t < g->tiles; t++)
        terms[t] = FN(share_terms_of)(g, &shares[t], 0, true, states[t].careful[0]);
    for (ptrdiff_t begin = 0; begin < n; begin += PIECE) {
        const FN(piece) x = FN(piece_of_x)(g, begin, n - begin < PIECE ? n - begin : PIECE, kind != FN(SHARES_OF_LSE));
        const FN(piece) y =
            in_place ? FN(piece_in_place)(g, FSM_Y, begin, x.count) : FN(piece_in_scratch)(g, begin, x.count);
        const FN(piece) c = kind == FN(SHARES_AND_C) ? FN(piece_of_c)(g, begin, x.count) : x;
        ptrdiff_t i = 0;
        for (; i + 4 <= x.count; i += 4)
            for (int t = 0; t < g->tiles; t++)
                FN(share_piece)(x, c, y, t, i, 4, &terms[t], kind, false);
        for (; i < x.count; i++)
            for (int t = 0; t < g->tiles; t++)
                FN(share_piece)(x, c, y, t, i, 1, &terms[t], kind, false);
        for (int t = 0; t < g->tiles; t++)
            for (int j = 0; j < LANES; j++) {
                const ptrdiff_t at = shares[t].index[j] - begin;
                if (at >= 0 && at < x.count)
                    memcpy(FN(in_piece)(y, t, at) + j, &shares[t].own[j], sizeof(real));
            }
        if (!in_place)
            FN(store_group)(g, begin, x.count);
    }
    for (int t = 0; t < g->tiles; t++)
        FN(share_special)(g, t, &shares[t]);
}
