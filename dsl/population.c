/* P different programs over P sets of weights: one interpreter, all tensors, one call a step.
 *
 * Made from the op table by to_population.py, which fills in MAPS (elementwise rows), REDUCES (what a
 * reduction adds up over a tile) and FINISHES (what is done to the sum). Compiled once for float and once
 * for double.
 *
 * A program is a list of instructions in passes. Within a pass every tile of every tensor runs through all
 * its instructions on tensors while the registers stay in cache, and reductions add up; between passes the
 * reductions are finished and the instructions on single numbers run. Without reductions there is one pass.
 */
#include <math.h>
#include <string.h>

#define TILE 1024

typedef REAL real;
typedef long long i64;

/* Where a value lives: one number; one number per tensor; a tile of scratch; a whole tensor in memory. */
enum { GLOBAL, SCALAR, LOCAL, MEMORY };
/* MEMORY values by index: weights, gradients, then states, then what one pass keeps for a later one. */
enum { WEIGHTS, GRADS, STATES };
/* What an instruction does: an op on single numbers or on tensors, or a reduction over tensors. */
enum { ON_GLOBAL, ON_SCALAR, ON_TENSOR, REDUCE_SCALAR, REDUCE_GLOBAL };

typedef struct { int opcode, unit, pass, dest, x, y, z; } instruction; /* registers; -1: none */
typedef struct { int where, index; } place;                      /* of a register */
typedef struct { int source, state, where, target; } store;      /* new value, state, its place; its register */
typedef struct { int code, code_end, registers, update, stores, stores_end; } program;
typedef struct { const real *at; int step; } operand;

typedef struct {
    i64 tensors, elements, slots;      /* of one copy: tensors, elements in all; states per program */
    const i64 *size, *offset;          /* of each tensor, and where it starts among all elements */
    real *const *w, *const *g;         /* [tensors] -> (P, size) */
    real *const *states;               /* [slots * tensors] -> (P, size) */
    real *scalar_states;               /* (P, slots, tensors) */
    real *global_states;               /* (P, slots) */
    real *globals, *scalars;           /* (P, globals_each), (P, scalars_each, tensors) */
    i64 globals_each, scalars_each;
    real *scratch, *memory;            /* (locals, TILE), (kept, elements) */
} space;

static void map(int opcode, i64 n, real *d, operand a, operand b, operand c) {
    const real *X = a.at, *Y = b.at, *Z = c.at;
#define LOOP(X_, Y_, Z_, E) do { \
        for (i64 i = 0; i < n; i++) { const real x = X_, y = Y_, z = Z_; (void)x; (void)y; (void)z; d[i] = (E); } \
    } while (0)
#define EACH0(E) LOOP(0, 0, 0, E)
#define EACH1(E) do { if (a.step) LOOP(X[i], 0, 0, E); else LOOP(*X, 0, 0, E); } while (0)
#define EACH2(E) do { \
        if (a.step && b.step) LOOP(X[i], Y[i], 0, E); \
        else if (a.step) { const real y0 = *Y; LOOP(X[i], y0, 0, E); } \
        else { const real x0 = *X; LOOP(x0, Y[i * b.step], 0, E); } \
    } while (0)
#define EACH3(E) do { \
        if (a.step && b.step && !c.step) { const real z0 = *Z; LOOP(X[i], Y[i], z0, E); } \
        else if (a.step && b.step && c.step) LOOP(X[i], Y[i], Z[i], E); \
        else LOOP(X[i * a.step], Y[i * b.step], Z[i * c.step], E); \
    } while (0)
    switch (opcode) {
@MAPS@
    }
}

/* The sum (or the largest) of an expression over a tile, in double with eight lanes. */
static double reduce(int opcode, i64 n, const real *X, const real *Y, double total, int first) {
    double lane[8] = {0}, sum = 0;
    i64 i = 0;
#define SUM(E) do { \
        for (; i + 8 <= n; i += 8) \
            for (int j = 0; j < 8; j++) { const double x = X[i + j], y = Y ? Y[i + j] : 0; (void)y; lane[j] += (E); } \
        for (; i < n; i++) { const double x = X[i], y = Y ? Y[i] : 0; (void)y; sum += (E); } \
        for (int j = 0; j < 8; j++) sum += lane[j]; \
        return total + sum; \
    } while (0)
#define LARGEST do { \
        double m = first ? X[0] : total; \
        for (; i < n; i++) m = m != m || m > X[i] ? m : X[i]; \
        return m; \
    } while (0)
    switch (opcode) {
@REDUCES@
    }
    return 0;
}

static double finish(int opcode, double x, double n) {
    switch (opcode) {
@FINISHES@
    }
    return x;
}

/* The tile of a register, in tensor k of program p from element `begin`. */
static inline operand find(const space *s, place a, i64 p, i64 k, i64 begin) {
    const i64 within = p * s->size[k] + begin;
    switch (a.where) {
    case GLOBAL: return (operand){s->globals + p * s->globals_each + a.index, 0};
    case SCALAR: return (operand){s->scalars + (p * s->scalars_each + a.index) * s->tensors + k, 0};
    case LOCAL: return (operand){s->scratch + a.index * TILE, 1};
    }
    if (a.index == WEIGHTS) return (operand){s->w[k] + within, 1};
    if (a.index == GRADS) return (operand){s->g[k] + within, 1};
    if (a.index < STATES + s->slots) return (operand){s->states[(a.index - STATES) * s->tensors + k] + within, 1};
    return (operand){s->memory + (a.index - STATES - s->slots) * s->elements + s->offset[k] + begin, 1};
}

