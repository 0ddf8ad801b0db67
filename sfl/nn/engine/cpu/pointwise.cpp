// Batch normalisation with ReLU, and ReLU with 2x2 max pooling, forward and backward.
//
// In memory: x (P, C, B), the batch innermost, P = H * W; parameters and statistics (C). PyTorch
// passes over the activations once for each operation; here they stay in the cache between them.
// Results do not depend on the number of threads: the sums are taken in CHUNKS pieces.
//
// Compiled and called as kernel.cpp is; sfl/nn/engine/fused.py knows the argument order.

#include <cmath>
#include <vector>

#include "vectors.h"

constexpr Int CHUNKS = 16;  // as many threads can share the sums

struct Sizes {
    Int batch, channels, positions, threads;
};

template <class T>
inline Vector<T> only(Vector<T> v, int count) {
    for (int i = count; i < LANES<T>; ++i) v[i] = 0;
    return v;
}

template <class T>
inline T added(Vector<T> v) {
    T sum = 0;
    for (int i = 0; i < LANES<T>; ++i) sum += v[i];
    return sum;
}

// NaN stays NaN.
template <class T>
inline Vector<T> relu(Vector<T> v) {
    return v < 0 ? Vector<T>{} : v;
}

// Calls `each(channel, offset, lanes)` for all vectors of some positions.
template <class T, class Each>
void walk(const Sizes& s, Int first, Int last, Each each) {
    for (Int p = first; p < last; ++p)
        for (Int c = 0; c < s.channels; ++c)
            for (Int b = 0; b < s.batch; b += LANES<T>)
                each(c, (p * s.channels + c) * s.batch + b,
                     int(std::min<Int>(LANES<T>, s.batch - b)));
}

// The sums over all positions and images of N terms, channel by channel: (C, N) doubles.
// `terms(channel, offset, lanes, sums)` adds a vector to each of its N sums.
template <class T, int N, class Terms>
std::vector<double> channel_sums(const Sizes& s, Terms terms) {
    std::vector<double> found(CHUNKS * s.channels * N), total(s.channels * N);
#pragma omp parallel for num_threads(s.threads)
    for (Int chunk = 0; chunk < CHUNKS; ++chunk) {
        std::vector<Vector<T>> sums(s.channels * N);
        walk<T>(s, s.positions * chunk / CHUNKS, s.positions * (chunk + 1) / CHUNKS,
                [&](Int c, Int at, int lanes) { terms(c, at, lanes, sums.data() + c * N); });
        for (Int i = 0; i < s.channels * N; ++i)
            found[chunk * s.channels * N + i] = added<T>(sums[i]);
    }
    for (Int chunk = 0; chunk < CHUNKS; ++chunk)
        for (Int i = 0; i < s.channels * N; ++i) total[i] += found[chunk * s.channels * N + i];
    return total;
}

// y = relu((x - mean) / sqrt(variance + eps) * weight + bias); mean, variance and scale,
// which is 1 / sqrt(variance + eps), go out.
template <class T>
void norm_forward(const Sizes& s, T eps, const T* x, const T* weight, const T* bias, T* mean,
                  T* variance, T* scale, T* y) {
    const double n = double(s.positions) * s.batch;
    const auto sums = channel_sums<T, 1>(s, [&](Int, Int at, int lanes, Vector<T>* sum) {
        *sum += load(x + at, lanes);
    });
    for (Int c = 0; c < s.channels; ++c) mean[c] = sums[c] / n;
    const auto squares = channel_sums<T, 1>(s, [&](Int c, Int at, int lanes, Vector<T>* sum) {
        const Vector<T> apart = only<T>(load(x + at, lanes) - mean[c], lanes);
        *sum += apart * apart;
    });
    std::vector<T> slope(s.channels);
    for (Int c = 0; c < s.channels; ++c) {
        variance[c] = squares[c] / n;
        scale[c] = 1 / std::sqrt(squares[c] / n + eps);
        slope[c] = scale[c] * weight[c];
    }
#pragma omp parallel for num_threads(s.threads)
    for (Int p = 0; p < s.positions; ++p)
        walk<T>(s, p, p + 1, [&](Int c, Int at, int lanes) {
            const Vector<T> v = (load(x + at, lanes) - mean[c]) * slope[c] + bias[c];
            store(y + at, relu<T>(v), lanes);
        });
}

