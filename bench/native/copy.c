/* The best plain copy: as memcpy does it, or past the caches with the widest stores that the build's flags allow
 * (elsewhere than on x86 memcpy decides that by itself). */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH        64
#define STREAM(y, x) _mm512_stream_si512((__m512i *)(y), _mm512_loadu_si512(x))
#elif defined(__AVX__)
#include <immintrin.h>
#define WIDTH        32
#define STREAM(y, x) _mm256_stream_si256((__m256i *)(y), _mm256_loadu_si256((const __m256i *)(x)))
#elif defined(__SSE2__)
#include <emmintrin.h>
#define WIDTH        16
#define STREAM(y, x) _mm_stream_si128((__m128i *)(y), _mm_loadu_si128((const __m128i *)(x)))
#endif

/* Copies n bytes `times` times. */
void bench_copy(char *y, const char *x, ptrdiff_t n, ptrdiff_t times);
void bench_stream(char *y, const char *x, ptrdiff_t n, ptrdiff_t times);

void bench_copy(char *y, const char *x, ptrdiff_t n, ptrdiff_t times) {
    for (ptrdiff_t t = 0; t < times; t++) {
        memcpy(y, x, (size_t)n);
        __asm__ volatile("" ::: "memory"); /* every copy is made */
    }
}

void bench_stream(char *y, const char *x, ptrdiff_t n, ptrdiff_t times) {
#if defined(WIDTH)
    const ptrdiff_t unaligned = (ptrdiff_t)(-(uintptr_t)y % WIDTH);
    const ptrdiff_t head = unaligned < n ? unaligned : n;
    for (ptrdiff_t t = 0; t < times; t++) {
        memcpy(y, x, (size_t)head);
        ptrdiff_t i = head;
        for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
            STREAM(y + i, x + i);
            STREAM(y + i + WIDTH, x + i + WIDTH);
            STREAM(y + i + 2 * WIDTH, x + i + 2 * WIDTH);
            STREAM(y + i + 3 * WIDTH, x + i + 3 * WIDTH);
        }
        memcpy(y + i, x + i, (size_t)(n - i));
        _mm_sfence();
        __asm__ volatile("" ::: "memory");
    }
#else
    bench_copy(y, x, n, times);
#endif
}
