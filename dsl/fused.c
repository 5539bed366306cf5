/* @TITLE@
 *
 * One step over any number of tensors in one call. Every pass goes over the elements once; between passes reductions
 * are finished and single numbers worked out, in double. Threads share the elements.
 */
#ifdef VECTOR_MATH
#define __FAST_MATH__ 1  /* then math.h declares the vector forms of its functions; arithmetic stays as it is */
#endif
#include <math.h>
#undef __FAST_MATH__
#include <stdint.h>
#include <stdlib.h>
#include <tgmath.h>

typedef uint16_t bf16;
typedef REAL real;       /* of the arithmetic: float, or double for float64 weights */
typedef int64_t i64;

#define PASSES @PASSES@
#define NUMBERS @NUMBERS@
#define SCALARS @SCALARS@
#define SUMS @SUMS@
#define CHUNK 16384
#define BLOCK 2048       /* elements that are added up in the precision of the arithmetic */
#define SCALE(g) (SCALED ? J->scale * (g) : (g))
#define SMALL 131072     /* elements of a tensor that stays in a core's cache from pass to pass */
#define SHARED @SHARED@         /* whether a reduction is over all tensors */
#define LOST @LOST@           /* the row of what rounding lost, with ROUND 2 */
#define STEPS @STEPS@          /* the row of the counts of steps; 0: they do not matter */

static inline real of_bits(uint32_t u) { union { uint32_t u; float f; } v = {u}; return v.f; }
static inline uint32_t bits_of(real x) { union { float f; uint32_t u; } v = {(float)x}; return v.u; }
/* To the upper half of the bits, to even where both are as near. */
static inline uint32_t rounded_up(uint32_t u) { return u + 0x7fff + (u >> 16 & 1); }
static inline uint32_t rounded(real x) { return x != x ? 0x7fc00000 : rounded_up(bits_of(x)); }
static inline real load_bf16(bf16 x) { return of_bits((uint32_t)x << 16); }
static inline bf16 store_bf16(real x) { return rounded(x) >> 16; }
static inline real load_float(float x) { return x; }
static inline float store_float(real x) { return x; }
static inline real load_double(double x) { return x; }
static inline double store_double(real x) { return x; }
#if HALF
typedef _Float16 half;
static inline real load_half(half x) { return x; }
static inline half store_half(real x) { return x; }
#endif
/* Two bfloat16 in a word: no element has to change its place in a vector to be read or written. */
typedef uint32_t __attribute__((aligned(2), may_alias)) pair;
/* What was made of bfloat16 alone needs no look for NaN: no NaN of theirs and none of the processor's rounds up to a
 * number, because its lower half is 0. */
static inline uint32_t both(real low, real high) {
    return rounded_up(bits_of(low)) >> 16 | (rounded_up(bits_of(high)) & 0xffff0000u);
}
#define LOW(two) of_bits((two) << 16)
#define HIGH(two) of_bits((two) & 0xffff0000u)
#define JOIN(a, b) a##b
#define CALL(a, b) JOIN(a, b)
#define LOAD(type, x) CALL(load_, type)(x)
#define STORE(type, x) CALL(store_, type)(x)

typedef struct {
    i64 count;
    const i64 *size;
    char *const *table;  /* rows of `count` addresses: @ROWS@ */
    real scale;          /* of gradients */
    uint32_t seed;
} job;

#define ALWAYS __attribute__((always_inline))

/* x / y for a y that all elements share, from two parts of 1 / y, the first of them a little too small: the quotient to
 * the last bit, but for one in some millions that is one off, with Inf and NaN as they are. Not for a y near the ends. */
#ifdef FP_FAST_FMAF
#define USUAL(y) (fabs(y) > 0x1p-100 && fabs(y) < 0x1p100)
#else
#define USUAL(y) 0
#endif
#define MOST_OF(y) (1 / (y) * (1 - (real)0x1p-22))
#define LESS_OF(y) (fma(-most_##y, y, (real)1) / (y))
static inline real divided(real x, real most, real less) { return fma(x, most, x * less); }

#define AT(type, row) ((type *)J->table[(row) * J->count + i] + begin)

/* The weights after an update, by ROUND: 0 to nearest, 1 at random, 2 with what rounding lost kept beside them. */
static inline uint32_t hashed(uint32_t h) {
    h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu;
    return h ^ h >> 16;
}
static inline bf16 at_random(real x, uint32_t draw) {
    union { float f; uint32_t u; } v = {(float)x};
    return x - x != 0 ? store_bf16(x) : (v.u + (draw & 0xffff)) >> 16;
}
#if ROUND == 1
#define WRITE(x) to_w[j] = at_random(x, hashed(from + (uint32_t)j))
#elif ROUND == 2
#define WRITE(x) do { \
        const real whole = (x) + LOAD(WEIGHT, to_lost[j]); \
        to_w[j] = STORE(WEIGHT, whole), to_lost[j] = STORE(WEIGHT, whole - LOAD(WEIGHT, to_w[j])); \
    } while (0)
