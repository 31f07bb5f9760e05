// normal, and the reductions over samples: rms, inner, quadratic_form.
#include <algorithm>
#include <cmath>
#include <vector>

#include "noise.h"
#include "ops.h"
#include "parallel.h"

namespace odesolve {
namespace {

// Elements worth a second thread.
constexpr int64_t SUMMED = 96 * TILE, DRAWN = 20 * TILE;

int64_t grain(const Space& space, int64_t elements) {
    return std::max<int64_t>(1, elements / std::max<int64_t>(1, std::min(TILE, space.rows * space.n)));
}

bool any_wide(const Tensor& first) { return first.type == F64; }
template <class... Tensors>
bool any_wide(const Tensor& first, const Tensors&... others) {
    return any_wide(first) || any_wide(others...);
}

template <class... Tensors>
Space samples(const Tensor& first, const Tensors&... others) {
    Few<const Tensor*> tensors;
    for (const Tensor* x : {&first, &others...}) {
        require(x->is_float() && x->dims > 0 && x->same_shape(first));
        tensors.push_back(x);
    }
    return Space(tensors, true, true);
}

Tensor per_sample(PyObject* object, Arguments& arguments, int64_t batch) {
    Tensor out = arguments.write(object);
    require(out.dims == 1 && out.shape[0] == batch);
    return out;
}

// One number or a number for each sample; torch's reference takes any shape that holds as many.
struct Streams {
    uint64_t one;
    bool many;
    Tensor each;

    template <class T>
    void draw(const Noise& noise, T* out, const Tile& tile) const {
        many ? noise.tile(out, tile, each, 0, each.stride[0]) : noise.tile(out, tile, one);
    }
};

Streams read_streams(PyObject* object, Arguments& arguments, int64_t batch) {
    Streams s;
    s.one = 0;
    s.many = false;
    if (!is_tensor(object)) {
        s.one = word(object);
        return s;
    }
    Tensor x = arguments.read(object);
    require(x.type == I64 && x.dims <= 1);
    s.many = x.dims == 1 && x.shape[0] == batch && batch > 1;
    if (s.many)
        s.each = x;
    else if (x.numel == 1)
        s.one = word_at(x, 0);
    else
        require(batch == 0);
    return s;
}

bool is_signs(PyObject* kind) {
    require(PyUnicode_Check(kind));
    const bool normal = PyUnicode_CompareWithASCIIString(kind, "normal") == 0;
    require(normal || PyUnicode_CompareWithASCIIString(kind, "rademacher") == 0);
    return !normal;
}

// out (B,) <- finish(sum over each sample of what block(first place in the tile, row, length) gives, row).
template <class T, class Prepare, class Finish>
void reduce(const Space& space, int64_t worth, int buffers, const Prepare& prepare, const Finish& finish) {
    std::vector<double> blocks(space.rows * space.tiles_a_row());
    parallel_for(space.tiles(), grain(space, worth), [&](int64_t begin, int64_t end) {
        Scratch<T> scratch(buffers);
        for (int64_t i = begin; i < end; ++i) {
            const Tile t = space.tile(i);
            const auto block = prepare(t, scratch);
            for (int64_t r = 0; r < t.rows; ++r)
                blocks[(t.row + r) * space.tiles_a_row() + t.first / TILE] = block(r * t.n, t.row + r, t.n);
        }
    });
    for (int64_t b = 0; b < space.rows; ++b) finish(b, row_sum(space, blocks, b));
}

template <class T>
const T* at(const Space& space, int i, const Tile& t, Scratch<T>& scratch) {
    const View& view = space.views[i];
    return view.direct<T>(t) ? place<T>(view, t) : gather(space, view, t, scratch[i]);
}

template <class T>
void rms_in(const Space& space, const Tensor& out, const Scale& rtol, const Scale& atol) {
    auto prepare = [&](const Tile& t, Scratch<T>& scratch) {
        const T *e = at(space, 0, t, scratch), *y0 = at(space, 1, t, scratch), *y1 = at(space, 2, t, scratch);
        return [=, &rtol, &atol](int64_t i, int64_t b, int64_t n) {
            return loops<T>().error(e + i, y0 + i, y1 + i, T(rtol.at(b)), T(atol.at(b)), n);
        };
    };
    reduce<T>(space, SUMMED, 3, prepare, [&](int64_t b, double sum) {
        put(out, b * out.stride[0], std::sqrt(sum / std::max<int64_t>(1, space.n)));
    });
}

// weight * sum, added to what is there if asked: the end of every inner product.
struct Weighted {
    Tensor out;
    Scale weight;
    bool accumulate;
    void operator()(int64_t b, double sum) const {
        const int64_t place = b * out.stride[0];
        const double value = weight.at(b) * sum;
        put(out, place, accumulate ? float_at(out, place) + value : value);
    }
};

template <class T>
void inner_in(const Space& space, const Weighted& finish) {
    auto prepare = [&](const Tile& t, Scratch<T>& scratch) {
        const T *a = at(space, 0, t, scratch), *b = at(space, 1, t, scratch);
        return [=](int64_t i, int64_t, int64_t n) { return loops<T>().dot(a + i, b + i, n); };
    };
    reduce<T>(space, SUMMED, 2, prepare, finish);
}

template <class T>
void form_in(const Space& space, const Noise& noise, const Streams& streams, const Weighted& finish) {
    auto prepare = [&](const Tile& t, Scratch<T>& scratch) {
        const T* v = at(space, 0, t, scratch);
        T* eps = scratch[1];
        streams.draw(noise, eps, t);
        return [=](int64_t i, int64_t, int64_t n) { return loops<T>().dot(eps + i, v + i, n); };
    };
    reduce<T>(space, DRAWN, 2, prepare, finish);
}

template <class T>
void normal_in(const Space& space, const Noise& noise, const Streams& streams) {
    parallel_for(space.tiles(), grain(space, DRAWN), [&](int64_t begin, int64_t end) {
        Scratch<T> scratch(1);
        const View& view = space.views[0];
        for (int64_t i = begin; i < end; ++i) {
            const Tile t = space.tile(i);
            // Several rows are drawn with their unused ends, for which there may be no room in place.
            const bool there = view.direct<T>(t) && (t.rows == 1 || t.n % 4 == 0);
            T* values = there ? place<T>(view, t) : scratch[0];
            streams.draw(noise, values, t);
            if (!there) scatter(space, view, t, values);
        }
    });
}

}  // namespace

void normal(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 3 || count == 4);
    const Tensor out = arguments.write(args[0]);
    const Space space = samples(out);
    const Noise noise{read_keys(args[1], arguments, space.rows, space.n), count > 3 && is_signs(args[3])};
    const Streams streams = read_streams(args[2], arguments, space.rows);
    Unlocked unlocked(space.rows * space.n);
    out.type == F64 ? normal_in<double>(space, noise, streams) : normal_in<float>(space, noise, streams);
}