/* An instruction on single numbers; one per tensor for ON_SCALAR. */
static void run_numbers(const space *s, const place *at, instruction c, i64 p) {
    const int of[3] = {c.x, c.y, c.z};
    operand v[3] = {{0, 0}, {0, 0}, {0, 0}};
    for (int j = 0; j < 3; j++)
        if (of[j] >= 0) {
            v[j] = find(s, at[of[j]], p, 0, 0);
            v[j].step = at[of[j]].where == SCALAR;
        }
    map(c.opcode, c.unit == ON_SCALAR ? s->tensors : 1, (real *)find(s, at[c.dest], p, 0, 0).at, v[0], v[1], v[2]);
}

/* One tile through the instructions on tensors of a pass; sums[j] adds up instruction j. */
static void run_tile(const space *s, const place *at, const instruction *code, int count, double *sums, i64 p,
                     i64 k, i64 begin, i64 n) {
    for (int j = 0; j < count; j++) {
        const instruction c = code[j];
        const int of[3] = {c.x, c.y, c.z};
        operand v[3] = {{0, 0}, {0, 0}, {0, 0}};
        for (int q = 0; q < 3; q++)
            if (of[q] >= 0) v[q] = find(s, at[of[q]], p, k, begin);
        if (c.unit == ON_TENSOR) map(c.opcode, n, (real *)find(s, at[c.dest], p, k, begin).at, v[0], v[1], v[2]);
        else sums[j] = reduce(c.opcode, n, v[0].at, v[1].at, sums[j], begin == 0 && (k == 0 || c.unit == REDUCE_SCALAR));
    }
}

/* States that are tensors take their new values, then w takes the update. */
static void store_tile(const space *s, const place *at, const store *stores, const program *P, i64 p, i64 k,
                       i64 begin, i64 n) {
    for (int j = P->stores; j < P->stores_end; j++)
        if (stores[j].where == MEMORY) {
            const place to = {MEMORY, STATES + stores[j].state};
            memcpy((real *)find(s, to, p, k, begin).at, find(s, at[stores[j].source], p, k, begin).at, n * sizeof(real));
        }
    real *w = s->w[k] + p * s->size[k] + begin;
    const real *u = find(s, at[P->update], p, k, begin).at;
    for (i64 i = 0; i < n; i++) w[i] -= u[i];
}

/* States that are single numbers: into their registers before a step, out of the new values' after it. */
static void move_numbers(const space *s, const place *at, const store *stores, const program *P, i64 p, int load) {
    for (int j = P->stores; j < P->stores_end; j++) {
        const i64 slot = p * s->slots + stores[j].state;
        const i64 count = stores[j].where == GLOBAL ? 1 : stores[j].where == SCALAR ? s->tensors : 0;
        real *kept = stores[j].where == GLOBAL ? s->global_states + slot : s->scalar_states + slot * s->tensors;
        for (i64 k = 0; k < count; k++) {
            real *value = (real *)find(s, at[load ? stores[j].target : stores[j].source], p, k, 0).at;
            if (load) *value = kept[k];
            else kept[k] = *value;
        }
    }
}

static void run_program(const space *s, const program *P, const instruction *code, const place *at,
                        const store *stores, i64 p) {
    move_numbers(s, at, stores, P, p, 1);
    for (int from = P->code, to; from < P->code_end; from = to) {
        for (; from < P->code_end && code[from].unit <= ON_SCALAR; from++) run_numbers(s, at, code[from], p);
        for (to = from; to < P->code_end && code[to].unit > ON_SCALAR && code[to].pass == code[from].pass; to++) {}
        const int count = to - from, last = to == P->code_end;
        double sums[count + 1];
        memset(sums, 0, sizeof sums);
        for (i64 k = 0; k < s->tensors; k++) {
            for (i64 begin = 0; begin < s->size[k]; begin += TILE) {
                const i64 n = s->size[k] - begin < TILE ? s->size[k] - begin : TILE;
                run_tile(s, at, code + from, count, sums, p, k, begin, n);
                if (last) store_tile(s, at, stores, P, p, k, begin, n);
            }
            for (int j = 0; j < count; j++)
                if (code[from + j].unit == REDUCE_SCALAR) {
                    *(real *)find(s, at[code[from + j].dest], p, k, 0).at =
                        (real)finish(code[from + j].opcode, sums[j], (double)s->size[k]);
                    sums[j] = 0;
                }
        }
        for (int j = 0; j < count; j++)
            if (code[from + j].unit == REDUCE_GLOBAL)
                *(real *)find(s, at[code[from + j].dest], p, 0, 0).at =
                    (real)finish(code[from + j].opcode, sums[j], (double)s->elements);
    }
    move_numbers(s, at, stores, P, p, 0);
}

/* One step of every program. */
void population_step(const space *s, i64 programs, const program *table, const instruction *code,
                     const place *places, const store *stores) {
    for (i64 p = 0; p < programs; p++)
        run_program(s, table + p, code, places + table[p].registers, stores, p);
}
