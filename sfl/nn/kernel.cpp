// The locally connected product and its two gradients on a CPU, without laying out the fields.
//
// In memory: x (H, W, C, B), y (OH, OW, O, B), weight (OH, OW, O, C/G, kh, kw), bias (O, OH, OW).
// The batch is innermost, so a vector holds as many images, a weight is read once and broadcast,
// and a tile of sums (ROWS outputs x VECTORS vectors) stays in registers while one runs along the
// field. All three are that one product (see `tile`); they differ in what is a row and what is a
// vector. Results do not depend on the number of threads.
//
// Compiled on first use by sfl/nn/kernel.py, which knows the argument order.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int BYTES = 64, VECTORS = 4, ROWS = 6;  // 24 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int BYTES = 32, VECTORS = 2, ROWS = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int BYTES = 16, VECTORS = 4, ROWS = 6;  // 24 of 32
#else
constexpr int BYTES = 16, VECTORS = 2, ROWS = 6;  // 12 of 16
#endif

using Int = std::int64_t;

struct Shape {
    Int batch, channels, height, width, out_channels, positions_h, positions_w;
    Int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    Int groups, threads;

    Int positions() const { return positions_h * positions_w; }
    Int channels_in() const { return channels / groups; }       // of a group
    Int channels_out() const { return out_channels / groups; }  // of a group
    Int taps() const { return kernel_h * kernel_w; }
    Int field() const { return channels_in() * taps(); }
};

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

// One product of a strip: rows of sums along some columns (images, or places of the field).
//   out[r][column] = start[r * start_step] + sum over d of a[r * row_step + d * depth_step] * in[d][column]
// `add`: adds to what is there instead of `start`. `whole_reads`: in[d] may be read beyond its end.
template <class T>
struct Product {
    Int depth;
    const T* a;
    Int row_step, depth_step;
    const T* const* in;
    T* const* out;
    const T* start;
    Int start_step;
    bool add, whole_reads;
};

// R rows by N vectors from `column` on; of the last vector only `count` lanes.
template <class T, int R, int N, bool WHOLE>
void tile(const Product<T>& p, Int column, int count) {
    Vector<T> sums[R][N];
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n)
            sums[r][n] = Vector<T>{} + (p.start ? p.start[r * p.start_step] : T(0));
    const T* a = p.a;
    for (Int d = 0; d < p.depth; ++d, a += p.depth_step) {
        const T* in = p.in[d] + column;
        Vector<T> x[N];
        for (int n = 0; n < N; ++n)
            x[n] = load(in + n * LANES<T>, WHOLE || n < N - 1 ? LANES<T> : count);
        for (int r = 0; r < R; ++r) {
            const T weight = a[r * p.row_step];
            for (int n = 0; n < N; ++n) sums[r][n] += weight * x[n];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; ++n) {
            const int lanes = n < N - 1 ? LANES<T> : count;
            T* out = p.out[r] + column + n * LANES<T>;
            store(out, p.add ? sums[r][n] + load<T>(out, lanes) : sums[r][n], lanes);
        }
}

template <class T, int R, int N>
void tile_or_part(const Product<T>& p, Int column, int count) {
    if (count == LANES<T> || p.whole_reads)
        tile<T, R, N, true>(p, column, count);
    else
        tile<T, R, N, false>(p, column, count);
}

// R rows along `columns` columns from `first` on.
template <class T, int R>
void strip(const Product<T>& p, Int first, Int columns) {
    constexpr Int lanes = LANES<T>;
    const Int end = first + columns;
    Int column = first;
    for (; column + VECTORS * lanes <= end; column += VECTORS * lanes)
        tile<T, R, VECTORS, true>(p, column, lanes);
    const Int vectors = (end - column + lanes - 1) / lanes;
    const int count = end - column - (vectors - 1) * lanes;
    if (vectors == 1) tile_or_part<T, R, 1>(p, column, count);
    if (vectors == 2) tile_or_part<T, R, 2>(p, column, count);
    if constexpr (VECTORS > 2) {
        if (vectors == 3) tile_or_part<T, R, 3>(p, column, count);
        if (vectors == 4) tile_or_part<T, R, 4>(p, column, count);
    }
}

