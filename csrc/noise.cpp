#include "noise.h"

namespace odesolve {

namespace {

// Rows of which only the first n numbers of every `drawn` are used move together. N is n where it is known to be small.
template <int N>
void close_up(float* out, int64_t rows, int64_t n, int64_t drawn) {
    for (int64_t r = 1; r < rows; ++r)
        for (int64_t i = 0; i < (N ? N : n); ++i) out[r * (N ? N : n) + i] = out[r * drawn + i];
}

}  // namespace

void Noise::one_row(float* out, const Tile& tile, const Draw& row) const {
    (signs ? kernels->signs : kernels->normals)(out, row, uint32_t(tile.first / 4), tile.n);
}

void Noise::many_rows(float* out, const Tile& tile, Quads& quads) const {
    const int64_t n = tile.n, drawn = (n + 3) / 4 * 4, count = drawn / 4 * tile.rows;
    for (int64_t q = count; q % BLOCK; ++q) quads.set(q, {}, 0);  // numbers are drawn a block at a time
    (signs ? kernels->signs_of : kernels->normals_of)(out, quads, 4 * count);
    if (n == 1) return close_up<1>(out, tile.rows, n, drawn);
    if (n == 2) return close_up<2>(out, tile.rows, n, drawn);
    if (n == 3) return close_up<3>(out, tile.rows, n, drawn);
    if (n != drawn) close_up<0>(out, tile.rows, n, drawn);
}

Tensor read_keys(PyObject* object, Arguments& arguments, int64_t batch, int64_t n) {
    Tensor keys = arguments.read(object);
    require(keys.type == I64 && keys.dims == 2 && keys.shape[0] == batch && keys.shape[1] == 2);
    require(n <= int64_t(1) << 34);
    return keys;
}

}  // namespace odesolve
