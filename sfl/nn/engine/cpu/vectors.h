// Vectors of the widest kind that the processor has, and how many sums fit into its registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

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
