// Batch normalisation with ReLU, and ReLU with 2x2 max pooling, forward and backward.
//
// Activations lie in memory as (P, C, B), the batch innermost, P = H * W; or (LAST) as (P, C), the
// channels innermost, P = B * H * W, which is torch.channels_last. Parameters and statistics (C) are
// float32 for bfloat16 activations. What PyTorch does in one pass over the activations after the
// other is done here while they are in the cache. Results do not depend on the number of threads:
// the sums are taken in CHUNKS pieces.
//
// Compiled and called as kernel.cpp is; sfl/nn/engine/fused.py knows the argument order.

#include <cmath>
#include <vector>

#include "vectors.h"

constexpr Int CHUNKS = 16;  // as many threads can share the sums

struct Sizes {
    Int batch, channels, positions, threads;  // batch: 1 if LAST
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

// Calls `each(channel, offset, lanes)` for all vectors of some positions. A vector holds images of one
// channel or, if LAST, channels from this one on.
template <class V, bool LAST, class Each>
void walk(const Sizes& s, Int first, Int last, Each each) {
    const Int step = LAST ? LANES<V> : 1, length = LAST ? s.channels : s.batch;
    for (Int p = first; p < last; ++p)
        for (Int c = 0; c < s.channels; c += step)
            for (Int i = LAST ? c : 0; i < (LAST ? c + 1 : length); i += LANES<V>)
                each(c, LAST ? p * s.channels + i : (p * s.channels + c) * s.batch + i,
                     int(std::min<Int>(LANES<V>, length - i)));
}

// The same for all positions, by all threads.
template <class V, bool LAST, class Each>
void walk_all(const Sizes& s, Each each) {
    const Int pieces = 4 * s.threads;
#pragma omp parallel for num_threads(s.threads)
    for (Int i = 0; i < pieces; ++i)
        walk<V, LAST>(s, s.positions * i / pieces, s.positions * (i + 1) / pieces, each);
}

// A parameter or statistic for the lanes of such a vector.
template <bool LAST, class V>
inline Vector<V> of(const V* channels, Int c, int lanes) {
    return LAST ? load(channels + c, lanes) : Vector<V>{} + channels[c];
}

// The sums over all positions and images of N terms, channel by channel: (C, N) doubles.
// `terms(channel, offset, lanes, sums)` adds a vector to each of its N sums.
template <class V, bool LAST, int N, class Terms>
std::vector<double> channel_sums(const Sizes& s, Terms terms) {
    constexpr int lanes = LAST ? LANES<V> : 1;  // channels of a vector
    std::vector<double> found(CHUNKS * s.channels * N), total(s.channels * N);
#pragma omp parallel for num_threads(s.threads)
    for (Int chunk = 0; chunk < CHUNKS; ++chunk) {
        std::vector<Vector<V>> sums((s.channels + lanes - 1) / lanes * N);
        walk<V, LAST>(s, s.positions * chunk / CHUNKS, s.positions * (chunk + 1) / CHUNKS,
                      [&](Int c, Int at, int count) {
                          terms(c, at, count, sums.data() + c / lanes * N);
                      });
        for (Int c = 0; c < s.channels; ++c)
            for (Int i = 0; i < N; ++i) {
                const Vector<V> sum = sums[c / lanes * N + i];
                found[(chunk * s.channels + c) * N + i] = LAST ? sum[c % lanes] : added<V>(sum);
            }
    }
    for (Int chunk = 0; chunk < CHUNKS; ++chunk)
        for (Int i = 0; i < s.channels * N; ++i) total[i] += found[chunk * s.channels * N + i];
    return total;
}

// y = relu((x - mean) / sqrt(variance + eps) * weight + bias); mean, variance and scale,
// which is 1 / sqrt(variance + eps), go out.
template <class T, bool LAST, class V = Sum<T>>
void norm_forward(const Sizes& s, V eps, const T* x, const V* weight, const V* bias, V* mean,
                  V* variance, V* scale, T* y) {
    const double n = double(s.positions) * s.batch;
    const auto sums = channel_sums<V, LAST, 1>(s, [&](Int, Int at, int lanes, Vector<V>* sum) {
        *sum += load(x + at, lanes);
    });
    for (Int c = 0; c < s.channels; ++c) mean[c] = sums[c] / n;
    const auto squares = channel_sums<V, LAST, 1>(s, [&](Int c, Int at, int lanes, Vector<V>* sum) {
        const Vector<V> apart = only<V>(load(x + at, lanes) - of<LAST>(mean, c, lanes), lanes);
        *sum += apart * apart;
    });
    std::vector<V> slope(s.channels);
    for (Int c = 0; c < s.channels; ++c) {
        variance[c] = squares[c] / n;
        scale[c] = 1 / std::sqrt(squares[c] / n + eps);
        slope[c] = scale[c] * weight[c];
    }
    walk_all<V, LAST>(s, [&](Int c, Int at, int lanes) {
        const Vector<V> apart = load(x + at, lanes) - of<LAST>(mean, c, lanes);
        const Vector<V> v = apart * of<LAST>(slope.data(), c, lanes) + of<LAST>(bias, c, lanes);
        store(y + at, relu<V>(v), lanes);
    });
}

template <class T, bool LAST, class V = Sum<T>>
void norm_backward(const Sizes& s, const T* dy, const T* x, const V* weight, const V* bias,
                   const V* mean, const V* scale, V* dweight, V* dbias, T* dx) {
    const V n = V(s.positions) * s.batch;
    std::vector<V> slope(s.channels), shift(s.channels), lean(s.channels);
    for (Int c = 0; c < s.channels; ++c) slope[c] = scale[c] * weight[c];
    // The gradient behind the ReLU, whose sign is found again rather than kept.
    const auto passed = [&](Int c, Vector<V> apart, Int at, int lanes) {
        const Vector<V> before =
            apart * of<LAST>(slope.data(), c, lanes) + of<LAST>(bias, c, lanes);
        return before <= 0 ? Vector<V>{} : load(dy + at, lanes);  // a NaN lets it through
    };
    const auto sums = channel_sums<V, LAST, 2>(s, [&](Int c, Int at, int lanes, Vector<V>* sum) {
        const Vector<V> apart = only<V>(load(x + at, lanes) - of<LAST>(mean, c, lanes), lanes);
        const Vector<V> d = passed(c, apart, at, lanes);
        sum[0] += d;
        sum[1] += d * apart;
    });
    for (Int c = 0; c < s.channels; ++c) {
        dbias[c] = sums[2 * c];
        dweight[c] = sums[2 * c + 1] * scale[c];
        shift[c] = dbias[c] / n;
        lean[c] = dweight[c] * scale[c] / n;
    }
    walk_all<V, LAST>(s, [&](Int c, Int at, int lanes) {
        const Vector<V> apart = load(x + at, lanes) - of<LAST>(mean, c, lanes);
        const Vector<V> d = passed(c, apart, at, lanes) - of<LAST>(shift.data(), c, lanes) -
                            apart * of<LAST>(lean.data(), c, lanes);
        store(dx + at, d * of<LAST>(slope.data(), c, lanes), lanes);
    });
}

// In memory (images, H, W, inner): one image of inner = C * B or, if LAST, B of inner = C. Each axis
// is halved, rounded down.
struct Pool {
    Int images, inner, height, width, threads;
};

// Calls `each(from, to, lanes)` for all vectors of the output: where it and its first input lie.
template <class V, class Each>
void walk(const Pool& s, Each each) {
    const Int rows = s.height / 2, columns = s.width / 2;
#pragma omp parallel for num_threads(s.threads)
    for (Int p = 0; p < s.images * rows * columns; ++p) {
        const Int row = p / columns, top = row / rows * s.height + row % rows * 2;
        const Int from = (top * s.width + p % columns * 2) * s.inner;
        for (Int i = 0; i < s.inner; i += LANES<V>)
            each(from + i, p * s.inner + i, int(std::min<Int>(LANES<V>, s.inner - i)));
    }
}

// The largest of four; a NaN wins.
template <class T, class V = Sum<T>>
inline Vector<V> largest_of(const Pool& s, const T* x, int lanes) {
    const Int right = s.inner, below = s.width * s.inner;
    Vector<V> largest = load(x, lanes);
    for (const Int step : {right, below, below + right}) {
        const Vector<V> v = load(x + step, lanes);
        largest = v > largest ? v : largest;
        largest = v != v ? v : largest;
    }
    return largest;
}

// y = relu of the largest of four.
template <class T, class V = Sum<T>>
void pool_forward(const Pool& s, const T* x, T* y) {
    walk<V>(s, [&](Int from, Int to, int lanes) {
        store(y + to, relu<V>(largest_of(s, x + from, lanes)), lanes);
    });
}

// The gradient goes to the first of the largest, or of the NaNs, if the ReLU lets it. A row or
// column that no window reaches is left as it is.
template <class T, class V = Sum<T>>
void pool_backward(const Pool& s, const T* dy, const T* x, T* dx) {
    const Int right = s.inner, below = s.width * s.inner;
    walk<V>(s, [&](Int from, Int to, int lanes) {
        const Vector<V> largest = largest_of(s, x + from, lanes);
        Vector<V> left = largest <= 0 ? Vector<V>{} : load(dy + to, lanes);
        for (const Int step : {Int(0), right, below, below + right}) {
            const Vector<V> v = load(x + from + step, lanes);
            const auto here = (v == largest) | (v != v);
            store(dx + from + step, here ? left : Vector<V>{}, lanes);
            left = here ? Vector<V>{} : left;
        }
    });
}

#define SFL_EXPORT_NORM(T, LAST, name)                                                             \
    extern "C" void sfl_norm_forward_##name(                                                       \
        const Sizes* s, const Sum<T>* eps, const T* x, const Sum<T>* weight, const Sum<T>* bias,   \
        Sum<T>* mean, Sum<T>* variance, Sum<T>* scale, T* y) {                                     \
        norm_forward<T, LAST>(*s, *eps, x, weight, bias, mean, variance, scale, y);                \
    }                                                                                              \
    extern "C" void sfl_norm_backward_##name(                                                      \
        const Sizes* s, const T* dy, const T* x, const Sum<T>* weight, const Sum<T>* bias,         \
        const Sum<T>* mean, const Sum<T>* scale, Sum<T>* dweight, Sum<T>* dbias, T* dx) {          \
        norm_backward<T, LAST>(*s, dy, x, weight, bias, mean, scale, dweight, dbias, dx);          \
    }
SFL_EXPORT_NORM(float, false, float32)
SFL_EXPORT_NORM(double, false, float64)
SFL_EXPORT_NORM(float, true, last_float32)
SFL_EXPORT_NORM(double, true, last_float64)
SFL_EXPORT_NORM(BFloat16, true, last_bfloat16)

#define SFL_EXPORT_POOL(T, name)                                                                   \
    extern "C" void sfl_pool_forward_##name(const Pool* s, const T* x, T* y) {                     \
        pool_forward<T>(*s, x, y);                                                                 \
    }                                                                                              \
    extern "C" void sfl_pool_backward_##name(const Pool* s, const T* dy, const T* x, T* dx) {      \
        pool_backward<T>(*s, dy, x, dx);                                                           \
    }
SFL_EXPORT_POOL(float, float32)
SFL_EXPORT_POOL(double, float64)
SFL_EXPORT_POOL(BFloat16, bfloat16)
