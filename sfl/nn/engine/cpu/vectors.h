// Vectors of the widest kind that the processor has, and how many sums fit into its registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int BYTES = 64, VECTORS = 4, SUMS = 24;  // of 32 registers
#elif defined(__AVX__)
constexpr int BYTES = 32, VECTORS = 2, SUMS = 12;  // of 16
#elif defined(__aarch64__)
constexpr int BYTES = 16, VECTORS = 4, SUMS = 24;  // of 32
#else
constexpr int BYTES = 16, VECTORS = 2, SUMS = 12;  // of 16
#endif

using Int = std::int64_t;

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float Vector __attribute__((vector_size(BYTES)));
    typedef std::int32_t Places __attribute__((vector_size(BYTES)));
};
template <>
struct Lanes<double> {
    typedef double Vector __attribute__((vector_size(BYTES)));
    typedef std::int64_t Places __attribute__((vector_size(BYTES)));
};
template <class T>
using Vector = typename Lanes<T>::Vector;
template <class T>
constexpr int LANES = BYTES / sizeof(T);

template <class T>
inline Vector<T> load(const T* from, int count = LANES<T>) {
    Vector<T> v{};
    if (count == LANES<T>)
        std::memcpy(&v, from, BYTES);
    else
        std::memcpy(&v, from, count * sizeof(T));
    return v;
}

template <class T>
inline void store(T* to, Vector<T> v, int count = LANES<T>) {
    if (count == LANES<T>)
        std::memcpy(to, &v, BYTES);
    else
        std::memcpy(to, &v, count * sizeof(T));
}

// Two bfloat16 numbers side by side, the first in the lower half. Their products with two others
// are added to one float32 sum, by one instruction where the processor has it.
using BFloat16 = std::uint16_t;
struct Pair {
    std::uint32_t bits;
};
template <>
struct Lanes<Pair> {
    typedef std::uint32_t Vector __attribute__((vector_size(BYTES)));
};

template <class T>
struct SumOf {
    using Type = T;
};
template <>
struct SumOf<Pair> {
    using Type = float;
};
template <>
struct SumOf<BFloat16> {
    using Type = float;
};
template <class T>
using Sum = typename SumOf<T>::Type;  // what numbers of this type are computed in

#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

template <class T>
inline void multiply_add(Vector<T>& sum, T a, Vector<T> x) {
    sum += a * x;
}

inline void multiply_add(Vector<float>& sum, Pair a, Vector<Pair> x) {
    const Vector<Pair> both = Vector<Pair>{} + a.bits;
#if defined(__AVX512BF16__)
    sum = (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)x);
#else
    constexpr std::uint32_t second = 0xffff0000;
    sum += (Vector<float>)(both & second) * (Vector<float>)(x & second);
    sum += (Vector<float>)(both << 16) * (Vector<float>)(x << 16);
#endif
}

typedef BFloat16 Halves __attribute__((vector_size(BYTES / 2)));  // as many as floats in a vector

inline Vector<float> load(const BFloat16* from, int count = LANES<float>) {
    Halves halves{};
    if (count == LANES<float>)
        std::memcpy(&halves, from, sizeof halves);
    else
        std::memcpy(&halves, from, count * sizeof(BFloat16));
    return (Vector<float>)(__builtin_convertvector(halves, Vector<Pair>) << 16);
}

// To the nearest bfloat16, of two to the even one.
inline Halves rounded(Vector<float> v) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    const Vector<Pair> bits = (Vector<Pair>)v;
    const Vector<Pair> near = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(v == v ? near : Vector<Pair>{} + 0x7fc0, Halves);  // NaN
#endif
}

inline void store(BFloat16* to, Vector<float> v, int count = LANES<float>) {
    const Halves halves = rounded(v);
    if (count == LANES<float>)
        std::memcpy(to, &halves, sizeof halves);
    else
        std::memcpy(to, &halves, count * sizeof(BFloat16));
}

// The numbers of a vector, two by two; those of two vectors, lane by lane.
inline void store(Pair* to, Halves numbers) { std::memcpy(to, &numbers, sizeof numbers); }

inline void store(Pair* to, Halves first, Halves second) {
    const Vector<Pair> pairs = __builtin_convertvector(first, Vector<Pair>) |
                               __builtin_convertvector(second, Vector<Pair>) << 16;
    std::memcpy(to, &pairs, sizeof pairs);
}
