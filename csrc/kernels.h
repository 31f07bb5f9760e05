// The inner loops, compiled once for each instruction set and reached through one table.
#pragma once

#include <cstdint>

namespace odesolve {

enum Type : uint8_t { F32, F64, BF16, F16, I64 };

// Elements worked on at a time, so that everything in between stays in L1. Reductions add up blocks of this size in
// order: the length of a block is part of the result's bits, on every machine.
constexpr int64_t TILE = 1024;
constexpr int64_t QUADS = TILE / 4;  // counters of a tile; a counter gives four random words
constexpr int64_t BLOCK = 64;        // quads whose words are made before they become normals, in two loops that each fit
constexpr int64_t LEAST = 128;       // groups of values of which the least are found
constexpr int GROUP = 4;              // streams that are added to a sum at a time
static_assert(QUADS % BLOCK == 0, "a list of quads is read in whole blocks");

// What numbers a row draws: kernels/philox.py says what a seed, a sample and a stream are.
struct Draw {
    uint64_t seed, stream;
    uint32_t sample;
};

// Counters and keys of Philox, one column a quad.
struct Quads {
    uint32_t counter[4][QUADS], key[2][QUADS];

    void set(int64_t q, const Draw& row, uint32_t place) {
        counter[0][q] = place;
        counter[1][q] = row.sample;
        counter[2][q] = uint32_t(row.stream);
        counter[3][q] = uint32_t(row.stream >> 32);
        key[0][q] = uint32_t(row.seed);
        key[1][q] = uint32_t(row.seed >> 32);
    }
};

// Loops in one type T, float or double. Outputs may be inputs: each element is read before it is written.
template <class T>
struct Loops {
    void (*load[4])(T* out, const void* in, int64_t stride, int64_t n);
    void (*store[4])(void* out, int64_t stride, const T* in, int64_t n);
    void (*combine)(T* out, int terms, const T* const* in, const T* weight, const T* base, int64_t n);
    double (*error)(const T* e, const T* y0, const T* y1, T rtol, T atol, int64_t n);
    double (*dot)(const T* a, const T* b, int64_t n);
    // total += weight[k] * z[k], one k after the other, for at most GROUP of them.
    void (*add)(T* total, int terms, const float* const* z, const T* weight, int64_t n);
    double (*advance)(T* state, T* out, const T* change, const T* old, T growth, int64_t n);
    // value = cost + price, and the least of each of LEAST groups.
    void (*reduced)(T* value, T* least, const T* cost, const T* price, int64_t n);
};

struct Kernels {
    const char* isa;
    Loops<float> f32;
    Loops<double> f64;
    // Numbers of n elements from quad `first` of a row, and of four elements each of a list of quads.
    void (*normals)(float* out, const Draw& row, uint32_t first, int64_t n);
    void (*signs)(float* out, const Draw& row, uint32_t first, int64_t n);
    void (*normals_of)(float* out, const Quads& quads, int64_t n);
    void (*signs_of)(float* out, const Quads& quads, int64_t n);
};

extern const Kernels kernels_baseline;
#ifdef ODESOLVE_X86
extern const Kernels kernels_avx2, kernels_avx512;
#endif

// The table in use, chosen when the module is loaded.
extern const Kernels* kernels;

template <class T>
const Loops<T>& loops();
template <>
inline const Loops<float>& loops() { return kernels->f32; }
template <>
inline const Loops<double>& loops() { return kernels->f64; }

}  // namespace odesolve
