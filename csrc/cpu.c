/* What this CPU has and the operating system keeps across a context switch.
 *
 * A CPU flag alone is not enough: a kernel that does not save the wide registers leaves the flag set,
 * and the first wide instruction dies. XGETBV tells what is saved. */
#include "fsm.h"

bool fsm_cpu_base(void) {
    return true;
}

bool fsm_cpu_scalar(void) {
    return true;
}

#if defined(FSM_AARCH64)
bool fsm_cpu_neon(void) {
    return true; /* part of the architecture */
}

#if defined(FSM_SVE_BITS)
#include <sys/auxv.h>
#include <sys/prctl.h>

bool fsm_cpu_sve(void) {
    const unsigned long hwcap_sve = 1ul << 22; /* Linux, arch/arm64/include/uapi/asm/hwcap.h */
    if (!(getauxval(AT_HWCAP) & hwcap_sve))
        return false;
    int length = prctl(PR_SVE_GET_VL);
    return length >= 0 && (length & PR_SVE_VL_LEN_MASK) * 8 == FSM_SVE_BITS;
}
#endif
#endif

#if defined(FSM_X86_64)

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

enum { EAX, EBX, ECX, EDX };

static void cpuid_of(uint32_t leaf, uint32_t part, uint32_t regs[4]) {
#if defined(_MSC_VER)
    __cpuidex((int *)regs, (int)leaf, (int)part);
#else
    __cpuid_count(leaf, part, regs[EAX], regs[EBX], regs[ECX], regs[EDX]);
#endif
}

static void cpuid(uint32_t leaf, uint32_t regs[4]) {
    cpuid_of(leaf, 0, regs);
}

static uint32_t saved_registers(void) {
#if defined(_MSC_VER)
    return (uint32_t)_xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}

static bool has(uint32_t bits, uint32_t wanted) {
    return (bits & wanted) == wanted;
}

/* Names and bit numbers: Intel SDM volume 2, CPUID; volume 1, section 13.1 (XCR0). */
#define BIT(n) (UINT32_C(1) << (n))
static const uint32_t leaf1_ecx_fma = BIT(12), leaf1_ecx_popcnt = BIT(23);
static const uint32_t leaf1_ecx_osxsave = BIT(27), leaf1_ecx_avx = BIT(28), leaf1_ecx_f16c = BIT(29);
static const uint32_t leaf7_ebx_avx2 = BIT(5);
static const uint32_t leaf7_ebx_avx512 = BIT(16) | BIT(17) | BIT(30) | BIT(31); /* F, DQ, BW, VL */
static const uint32_t xcr0_ymm = BIT(1) | BIT(2);
static const uint32_t xcr0_zmm = BIT(1) | BIT(2) | BIT(5) | BIT(6) | BIT(7);

static bool supports(uint32_t leaf1_ecx, uint32_t leaf7_ebx, uint32_t xcr0) {
    uint32_t regs[4];
    cpuid(0, regs);
    if (regs[EAX] < 7)
        return false;
    cpuid(1, regs);
    if (!has(regs[ECX], leaf1_ecx | leaf1_ecx_osxsave))
        return false;
    if (!has(saved_registers(), xcr0))
        return false;
    cpuid(7, regs);
    return has(regs[EBX], leaf7_ebx);
}

bool fsm_cpu_avx2(void) {
    const uint32_t leaf1_ecx = leaf1_ecx_fma | leaf1_ecx_popcnt | leaf1_ecx_avx | leaf1_ecx_f16c;
    return supports(leaf1_ecx, leaf7_ebx_avx2, xcr0_ymm);
}

bool fsm_cpu_avx512(void) {
    return fsm_cpu_avx2() && supports(leaf1_ecx_avx, leaf7_ebx_avx512, xcr0_zmm);
}

/* The largest cache that a leaf tells of, in bytes, and how many CPUs have it in common. Intel's leaf 4 and AMD's
 * 0x8000001d are alike (Intel SDM volume 2, CPUID; AMD APM volume 3, E.4.15). */
static void largest_cache(uint32_t leaf, double *bytes, int *cpus) {
    for (uint32_t part = 0; part < 16; part++) {
        uint32_t regs[4];
        cpuid_of(leaf, part, regs);
        const uint32_t a = regs[EAX], b = regs[EBX];
        if ((a & 31) == 0) /* no more */
            return;
        const double lines = ((double)(b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((double)regs[ECX] + 1);
        const double size = lines * ((b & 4095) + 1);
        if (size > *bytes) {
            *bytes = size;
            *cpus = (int)(a >> 14 & 4095) + 1;
        }
    }
}

/* Under a hypervisor CPUID takes many us: callers keep the result. */
ptrdiff_t fsm_cache_share(int cpus) {
    double bytes = 0;
    int sharing = 1;
    uint32_t regs[4];
    cpuid(0, regs);
    if (regs[EAX] >= 4)
        largest_cache(4, &bytes, &sharing);
    cpuid(0x80000000, regs);
    if (regs[EAX] >= 0x8000001d)
        largest_cache(0x8000001d, &bytes, &sharing);
    if (bytes == 0)
        return PTRDIFF_MAX;
    return (ptrdiff_t)(cpus < sharing ? bytes * cpus / sharing : bytes);
}

#else

ptrdiff_t fsm_cache_share(int cpus) {
    (void)cpus;
    return PTRDIFF_MAX;
}

#endif
