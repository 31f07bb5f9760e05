// Philox4x32-10 and Box-Muller as kernels/philox.py specifies them, bit for bit. Only isa.cpp includes it.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "convert.h"
#include "kernels.h"

namespace odesolve {
namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int LANES = BYTES / 4;
typedef uint64_t Longs __attribute__((vector_size(BYTES)));
typedef uint32_t Words __attribute__((vector_size(BYTES), aligned(4), may_alias));

// Products of the low halves; what the high halves hold does not matter. Compilers do not find this instruction.
inline Longs product(Longs a, uint64_t m) {
#if defined(__AVX512F__)
    return (Longs)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(__AVX2__)
    return (Longs)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(__x86_64__)
    return (Longs)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#elif defined(__ARM_NEON)
    return (Longs)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(uint32_t(m)));
#else
    return (a & 0xFFFFFFFFu) * m;
#endif
}

// Ten rounds on the low halves of 64-bit lanes. The high halves fill with leftovers, which no product reads.
struct Philox {
    Longs c0, c1, c2, c3;
    inline void rounds(Longs k0, Longs k1) {
        for (int r = 0; r < 10; ++r) {
            Longs p = product(c0, 0xD2511F53u), q = product(c2, 0xCD9E8D57u);
            c0 = (q >> 32) ^ c1 ^ k0;
            c2 = (p >> 32) ^ c3 ^ k1;
            c1 = q;
            c3 = p;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
    }
};

inline void pack(uint32_t* out, Longs even, Longs odd) {
    *reinterpret_cast<Words*>(out) = (Words)((even & 0xFFFFFFFFu) | (odd << 32));
}

// Counters of one row, quad after quad.
struct Run {
    const Draw& row;
    uint32_t first;
    inline Philox at(int64_t i, int parity) const {
        Longs lane = {};
        for (int l = 0; l < LANES / 2; ++l) lane[l] = uint64_t(2 * l + parity);
        Longs zero = {};
        return {lane + (uint64_t(first) + uint64_t(i)), zero + row.sample, zero + (row.stream & 0xFFFFFFFFu),
                zero + (row.stream >> 32)};
    }
    inline Longs key(int64_t, int, int half) const { return Longs{} + ((row.seed >> (32 * half)) & 0xFFFFFFFFu); }
};

// Counters from a list.
struct Each {
    const Quads& quads;
    static inline Longs half(const uint32_t* from, int parity) {
        Longs x = (Longs)*reinterpret_cast<const Words*>(from);
        return parity ? x >> 32 : x;
    }
    inline Philox at(int64_t i, int parity) const {
        auto& c = quads.counter;
        return {half(c[0] + i, parity), half(c[1] + i, parity), half(c[2] + i, parity), half(c[3] + i, parity)};
    }
    inline Longs key(int64_t i, int parity, int half_) const { return half(quads.key[half_] + i, parity); }
};

// Words of a block of quads: words[r][q] is word r of quad q. Even and odd quads are apart so that packing needs no shuffle.
template <class Source>
inline void words_of(uint32_t (*words)[BLOCK], const Source& source, int64_t start) {
    for (int64_t i = 0; i < BLOCK; i += LANES) {
        Philox even = source.at(start + i, 0), odd = source.at(start + i, 1);
        even.rounds(source.key(start + i, 0, 0), source.key(start + i, 0, 1));
        odd.rounds(source.key(start + i, 1, 0), source.key(start + i, 1, 1));
        pack(words[0] + i, even.c0, odd.c0);
        pack(words[1] + i, even.c1, odd.c1);
        pack(words[2] + i, even.c2, odd.c2);
        pack(words[3] + i, even.c3, odd.c3);
    }
}

inline float logarithm(float u) {
    uint32_t bits = bits_of(u);
    int32_t exponent = int32_t(bits - 0x3F3504F3u) >> 23;
    float f = from_bits(bits - (uint32_t(exponent) << 23)) - 1.0f, square = f * f;
    float p = -0.08228962868452072f;
    p = p * f + 0.13077987730503082f;
    p = p * f + -0.13034309446811676f;
    p = p * f + 0.14127133786678314f;
    p = p * f + -0.16632071137428284f;
    p = p * f + 0.20006965100765228f;
    p = p * f + -0.25000619888305664f;
    p = p * f + 0.3333319127559662f;
    float small = square * f * p - 0.5f * square;
    return (f + float(exponent) * 0.693147182464599609375f) + small;
}

inline float sine(float y, float square) {
    float p = -0.00019495567539706826f;
    p = p * square + 0.008331977762281895f;
    p = p * square + -0.16666650772094727f;
    return y + (y * square) * p;
}

inline float cosine(float square) {
    float p = 2.4438379114144482e-05f;
    p = p * square + -0.0013887366512790322f;
    p = p * square + 0.04166664555668831f;
    return (1.0f - 0.5f * square) + (square * square) * p;
}

// Two normals from two words. The quadrant wraps at 32 bits, which leaves its last two bits and the remainder alone.
inline void box_muller(uint32_t a, uint32_t b, float& first, float& second) {
    float u = float(int32_t(a >> 1)) * 0x1p-31f + 0x1p-32f;
    float radius = __builtin_sqrtf(-2.0f * logarithm(u));
    uint32_t quadrant = uint32_t(int32_t(b + 0x20000000u) >> 30);
    float y = float(int32_t(b - (quadrant << 30))) * float(1.5707963267948966 * 0x1p-30);
    float square = y * y, sin = sine(y, square), cos = cosine(square);
    bool odd = quadrant & 1u;
    float s = odd ? cos : sin, c = odd ? sin : cos;
    s = from_bits(bits_of(s) ^ ((quadrant & 2u) << 30));
    c = from_bits(bits_of(c) ^ (((quadrant + 1u) & 2u) << 30));
    first = radius * c;
    second = radius * s;
}

struct Normals {
    static inline void block(float* out, const uint32_t (*words)[BLOCK]) {
        float values[4][BLOCK];
        for (int64_t q = 0; q < BLOCK; ++q) box_muller(words[0][q], words[1][q], values[0][q], values[1][q]);
        for (int64_t q = 0; q < BLOCK; ++q) box_muller(words[2][q], words[3][q], values[2][q], values[3][q]);
        for (int64_t q = 0; q < BLOCK; ++q)
            for (int r = 0; r < 4; ++r) out[4 * q + r] = values[r][q];
    }
};

struct Signs {
    static inline void block(float* out, const uint32_t (*words)[BLOCK]) {
        for (int64_t q = 0; q < BLOCK; ++q)
            for (int r = 0; r < 4; ++r) out[4 * q + r] = words[r][q] >> 31 ? -1.0f : 1.0f;
    }
};

template <class Kind, class Source>
inline void draw(float* out, const Source& source, int64_t n) {
    alignas(64) uint32_t words[4][BLOCK];
    for (int64_t e = 0; e < n; e += 4 * BLOCK) {
        words_of(words, source, e / 4);
        if (n - e >= 4 * BLOCK) {
            Kind::block(out + e, words);
        } else {
            float last[4 * BLOCK];
            Kind::block(last, words);
            __builtin_memcpy(out + e, last, (n - e) * sizeof(float));
        }
    }
}

void normals(float* out, const Draw& row, uint32_t first, int64_t n) { draw<Normals>(out, Run{row, first}, n); }
void signs(float* out, const Draw& row, uint32_t first, int64_t n) { draw<Signs>(out, Run{row, first}, n); }
void normals_of(float* out, const Quads& quads, int64_t n) { draw<Normals>(out, Each{quads}, n); }
void signs_of(float* out, const Quads& quads, int64_t n) { draw<Signs>(out, Each{quads}, n); }

}  // namespace
}  // namespace odesolve
