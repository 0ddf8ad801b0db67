// The locally connected product and its two gradients on a CPU, without laying out the fields.
//
// In memory: x (H, W, C, B), y (OH, OW, O, B), weight (OH, OW, O, kh, kw, C/G), bias (O, OH, OW).
// The batch is innermost, so a vector holds as many images, a weight is read once and broadcast,
// and a tile of sums (rows x vectors) stays in registers while one runs along the field. All three
// are that one product (see `tile` in product.h); they differ in what is a row, what is a vector and
// what is summed over. The channels are innermost in the weights, so a row of a field is one piece of
// both weights and input. Results do not depend on the number of threads.
//
// Compiled on first use by build.py; kernel.py beside it knows the argument order.

#include <utility>
#include <vector>

#include "product.h"

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

// The images of a batch as vectors.
template <class T>
std::vector<Column> images(const Shape& s) {
    std::vector<Column> columns;
    add_columns<T>(columns, 0, 0, s.batch);
    return columns;
}

// Work is shared out by places (positions or inputs) and groups; where there are few of them, by
// parts of their rows, too.
struct Tasks {
    Int groups, parts, rows, count;

    Tasks(const Shape& s, Int places, Int rows) : groups(s.groups), rows(rows) {
        const Int pairs = std::max<Int>(1, places * groups);
        parts = std::max<Int>(1, std::min(4 * s.threads / pairs, rows / 6));
        count = places * groups * parts;
    }
    Int place(Int task) const { return task / parts / groups; }
    Int group(Int task) const { return task / parts % groups; }
    Int first(Int task) const { return rows * (task % parts) / parts; }
    Int last(Int task) const { return rows * (task % parts + 1) / parts; }
};

// A stretch of a unit's field that is one piece of its weights (from `place` on) and of a row of
// the input (from input number `input` on, channels innermost).
struct Stretch {
    Int row, input, place, length;
};

// The field of a position and group without what is padding: row by row where possible, else tap
// by tap.
void field(const Shape& s, Int position, Int group, std::vector<Stretch>& stretches) {
    stretches.clear();
    const Int top = position / s.positions_w * s.stride_h - s.padding_h;
    const Int left = position % s.positions_w * s.stride_w - s.padding_w;
    const bool by_row = s.groups == 1 && s.dilation_w == 1;
    const Int taps = by_row ? s.kernel_w : 1;
    for (Int i = 0; i < s.kernel_h; ++i) {
        const Int row = top + i * s.dilation_h;
        if (row < 0 || row >= s.height) continue;
        for (Int j = 0; j < s.kernel_w; j += taps) {
            const Int column = left + j * s.dilation_w;
            const Int first = std::max<Int>(0, -column), last = std::min(taps, s.width - column);
            if (first >= last) continue;
            stretches.push_back({row, (column + first) * s.channels + group * s.channels_in(),
                                 (i * s.kernel_w + j + first) * s.channels_in(),
                                 (last - first) * s.channels_in()});
        }
    }
}

// y[unit] = bias + sum over its field of weight * x. Rows: units; vectors: images.
template <class T>
void forward(const Shape& s, const T* x, const T* weight, const T* bias, T* y) {
    const Tasks tasks(s, s.positions(), s.channels_out());
    const std::vector<Column> columns = images<T>(s);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Stretch> stretches;
        std::vector<Piece<T>> pieces;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int position = tasks.place(task), group = tasks.group(task);
            const Int unit = group * s.channels_out() + tasks.first(task);
            const Int number = position * s.out_channels + unit;
            field(s, position, group, stretches);
            pieces.clear();
            for (const Stretch& part : stretches)
                pieces.push_back({weight + number * s.field() + part.place,
                                  x + (part.row * s.width * s.channels + part.input) * s.batch,
                                  part.length});
            const T* start = bias ? bias + unit * s.positions() + position : nullptr;
            product<T>({pieces.data(), Int(pieces.size()), s.field(), 1, s.batch,
                        y + number * s.batch, s.batch, start, s.positions(), false,
                        s.out_channels * s.field()},
                       tasks.last(task) - tasks.first(task), columns);
        }
    }
}

