// combine: see kernels/reference.py for the contract of every op.
#include <algorithm>
#include <cmath>
#include <vector>

#include "noise.h"
#include "ops.h"
#include "parallel.h"

namespace odesolve {
namespace {

constexpr int MAX_TERMS = MAX_TENSORS;
constexpr int64_t LONG_TILE = 32 * TILE;    // where nothing is kept between two passes over a tile
// What is worth a second thread, about as much as torch asks for: elements read or written; a number drawn costs ten.
constexpr int64_t GRAIN = 192 * TILE, DRAWN = 10;

// (rows, columns) for all samples, or one such block a sample.
struct Weights {
    int rows, columns;
    std::vector<double> shared;
    Tensor each;

    bool by_sample() const { return shared.empty() && columns > 0; }
    double at(int64_t b, int i, int j) const {
        return by_sample() ? float_at(each, b * each.stride[0] + i * each.stride[1] + j * each.stride[2])
                           : shared[i * columns + j];
    }
};

struct Call {
    Few<Tensor> outs, ins;
    Weights weights;
    Few<int> base;
    Few<uint64_t> streams;
    Noise noise;
    bool error = false;
    Tensor norm;
    Scale rtol, atol;

    int64_t batch() const { return ins[0].dims ? ins[0].shape[0] : -1; }
    bool by_sample() const { return weights.by_sample() || !streams.empty() || error; }
    bool ordered() const { return !streams.empty() || error; }
};

Weights read_weights(PyObject* object, Arguments& arguments, int rows, int columns, int64_t batch) {
    Weights w{rows, columns, {}, {}};
    if (is_tensor(object)) {
        Tensor x = arguments.read(object);
        require(x.is_float() && (x.dims == 2 || x.dims == 3));
        require(x.shape[x.dims - 2] == rows && x.shape[x.dims - 1] == columns);
        if (x.dims == 3) {
            require(x.shape[0] == batch);
            w.each = x;
            return w;
        }
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < columns; ++j) w.shared.push_back(float_at(x, i * x.stride[0] + j * x.stride[1]));
        return w;
    }
    Items all(object);
    require(all.size() == rows);
    w.shared.reserve(rows * columns);
    for (int i = 0; i < rows; ++i) {
        Items row(all[i]);
        require(row.size() == columns);
        for (int j = 0; j < columns; ++j) w.shared.push_back(number(row[j]));
    }
    return w;
}

void read_tensors(Call& call, PyObject* outs_, PyObject* ins_, Arguments& arguments) {
    Items outs(outs_), ins(ins_);
    require(ins.size() > 0);
    for (int j = 0; j < ins.size(); ++j) {
        call.ins.push_back(arguments.read(ins[j]));
        require(call.ins[j].is_float() && call.ins[j].same_shape(call.ins[0]));
    }
    for (int i = 0; i < outs.size(); ++i) {
        const Tensor out = arguments.write(outs[i]);
        require(out.same_shape(call.ins[0]));
        for (const Tensor& x : call.ins) require(!overlap(out, x) || same_place(out, x));
        for (const Tensor& other : call.outs) require(!overlap(out, other));
        call.outs.push_back(out);
    }
}

void read_error(Call& call, PyObject* object, Arguments& arguments) {
    Items error(object);
    require(error.size() == 3 && !call.outs.empty() && call.batch() >= 0);
    call.error = true;
    call.norm = arguments.write(error[0]);
    require(call.norm.dims == 1 && call.norm.shape[0] == call.batch());
    call.rtol = scale(error[1], arguments, call.batch());
    call.atol = scale(error[2], arguments, call.batch());
}

// What is read or written for each sample while outputs are written shares no memory with them.
void require_apart(const Call& call) {
    for (const Tensor& out : call.outs) {
        require(!call.weights.by_sample() || !overlap(out, call.weights.each));
        if (call.error) require(!overlap(out, call.norm) && !overlap(out, call.rtol) && !overlap(out, call.atol));
    }
}

void read_noise(Call& call, PyObject* keys, PyObject* streams_, Arguments& arguments) {
    Items streams(streams_);
    require(call.ins.size() + streams.size() <= MAX_TERMS);
    for (int k = 0; k < streams.size(); ++k) call.streams.push_back(word(streams[k]));
    if (call.streams.empty()) return;
    require(call.batch() >= 0);
    const int64_t n = call.batch() ? call.ins[0].numel / call.batch() : 0;
    call.noise.keys = read_keys(keys, arguments, call.batch(), n);
}

// The terms of one output that have a weight.
template <class T>
struct Sum {
    int terms, base, source[MAX_TERMS];
    T weight[MAX_TERMS];
};

template <class T>
class Combine {
  public:
    Combine(const Call& call, Space& space) : call_(call), space_(space), n_in_(call.ins.size()) {
        n_out_ = call.outs.size();
        if (!call.weights.by_sample())
            for (int i = 0; i < call.weights.rows; ++i) shared_.push_back(sum(0, i));
        note_what_is_read();
        note_places();
        if (call.error) blocks_.resize(space.rows * space.tiles_a_row());
        if (simple()) space.cut(LONG_TILE);
    }

