// Sums of many streams: totals stay in L1 while one stream after the other is drawn onto them.
#include <algorithm>
#include <vector>

#include "noise.h"
#include "ops.h"
#include "parallel.h"

namespace odesolve {
namespace {

constexpr int64_t GRAIN = 192 * TILE, DRAWN = 10;  // as in combine.cpp
constexpr int64_t SHORT = 16;                      // rows of which several fit a vector are added where they are

// Numbers (K,) or (B, K), (n_out, K) or (B, n_out, K): one set for all samples, or one a sample in a tensor.
struct Streams {
    std::vector<uint64_t> shared;
    Tensor each;
    bool by_sample = false;
};

struct Weights {
    std::vector<double> shared;
    Tensor each;
    bool by_sample = false;
    int64_t terms;

    double at(int64_t b, int i, int64_t k) const {
        return by_sample ? float_at(each, b * each.stride[0] + i * each.stride[1] + k * each.stride[2])
                         : shared[i * terms + k];
    }
};

struct Call {
    Few<Tensor> outs;
    Noise noise;
    Streams streams;
    Weights weights;
    bool accumulate = false;
};

template <class T>
class Sums {
  public:
    Sums(const Call& call, const Space& space) : call_(call), space_(space) {}

    void run() {
        const int64_t n = std::max<int64_t>(1, space_.n), drawn = (n + 3) / 4 * 4 * DRAWN * call_.weights.terms / n;
        const int64_t work = (drawn + 1) * std::min(TILE, space_.rows * space_.n);
        parallel_for(space_.tiles(), std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work)), [this](int64_t begin, int64_t end) {
            Scratch<T> scratch(call_.outs.size());
            for (int64_t i = begin; i < end; ++i) tile(space_.tile(i), scratch);
        });
    }

  private:
    const Call& call_;
    const Space& space_;

    void tile(const Tile& t, Scratch<T>& scratch) const {
        T* total[MAX_TENSORS];
        bool there[MAX_TENSORS];
        float drawn[GROUP * TILE];
        const int n_out = call_.outs.size();
        for (int i = 0; i < n_out; ++i) {
            const View& view = space_.views[i];
            there[i] = view.direct<T>(t);
            total[i] = there[i] ? place<T>(view, t) : scratch[i];
            if (!call_.accumulate) std::fill_n(total[i], t.size(), T(0));
            else if (!there[i]) gather(space_, view, t, total[i]);
        }
        int64_t group[GROUP];
        int count = 0;
        for (int64_t k = 0; k < call_.weights.terms; ++k) {
            if (!wanted(t, k)) continue;
            draw(drawn + count * TILE, t, k);
            group[count++] = k;
            if (count < GROUP) continue;
            add(total, drawn, t, group, count);
            count = 0;
        }
        if (count) add(total, drawn, t, group, count);
        for (int i = 0; i < n_out; ++i)
            if (!there[i]) scatter(space_, space_.views[i], t, total[i]);
    }

    // Whether a row of the tile has a weight for the stream.
    bool wanted(const Tile& t, int64_t k) const {
        const int64_t rows = call_.weights.by_sample ? t.rows : 1;
        for (int64_t r = 0; r < rows; ++r)
            for (int i = 0; i < call_.outs.size(); ++i)
                if (T(call_.weights.at(t.row + r, i, k)) != T(0)) return true;
        return false;
    }

    void draw(float* out, const Tile& t, int64_t k) const {
        const Streams& s = call_.streams;
        if (s.by_sample) return call_.noise.tile(out, t, s.each, k * s.each.stride[1], s.each.stride[0]);
        call_.noise.tile(out, t, s.shared[k]);
    }

    void add(T* const* total, const float* drawn, const Tile& t, const int64_t* group, int count) const {
        const bool each = call_.weights.by_sample;
        const int64_t rows = each ? t.rows : 1, n = each ? t.n : t.size();
        const float* z[GROUP];
        T w[GROUP];
        for (int i = 0; i < call_.outs.size(); ++i)
            for (int64_t r = 0; r < rows; ++r) {
                for (int k = 0; k < count; ++k) {
                    z[k] = drawn + k * TILE + r * n;
                    w[k] = T(call_.weights.at(t.row + r, i, group[k]));
                }
                T* out = total[i] + r * n;
                if (n > SHORT) {
                    loops<T>().add(out, count, z, w, n);
                } else {
                    for (int64_t e = 0; e < n; ++e)
                        for (int k = 0; k < count; ++k) out[e] += w[k] * T(z[k][e]);
                }
            }
    }
};

Weights read_weights(PyObject* object, Arguments& arguments, int n_out, int64_t batch) {
    Weights w;
    if (!is_tensor(object)) {
        Items rows(object);
        require(rows.size() == n_out);
        for (int i = 0; i < n_out; ++i) {
            Items row(rows[i]);
            w.terms = row.size();
            require(w.shared.size() == size_t(i * w.terms));
            for (int k = 0; k < w.terms; ++k) w.shared.push_back(number(row[k]));
        }
        return w;
    }
    const Tensor x = arguments.read(object);
    require(x.is_float() && (x.dims == 2 || x.dims == 3) && x.shape[x.dims - 2] == n_out);
    w.terms = x.shape[x.dims - 1];
    w.by_sample = x.dims == 3;
    require(!w.by_sample || x.shape[0] == batch);
    w.each = x;
    for (int i = 0; !w.by_sample && i < n_out; ++i)
        for (int64_t k = 0; k < w.terms; ++k) w.shared.push_back(float_at(x, i * x.stride[0] + k * x.stride[1]));
    return w;
}

Streams read_streams(PyObject* object, Arguments& arguments, int64_t terms, int64_t batch) {
    Streams s;
    if (!is_tensor(object)) {
        Items all(object);
        require(all.size() == terms);
        for (int k = 0; k < terms; ++k) s.shared.push_back(word(all[k]));
        return s;
    }
    const Tensor x = arguments.read(object);
    require(x.type == I64 && (x.dims == 1 || x.dims == 2) && x.shape[x.dims - 1] == terms);
    s.by_sample = x.dims == 2;
    require(!s.by_sample || x.shape[0] == batch);
    s.each = x;
    for (int64_t k = 0; !s.by_sample && k < terms; ++k) s.shared.push_back(word_at(x, k * x.stride[0]));
    return s;
}

}  // namespace

void normal_sums(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 4 || count == 5);
    Call call;
    Items outs(args[0]);
    Few<const Tensor*> tensors;
    require(outs.size() > 0);
    for (int i = 0; i < outs.size(); ++i) {
        const Tensor out = arguments.write(outs[i]);
        require(out.dims > 0);
        for (const Tensor& other : call.outs) require(out.same_shape(other) && !overlap(out, other));
        call.outs.push_back(out);
    }
    for (const Tensor& out : call.outs) tensors.push_back(&out);
    const Space space(tensors, true, true);
    call.noise.keys = read_keys(args[1], arguments, space.rows, space.n);
    call.weights = read_weights(args[3], arguments, call.outs.size(), space.rows);
    for (const Tensor& out : call.outs) require(!call.weights.by_sample || !overlap(out, call.weights.each));
    call.streams = read_streams(args[2], arguments, call.weights.terms, space.rows);
    call.accumulate = count > 4 && truth(args[4]);
    const bool wide = std::any_of(call.outs.begin(), call.outs.end(), [](const Tensor& x) { return x.type == F64; });
    Unlocked unlocked(space.rows * space.n * (1 + call.weights.terms));
    wide ? Sums<double>(call, space).run() : Sums<float>(call, space).run();
}

}  // namespace odesolve