// Any number of rows, ROWS at a time; `out` has a pointer for each.
template <class T>
void product(Product<T> p, Int rows, Int first, Int columns) {
    for (Int r = 0; r < rows; r += ROWS) {
        switch (std::min<Int>(ROWS, rows - r)) {
            case 6: strip<T, 6>(p, first, columns); break;
            case 5: strip<T, 5>(p, first, columns); break;
            case 4: strip<T, 4>(p, first, columns); break;
            case 3: strip<T, 3>(p, first, columns); break;
            case 2: strip<T, 2>(p, first, columns); break;
            default: strip<T, 1>(p, first, columns);
        }
        p.a += ROWS * p.row_step;
        p.out += ROWS;
        if (p.start) p.start += ROWS * p.start_step;
    }
}

// Where the inputs of a unit's field lie, channel by channel; `missing` stands for padding.
template <class T>
void field_rows(const Shape& s, T* x, T* missing, Int position, Int channel, Int channels, T** rows) {
    const Int top = position / s.positions_w * s.stride_h - s.padding_h;
    const Int left = position % s.positions_w * s.stride_w - s.padding_w;
    for (Int i = 0; i < s.kernel_h; ++i)
        for (Int j = 0; j < s.kernel_w; ++j) {
            const Int row = top + i * s.dilation_h, column = left + j * s.dilation_w;
            const bool there = row >= 0 && row < s.height && column >= 0 && column < s.width;
            T* from = x + ((row * s.width + column) * s.channels + channel) * s.batch;
            for (Int c = 0; c < channels; ++c)
                rows[c * s.taps() + i * s.kernel_w + j] = there ? from + c * s.batch : missing;
        }
}

// y[unit] = bias + sum over its field of weight * x. Tasks: positions, groups, parts of the units.
template <class T>
void forward(const Shape& s, const T* x, const T* weight, const T* bias, T* y) {
    const Int wanted = 4 * s.threads, pairs = s.positions() * s.groups;
    const Int parts = std::max<Int>(1, std::min(wanted / pairs, s.channels_out() / ROWS));
    const Int part = (s.channels_out() + parts - 1) / parts;
    std::vector<T> zeros(s.batch);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T*> rows(s.field()), out(part);
#pragma omp for
        for (Int task = 0; task < pairs * parts; ++task) {
            const Int position = task / parts / s.groups, group = task / parts % s.groups;
            const Int first = task % parts * part;
            const Int count = std::min(part, s.channels_out() - first);
            if (count <= 0) continue;
            const Int unit = group * s.channels_out() + first;
            field_rows(s, const_cast<T*>(x), zeros.data(), position, group * s.channels_in(),
                       s.channels_in(), rows.data());
            for (Int o = 0; o < count; ++o)
                out[o] = y + (position * s.out_channels + unit + o) * s.batch;
            const T* w = weight + (position * s.out_channels + unit) * s.field();
            const T* start = bias ? bias + unit * s.positions() + position : nullptr;
            product<T>({s.field(), w, s.field(), 1, rows.data(), out.data(), start, s.positions(),
                        false, false},
                       count, 0, s.batch);
        }
    }
}

// dx[input] = sum over the units that see it. Tasks own channels and images, so none meet.
template <class T>
void input_gradient(const Shape& s, const T* dy, const T* weight, T* dx) {
    constexpr Int images = VECTORS * LANES<T>;
    const Int blocks = std::max<Int>(1, std::min(4 * s.threads / s.channels, s.batch / images));
    const Int block = (s.batch / blocks + images - 1) / images * images;
    const Int parts = std::min(s.channels, s.threads);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T*> rows(s.field());
        std::vector<const T*> in(s.channels_out());
        std::vector<T> nowhere(s.batch);
#pragma omp for collapse(2)
        for (Int part = 0; part < parts; ++part)
            for (Int b = 0; b < blocks; ++b) {
                const Int first = b * block;
                const Int count = b == blocks - 1 ? s.batch - first : block;
                const Int end = s.channels * (part + 1) / parts;
                for (Int position = 0; position < s.positions(); ++position)
                    for (Int c = s.channels * part / parts; c < end;) {
                        const Int group = c / s.channels_in();
                        const Int many = std::min(end, (group + 1) * s.channels_in()) - c;
                        field_rows(s, dx, nowhere.data(), position, c, many, rows.data());
                        const Int unit = position * s.out_channels + group * s.channels_out();
                        for (Int o = 0; o < s.channels_out(); ++o)
                            in[o] = dy + (unit + o) * s.batch;
                        const T* w = weight + unit * s.field() +
                                     (c - group * s.channels_in()) * s.taps();
                        product<T>({s.channels_out(), w, 1, s.field(), in.data(), rows.data(),
                                    nullptr, 0, true, false},
                                   many * s.taps(), first, count);
                        c += many;
                    }
            }
    }
}

