/* Every kernel of one precision, for the instruction set whose file includes this. */
#include "../vec.h"
/* By way of memory, short rows side by side take up to 1.7 times as long as they do as columns. */
#if defined(FSM_HAS_PARTS)
#define IF_PARTS_PAY(function) (function)
#else
#include "../parts.h"
#define IF_PARTS_PAY(function) (false ? (function) : NULL)
#endif

#include "../registers.h"

#include "../load.h"
#include "../store.h"
#include "math.h"
#include "passes.h"
#include "tile.h"

#include "short_rows.h"

#include "log_family.h"
#include "log_sweep.h"

#include "log_softmax.h"

#include "reduction.h"

#include "logmeanexp.h"
#include "logsumexp.h"
#include "softmax_entropy.h"

#include "gradients.h"

#include "shares.h"

#include "softmax.h"

#include "cross_entropy.h"
#include "logsumexp_grad.h"

#if defined(FSM_PROBE) /* tests/native/probe.h: the vector layer, for tests */
#include FSM_PROBE
#endif
