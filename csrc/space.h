// How the elements of tensors of one shape are walked: in rows of n elements, in tiles that fit L1.
#pragma once

#include <cstdlib>
#include <new>

#include "kernels.h"
#include "tensor.h"

namespace odesolve {

// `rows` rows from `row` on, of each the n elements from `first` on: a part of one row, or several whole rows.
struct Tile {
    int64_t row, rows, first, n;
    int64_t size() const { return rows * n; }
};

// A tensor seen in the order of a space. `unit`: the elements of a row lie side by side.
struct View {
    char* data;
    Type type;
    bool unit;
    int64_t row_stride, stride[MAX_DIMS];

    template <class T>
    bool direct(const Tile& tile) const;
};

// Rows are samples where weights, noise or sums belong to samples (`by_sample`), else all is one row. Elements come in
// their logical order where `ordered`, which noise and sums need, else in the order that the first tensor has in memory.
class Space {
  public:
    Space(const Few<const Tensor*>& tensors, bool by_sample, bool ordered);

    int64_t rows = 1, n = 1;
    Few<View> views;

    void cut(int64_t tile);
    int64_t tiles() const { return rows && n ? (rows + rows_a_tile_ - 1) / rows_a_tile_ * tiles_a_row_ : 0; }
    int64_t tiles_a_row() const { return tiles_a_row_; }
    int64_t tile_size() const { return tile_; }
    Tile tile(int64_t i) const;

    // Calls f(first element, stride, place in the tile, length) for each stretch of a tensor that has one stride.
    template <class F>
    void stretches(const View& view, const Tile& tile, F f) const;

  private:
    int dims_ = 0;
    int64_t shape_[MAX_DIMS];
    int64_t tile_ = TILE, rows_a_tile_ = 1, tiles_a_row_ = 1;
};

template <class T>
constexpr Type type_of();
template <>
constexpr Type type_of<float>() { return F32; }
template <>
constexpr Type type_of<double>() { return F64; }

template <class T>
bool View::direct(const Tile& tile) const {
    return unit && type == type_of<T>() && (tile.rows == 1 || row_stride == tile.n);  // several rows are whole rows
}

template <class F>
void Space::stretches(const View& view, const Tile& tile, F f) const {
    const int64_t size = size_of(view.type);
    // Whole rows, one behind the other. A part of a row may be as long as rows are apart: that is none of these.
    if (view.unit && tile.n == n && view.row_stride == n) {
        f(view.data + tile.row * n * size, int64_t(1), int64_t(0), tile.size());
        return;
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
        char* row = view.data + (tile.row + r) * view.row_stride * size;
        int64_t done = r * tile.n, end = done + tile.n;
        if (view.unit) {
            f(row + tile.first * size, int64_t(1), done, tile.n);
            continue;
        }
        int64_t index[MAX_DIMS], rest = tile.first;
        for (int d = dims_ - 1; d >= 0; --d) {
            index[d] = rest % shape_[d];
            rest /= shape_[d];
        }
        const int last = dims_ - 1;
        while (done < end) {
            int64_t place = 0, run = shape_[last] - index[last];
            for (int d = 0; d < dims_; ++d) place += index[d] * view.stride[d];
            if (run > end - done) run = end - done;
            f(row + place * size, view.stride[last], done, run);
            done += run;
            index[last] = 0;
            for (int d = last - 1; d >= 0 && ++index[d] == shape_[d]; --d) index[d] = 0;
        }
    }
}

// A tile of a tensor in the type T: where it lies if it can be read there, else gathered into `buffer`.
template <class T>
const T* gather(const Space& space, const View& view, const Tile& tile, T* buffer, int64_t offset = 0) {
    auto load = loops<T>().load[view.type];
    const int64_t bytes = offset * size_of(view.type);
    space.stretches(view, tile, [&](const char* from, int64_t stride, int64_t at, int64_t n) {
        load(buffer + at, from + bytes, stride, n);
    });
    return buffer;
}

template <class T>
T* place(const View& view, const Tile& tile, int64_t offset = 0) {
    return reinterpret_cast<T*>(view.data) + tile.row * view.row_stride + tile.first + offset;
}

template <class T>
void scatter(const Space& space, const View& view, const Tile& tile, const T* values, int64_t offset = 0) {
    auto store = loops<T>().store[view.type];
    const int64_t bytes = offset * size_of(view.type);
    space.stretches(view, tile, [&](char* to, int64_t stride, int64_t at, int64_t n) {
        store(to + bytes, stride, values + at, n);
    });
}

// Buffers of a tile each for one worker, made when the first is asked for.
template <class T>
class Scratch {
  public:
    explicit Scratch(int count) : count_(count) {}
    ~Scratch() { std::free(memory_); }
    Scratch(const Scratch&) = delete;
    T* operator[](int i) {
        if (!memory_) allocate();
        return first_ + i * TILE;
    }

  private:
    void allocate() {
        constexpr uintptr_t line = 64;
        memory_ = std::malloc(count_ * TILE * sizeof(T) + line);
        if (!memory_) throw std::bad_alloc();
        first_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory_) + line - 1) / line * line);
    }
    int count_;
    void* memory_ = nullptr;
    T* first_ = nullptr;
};

}  // namespace odesolve
