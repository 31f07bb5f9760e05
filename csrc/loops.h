// Loops over arrays of one tile or more, left to the compiler's vectoriser. Only isa.cpp includes it.
//
// No sum is reordered and no product fused, so the width of the vectors leaves no trace in the bits.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "convert.h"

// Iterations are independent: an output that is an input has the same place in both.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace odesolve {
namespace {

template <class T, class S>
void load(T* out, const void* in, int64_t stride, int64_t n) {
    auto x = static_cast<const S*>(in);
    if (stride == 1) {
        INDEPENDENT
        for (int64_t i = 0; i < n; ++i) out[i] = widen<T>(x[i]);
    } else {
        for (int64_t i = 0; i < n; ++i) out[i] = widen<T>(x[i * stride]);
    }
}

template <class T, class S>
void store(void* out, int64_t stride, const T* in, int64_t n) {
    auto x = static_cast<S*>(out);
    if (stride == 1) {
        INDEPENDENT
        for (int64_t i = 0; i < n; ++i) narrow(in[i], x[i]);
    } else {
        for (int64_t i = 0; i < n; ++i) narrow(in[i], x[i * stride]);
    }
}

template <class T, bool Based, int... K>
void sum(T* out, const T* const* in, const T* weight, const T* base, int64_t n, std::integer_sequence<int, K...>) {
    constexpr int terms = sizeof...(K);
    const T *x[terms] = {in[K]...}, w[terms] = {weight[K]...};
    INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
        T total = w[0] * x[0][i];
        ((total = K ? total + w[K] * x[K][i] : total), ...);
        out[i] = Based ? total + base[i] : total;
    }
}

// Any number of terms, through a small buffer because `out` may be an input that is read later.
template <class T, bool Based>
void long_sum(T* out, int terms, const T* const* in, const T* weight, const T* base, int64_t n) {
    constexpr int64_t step = 256;
    T total[step];
    for (int64_t start = 0; start < n; start += step) {
        int64_t m = n - start < step ? n - start : step;
        for (int64_t i = 0; i < m; ++i) total[i] = T(0);
        for (int k = 0; k < terms; ++k) {
            const T *x = in[k] + start, w = weight[k];
            if (k) {
                for (int64_t i = 0; i < m; ++i) total[i] += w * x[i];
            } else {
                for (int64_t i = 0; i < m; ++i) total[i] = w * x[i];
            }
        }
        for (int64_t i = 0; i < m; ++i) out[start + i] = Based ? total[i] + base[start + i] : total[i];
    }
}

template <class T, bool Based>
void sum_of(T* out, int terms, const T* const* in, const T* weight, const T* base, int64_t n) {
    switch (terms) {
#define CASE(k) \
    case k: return sum<T, Based>(out, in, weight, base, n, std::make_integer_sequence<int, k>());
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
        default: return long_sum<T, Based>(out, terms, in, weight, base, n);
    }
}

template <class T>
void combine(T* out, int terms, const T* const* in, const T* weight, const T* base, int64_t n) {
    base ? sum_of<T, true>(out, terms, in, weight, base, n) : sum_of<T, false>(out, terms, in, weight, base, n);
}

// The sum of 16 lanes, in halves.
inline double folded(double* total) {
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; ++l) total[l] += total[l + half];
    return total[0];
}

// The sum of term(i) over a block in double. Element i goes to lane i % 16, and lanes are added in halves: that many lanes
// whatever the registers hold.
template <class F>
inline double lanes(int64_t n, F term) {
    constexpr int count = 16;
    double total[count] = {};
    int64_t i = 0;
    for (; i + count <= n; i += count)
        for (int l = 0; l < count; ++l) total[l] += term(i + l);
    for (int l = 0; i + l < n; ++l) total[l] += term(i + l);
    return folded(total);
}

inline double square(double x) { return x * x; }
inline float size(float x) { return __builtin_fabsf(x); }
inline double size(double x) { return __builtin_fabs(x); }

// The larger one, or NaN if either is.
template <class T>
inline T larger(T a, T b) {
    T m = a > b ? a : b;
    return a != a ? a : m;
}

template <class T>
double error(const T* e, const T* y0, const T* y1, T rtol, T atol, int64_t n) {
    return lanes(n, [=](int64_t i) { return square(e[i] / (atol + rtol * larger(size(y0[i]), size(y1[i])))); });
}

template <class T>
double dot(const T* a, const T* b, int64_t n) {
    return lanes(n, [=](int64_t i) { return double(a[i]) * double(b[i]); });
}

template <class T, int... K>
void add_each(T* total, const float* const* z, const T* weight, int64_t n, std::integer_sequence<int, K...>) {
    const float* x[] = {z[K]...};
    const T w[] = {weight[K]...};
    INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
        T sum = total[i];
        ((sum += w[K] * T(x[K][i])), ...);
        total[i] = sum;
    }
}

template <class T>
void add(T* total, int terms, const float* const* z, const T* weight, int64_t n) {
    static_assert(GROUP == 4, "one case a number of terms");
    switch (terms) {
        case 1: return add_each(total, z, weight, n, std::make_integer_sequence<int, 1>());
        case 2: return add_each(total, z, weight, n, std::make_integer_sequence<int, 2>());
        case 3: return add_each(total, z, weight, n, std::make_integer_sequence<int, 3>());
        default: return add_each(total, z, weight, n, std::make_integer_sequence<int, 4>());
    }
}

// `out` may be `old`, so a chunk is read before any of it is written: the compiler then needs no proof that they differ.
template <class T>
double advance(T* state, T* out, const T* change, const T* old, T growth, int64_t n) {
    constexpr int count = 16;
    double total[count] = {};
    int64_t i = 0;
    for (; i + count <= n; i += count) {
        T moved[count], next[count];
        for (int l = 0; l < count; ++l) next[l] = state[i + l] + (growth * state[i + l] + change[i + l]);
        for (int l = 0; l < count; ++l) moved[l] = next[l] - old[i + l];
        for (int l = 0; l < count; ++l) state[i + l] = next[l];
        for (int l = 0; l < count; ++l) out[i + l] = next[l];
        for (int l = 0; l < count; ++l) total[l] += square(moved[l]);
    }
    for (int l = 0; i + l < n; ++l) {
        T next = state[i + l] + (growth * state[i + l] + change[i + l]);
        total[l] += square(next - old[i + l]);
        state[i + l] = out[i + l] = next;
    }
    return folded(total);
}

// Group l of LEAST has the elements l, l + LEAST, l + 2 LEAST, ...: its least value is found without going across lanes.
template <class T>
void reduced(T* value, T* least, const T* cost, const T* price, int64_t n) {
    for (int64_t l = 0; l < LEAST; ++l) least[l] = __builtin_inf();
    for (int64_t i = 0; i < n; i += LEAST) {
        const int64_t count = n - i < LEAST ? n - i : LEAST;
        INDEPENDENT
        for (int64_t l = 0; l < count; ++l) {
            const T x = cost[i + l] + price[i + l];
            value[i + l] = x;
            least[l] = x < least[l] ? x : least[l];
        }
    }
}

}  // namespace
}  // namespace odesolve
