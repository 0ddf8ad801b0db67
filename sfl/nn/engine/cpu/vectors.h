// Vectors of the widest kind that the processor has, and how many sums fit into its registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#if defined(__AVX__)
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

#if defined(__AVX__) && !defined(__AVX512F__)
// A mask of some lanes.
template <class T>
inline __m256i first_lanes(int count) {
    static constexpr std::int32_t masks[] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    const std::int32_t* mask = masks + 8 - count * int(sizeof(T) / 4);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
}
#endif

// Some lanes, the others zero. By way of memory it would take as long as ten whole ones.
template <class T>
inline Vector<T> load_some(const T* from, int count) {
    if (count == 1) {
        Vector<T> v{};
        v[0] = *from;
        return v;
    }
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return Vector<T>(_mm512_maskz_loadu_ps((1u << count) - 1, from));
    else
        return Vector<T>(_mm512_maskz_loadu_pd((1u << count) - 1, from));
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4)
        return Vector<T>(_mm256_maskload_ps(from, first_lanes<T>(count)));
    else
        return Vector<T>(_mm256_maskload_pd(from, first_lanes<T>(count)));
#else
    Vector<T> v{};
    std::memcpy(&v, from, count * sizeof(T));
    return v;
#endif
}

template <class T>
inline Vector<T> load(const T* from, int count = LANES<T>) {
    if (count != LANES<T>) return load_some(from, count);
    Vector<T> v;
    std::memcpy(&v, from, BYTES);
    return v;
}

template <class T>
inline void store(T* to, Vector<T> v, int count = LANES<T>) {
    if (count == LANES<T>) {
        std::memcpy(to, &v, BYTES);
        return;
    }
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        _mm512_mask_storeu_ps(to, (1u << count) - 1, __m512(v));
    else
        _mm512_mask_storeu_pd(to, (1u << count) - 1, __m512d(v));
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4)
        _mm256_maskstore_ps(to, first_lanes<T>(count), __m256(v));
    else
        _mm256_maskstore_pd(to, first_lanes<T>(count), __m256d(v));
#else
    std::memcpy(to, &v, count * sizeof(T));
#endif
}
