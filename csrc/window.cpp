// The Picard update of a window: one pass over elements, all points of a tile while its state stays in L1.
#include <algorithm>
#include <vector>

#include "noise.h"
#include "ops.h"
#include "parallel.h"

namespace odesolve {
namespace {

constexpr int MAX_TERMS = 33;
constexpr int64_t GRAIN = 64 * TILE;  // elements of all points that are worth a second thread
constexpr int64_t SPAN = 8;            // tiles taken together: reading longer stretches of a point is faster from memory

struct Call {
    Tensor out, residual, origin, old, weights, growth, streams;
    Few<Tensor, 32> ins;
    Noise noise;
    bool noisy = false;
    int64_t points() const { return out.shape[0]; }
    int columns() const { return ins.size() + noisy; }
};

// One point of a tensor (P, B, ...).
Tensor point(const Tensor& x) {
    Tensor first = x;
    first.dims = x.dims - 1;
    std::copy_n(x.shape + 1, first.dims, first.shape);
    std::copy_n(x.stride + 1, first.dims, first.stride);
    return first;
}

// Where the entry of a point and a sample lies in a table (P, ...) or (P, B, ...).
int64_t entry(const Tensor& x, bool each, int64_t p, int64_t b) {
    return p * x.stride[0] + (each ? b * x.stride[1] : 0);
}

template <class T>
class Window {
  public:
    Window(const Call& call, const Space& space) : call_(call), space_(space) {
        blocks_.resize(call.points() * space.rows * space.tiles_a_row());
        if (space.tiles_a_row() > 1) {
            span_ = std::min({SPAN, space.tiles_a_row(), std::max<int64_t>(1, space.tiles() / SPAN)});
            spans_a_row_ = (space.tiles_a_row() + span_ - 1) / span_;
        }
    }

    void run() {
        const int64_t count = space_.tiles() / space_.tiles_a_row() * spans_a_row_;
        const int64_t work = std::min(span_ * TILE, space_.rows * space_.n) * call_.points();
        parallel_for(count, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work)), [this](int64_t begin, int64_t end) {
            Scratch<T> scratch(SPARE + call_.columns());
            for (int64_t i = begin; i < end; ++i) {
                const int64_t row = i / spans_a_row_ * space_.tiles_a_row(), place = i % spans_a_row_ * span_;
                span(row + place, row + std::min(place + span_, space_.tiles_a_row()), scratch);
            }
        });
        finish();
    }

  private:
    enum { CHANGE = SPAN, OLD, SPARE };  // buffers: states before these, inputs after
    enum { OUT, ORIGIN, EARLIER, INS };  // views
    const Call& call_;
    const Space& space_;
    std::vector<double> blocks_;
    int64_t span_ = 1, spans_a_row_ = 1;

    double* blocks(int64_t p, int64_t b) { return blocks_.data() + (p * space_.rows + b) * space_.tiles_a_row(); }

    const T* at(int view, const Tile& t, int64_t offset, T* buffer) const {
        const View& v = space_.views[view];
        return v.direct<T>(t) ? place<T>(v, t, offset) : gather(space_, v, t, buffer, offset);
    }

    void span(int64_t begin, int64_t end, Scratch<T>& scratch) {
        for (int64_t i = begin; i < end; ++i) gather(space_, space_.views[ORIGIN], space_.tile(i), scratch[i - begin]);
        for (int64_t p = 0; p < call_.points(); ++p)
            for (int64_t i = begin; i < end; ++i) tile(p, space_.tile(i), scratch[i - begin], scratch);
    }

    void tile(int64_t p, const Tile& t, T* state, Scratch<T>& scratch) {
        const T* x[MAX_TERMS];
        sources(x, p, t, scratch);
        const T* old = at(EARLIER, t, p * call_.old.stride[0], scratch[OLD]);
        const View& view = space_.views[OUT];
        const bool there = view.direct<T>(t);
        T* result = there ? place<T>(view, t, p * call_.out.stride[0]) : nullptr;
        for (int64_t r = 0; r < t.rows; ++r) {
            const int64_t b = t.row + r, i = r * t.n;
            blocks(p, b)[t.first / TILE] = row(x, old, state, there ? result + i : nullptr, p, b, i, t.n, scratch[CHANGE]);
        }
        if (!there) scatter(space_, view, t, state, p * call_.out.stride[0]);
    }

