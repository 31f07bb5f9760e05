// Which numbers the rows of a tile draw.
#pragma once

#include "kernels.h"
#include "space.h"
#include "tensor.h"

namespace odesolve {

// Keys (B, 2) and one stream, or a stream for each sample.
struct Noise {
    Tensor keys;
    bool signs = false;

    Draw at(int64_t row, uint64_t stream) const {
        const int64_t place = row * keys.stride[0];
        return {word_at(keys, place), stream, uint32_t(word_at(keys, place + keys.stride[1]))};
    }
    // The numbers of a tile in the type T, from one stream, or from a stream for each sample found at `offset`.
    template <class T>
    void tile(T* out, const Tile& tile, uint64_t stream) const {
        draw(out, tile, [=](int64_t) { return stream; });
    }
    template <class T>
    void tile(T* out, const Tile& tile, const Tensor& streams, int64_t offset, int64_t stride) const {
        draw(out, tile, [&, stride, offset](int64_t row) { return word_at(streams, offset + row * stride); });
    }

  private:
    template <class Stream>
    void draw(float* out, const Tile& tile, Stream stream) const;
    template <class Stream>
    void draw(double* out, const Tile& tile, Stream stream) const;
    void one_row(float* out, const Tile& tile, const Draw& row) const;
    void many_rows(float* out, const Tile& tile, Quads& quads) const;
};

template <class Stream>
void Noise::draw(float* out, const Tile& tile, Stream stream) const {
    if (tile.rows == 1) return one_row(out, tile, at(tile.row, stream(tile.row)));
    const int64_t each = (tile.n + 3) / 4;
    Quads quads;
    for (int64_t r = 0, q = 0; r < tile.rows; ++r) {
        const Draw row = at(tile.row + r, stream(tile.row + r));
        for (int64_t i = 0; i < each; ++i, ++q) quads.set(q, row, uint32_t(i));
    }
    many_rows(out, tile, quads);
}

template <class Stream>
void Noise::draw(double* out, const Tile& tile, Stream stream) const {
    float drawn[TILE];
    draw(drawn, tile, stream);
    kernels->f64.load[F32](out, drawn, 1, tile.size());
}

// Keys that fit a batch of rows of n elements, whose quads a counter of 32 bits must reach.
Tensor read_keys(PyObject* object, Arguments& arguments, int64_t batch, int64_t n);

}  // namespace odesolve