    void run() {
        parallel_for(space_.tiles(), std::max<int64_t>(1, GRAIN / tile_work()), [this](int64_t begin, int64_t end) {
            Scratch<T> scratch(call_.weights.columns + 3);
            for (int64_t i = begin; i < end; ++i) tile(space_.tile(i), scratch);
        });
        if (call_.error) finish();
    }

  private:
    const Call& call_;
    Space& space_;
    int n_in_, n_out_;
    std::vector<Sum<T>> shared_;
    bool read_[MAX_TERMS] = {}, staged_[MAX_TERMS] = {};
    std::vector<double> blocks_;

    const View& out_view(int i) const { return space_.views[i]; }
    const View& in_view(int j) const { return space_.views[n_out_ + j]; }

    int64_t tile_work() const {
        const int64_t n = std::max<int64_t>(1, space_.n), drawn = (n + 3) / 4 * 4 * DRAWN * call_.streams.size();
        const int64_t element = n_in_ + n_out_ + 4 * call_.error + drawn / n;
        return element * std::max<int64_t>(1, std::min(space_.tile_size(), space_.rows * space_.n));
    }

    Sum<T> sum(int64_t b, int i) const {
        Sum<T> s;
        s.terms = 0;
        s.base = i < n_out_ ? call_.base[i] : -1;
        for (int j = 0; j < call_.weights.columns; ++j) {
            const T w = T(call_.weights.at(b, i, j));
            if (w == T(0)) continue;
            s.source[s.terms] = j;
            s.weight[s.terms++] = w;
        }
        return s;
    }

    void note_what_is_read() {
        if (call_.weights.by_sample()) std::fill_n(read_, call_.weights.columns, true);
        for (const auto& s : shared_)
            for (int k = 0; k < s.terms; ++k) read_[s.source[k]] = true;
        for (int b : call_.base)
            if (b >= 0) read_[b] = true;
        if (call_.error) read_[0] = true;
    }

    // An input that an output replaces is copied first where a later output reads it too.
    void note_places() {
        for (int j = 0; j < n_in_; ++j)
            for (const Tensor& out : call_.outs)
                staged_[j] = staged_[j] || (n_out_ + call_.error > 1 && out.data == call_.ins[j].data);
    }

    // One pass over tensors that lie as they are needed: tiles may be long.
    bool simple() const {
        const Tile whole = {0, 1, 0, 0};
        return n_out_ == 1 && !call_.by_sample() &&
               std::all_of(space_.views.begin(), space_.views.end(), [&](auto& v) { return v.template direct<T>(whole); });
    }

    void apply(const Sum<T>& s, const T* const* x, int64_t offset, T* out, int64_t n) const {
        const T* in[MAX_TERMS];
        for (int k = 0; k < s.terms; ++k) in[k] = x[s.source[k]] + offset;
        loops<T>().combine(out, s.terms, in, s.weight, s.base >= 0 ? x[s.base] + offset : nullptr, n);
    }

