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
        parts = std::max(parts, (rows + most - 1) / most);
        count = shares * parts;
    }
    Int place(Int task) const { return task / parts / groups * near; }
    Int places_end(Int task) const { return std::min(places, place(task) + near); }
    Int group(Int task) const { return task / parts % groups; }
    Int first(Int task) const { return rows * (task % parts) / parts; }
    Int last(Int task) const { return rows * (task % parts + 1) / parts; }
};

// Where results go that are vectors of images. Right into the output, where its batch is innermost.
// Else into a room in the cache, for as many places as a line holds and some of the images, and from
// there turned over: written to memory and read again, they would cost as much as all other copies
// together.
template <class T>
struct Results {
    const Shape& s;
    T* output;
    bool turned;
    Int near, most, together;  // places and rows of a task; images at a time
    Int image = 0, images = 0;  // the first one, and how many
    std::vector<Column> columns;
    std::vector<T> room;

    Results(const Shape& s, Int channels, T* output)
        : s(s), output(output),
          turned(s.channel_step != s.batch || s.place_step != s.batch * channels),
          near(turned ? LINE<T> : 1), most(turned ? 32 : INT64_MAX), together(turned ? 64 : s.batch) {}

    Tasks tasks(Int places, Int rows) const { return {s, places, rows, near, most}; }

    void begin(Int first) {
        image = first;
        images = std::min(together, s.batch - first);
        columns.clear();
        add_columns<T>(columns, first, 0, images);
    }

    // Where those of `rows` from `channel` on go, for the place that is n-th of its task.
    T* at(Int place, Int n, Int channel, Int rows) {
        if (!turned) return output + place * s.place_step + channel * s.channel_step;
        room.resize(near * most * together);
        return &room[n * rows * images];
    }

    void done(Int place, Int places, Int channel, Int rows) const {
        if (!turned) return;
        Turn t{rows, places, 1, images, images, rows * images, 0, s.place_step, 0, s.image_step, 1};
        if (s.channel_step != 1) {
            std::swap(t.rows, t.i);
            std::swap(t.from_row, t.from_i);
            t.to_i = s.channel_step;
        }
        T* to = output + place * s.place_step + channel * s.channel_step + image * s.image_step;
        for (Int n = 0; n < blocks_of<T>(t); ++n) turn_block(t, room.data(), to, n);
    }
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
    const Results<T> all(s, s.out_channels, y);
    const Tasks tasks = all.tasks(s.positions(), s.channels_out());
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Stretch> stretches;
        std::vector<Piece<T>> pieces;
        Results<T> results = all;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int begin = tasks.place(task), end = tasks.places_end(task);
            const Int group = tasks.group(task), rows = tasks.last(task) - tasks.first(task);
            const Int unit = group * s.channels_out() + tasks.first(task);
            for (Int image = 0; image < s.batch; image += results.together) {
                results.begin(image);
                for (Int position = begin; position < end; ++position) {
                    const Int number = position * s.out_channels + unit;
                    field(s, position, group, stretches);
                    pieces.clear();
                    for (const Stretch& part : stretches)
                        pieces.push_back({weight + number * s.field() + part.place,
                                          x + (part.row * s.width * s.channels + part.input) * s.batch,
                                          part.length});
                    const T* start = bias ? bias + unit * s.positions() + position : nullptr;
                    product<T>({pieces.data(), Int(pieces.size()), s.field(), 1, s.batch,
                                results.at(position, position - begin, unit, rows), results.images,
                                start, s.positions(), false, s.out_channels * s.field()},
                               rows, results.columns);
                }
                results.done(begin, end - begin, unit, rows);
            }
        }
    }
}

// Along one axis, the position whose tap `tap` sees the input `at`; -1: there is none.
inline Int seen_by(Int at, Int tap, Int stride, Int padding, Int dilation, Int positions) {
    const Int from = at + padding - tap * dilation;
    return from >= 0 && from % stride == 0 && from / stride < positions ? from / stride : -1;
}

// The first unit of a group at each position that sees an input, and by which tap.
template <class See>
void units_that_see(const Shape& s, Int input, Int group, const See& see) {
    for (Int i = 0; i < s.kernel_h; ++i)
        for (Int j = 0; j < s.kernel_w; ++j) {
            const Int h = seen_by(input / s.width, i, s.stride_h, s.padding_h, s.dilation_h,
                                  s.positions_h);
            const Int w = seen_by(input % s.width, j, s.stride_w, s.padding_w, s.dilation_w,
                                  s.positions_w);
            if (h >= 0 && w >= 0)
                see((h * s.positions_w + w) * s.out_channels + group * s.channels_out(),
                    i * s.kernel_w + j);
        }
}

// dx[input] = sum over the units that see it of weight * dy. Rows: channels; vectors: images.
template <class T>
void input_gradient(const Shape& s, const T* dy, const T* weight, T* dx) {
    const Results<T> all(s, s.channels, dx);
    const Tasks tasks = all.tasks(s.height * s.width, s.channels_in());
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Piece<T>> pieces;
        Results<T> results = all;
#pragma omp for
        for (Int task = 0; task < tasks.count; ++task) {
            const Int begin = tasks.place(task), end = tasks.places_end(task);
            const Int group = tasks.group(task), first = tasks.first(task);
            const Int rows = tasks.last(task) - first, channel = group * s.channels_in() + first;
            for (Int image = 0; image < s.batch; image += results.together) {
                results.begin(image);
                for (Int input = begin; input < end; ++input) {
                    pieces.clear();
                    units_that_see(s, input, group, [&](Int unit, Int tap) {
                        pieces.push_back({weight + unit * s.field() + tap * s.channels_in() + first,
                                          dy + unit * s.batch, s.channels_out()});
                    });
                    product<T>({pieces.data(), Int(pieces.size()), 1, s.field(), s.batch,
                                results.at(input, input - begin, channel, rows), results.images,
                                nullptr, 0, false, s.out_channels * s.field()},
                               rows, results.columns);
                }
                results.done(begin, end - begin, channel, rows);
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