// Along one axis, the position whose tap `tap` sees the input `at`; -1: there is none.
inline Int seen_by(Int at, Int tap, Int stride, Int padding, Int dilation, Int positions) {
    const Int from = at + padding - tap * dilation;
    return from >= 0 && from % stride == 0 && from / stride < positions ? from / stride : -1;
}

// dx[input] = sum over the units that see it of weight * dy. Rows: channels; vectors: images.
template <class T>
void input_gradient(const Shape& s, const T* dy, const T* weight, T* dx) {
    const Tasks tasks(s, s.height * s.width, s.channels_in());
    const std::vector<Column> columns = images<T>(s);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Piece<T>> pieces;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int input = tasks.place(task), group = tasks.group(task);
            const Int row = input / s.width, column = input % s.width, first = tasks.first(task);
            pieces.clear();
            for (Int i = 0; i < s.kernel_h; ++i)
                for (Int j = 0; j < s.kernel_w; ++j) {
                    const Int h = seen_by(row, i, s.stride_h, s.padding_h, s.dilation_h,
                                          s.positions_h);
                    const Int w = seen_by(column, j, s.stride_w, s.padding_w, s.dilation_w,
                                          s.positions_w);
                    if (h < 0 || w < 0) continue;
                    const Int unit = (h * s.positions_w + w) * s.out_channels +
                                     group * s.channels_out();
                    const Int place = (i * s.kernel_w + j) * s.channels_in() + first;
                    pieces.push_back({weight + unit * s.field() + place, dy + unit * s.batch,
                                      s.channels_out()});
                }
            const Int number = input * s.channels + group * s.channels_in() + first;
            product<T>({pieces.data(), Int(pieces.size()), 1, s.field(), s.batch,
                        dx + number * s.batch, s.batch, nullptr, 0, false,
                        s.out_channels * s.field()},
                       tasks.last(task) - first, columns);
        }
    }
}

// Where the i-th number of a step of a transposition comes from, in two vectors side by side: within
// 16 bytes, groups of D numbers of both in turn (from their first or second half); beyond, every
// second piece of 16 bytes of the first, then of the second. Each is one instruction.
template <class T, int D>
constexpr int taken(int i, int half) {
    constexpr int n = LANES<T>, p = 16 / sizeof(T);
    if (D < p) return (i / D % 2) * n + i / p * p + half * p / 2 + i % p / (2 * D) * D + i % D;
    return i / (n / 2) * n + (2 * (i % (n / 2) / p) + half) * p + i % p;
}

template <class T, int D, int HALF, int... I>
inline Vector<T> shuffled(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, taken<T, D>(I, HALF)...);
#else
    return __builtin_shuffle(a, b, typename Lanes<T>::Places{taken<T, D>(I, HALF)...});
#endif
}

// Transposes a square of vectors; row k then holds the column `column_of(k)`.
template <class T, int D = 1>
inline void transpose(Vector<T> (&square)[LANES<T>]) {
    if constexpr (D < LANES<T>) {
        using Lane = std::make_integer_sequence<int, LANES<T>>;
        for (int k = 0; k < LANES<T>; ++k)
            if (!(k & D)) {
                const Vector<T> a = square[k], b = square[k + D];
                square[k] = shuffled<T, D, 0>(a, b, Lane{});
                square[k + D] = shuffled<T, D, 1>(a, b, Lane{});
            }
        transpose<T, 2 * D>(square);
    }
}

template <class T>
constexpr int column_of(int k) {
    return sizeof(T) == 4 ? (k & ~3) | (k & 1) << 1 | (k >> 1 & 1) : k;
}

// A tensor of four axes in another order in memory: to[r, i, j, q] = from[r, i, j, q]. The last axis
// is innermost where it is read, the first where it is written; the steps are those between numbers.
struct Turn {
    Int rows, i, j, columns;
    Int from_row, from_i, from_j;
    Int to_i, to_j, to_column;
    Int threads;
};

