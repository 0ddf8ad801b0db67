// The product that all else is made of: rows by vectors, with a tile of sums in registers.

#pragma once

#include <vector>

#include "vectors.h"

// What is summed over, a piece at a time: sum over d < depth of a[d * depth_step] * in[d * in_step].
template <class T>
struct Piece {
    const T* a;
    const T* in;
    Int depth;
};

// A vector of sums: where it begins in `in` and in `out`, and how many of its lanes are meant.
struct Column {
    Int in, out;
    int lanes;
};

// out[r * out_step + column] = start[r * start_step] + the sum over all pieces, of row r of `a`.
// `whole_reads`: `in` may be read beyond the lanes of a column. `ahead`: how far behind in `a` lies
// what will be read next; 0: in the cache already.
template <class T>
struct Product {
    const Piece<T>* pieces;
    Int count;
    Int row_step, depth_step, in_step;
    T* out;
    Int out_step;
    const T* start;
    Int start_step;
    bool whole_reads;
    Int ahead;
};

// Asks for the weights of the next place, a line of the cache at a time: they come from main memory,
// and the processor doesn't foresee them by itself beyond a page.
template <class T, int R>
inline void fetch_ahead(const Product<T>& p, const T* a, Int d) {
    if (p.row_step == 1)
        __builtin_prefetch(a + p.ahead);
    else if (d % (64 / sizeof(T)) == 0)
        for (int r = 0; r < R; ++r) __builtin_prefetch(a + r * p.row_step + p.ahead);
}

// R rows by N vectors; only the last vector may have fewer lanes, unless WHOLE.
template <class T, int R, int N, bool WHOLE>
void tile(const Product<T>& p, Int row, const Column* columns) {
    Vector<T> sums[R][N];  // in registers only if each loop over them is unrolled
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        const Vector<T> start = Vector<T>{} + (p.start ? p.start[(row + r) * p.start_step] : 0);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            // Fetched while the sums are made: to store them would have to wait for it.
            __builtin_prefetch(p.out + (row + r) * p.out_step + columns[n].out, 1);
            sums[r][n] = start;
        }
    }
    for (const Piece<T>* piece = p.pieces; piece != p.pieces + p.count; ++piece) {
        const T* a = piece->a + row * p.row_step;
        const T* in[N];
        for (int n = 0; n < N; ++n) in[n] = piece->in + columns[n].in;
        for (Int d = 0; d < piece->depth; ++d, a += p.depth_step) {
            Vector<T> x[N];
            for (int n = 0; n < N; ++n) {
                x[n] = load(in[n], WHOLE || n < N - 1 ? LANES<T> : columns[n].lanes);
                in[n] += p.in_step;
            }
            if (p.ahead) fetch_ahead<T, R>(p, a, d);
            for (int r = 0; r < R; ++r) {
                const T weight = a[r * p.row_step];
                for (int n = 0; n < N; ++n) sums[r][n] += weight * x[n];
            }
        }
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
        T* out = p.out + row * p.out_step + columns[n].out;
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) store(out + r * p.out_step, sums[r][n], columns[n].lanes);
    }
}

// As many rows at a time as there are registers for.
template <int N>
constexpr int rows_of = SUMS / N < 12 ? SUMS / N : 12;

template <class T, int N, bool WHOLE, int R = rows_of<N>>
void rows_of_tile(const Product<T>& p, Int row, Int rows, const Column* columns) {
    if constexpr (R > 0) {
        if (rows == R)
            tile<T, R, N, WHOLE>(p, row, columns);
        else
            rows_of_tile<T, N, WHOLE, R - 1>(p, row, rows, columns);
    }
}

// All rows by N vectors, in tiles of about the same height.
template <class T, int N>
void strip(const Product<T>& p, Int rows, const Column* columns) {
    const bool whole = p.whole_reads || columns[N - 1].lanes == LANES<T>;
    const Int tiles = (rows + rows_of<N> - 1) / rows_of<N>;
    for (Int t = 0; t < tiles; ++t) {
        const Int row = rows * t / tiles, count = rows * (t + 1) / tiles - row;
        if (whole)
            rows_of_tile<T, N, true>(p, row, count, columns);
        else
            rows_of_tile<T, N, false>(p, row, count, columns);
    }
}

template <class T>
void product(const Product<T>& p, Int rows, const std::vector<Column>& columns) {
    const Column* column = columns.data();
    Int left = columns.size();
    for (; left >= VECTORS; left -= VECTORS, column += VECTORS) strip<T, VECTORS>(p, rows, column);
    if (left == 1) strip<T, 1>(p, rows, column);
    if constexpr (VECTORS > 2) {
        if (left == 2) strip<T, 2>(p, rows, column);
        if (left == 3) strip<T, 3>(p, rows, column);
    }
}

// Vectors that lie side by side in both `in` and `out`.
template <class T>
void add_columns(std::vector<Column>& columns, Int in, Int out, Int length) {
    for (Int i = 0; i < length; i += LANES<T>)
        columns.push_back({in + i, out + i, int(std::min<Int>(LANES<T>, length - i))});
}
