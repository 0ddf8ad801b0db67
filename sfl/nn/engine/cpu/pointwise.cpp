// Batch normalisation with ReLU, and ReLU with 2x2 max pooling, forward and backward.
//
// Activations lie in memory as (P, C, B), the batch innermost, P = H * W. What PyTorch does in one
// pass over the activations after the other is done here while they are in the cache. Results do not
// depend on the number of threads: the sums are taken in CHUNKS pieces.
//
// Compiled as kernel.cpp is; pointwise.py knows the argument order.

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
            for (Int i = 0; i < s.batch; i += LANES<T>)
                each(c, (p * s.channels + c) * s.batch + i,
                     int(std::min<Int>(LANES<T>, s.batch - i)));
}

// The same for all positions, by all threads.
template <class T, class Each>
void walk_all(const Sizes& s, Each each) {
    const Int pieces = 4 * s.threads;
#pragma omp parallel for num_threads(s.threads)
    for (Int i = 0; i < pieces; ++i)
        walk<T>(s, s.positions * i / pieces, s.positions * (i + 1) / pieces, each);
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
        for (Int c = 0; c < s.channels; ++c)
            for (Int i = 0; i < N; ++i)
                found[(chunk * s.channels + c) * N + i] = added<T>(sums[c * N + i]);
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
    walk_all<T>(s, [&](Int c, Int at, int lanes) {
        const Vector<T> apart = load(x + at, lanes) - mean[c];
        const Vector<T> v = apart * slope[c] + bias[c];
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
    walk_all<T>(s, [&](Int c, Int at, int lanes) {
        const Vector<T> apart = load(x + at, lanes) - mean[c];
        const Vector<T> d = passed(c, apart, at, lanes) - shift[c] - apart * lean[c];
        store(dx + at, d * slope[c], lanes);
    });
}

// Calls `each(offset, lanes)` for all vectors of a channel of one position.
template <class T, class Each>
inline void along(Int batch, Int channel, Each each) {
    for (Int i = 0; i < batch; i += LANES<T>)
        each(channel * batch + i, int(std::min<Int>(LANES<T>, batch - i)));
}

// As norm_forward where there is one position: all that is done for a channel, while it is in the cache.
template <class T>
void unit_forward(const Sizes& s, T eps, const T* x, const T* weight, const T* bias, T* mean,
                  T* variance, T* scale, T* y) {
#pragma omp parallel for num_threads(s.threads)
    for (Int c = 0; c < s.channels; ++c) {
        Vector<T> sum{}, squares{};
        along<T>(s.batch, c, [&](Int at, int lanes) { sum += load(x + at, lanes); });
        const T middle = mean[c] = added<T>(sum) / s.batch;
        along<T>(s.batch, c, [&](Int at, int lanes) {
            const Vector<T> apart = only<T>(load(x + at, lanes) - middle, lanes);
            squares += apart * apart;
        });
        variance[c] = added<T>(squares) / s.batch;
        scale[c] = 1 / std::sqrt(variance[c] + eps);
        const T slope = scale[c] * weight[c], shift = bias[c];
        along<T>(s.batch, c, [&](Int at, int lanes) {
            store(y + at, relu<T>((load(x + at, lanes) - middle) * slope + shift), lanes);
        });
    }
}

template <class T>
void unit_backward(const Sizes& s, const T* dy, const T* x, const T* weight, const T* bias,
                   const T* mean, const T* scale, T* dweight, T* dbias, T* dx) {
#pragma omp parallel for num_threads(s.threads)
    for (Int c = 0; c < s.channels; ++c) {
        const T slope = scale[c] * weight[c], shift = bias[c], middle = mean[c];
        const auto passed = [&](Vector<T> apart, Int at, int lanes) {
            return apart * slope + shift <= 0 ? Vector<T>{} : load(dy + at, lanes);
        };
        Vector<T> one{}, two{};
        along<T>(s.batch, c, [&](Int at, int lanes) {
            const Vector<T> apart = only<T>(load(x + at, lanes) - middle, lanes);
            const Vector<T> d = passed(apart, at, lanes);
            one += d;
            two += d * apart;
        });
        dbias[c] = added<T>(one);
        dweight[c] = added<T>(two) * scale[c];
        const T lower = dbias[c] / s.batch, lean = dweight[c] * scale[c] / s.batch;
        along<T>(s.batch, c, [&](Int at, int lanes) {
            const Vector<T> apart = load(x + at, lanes) - middle;
            store(dx + at, (passed(apart, at, lanes) - lower - apart * lean) * slope, lanes);
        });
    }
}

// In memory (H, W, inner), inner = C * B. Each axis is halved, rounded down.
struct Pool {
    Int inner, height, width, threads;
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
        (s->positions == 1 ? unit_forward<T> : norm_forward<T>)(*s, *eps, x, weight, bias, mean,   \
                                                                variance, scale, y);               \
    }                                                                                              \
    extern "C" void sfl_norm_backward_##name(const Sizes* s, const T* dy, const T* x,              \
                                             const T* weight, const T* bias, const T* mean,        \
                                             const T* scale, T* dweight, T* dbias, T* dx) {        \
        (s->positions == 1 ? unit_backward<T> : norm_backward<T>)(*s, dy, x, weight, bias, mean,   \
                                                                  scale, dweight, dbias, dx);      \
    }                                                                                              \
    extern "C" void sfl_pool_forward_##name(const Pool* s, const T* x, T* y) {                     \
        pool_forward<T>(*s, x, y);                                                                 \
    }                                                                                              \
    extern "C" void sfl_pool_backward_##name(const Pool* s, const T* dy, const T* x, T* dx) {      \
        pool_backward<T>(*s, dy, x, dx);                                                           \
    }
SFL_EXPORT(float, float32)
SFL_EXPORT(double, float64)
