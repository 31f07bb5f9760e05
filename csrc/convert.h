// Conversions between the storage types, branch-free so that loops over them become vector code. Only isa.cpp includes it.
#pragma once

#include <cstdint>

namespace odesolve {
namespace {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float from_bits(uint32_t x) { return __builtin_bit_cast(float, x); }

template <class T>
inline T widen(float x) { return T(x); }
template <class T>
inline T widen(double x) { return T(x); }
template <class T>
inline T widen(bf16 x) { return T(from_bits(uint32_t(x.bits) << 16)); }

// Subnormal halves go through an integer: read as a subnormal float they would be lost where denormals are flushed.
template <class T>
inline T widen(f16 x) {
    uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, mantissa = x.bits & 0x3FFu, rest = x.bits & 0x7FFFu;
    uint32_t shift = rest >= 0x7C00u ? 0x70000000u : 0x38000000u;
    uint32_t normal = (rest << 13) + shift;
    uint32_t tiny = bits_of(float(int32_t(mantissa)) * 0x1p-24f);
    return T(from_bits((rest < 0x400u ? tiny : normal) | sign));
}

inline void narrow(float x, float& out) { out = x; }
inline void narrow(float x, double& out) { out = x; }
inline void narrow(double x, double& out) { out = x; }
inline void narrow(double x, float& out) { out = float(x); }

inline void narrow(float x, bf16& out) {
    uint32_t b = bits_of(x), rounded = (b + 0x7FFFu + ((b >> 16) & 1u)) >> 16;
    out.bits = uint16_t((b & 0x7FFFFFFFu) > 0x7F800000u ? (b >> 16) | 0x40u : rounded);
}

inline void narrow(float x, f16& out) {
    uint32_t b = bits_of(x), sign = (b >> 16) & 0x8000u, a = b & 0x7FFFFFFFu;
    uint32_t normal = (a + 0xC8000FFFu + ((a >> 13) & 1u)) >> 13;  // exponent less 112, ties to even
    uint32_t tiny = bits_of(from_bits(a) + 0.5f) - 0x3F000000u;    // 0.5 has the unit of subnormal halves
    uint32_t large = a > 0x7F800000u ? 0x7E00u : 0x7C00u;
    uint32_t finite = a < 0x38800000u ? tiny : normal;
    out.bits = uint16_t((a >= 0x47800000u ? large : finite) | sign);
}

// To odd: a second rounding, to a half type, then gives what one rounding would.
inline float to_odd(double x) {
    float near = float(x);
    uint32_t b = bits_of(near);
    bool away = __builtin_fabs(double(near)) > __builtin_fabs(x);
    uint32_t odd = (b & 1u) ? b : b + (away ? 0xFFFFFFFFu : 1u);
    return from_bits(double(near) == x || x != x ? b : odd);
}

inline void narrow(double x, bf16& out) { narrow(to_odd(x), out); }
inline void narrow(double x, f16& out) { narrow(to_odd(x), out); }

}  // namespace
}  // namespace odesolve