#else
#define WRITE(x) to_w[j] = STORE(WEIGHT, x)
#endif

@FUNCTIONS@

typedef void numbers_function(double *k);
typedef void scalars_function(const job *, i64 i, const double *k, double *s);
typedef void pass_function(const job *, i64 i, i64 begin, i64 n, const double *k, const double *s, double *sums);
typedef void gather_function(const double *sums, int first, int first_of_all, double *k, double *s);
static numbers_function *const ON_NUMBERS[] = {@EACH_NUMBERS@};
static scalars_function *const ON_SCALARS[] = {@EACH_SCALARS@};
static pass_function *const PASS[] = {@EACH_PASS@};
static gather_function *const GATHER[] = {@EACH_GATHER@};

/* Tensors [from, to), all of them at one pass before any is at the next; sums are gathered in order. */
static int staged(const job *J, i64 from, i64 to, double *k, double *s, int threads) {
    i64 tasks = 0;
    for (i64 i = from; i < to; i++) tasks += (J->size[i] + CHUNK - 1) / CHUNK;
    i64 *tensor = malloc((tasks + 1) * sizeof *tensor), *start = malloc((tasks + 1) * sizeof *start);
    double *sums = malloc((tasks * SUMS + 1) * sizeof *sums);
    const int ready = tensor && start && sums;
    for (i64 i = from, task = 0; ready && i < to; i++)
        for (i64 begin = 0; begin < J->size[i]; begin += CHUNK, task++) tensor[task] = i, start[task] = begin;
    for (int pass = 0; ready && pass < PASSES; pass++) {
        if (pass) ON_NUMBERS[pass](k);
        for (i64 i = from; i < to; i++) ON_SCALARS[pass](J, i, k, s + i * SCALARS);
        #pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && tasks > 1)
        for (i64 task = 0; task < tasks; task++) {
            const i64 i = tensor[task], begin = start[task], left = J->size[i] - begin;
            PASS[pass](J, i, begin, left < CHUNK ? left : CHUNK, k, s + i * SCALARS, sums + task * SUMS);
        }
        for (i64 task = 0; task < tasks; task++)
            GATHER[pass](sums + task * SUMS, !start[task], !task, k, s + tensor[task] * SCALARS);
    }
    for (i64 i = from; ready && i < to; i++) keep_singles(J, i, k, s + i * SCALARS);
    free(tensor), free(start), free(sums);
    return ready;
}

/* One tensor, pass after pass, while it is in the cache. */
static void joined(const job *J, i64 i, double *k, double *s) {
    double sums[SUMS + 1];
    for (int pass = 0; pass < PASSES; pass++) {
        ON_SCALARS[pass](J, i, k, s);
        for (i64 begin = 0; begin < J->size[i]; begin += CHUNK) {
            const i64 left = J->size[i] - begin;
            PASS[pass](J, i, begin, left < CHUNK ? left : CHUNK, k, s, sums);
            GATHER[pass](sums, !begin, 0, k, s);
        }
    }
    keep_singles(J, i, k, s);
}

/* 0: done. 1: the tensors were not stepped equally often; 2: no memory; nothing was written then. */
int step(i64 count, const i64 *size, char *const *table, const double *given, double scale, i64 seed, int threads) {
    const job J[1] = {{count, size, table, scale, (uint32_t)seed ^ (uint32_t)(seed >> 32)}};
    float *const *steps = (float *const *)table + (i64)STEPS * count;
    for (i64 i = 1; STEPS && i < count; i++)
        if (*steps[i] != *steps[0]) return 1;
    double k[NUMBERS + 1], *s = malloc((count * SCALARS + 1) * sizeof *s);
    if (!s) return 2;
    i64 elements = 0;
    for (i64 i = 0; i < count; i++) elements += size[i];
    if (elements < 4 * CHUNK) threads = 1;
    int done = 1;
    take_numbers(J, given, k);
    ON_NUMBERS[0](k);
    if (PASSES > 1 && !SHARED) {
        #pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (i64 i = 0; i < count; i++)
            if (size[i] <= SMALL) joined(J, i, k, s + i * SCALARS);
        for (i64 i = 0; i < count && done; i++)
            if (size[i] > SMALL) done = staged(J, i, i + 1, k, s, threads);
    } else done = staged(J, 0, count, k, s, threads);
    free(s);
    for (i64 i = 0; done && STEPS && i < count; i++) *steps[i] += 1;
    return done ? 0 : 2;
}
