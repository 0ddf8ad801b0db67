// The locally connected product and its two gradients on a CPU, without laying out the fields.
//
// In memory: x (H, W, C, B), dy (OH, OW, O, B), weight (OH, OW, O, kh, kw, C/G), bias (O, OH, OW). y
// and dx lie as the steps in Shape say: so, too, or contiguous, or channels_last.
// The batch is innermost, so a vector holds as many images, a weight is read once and broadcast,
// and a tile of sums (rows x vectors) stays in registers while one runs along the field. All three
// are that one product (see `tile` in product.h); they differ in what is a row, what is a vector and
// what is summed over. The channels are innermost in the weights, so a row of a field is one piece of
// both weights and input. Results do not depend on the number of threads.
//
// Compiled on first use by build.py; kernel.py beside it knows the argument order.

#include <vector>

#include "product.h"
#include "turn.h"

struct Shape {
    Int batch, channels, height, width, out_channels, positions_h, positions_w;
    Int kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    Int groups, threads;
    Int image_step, channel_step, place_step;  // between numbers of the output, if not dw

    Int positions() const { return positions_h * positions_w; }
    Int channels_in() const { return channels / groups; }       // of a group
    Int channels_out() const { return out_channels / groups; }  // of a group
    Int taps() const { return kernel_h * kernel_w; }
    Int field() const { return channels_in() * taps(); }
};

// Work is shared out by places (positions or inputs), `near` of them at a time, and groups; where
// there are few of them, or more rows than `most`, by parts of their rows, too.
struct Tasks {
    Int groups, parts, rows, places, near, count;

    Tasks(const Shape& s, Int places, Int rows, Int near = 1, Int most = INT64_MAX)
        : groups(s.groups), rows(rows), places(places), near(near) {
        const Int shares = (places + near - 1) / near * groups;
        parts = std::max<Int>(1, std::min(4 * s.threads / std::max<Int>(1, shares), rows / 6));
        parts = std::max(parts, (rows - 1) / most + 1);
        count = shares * parts;
    }
    Int place(Int task) const { return task / parts / groups * near; }
    Int places_end(Int task) const { return std::min(places, place(task) + near); }
    Int group(Int task) const { return task / parts % groups; }
    Int first(Int task) const { return rows * (task % parts) / parts; }
    Int last(Int task) const { return rows * (task % parts + 1) / parts; }
};

// The field of a position and group without what is padding, in stretches that are one piece of the
// weights and of a row of the input: row by row where possible, else tap by tap. Of each, `see` gets
// the row, its first number there (channels innermost) and among the weights, and its length.
template <class See>
void field(const Shape& s, Int position, Int group, const See& see) {
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
            if (first < last)
                see(row, (column + first) * s.channels + group * s.channels_in(),
                    (i * s.kernel_w + j + first) * s.channels_in(),
                    (last - first) * s.channels_in());
        }
    }
}

// out[place, channel] = bias + the sum over the pieces that `add_pieces` finds; a vector of images
// each. Rows: channels of a group; `add_pieces` gets the first of them.
//
// Where the batch is innermost in the output, they are written there. Else a task takes the places of
// a line of the cache, 32 channels and 64 images at a time: the results stay in the cache until they
// are turned over into the output.
template <class T, class Add>
void vectors_of_images(const Shape& s, Int places, Int channels, Int row_step, Int depth_step,
                       const T* bias, T* output, const Add& add_pieces) {
    const bool turned = s.channel_step != s.batch || s.place_step != s.batch * channels;
    const Int in_group = channels / s.groups, near = turned ? LINE<T> : 1;
    const Int most = turned ? 32 : INT64_MAX;
    const Int together = turned ? std::min<Int>(64, s.batch) : s.batch;
    const Tasks tasks(s, places, in_group, near, most);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Piece<T>> pieces;
        std::vector<Column> columns;
        std::vector<T> room(turned ? near * std::min(most, in_group) * together : 0);
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int begin = tasks.place(task), count = tasks.places_end(task) - begin;
            const Int group = tasks.group(task), first = tasks.first(task);
            const Int rows = tasks.last(task) - first, channel = group * in_group + first;
            for (Int image = 0; image < s.batch; image += together) {
                const Int images = std::min(together, s.batch - image);
                T* to = output + image * s.image_step + channel * s.channel_step +
                        begin * s.place_step;
                columns.clear();
                add_columns<T>(columns, image, 0, images);
                for (Int n = 0; n < count; ++n) {
                    pieces.clear();
                    add_pieces(pieces, begin + n, group, first);
                    product<T>({pieces.data(), Int(pieces.size()), row_step, depth_step, s.batch,
                                turned ? room.data() + n * rows * images : to, images,
                                bias ? bias + channel * places + begin + n : nullptr, places, false,
                                s.out_channels * s.field()},
                               rows, columns);
                }
                if (!turned) continue;
                const Int a_place = rows * images;
                const Turn t = s.channel_step == 1 ? Turn{rows, count, 1, images, images, a_place, 0,
                                                          s.place_step, 0, s.image_step, 1}
                                                   : Turn{count, rows, 1, images, a_place, images, 0,
                                                          s.channel_step, 0, s.image_step, 1};
                for (Int n = 0; n < blocks_of<T>(t); ++n) turn_block(t, room.data(), to, n);
            }
        }
    }
}

