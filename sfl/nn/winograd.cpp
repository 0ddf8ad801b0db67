// Convolutions of 3x3 kernels in bfloat16 by Winograd's F(2x2, 3x3): a tile of 2x2 outputs takes 16
// products instead of 36 (A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks,
// 2016; their names: d a tile of the input, g a kernel, Y = A'[(G g G') * (B' d B)]A).
//
// Transformed, a convolution is a locally connected layer: each of the 16 places of a tile has
// weights of its own, and the tiles are its batch. Products are of bfloat16, sums and transforms
// float32. The gradient of the input is a convolution with the kernel turned round; that of the
// kernel is G'[sum over all tiles of (A dY A') * (B' d B)]G.
//
// In memory: x (B, H, W, C) and y (B, H', W', O), bfloat16 (torch.channels_last); weight
// (O, 3, 3, C) and bias (O), float32; C and O multiples of 16. Pieces of PANEL channels lie one
// after the other in what is summed over, so that `tile` reads memory in its order. Results do not
// depend on the number of threads.
//
// Compiled and called as kernel.cpp is; sfl/nn/winograd.py knows the argument order.

#include <memory>
#include <new>

#include "product.h"

using Floats = Vector<float>;
constexpr int LANE = LANES<float>, PANEL = VECTORS * LANE;
// How many tiles a thread transforms, multiplies and transforms back; and how many lie between two
// visits of the sums for the weights (even). The more, the less often weights and sums are fetched;
// the fewer, the nearer is the cache that they stay in. Of 48 to 288 and 128 to 512 these were the
// fastest, by a tenth.
constexpr Int BLOCK = 192, CHUNK = 512;

struct Convolution {
    Int batch, channels, height, width, out_channels, padding_h, padding_w, threads;

    Int out_height() const { return height + 2 * padding_h - 2; }
    Int out_width() const { return width + 2 * padding_w - 2; }
};

// --- one axis of the transforms, of vectors of channels

struct InputLine {  // B'
    void operator()(const Floats (&d)[4], Floats (&v)[4]) const {
        v[0] = d[0] - d[2];
        v[1] = d[1] + d[2];
        v[2] = d[2] - d[1];
        v[3] = d[1] - d[3];
    }
};
struct KernelLine {  // G
    void operator()(const Floats (&g)[3], Floats (&u)[4]) const {
        const Floats outer = (g[0] + g[2]) * 0.5f, middle = g[1] * 0.5f;
        u[0] = g[0];
        u[1] = outer + middle;
        u[2] = outer - middle;
        u[3] = g[2];
    }
};
struct KernelBackLine {  // G'
    void operator()(const Floats (&u)[4], Floats (&g)[3]) const {
        const Floats sum = (u[1] + u[2]) * 0.5f;
        g[0] = u[0] + sum;
        g[1] = (u[1] - u[2]) * 0.5f;
        g[2] = sum + u[3];
    }
};
struct OutputLine {  // A'
    void operator()(const Floats (&m)[4], Floats (&y)[2]) const {
        y[0] = m[0] + m[1] + m[2];
        y[1] = m[1] - m[2] - m[3];
    }
};
struct OutputBackLine {  // A
    void operator()(const Floats (&y)[2], Floats (&m)[4]) const {
        m[0] = y[0];
        m[1] = y[0] + y[1];
        m[2] = y[0] - y[1];
        m[3] = -y[1];
    }
};

template <class Line, int I, int O>
inline void transform(const Floats (&in)[I][I], Floats (&out)[O][O]) {
    Floats half[O][I];
    for (int j = 0; j < I; ++j) {
        Floats column[I], found[O];
        for (int i = 0; i < I; ++i) column[i] = in[i][j];
        Line()(column, found);
        for (int i = 0; i < O; ++i) half[i][j] = found[i];
    }
    for (int i = 0; i < O; ++i) Line()(half[i], out[i]);
}

// --- tiles

template <class T>
struct Buffer {
    std::unique_ptr<T[]> memory;
    T* data;  // at the beginning of a line of the cache

    explicit Buffer(Int count) : memory(new T[count + 64 / sizeof(T)]) {
        data = memory.get() + (64 - std::uintptr_t(memory.get()) % 64) % 64 / sizeof(T);
    }
};

// Images and how tiles are cut of them: rows x columns of an image, 2 pixels apart, the first of
// them `before` pixels before the image.
struct Tiling {
    Int images, height, width, channels, before_h, before_w, rows, columns;

    Int tiles() const { return images * rows * columns; }

