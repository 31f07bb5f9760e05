#include "space.h"

#include <algorithm>
#include <cstdlib>

namespace odesolve {
namespace {

using Tensors = Few<const Tensor*>;

// Dimensions with more than one element, from outermost to innermost.
int dimensions(const Tensor& shape, bool by_sample, bool ordered, int* order) {
    int count = 0;
    for (int d = by_sample ? 1 : 0; d < shape.dims; ++d)
        if (shape.shape[d] != 1) order[count++] = d;
    if (!ordered)
        std::stable_sort(order, order + count, [&](int a, int b) { return shape.stride[a] > shape.stride[b]; });
    return count;
}

// Whether two dimensions can be walked as one in every tensor.
bool one_stretch(const Tensors& tensors, int outer, int inner) {
    return std::all_of(tensors.begin(), tensors.end(), [=](const Tensor* x) {
        return x->stride[outer] == x->stride[inner] * x->shape[inner];
    });
}

}  // namespace

Space::Space(const Tensors& tensors, bool by_sample, bool ordered) {
    const Tensor& first = *tensors[0];
    int order[MAX_DIMS], inner[MAX_DIMS];
    int count = dimensions(first, by_sample, ordered, order);
    rows = by_sample ? first.shape[0] : 1;
    for (int i = 0; i < count; ++i) {
        const int64_t size = first.shape[order[i]];
        n *= size;
        if (i && one_stretch(tensors, order[i - 1], order[i]))
            shape_[dims_ - 1] *= size;
        else
            shape_[dims_++] = size;
        inner[dims_ - 1] = order[i];
    }
    for (const Tensor* x : tensors) {
        View view{x->data, x->type, true, by_sample ? x->stride[0] : 0, {}};
        int64_t dense = 1;
        for (int d = dims_ - 1; d >= 0; --d) {
            view.stride[d] = x->stride[inner[d]];
            view.unit = view.unit && view.stride[d] == dense;
            dense *= shape_[d];
        }
        views.push_back(view);
    }
    cut(TILE);
}

void Space::cut(int64_t tile) {
    tile_ = tile;
    tiles_a_row_ = std::max<int64_t>(1, (n + tile - 1) / tile);
    rows_a_tile_ = std::max<int64_t>(1, tile / (4 * std::max<int64_t>(1, (n + 3) / 4)));  // whole quads of each row fit
}

Tile Space::tile(int64_t i) const {
    if (tiles_a_row_ == 1) {
        int64_t row = i * rows_a_tile_;
        return {row, std::min(rows_a_tile_, rows - row), 0, n};
    }
    int64_t row = i / tiles_a_row_, first = i % tiles_a_row_ * tile_;
    return {row, 1, first, std::min(tile_, n - first)};
}

}  // namespace odesolve