// y[unit] = bias + sum over its field of weight * x.
template <class T>
void forward(const Shape& s, const T* x, const T* weight, const T* bias, T* y) {
    const auto add = [&](std::vector<Piece<T>>& pieces, Int position, Int group, Int first) {
        const Int unit = position * s.out_channels + group * s.channels_out() + first;
        field(s, position, group, [&](Int row, Int input, Int place, Int length) {
            pieces.push_back({weight + unit * s.field() + place,
                              x + (row * s.width * s.channels + input) * s.batch, length});
        });
    };
    vectors_of_images(s, s.positions(), s.out_channels, s.field(), 1, bias, y, add);
}

// Along one axis, the position whose tap `tap` sees the input `at`; -1: there is none.
inline Int seen_by(Int at, Int tap, Int stride, Int padding, Int dilation, Int positions) {
    const Int from = at + padding - tap * dilation;
    return from >= 0 && from % stride == 0 && from / stride < positions ? from / stride : -1;
}

// dx[input] = sum over the units that see it of weight * dy.
template <class T>
void input_gradient(const Shape& s, const T* dy, const T* weight, T* dx) {
    const auto add = [&](std::vector<Piece<T>>& pieces, Int input, Int group, Int first) {
        for (Int i = 0; i < s.kernel_h; ++i)
            for (Int j = 0; j < s.kernel_w; ++j) {
                const Int h = seen_by(input / s.width, i, s.stride_h, s.padding_h, s.dilation_h,
                                      s.positions_h);
                const Int w = seen_by(input % s.width, j, s.stride_w, s.padding_w, s.dilation_w,
                                      s.positions_w);
                if (h < 0 || w < 0) continue;
                const Int unit = (h * s.positions_w + w) * s.out_channels + group * s.channels_out();
                const Int place = (i * s.kernel_w + j) * s.channels_in() + first;
                pieces.push_back({weight + unit * s.field() + place, dy + unit * s.batch,
                                  s.channels_out()});
            }
    };
    const T* no_bias = nullptr;
    vectors_of_images(s, s.height * s.width, s.channels, 1, s.field(), no_bias, dx, add);
}

// dw[unit][place] = sum over the images of dy * x. Rows: units; vectors: places of the field, for
// which x is (H, B, W, C), with room for a vector behind the last number.
template <class T>
void weight_gradient(const Shape& s, const T* x, const T* dy, T* dw) {
    const Int inputs = s.width * s.channels;
    const Tasks tasks(s, s.positions(), s.channels_out());
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Column> columns;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int position = tasks.place(task), group = tasks.group(task);
            const Int unit = group * s.channels_out() + tasks.first(task);
            const Int number = position * s.out_channels + unit;
            const Int rows = tasks.last(task) - tasks.first(task);
            columns.clear();
            Int places = 0;
            field(s, position, group, [&](Int row, Int input, Int place, Int length) {
                add_columns<T>(columns, row * s.batch * inputs + input, place, length);
                places += length;
            });
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