    // Where the N x N pixels of a tile lie; `outside` for those that there are not.
    template <int N, class T>
    void pixels(T* data, T* outside, Int tile, T* (&at)[N][N]) const {
        using Number = std::uint32_t;  // divides twice as fast
        const Number number = tile, a_row = columns, an_image = rows * columns;
        const Number image = number / an_image, place = number % an_image;
        const Int top = Int(place / a_row) * 2 - before_h, left = Int(place % a_row) * 2 - before_w;
        const Int first = (image * height + top) * width + left;
        for (int i = 0; i < N; ++i) {
            const bool has_row = image < images && top + i >= 0 && top + i < height;
            for (int j = 0; j < N; ++j) {
                const bool inside = has_row && left + j >= 0 && left + j < width;
                at[i][j] = inside ? data + (first + i * width + j) * channels : outside;
            }
        }
    }
};

// The panel that a channel is in: where it begins and how many channels it has.
struct Panel {
    Int first, width;

    Panel(Int channel, Int channels)
        : first(channel / PANEL * PANEL), width(std::min<Int>(PANEL, channels - first)) {}
    std::vector<Column> columns() const {
        std::vector<Column> found;
        for (Int c = 0; c < width; c += LANE) found.push_back({c, c, LANE});
        return found;
    }
};

template <int N>
inline void load_tile(const BFloat16* const (&at)[N][N], Int channel, Floats (&tile)[N][N]) {
    for (int i = 0; i < N; ++i)
        for (int j = 0; j < N; ++j) tile[i][j] = load(at[i][j] + channel);
}

// --- the convolution and the gradient of its input

// The kernels of a convolution from `in` to `out` channels: (16, panel of out, in / 2, its width).
struct Kernels {
    Int in, out;
    Buffer<Pair> pairs;

    Kernels(Int in, Int out) : in(in), out(out), pairs(16 * in / 2 * out) {}
    Pair* at(int place, const Panel& panel) const {
        return pairs.data + (place * out + panel.first) * (in / 2);
    }
};

inline void load_kernel(const Convolution& s, const float* weight, Int o, Int c,
                        Floats (&kernel)[3][3]) {
    for (int k = 0; k < 9; ++k)
        kernel[k / 3][k % 3] = load(weight + (o * 9 + k) * s.channels + c);
}

Kernels forward_kernels(const Convolution& s, const float* weight) {
    Kernels kernels(s.channels, s.out_channels);
#pragma omp parallel for num_threads(s.threads)
    for (Int o = 0; o < s.out_channels; ++o)
        for (Int c = 0; c < s.channels; c += LANE) {
            Floats kernel[3][3], u[4][4];
            load_kernel(s, weight, o, c, kernel);
            transform<KernelLine>(kernel, u);
            const Panel panel(o, s.out_channels);
            for (int f = 0; f < 16; ++f) {
                Pair pairs[LANE / 2];
                store(pairs, rounded(u[f / 4][f % 4]));
                Pair* to = kernels.at(f, panel) + c / 2 * panel.width + o - panel.first;
                for (int i = 0; i < LANE / 2; ++i) to[i * panel.width] = pairs[i];
            }
        }
    return kernels;
}

Kernels backward_kernels(const Convolution& s, const float* weight) {
    Kernels kernels(s.out_channels, s.channels);
#pragma omp parallel for num_threads(s.threads)
    for (Int o = 0; o < s.out_channels; o += 2)
        for (Int c = 0; c < s.channels; c += LANE) {
            Floats u[2][4][4];
            for (int one = 0; one < 2; ++one) {
                Floats kernel[3][3], turned[3][3];
                load_kernel(s, weight, o + one, c, kernel);
                for (int k = 0; k < 9; ++k) turned[k / 3][k % 3] = kernel[2 - k / 3][2 - k % 3];
                transform<KernelLine>(turned, u[one]);
            }
            const Panel panel(c, s.channels);
            for (int f = 0; f < 16; ++f)
                store(kernels.at(f, panel) + o / 2 * panel.width + c - panel.first,
                      rounded(u[0][f / 4][f % 4]), rounded(u[1][f / 4][f % 4]));
        }
    return kernels;
}

