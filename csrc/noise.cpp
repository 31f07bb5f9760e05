#include "noise.h"

namespace odesolve {

Draw Noise::at(int64_t row, uint64_t stream) const {
    const int64_t place = row * keys.stride[0];
    return {word_at(keys, place), stream, uint32_t(word_at(keys, place + keys.stride[1]))};
}

void Noise::one_row(float* out, const Tile& tile, const Draw& row) const {
    (signs ? kernels->signs : kernels->normals)(out, row, uint32_t(tile.first / 4), tile.n);
}

void Noise::enter(Quads& quads, int64_t at, int64_t count, const Draw& row) const {
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t counter[4] = {uint32_t(i), row.sample, uint32_t(row.stream), uint32_t(row.stream >> 32)};
        for (int c = 0; c < 4; ++c) quads.counter[c][at + i] = counter[c];
        quads.key[0][at + i] = uint32_t(row.seed);
        quads.key[1][at + i] = uint32_t(row.seed >> 32);
    }
}

// Rows whose length is no multiple of four leave numbers unused at their ends.
void Noise::many_rows(float* out, const Tile& tile, Quads& quads) const {
    const int64_t drawn = (tile.n + 3) / 4 * 4;
    (signs ? kernels->signs_of : kernels->normals_of)(out, quads, drawn * tile.rows);
    if (drawn == tile.n) return;
    for (int64_t r = 1; r < tile.rows; ++r)
        for (int64_t i = 0; i < tile.n; ++i) out[r * tile.n + i] = out[r * drawn + i];
}

Tensor read_keys(PyObject* object, Arguments& arguments, int64_t batch, int64_t n) {
    Tensor keys = arguments.read(object);
    require(keys.type == I64 && keys.dims == 2 && keys.shape[0] == batch && keys.shape[1] == 2);
    require(n <= int64_t(1) << 34);
    return keys;
}

}  // namespace odesolve