// A square of numbers; WHOLE: of as many rows and columns as a vector has lanes.
template <class T, bool WHOLE>
inline void turn_square(const T* from, T* to, int rows, int columns, Int from_row, Int to_column) {
    constexpr int lanes = LANES<T>;
    Vector<T> square[lanes];
    for (int k = 0; k < lanes; ++k)
        square[k] = WHOLE ? load<T>(from + k * from_row)
                          : k < rows ? load<T>(from + k * from_row, columns) : Vector<T>{};
    transpose<T>(square);
    for (int k = 0; k < lanes; ++k)
        if (WHOLE)
            store(to + column_of<T>(k) * to_column, square[k]);
        else if (column_of<T>(k) < columns)
            store(to + column_of<T>(k) * to_column, square[k], rows);
}

// Blocks are a line of the cache by all rows. Each fetches the next one: the processor doesn't foresee
// such steps by itself.
template <class T>
void turn(const Turn& t, const T* from, T* to) {
    constexpr Int lanes = LANES<T>, line = 64 / sizeof(T);
    const Int others = t.i * t.j, blocks = others * ((t.columns + line - 1) / line);
    const auto source = [&](Int n) {
        return from + n / others * line + n / t.j % t.i * t.from_i + n % t.j * t.from_j;
    };
    const auto target = [&](Int n) {
        return to + n / others * line * t.to_column + n / t.j % t.i * t.to_i + n % t.j * t.to_j;
    };
#pragma omp parallel for num_threads(t.threads)
    for (Int n = 0; n < blocks; ++n) {
        const T *in = source(n), *next_in = source(std::min(n + 1, blocks - 1));
        T *out = target(n), *next_out = target(std::min(n + 1, blocks - 1));
        const Int wide = std::min(line, t.columns - n / others * line);
        for (Int r = 0; r < t.rows; r += lanes) {
            const int rows = std::min(lanes, t.rows - r);
            for (int k = 0; k < rows; ++k) __builtin_prefetch(next_in + (r + k) * t.from_row);
            if (r % line == 0)
                for (Int k = 0; k < line; ++k) __builtin_prefetch(next_out + k * t.to_column + r, 1);
            for (Int q = 0; q < wide; q += lanes) {
                const int columns = std::min(lanes, wide - q);
                const auto square = rows == lanes && columns == lanes ? turn_square<T, true>
                                                                      : turn_square<T, false>;
                square(in + r * t.from_row + q, out + q * t.to_column + r, rows, columns,
                       t.from_row, t.to_column);
            }
        }
    }
}

// dw[unit][place] = sum over the images of dy * x. Rows: units; vectors: places of the field, for
// which x is (H, B, W, C), with room for a vector behind the last number.
template <class T>
void weight_gradient(const Shape& s, const T* x, const T* dy, T* dw) {
    const Int inputs = s.width * s.channels;
    const Tasks tasks(s, s.positions(), s.channels_out());
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Stretch> stretches;
        std::vector<Column> columns;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int position = tasks.place(task), group = tasks.group(task);
            const Int unit = group * s.channels_out() + tasks.first(task);
            const Int number = position * s.out_channels + unit;
            const Int rows = tasks.last(task) - tasks.first(task);
            field(s, position, group, stretches);
            columns.clear();
            Int places = 0;
            for (const Stretch& part : stretches) {
                add_columns<T>(columns, part.row * s.batch * inputs + part.input, part.place,
                               part.length);
                places += part.length;
            }
            T* out = dw + number * s.field();
            if (places < s.field()) std::fill_n(out, rows * s.field(), T(0));
            const Piece<T> piece{dy + number * s.batch, x, s.batch};
            product<T>({&piece, 1, s.batch, 1, inputs, out, s.field(), nullptr, 0, true, 0}, rows,
                       columns);
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
    extern "C" void sfl_weight_gradient_##name(const Shape* s, const T* x, const T* dy,            \
                                               T* dw) {                                            \
        weight_gradient<T>(*s, x, dy, dw);                                                         \
    }                                                                                              \
    extern "C" void sfl_turn_##name(const Turn* t, const T* from, T* to) { turn<T>(*t, from, to); }
SFL_EXPORT(float, float32)
SFL_EXPORT(double, float64)