void convolve(const Tiling& in, const Tiling& out, Int threads, const BFloat16* x,
              const Kernels& kernels, const float* bias, BFloat16* y) {
    // Of the 16 planes of a block. A line of the cache more than a power of two: else all 16 stores
    // of a tile would go to the same few lines.
    const Int depth = in.channels / 2, plane = BLOCK * depth + 16, result = BLOCK * PANEL + 16;
    const std::vector<BFloat16> zeros(in.channels);
    const Int tiles = in.tiles(), tasks = (tiles + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(threads)
    {
        Buffer<Pair> transformed(16 * plane);  // (16, tile, C / 2)
        Buffer<float> products(16 * result);   // (16, tile, panel)
#pragma omp for schedule(dynamic)
        for (Int task = 0; task < tasks; ++task) {
            const Int first = tiles * task / tasks, count = tiles * (task + 1) / tasks - first;
            for (Int t = 0; t < count; ++t) {
                const BFloat16* at[4][4];
                in.pixels(x, zeros.data(), first + t, at);
                for (Int c = 0; c < in.channels; c += LANE) {
                    Floats d[4][4], v[4][4];
                    load_tile(at, c, d);
                    transform<InputLine>(d, v);
                    Pair* to = transformed.data + t * depth + c / 2;
                    for (int f = 0; f < 16; ++f) store(to + f * plane, rounded(v[f / 4][f % 4]));
                }
            }
            for (Int o = 0; o < out.channels; o += PANEL) {
                const Panel panel(o, out.channels);
                const std::vector<Column> columns = panel.columns();
                for (int f = 0; f < 16; ++f) {
                    const Pair* tiles_at = transformed.data + f * plane;
                    const Piece<Pair> piece{tiles_at, kernels.at(f, panel), depth};
                    product<Pair>({&piece, 1, depth, 1, panel.width, products.data + f * result,
                                   panel.width, nullptr, 0, true, 0},
                                  count, columns);
                }
                for (Int t = 0; t < count; ++t) {
                    BFloat16* at[2][2];
                    out.pixels<2, BFloat16>(y, nullptr, first + t, at);
                    for (Int c = 0; c < panel.width; c += LANE) {
                        Floats m[4][4], found[2][2];
                        for (int f = 0; f < 16; ++f)
                            m[f / 4][f % 4] =
                                load(products.data + f * result + t * panel.width + c);
                        transform<OutputLine>(m, found);
                        const Floats start = bias ? load(bias + o + c) : Floats{};
                        for (int k = 0; k < 4; ++k)
                            if (BFloat16* to = at[k / 2][k % 2])
                                store(to + o + c, found[k / 2][k % 2] + start);
                    }
                }
            }
        }
    }
}

// --- the gradient of the kernel

// A chunk of tiles, two by two, of which one row of the transform is kept, for some channels:
// (4, panel, pair of tiles, its width).
struct Chunk {
    Int first, last, plane;  // channels, as whole panels
    Buffer<Pair> pairs;

    Chunk(Int first, Int last)
        : first(first), last(last), plane((last - first) * CHUNK / 2 + 16), pairs(4 * plane) {}
    Pair* at(int place, const Panel& panel) const {
        return pairs.data + place * plane + (panel.first - first) * CHUNK / 2;
    }
};

// Transforms two tiles, `tile` and the next, to pair number `pair`. `sums` (C), if any: the second
// of the four numbers is added to it.
template <class Line, int ROW, int N>
void transform_pair(const Tiling& tiling, const BFloat16* images, const BFloat16* zeros, Int tile,
                    Int pair, const Chunk& chunk, float* sums) {
    const BFloat16* at[2][N][N];
    for (int one = 0; one < 2; ++one) tiling.pixels(images, zeros, tile + one, at[one]);
    for (Int c = chunk.first; c < chunk.last; c += LANE) {
        Halves numbers[2][4];
        for (int one = 0; one < 2; ++one) {
            Floats row[N], found[4];
            for (int j = 0; j < N; ++j) {
                Floats column[N];
                for (int i = 0; i < N; ++i) column[i] = load(at[one][i][j] + c);
                Line()(column, found);
                row[j] = found[ROW];
            }
            Line()(row, found);
            for (int f = 0; f < 4; ++f) numbers[one][f] = rounded(found[f]);
            if (sums) store(sums + c, load(sums + c) + found[1]);
        }
        const Panel panel(c, tiling.channels);
        Pair* to = chunk.at(0, panel) + pair * panel.width + c - panel.first;
        for (int f = 0; f < 4; ++f) store(to + f * chunk.plane, numbers[0][f], numbers[1][f]);
    }
}

// What all of it works on; sums: (16, panel of C, O, its width).
struct WeightGradient {
    const Convolution& s;
    const Tiling in, out;
    const BFloat16 *x, *dy, *zeros;
    const Buffer<float>& sums;

    float* sums_at(int place, const Panel& panel) const {
        return sums.data + (place * s.channels + panel.first) * s.out_channels;
    }
};

// The sums over all tiles at the four places of a row, for the channels of `images`. Where all
// pixels of a tile are added up anyway, `bias` (O) gets them, if it is given.
template <int ROW>
void sum_row(const WeightGradient& g, const Chunk& images, const Chunk& gradients, float* bias) {
    for (Int first = 0; first < g.in.tiles(); first += CHUNK) {
        const Int pairs = (std::min(CHUNK, g.in.tiles() - first) + 1) / 2;
        for (Int pair = 0; pair < pairs; ++pair) {
            const Int tile = first + 2 * pair;
            transform_pair<InputLine, ROW, 4>(g.in, g.x, g.zeros, tile, pair, images, nullptr);
            transform_pair<OutputBackLine, ROW, 2>(g.out, g.dy, g.zeros, tile, pair, gradients,
                                                   ROW == 1 ? bias : nullptr);
        }
        for (Int c = images.first; c < images.last; c += PANEL) {
            const Panel panel(c, g.s.channels);
            const std::vector<Column> columns = panel.columns();
            for (int f = 0; f < 4; ++f)
                for (Int o = 0; o < g.s.out_channels; o += PANEL) {
                    const Panel rows(o, g.s.out_channels);
                    const Piece<Pair> piece{gradients.at(f, rows), images.at(f, panel), pairs};
                    product<Pair>({&piece, 1, 1, rows.width, panel.width,
                                   g.sums_at(4 * ROW + f, panel) + o * panel.width, panel.width,
                                   nullptr, 0, true, 0, first > 0},
                                  rows.width, columns);
                }
        }
    }
}

// dw and db. A thread takes a row of the transform, which costs it no more than a fourth of the
// whole, and some channels: so none waits for another, or reads what another wrote.
void weight_gradient(const Convolution& s, const Tiling& in, const Tiling& out, const BFloat16* x,
                     const BFloat16* dy, float* dw, float* db) {
    const Buffer<float> sums(16 * s.channels * s.out_channels);
    const std::vector<BFloat16> zeros(std::max(s.channels, s.out_channels));
    const WeightGradient g{s, in, out, x, dy, zeros.data(), sums};
    const Int panels = (s.channels + PANEL - 1) / PANEL;
    const Int parts = std::min(panels, (s.threads + 1) / 2);
    std::fill_n(db, s.out_channels, 0.f);
#pragma omp parallel num_threads(s.threads)
    {
        const Chunk gradients(0, s.out_channels);
#pragma omp for schedule(dynamic)
        for (Int task = 0; task < 4 * parts; ++task) {
            const Int part = task % parts;
            const Chunk images(panels * part / parts * PANEL,
                               std::min(s.channels, panels * (part + 1) / parts * PANEL));
            float* bias = part == 0 ? db : nullptr;
            switch (task / parts) {
                case 0: sum_row<0>(g, images, gradients, bias); break;
                case 1: sum_row<1>(g, images, gradients, bias); break;
                case 2: sum_row<2>(g, images, gradients, bias); break;
                default: sum_row<3>(g, images, gradients, bias);
            }
        }
#pragma omp for
        for (Int o = 0; o < s.out_channels; ++o)
            for (Int c = 0; c < s.channels; c += LANE) {
                const Panel panel(c, s.channels);
                Floats u[4][4], kernel[3][3];
                for (int f = 0; f < 16; ++f)
                    u[f / 4][f % 4] =
                        load(g.sums_at(f, panel) + o * panel.width + c - panel.first);
                transform<KernelBackLine>(u, kernel);
                for (int k = 0; k < 9; ++k)
                    store(dw + (o * 9 + k) * s.channels + c, kernel[k / 3][k % 3]);
            }
    }
}

// Tiles of x that 2x2 outputs are made of, and those outputs; the same for the input's gradient,
// where the padding of the turned kernel is what the kernel leaves.
Tiling inputs(const Convolution& s) {
    return {s.batch, s.height, s.width, s.channels, s.padding_h, s.padding_w,
            (s.out_height() + 1) / 2, (s.out_width() + 1) / 2};
}
Tiling outputs(const Convolution& s) {
    return {s.batch, s.out_height(), s.out_width(), s.out_channels, 0, 0,
            (s.out_height() + 1) / 2, (s.out_width() + 1) / 2};
}
Convolution turned(const Convolution& s) {
    return {s.batch, s.out_channels, s.out_height(), s.out_width(), s.channels,
            2 - s.padding_h, 2 - s.padding_w, s.threads};
}

extern "C" {
// Whether the processor multiplies pairs of bfloat16 by itself.
int sfl_has_pairs() { return HAS_PAIRS; }

void sfl_winograd_forward(const Convolution* s, const BFloat16* x, const float* weight,
                          const float* bias, BFloat16* y) {
    convolve(inputs(*s), outputs(*s), s->threads, x, forward_kernels(*s, weight), bias, y);
}
void sfl_winograd_input_gradient(const Convolution* s, const BFloat16* dy, const float* weight,
                                 BFloat16* dx) {
    const Convolution back = turned(*s);
    convolve(inputs(back), outputs(back), s->threads, dy, backward_kernels(*s, weight), nullptr,
             dx);
}
void sfl_winograd_weight_gradient(const Convolution* s, const BFloat16* x, const BFloat16* dy,
                                  float* dw, float* db) {
    weight_gradient(*s, inputs(*s), outputs(*s), x, dy, dw, db);
}
}
