/* What the pool needs of the operating system. Both files define the same names, all of which begin with os_.
 *
 * To be included before any other header: os_posix.h says what it wants of the system's headers. */
#ifndef FSM_POOL_OS_H
#define FSM_POOL_OS_H

#if defined(_WIN32)
#include "os_windows.h"
#else
#include "os_posix.h"
#endif

#endif
