// Copies into another order in memory: squares of numbers are transposed in registers.

#pragma once

#include <utility>

#include "vectors.h"

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

// Numbers in a line of the cache.
template <class T>
constexpr Int LINE = 64 / sizeof(T);

// Columns of a block: a few lines of each row, so that main memory is read in pieces that are worth
// its while. The last one takes the rest.
template <class T>
constexpr Int WIDE = 4 * LINE<T>;

template <class T>
Int across(const Turn& t) {
    return std::max<Int>(1, t.columns / WIDE<T>);
}

template <class T>
Int blocks_of(const Turn& t) {
    return t.i * t.j * across<T>(t);
}

// A block is of all rows. It asks for the next one: the processor doesn't foresee such steps.
template <class T>
void turn_block(const Turn& t, const T* from, T* to, Int n) {
    constexpr Int lanes = LANES<T>;
    const Int blocks = across<T>(t), next = std::min(n + 1, t.i * t.j * blocks - 1);
    const auto source = [&](Int n) {
        const Int other = n / blocks;
        return from + n % blocks * WIDE<T> + other / t.j * t.from_i + other % t.j * t.from_j;
    };
    const auto target = [&](Int n) {
        const Int other = n / blocks;
        return to + n % blocks * WIDE<T> * t.to_column + other / t.j * t.to_i + other % t.j * t.to_j;
    };
    const T *in = source(n), *next_in = source(next);
    T *out = target(n), *next_out = target(next);
    const Int wide = n % blocks < blocks - 1 ? WIDE<T> : t.columns - (blocks - 1) * WIDE<T>;
    // The last square of a row of squares overlaps the one before it, so that all are whole.
    const bool whole = t.rows >= lanes && t.columns >= lanes;
    const auto square = whole ? turn_square<T, true> : turn_square<T, false>;
    const auto begin = [&](Int at, Int size) { return whole ? std::min(at, size - lanes) : at; };
    for (Int line = 0; line < t.rows; line += lanes) {
        const Int r = begin(line, t.rows), rows = std::min<Int>(lanes, t.rows - r);
        for (Int k = 0; k < rows; ++k)
            for (Int q = 0; q < wide; q += LINE<T>)
                __builtin_prefetch(next_in + (r + k) * t.from_row + q);
        for (Int at = 0; at < wide; at += lanes) {
            const Int q = begin(at, wide), columns = std::min<Int>(lanes, wide - q);
            if (line % LINE<T> == 0)
                for (Int k = 0; k < columns; ++k)
                    __builtin_prefetch(next_out + (q + k) * t.to_column + r, 1);
            square(in + r * t.from_row + q, out + q * t.to_column + r, rows, columns, t.from_row,
                   t.to_column);
        }
    }
}

template <class T>
void turn(const Turn& t, const T* from, T* to) {
#pragma omp parallel for num_threads(t.threads)
    for (Int n = 0; n < blocks_of<T>(t); ++n) turn_block(t, from, to, n);
}