    void sources(const T** x, int64_t p, const Tile& t, Scratch<T>& scratch) const {
        const int n_in = call_.ins.size();
        for (int j = 0; j < n_in; ++j) x[j] = at(INS + j, t, p * call_.ins[j].stride[0], scratch[SPARE + j]);
        if (!call_.noisy) return;
        const Tensor& s = call_.streams;
        T* drawn = scratch[SPARE + n_in];
        if (s.dims == 2)
            call_.noise.tile(drawn, t, s, p * s.stride[0], s.stride[1]);
        else
            call_.noise.tile(drawn, t, word_at(s, p * s.stride[0]));
        x[n_in] = drawn;
    }

    // The n elements of one sample from `i` on in the tile: their change, their new state, the square of their move.
    double row(const T* const* x, const T* old, T* state, T* out, int64_t p, int64_t b, int64_t i, int64_t n,
               T* change) const {
        const Tensor &w = call_.weights, &g = call_.growth;
        const int64_t place = entry(w, w.dims == 3, p, b);
        const T* in[MAX_TERMS];
        T weight[MAX_TERMS];
        int terms = 0;
        for (int j = 0; j < call_.columns(); ++j) {
            weight[terms] = T(float_at(w, place + j * w.stride[w.dims - 1]));
            if (weight[terms] != T(0)) in[terms++] = x[j] + i;
        }
        loops<T>().combine(change, terms, in, weight, nullptr, n);
        const T growth = T(float_at(g, entry(g, g.dims == 2, p, b)));
        return loops<T>().advance(state + i, out ? out : state + i, change, old + i, growth, n);
    }

    void finish() {
        const Tensor& r = call_.residual;
        for (int64_t p = 0; p < call_.points(); ++p)
            for (int64_t b = 0; b < space_.rows; ++b) {
                double total = 0.0;
                for (int64_t i = 0; i < space_.tiles_a_row(); ++i) total += blocks(p, b)[i];
                put(r, p * r.stride[0] + b * r.stride[1], total / std::max<int64_t>(1, space_.n));
            }
    }
};

bool fits(const Tensor& x, int dims, int64_t points, int64_t batch) {
    return x.shape[0] == points && (x.dims == dims || (x.dims == dims + 1 && x.shape[1] == batch));
}

void read(Call& call, PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    call.origin = arguments.read(args[2]);
    call.old = arguments.read(args[3]);
    Items ins(args[4]);
    for (int j = 0; j < ins.size(); ++j) call.ins.push_back(arguments.read(ins[j]));
    call.weights = arguments.read(args[5]);
    call.growth = arguments.read(args[6]);
    call.noisy = count > 8 && !is_none(args[8]);
    if (call.noisy) call.streams = arguments.read(args[8]);
    call.out = arguments.write(args[0]);
    call.residual = arguments.write(args[1]);
}

void check(const Call& call) {
    const Tensor& out = call.out;
    require(out.dims >= 2 && call.origin.is_float() && call.origin.same_shape(point(out)));
    const int64_t points = out.shape[0], batch = out.shape[1];
    require(call.old.is_float() && call.old.same_shape(out));
    require(!overlap(out, call.origin) && (!overlap(out, call.old) || same_place(out, call.old)));
    for (const Tensor& x : call.ins) require(x.is_float() && x.same_shape(out) && !overlap(out, x));
    const Tensor &r = call.residual, &w = call.weights, &g = call.growth, &s = call.streams;
    require(!overlap(out, r) && !overlap(out, w) && !overlap(out, g));
    require(r.dims == 2 && r.shape[0] == points && r.shape[1] == batch);
    require(w.is_float() && w.dims >= 2 && fits(w, 2, points, batch) && w.shape[w.dims - 1] == call.columns());
    require(g.is_float() && g.dims >= 1 && fits(g, 1, points, batch));
    require(!call.noisy || (s.type == I64 && s.dims >= 1 && fits(s, 1, points, batch)));
}

bool wide(const Call& call) {
    return call.out.type == F64 || call.origin.type == F64 ||
           std::any_of(call.ins.begin(), call.ins.end(), [](const Tensor& x) { return x.type == F64; });
}

}  // namespace

void window(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count >= 7 && count <= 9);
    Call call;
    read(call, args, count, arguments);
    check(call);
    require(wide(call) || call.old.type != F64);
    Few<Tensor> points;
    for (const Tensor& x : {point(call.out), call.origin, point(call.old)}) points.push_back(x);
    for (const Tensor& x : call.ins) points.push_back(point(x));
    Few<const Tensor*> tensors;
    for (const Tensor& x : points) tensors.push_back(&x);
    const Space space(tensors, true, true);
    if (call.noisy) call.noise.keys = read_keys(args[7], arguments, space.rows, space.n);
    Unlocked unlocked(space.rows * space.n * call.points());
    wide(call) ? Window<double>(call, space).run() : Window<float>(call, space).run();
}

}  // namespace odesolve