void rms(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 6);
    const Tensor e = arguments.read(args[1]), y0 = arguments.read(args[2]), y1 = arguments.read(args[3]);
    const Space space = samples(e, y0, y1);
    const Tensor out = per_sample(args[0], arguments, space.rows);
    const Scale rtol = scale(args[4], arguments, space.rows), atol = scale(args[5], arguments, space.rows);
    Unlocked unlocked(space.rows * space.n);
    any_wide(e, y0, y1) ? rms_in<double>(space, out, rtol, atol) : rms_in<float>(space, out, rtol, atol);
}

void inner(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count >= 3 && count <= 5);
    const Tensor a = arguments.read(args[1]), b = arguments.read(args[2]);
    const Space space = samples(a, b);
    Weighted finish{per_sample(args[0], arguments, space.rows), {1.0, false, {}}, count > 4 && truth(args[4])};
    if (count > 3) finish.weight = scale(args[3], arguments, space.rows);
    require(!overlap(finish.out, finish.weight));
    Unlocked unlocked(space.rows * space.n);
    any_wide(a, b) ? inner_in<double>(space, finish) : inner_in<float>(space, finish);
}

void quadratic_form(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count >= 4 && count <= 7);
    const Tensor v = arguments.read(args[1]);
    const Space space = samples(v);
    const Noise noise{read_keys(args[2], arguments, space.rows, space.n), count < 5 || is_signs(args[4])};
    const Streams streams = read_streams(args[3], arguments, space.rows);
    Weighted finish{per_sample(args[0], arguments, space.rows), {1.0, false, {}}, count > 6 && truth(args[6])};
    if (count > 5) finish.weight = scale(args[5], arguments, space.rows);
    require(!overlap(finish.out, finish.weight));
    Unlocked unlocked(space.rows * space.n);
    v.type == F64 ? form_in<double>(space, noise, streams, finish) : form_in<float>(space, noise, streams, finish);
}

}  // namespace odesolve