template <class T>
void norm_backward(const Sizes& s, const T* dy, const T* x, const T* weight, const T* bias,
                   const T* mean, const T* scale, T* dweight, T* dbias, T* dx) {
    const T n = T(s.positions) * s.batch;
    std::vector<T> slope(s.channels), shift(s.channels), lean(s.channels);
    for (Int c = 0; c < s.channels; ++c) slope[c] = scale[c] * weight[c];
    // The gradient behind the ReLU, whose sign is found again rather than kept.
    const auto passed = [&](Int c, Vector<T> apart, Int at, int lanes) {
        const Vector<T> before = apart * slope[c] + bias[c];
        return before <= 0 ? Vector<T>{} : load(dy + at, lanes);  // a NaN lets it through
    };
    const auto sums = channel_sums<T, 2>(s, [&](Int c, Int at, int lanes, Vector<T>* sum) {
        const Vector<T> apart = only<T>(load(x + at, lanes) - mean[c], lanes);
        const Vector<T> d = passed(c, apart, at, lanes);
        sum[0] += d;
        sum[1] += d * apart;
    });
    for (Int c = 0; c < s.channels; ++c) {
        dbias[c] = sums[2 * c];
        dweight[c] = sums[2 * c + 1] * scale[c];
        shift[c] = dbias[c] / n;
        lean[c] = dweight[c] * scale[c] / n;
    }
#pragma omp parallel for num_threads(s.threads)
    for (Int p = 0; p < s.positions; ++p)
        walk<T>(s, p, p + 1, [&](Int c, Int at, int lanes) {
            const Vector<T> apart = load(x + at, lanes) - mean[c];
            const Vector<T> d = passed(c, apart, at, lanes) - shift[c] - apart * lean[c];
            store(dx + at, d * slope[c], lanes);
        });
}

struct Pool {
    Int inner, height, width, threads;  // inner = C * B; each axis is halved, rounded down
};

// Calls `each(from, to, lanes)` for all vectors of the output: where it and its first input lie.
template <class T, class Each>
void walk(const Pool& s, Each each) {
    const Int rows = s.height / 2, columns = s.width / 2;
#pragma omp parallel for num_threads(s.threads)
    for (Int p = 0; p < rows * columns; ++p) {
        const Int from = (p / columns * 2 * s.width + p % columns * 2) * s.inner;
        for (Int i = 0; i < s.inner; i += LANES<T>)
            each(from + i, p * s.inner + i, int(std::min<Int>(LANES<T>, s.inner - i)));
    }
}

// The largest of four; a NaN wins.
template <class T>
inline Vector<T> largest_of(const Pool& s, const T* x, int lanes) {
    const Int right = s.inner, below = s.width * s.inner;
    Vector<T> largest = load(x, lanes);
    for (const Int step : {right, below, below + right}) {
        const Vector<T> v = load(x + step, lanes);
        largest = v > largest ? v : largest;
        largest = v != v ? v : largest;
    }
    return largest;
}

// y = relu of the largest of four.
template <class T>
void pool_forward(const Pool& s, const T* x, T* y) {
    walk<T>(s, [&](Int from, Int to, int lanes) {
        store(y + to, relu<T>(largest_of(s, x + from, lanes)), lanes);
    });
}

// The gradient goes to the first of the largest, or of the NaNs, if the ReLU lets it. A row or
// column that no window reaches is left as it is.
template <class T>
void pool_backward(const Pool& s, const T* dy, const T* x, T* dx) {
    const Int right = s.inner, below = s.width * s.inner;
    walk<T>(s, [&](Int from, Int to, int lanes) {
        const Vector<T> largest = largest_of(s, x + from, lanes);
        Vector<T> left = largest <= 0 ? Vector<T>{} : load(dy + to, lanes);
        for (const Int step : {Int(0), right, below, below + right}) {
            const Vector<T> v = load(x + from + step, lanes);
            const auto here = (v == largest) | (v != v);
            store(dx + from + step, here ? left : Vector<T>{}, lanes);
            left = here ? Vector<T>{} : left;
        }
    });
}

#define SFL_EXPORT(T, name)                                                                        \
    extern "C" void sfl_norm_forward_##name(const Sizes* s, const T* eps, const T* x,              \
                                            const T* weight, const T* bias, T* mean, T* variance,  \
                                            T* scale, T* y) {                                      \
        norm_forward<T>(*s, *eps, x, weight, bias, mean, variance, scale, y);                      \
    }                                                                                              \
    extern "C" void sfl_norm_backward_##name(                                                      \
        const Sizes* s, const T* dy, const T* x, const T* weight, const T* bias, const T* mean,    \
        const T* scale, T* dweight, T* dbias, T* dx) {                                             \
        norm_backward<T>(*s, dy, x, weight, bias, mean, scale, dweight, dbias, dx);                \
    }                                                                                              \
    extern "C" void sfl_pool_forward_##name(const Pool* s, const T* x, T* y) {                     \
        pool_forward<T>(*s, x, y);                                                                 \
    }                                                                                              \
    extern "C" void sfl_pool_backward_##name(const Pool* s, const T* dy, const T* x, T* dx) {      \
        pool_backward<T>(*s, dy, x, dx);                                                           \
    }
SFL_EXPORT(float, float32)
SFL_EXPORT(double, float64)