template <class T, int... I>
inline Vector<T> interleaved(Vector<T> a, Vector<T> b, int half, std::integer_sequence<int, I...>) {
    constexpr int n = LANES<T>;
#if defined(__clang__)
    return half ? __builtin_shufflevector(a, b, ((I & 1) ? n + n / 2 + I / 2 : n / 2 + I / 2)...)
                : __builtin_shufflevector(a, b, ((I & 1) ? n + I / 2 : I / 2)...);
#else
    typedef typename Lanes<T>::Places Places;
    return half ? __builtin_shuffle(a, b, Places{((I & 1) ? n + n / 2 + I / 2 : n / 2 + I / 2)...})
                : __builtin_shuffle(a, b, Places{((I & 1) ? n + I / 2 : I / 2)...});
#endif
}

// Turns a square of vectors round: interleaving its halves log2(n) times transposes it.
template <class T>
inline void transpose(Vector<T> (&square)[LANES<T>]) {
    constexpr int n = LANES<T>;
    using Lane = std::make_integer_sequence<int, n>;
    for (int step = 1; step < n; step *= 2) {
        Vector<T> next[n];
        for (int i = 0; i < n / 2; ++i) {
            next[2 * i] = interleaved<T>(square[i], square[i + n / 2], 0, Lane{});
            next[2 * i + 1] = interleaved<T>(square[i], square[i + n / 2], 1, Lane{});
        }
        std::memcpy(square, next, sizeof next);
    }
}

// dw[unit][place] = sum over the images of dy * x. The field's places become the vectors: some of
// them are turned round (images x places) first. Tasks: positions, groups, panels of places.
template <class T>
void weight_gradient(const Shape& s, const T* x, const T* dy, T* dw) {
    constexpr Int lanes = LANES<T>, width = VECTORS * lanes;
    const Int panels = (s.field() + width - 1) / width, pairs = s.positions() * s.groups;
    const Int batch = (s.batch + lanes - 1) / lanes * lanes;
    std::vector<T> zeros(s.batch);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T*> rows(s.field()), out(s.channels_out());
        std::vector<T> panel((batch + 1) * width);
        const auto address = reinterpret_cast<std::uintptr_t>(panel.data());
        T* turned = panel.data() + (BYTES - address % BYTES) % BYTES / sizeof(T);
        std::vector<const T*> in(s.batch);
        for (Int b = 0; b < s.batch; ++b) in[b] = turned + b * width;
#pragma omp for
        for (Int task = 0; task < pairs * panels; ++task) {
            const Int position = task / panels / s.groups, group = task / panels % s.groups;
            const Int first = task % panels * width, places = std::min(width, s.field() - first);
            field_rows(s, const_cast<T*>(x), zeros.data(), position, group * s.channels_in(),
                       s.channels_in(), rows.data());
            for (Int place = 0; place < places; place += lanes)
                for (Int b = 0; b < s.batch; b += lanes) {
                    const int images = std::min(lanes, s.batch - b);
                    Vector<T> square[lanes] = {};
                    for (Int i = 0; i < std::min(lanes, places - place); ++i)
                        square[i] = load<T>(rows[first + place + i] + b, images);
                    transpose<T>(square);
                    for (Int i = 0; i < lanes; ++i)
                        store(turned + (b + i) * width + place, square[i]);
                }
            const Int unit = position * s.out_channels + group * s.channels_out();
            for (Int o = 0; o < s.channels_out(); ++o)
                out[o] = dw + (unit + o) * s.field() + first;
            product<T>({s.batch, dy + unit * s.batch, s.batch, 1, in.data(), out.data(), nullptr,
                        0, false, true},
                       s.channels_out(), 0, places);
        }
    }
}

#define SFL_EXPORT(T, name)                                                                        \
    extern "C" void sfl_forward_##name(const Shape* s, const T* x, const T* weight, const T* bias, \
                                       T* y) {                                                     \
        forward<T>(*s, x, weight, bias, y);                                                        \
    }                                                                                              \
    extern "C" void sfl_input_gradient_##name(const Shape* s, const T* dy, const T* weight,        \
                                              T* dx) {                                             \
        input_gradient<T>(*s, dy, weight, dx);                                                     \
    }                                                                                              \
    extern "C" void sfl_weight_gradient_##name(const Shape* s, const T* x, const T* dy, T* dw) {   \
        weight_gradient<T>(*s, x, dy, dw);                                                         \
    }
SFL_EXPORT(float, float32)
SFL_EXPORT(double, float64)