    void output(int i, const T* const* x, T* out, const Tile& t) const {
        if (!call_.weights.by_sample()) return apply(shared_[i], x, 0, out, t.size());
        for (int64_t r = 0; r < t.rows; ++r) apply(sum(t.row + r, i), x, r * t.n, out + r * t.n, t.n);
    }

    void sources(const T** x, const Tile& t, Scratch<T>& scratch) const {
        for (int j = 0; j < n_in_; ++j) {
            if (!read_[j]) continue;
            const View& view = in_view(j);
            const bool there = !staged_[j] && view.direct<T>(t);
            x[j] = there ? place<T>(view, t) : gather(space_, view, t, scratch[j]);
        }
        for (int k = 0; k < call_.streams.size(); ++k) {
            if (!read_[n_in_ + k]) continue;
            T* buffer = scratch[n_in_ + k];
            call_.noise.tile(buffer, t, call_.streams[k]);
            x[n_in_ + k] = buffer;
        }
    }

    void tile(const Tile& t, Scratch<T>& scratch) {
        const int columns = call_.weights.columns;
        const T *x[MAX_TERMS], *first = nullptr;
        sources(x, t, scratch);
        for (int i = 0; i < n_out_; ++i) {
            const View& view = out_view(i);
            const bool there = view.direct<T>(t);
            T* result = there ? place<T>(view, t) : scratch[columns + (i > 0)];
            output(i, x, result, t);
            if (!there) scatter(space_, view, t, result);
            if (i == 0) first = result;
        }
        if (call_.error) block(x, first, t, scratch);
    }

    // Sums of squares of one tile, of the outputs as they were stored.
    void block(const T** x, const T* y1, const Tile& t, Scratch<T>& scratch) {
        const int columns = call_.weights.columns;
        if (out_view(0).type != type_of<T>()) y1 = gather(space_, out_view(0), t, scratch[columns]);
        T* e = scratch[columns + 2];
        output(n_out_, x, e, t);
        for (int64_t r = 0; r < t.rows; ++r) {
            const int64_t b = t.row + r, at = r * t.n;
            blocks_[b * space_.tiles_a_row() + t.first / TILE] =
                loops<T>().error(e + at, x[0] + at, y1 + at, T(call_.rtol.at(b)), T(call_.atol.at(b)), t.n);
        }
    }

    void finish() const {
        for (int64_t b = 0; b < space_.rows; ++b)
            put(call_.norm, b * call_.norm.stride[0], std::sqrt(row_sum(space_, blocks_, b) / std::max<int64_t>(1, space_.n)));
    }
};

bool all_narrow(const Few<Tensor>& tensors) {
    return std::none_of(tensors.begin(), tensors.end(), [](const Tensor& x) { return x.type == F64; });
}

void run(const Call& call) {
    if (call.outs.empty()) return;
    Few<const Tensor*> tensors;
    for (auto* list : {&call.outs, &call.ins})
        for (const Tensor& x : *list) tensors.push_back(&x);
    Space space(tensors, call.by_sample(), call.ordered());
    Unlocked unlocked(space.rows * space.n);
    if (all_narrow(call.outs) && all_narrow(call.ins))
        Combine<float>(call, space).run();
    else
        Combine<double>(call, space).run();
}

}  // namespace

void combine(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count >= 4 && count <= 7);
    Call call;
    read_tensors(call, args[0], args[1], arguments);
    if (count > 5) read_noise(call, args[4], args[5], arguments);
    if (count > 6 && !is_none(args[6])) read_error(call, args[6], arguments);
    const int n_in = call.ins.size(), n_out = call.outs.size();
    call.weights =
        read_weights(args[2], arguments, n_out + call.error, n_in + call.streams.size(), call.batch());
    require(!call.by_sample() || call.batch() >= 0);
    require_apart(call);
    Items base(args[3]);
    require(base.size() == n_out);
    for (int i = 0; i < n_out; ++i) {
        const int64_t b = index(base[i]);
        require(b >= -1 && b < n_in);
        call.base.push_back(int(b));
    }
    run(call);
}

}  // namespace odesolve
