// The q-quantile of |x| over each sample, from exact order statistics.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "ops.h"
#include "parallel.h"

namespace odesolve {
namespace {

// The bits of |x| sort as |x| does, with NaN last, as torch sorts it.
template <class T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class T>
Key<T> key(T x) {
    Key<T> bits;
    std::memcpy(&bits, &x, sizeof x);
    return bits & ~(Key<T>(1) << (8 * sizeof(T) - 1));
}

template <class T>
T value(Key<T> bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Two neighbouring order statistics of a row: counted into bins by their leading bits, then chosen within one bin.
template <class T>
class Selection {
  public:
    Selection(const Space& space, int64_t row) : space_(space), row_(row) {}

    void select(int64_t rank, T& low, T& high) {
        count();
        int64_t bin = 0, sum;
        for (; rank >= (sum = several(bin)); bin += STRIDE) rank -= sum;
        for (; rank >= counts_[bin]; ++bin) rank -= counts_[bin];
        collect(bin);
        const auto nth = members_.begin() + rank;
        std::nth_element(members_.begin(), nth, members_.end());
        low = value<T>(*nth);
        high = value<T>(nth + 1 < members_.end() ? *std::min_element(nth + 1, members_.end()) : above_);
    }

  private:
    static constexpr int BINS = 4096, SHIFT = 8 * sizeof(T) - 13;  // the sign bit is 0
    static constexpr int STRIDE = 32;                               // bins that are passed over at a time: most are empty
    const Space& space_;
    int64_t row_;
    Scratch<T> scratch_{1};
    std::vector<int64_t> counts_ = std::vector<int64_t>(BINS);
    std::vector<Key<T>> members_;
    Key<T> above_ = ~Key<T>(0);

    template <class F>
    void each(F f) {
        for (int64_t first = 0; first < space_.n; first += TILE) {
            const Tile t = {row_, 1, first, std::min(TILE, space_.n - first)};
            const View& view = space_.views[0];
            const T* x = view.direct<T>(t) ? place<T>(view, t) : gather(space_, view, t, scratch_[0]);
            for (int64_t i = 0; i < t.n; ++i) f(key(x[i]));
        }
    }

    int64_t several(int64_t bin) const {
        return std::accumulate(counts_.begin() + bin, counts_.begin() + bin + STRIDE, int64_t(0));
    }

    void count() {
        each([&](Key<T> k) { ++counts_[k >> SHIFT]; });
    }

    void collect(int64_t bin) {
        members_.reserve(counts_[bin]);
        each([&](Key<T> k) {
            const int64_t its = k >> SHIFT;
            if (its == bin) members_.push_back(k);
            if (its > bin && k < above_) above_ = k;
        });
    }
};

template <class T>
void quantile_in(const Space& space, const Tensor& out, double q) {
    const double place = q * double(space.n - 1);
    const int64_t rank = std::min(int64_t(place), space.n - 1);
    const T part = T(place - double(rank));
    parallel_for(space.rows, std::max<int64_t>(1, 16 * TILE / space.n), [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
            T low, high;
            Selection<T>(space, b).select(rank, low, high);
            if (rank + 1 == space.n) high = low;
            put(out, b * out.stride[0], low + part * (high - low));
        }
    });
}

}  // namespace

void quantile(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 3);
    const Tensor x = arguments.read(args[1]);
    require(x.is_float() && x.dims > 0);
    Few<const Tensor*> tensors;
    tensors.push_back(&x);
    const Space space(tensors, true, false);
    const Tensor out = arguments.write(args[0]);
    const double q = number(args[2]);
    require(!overlap(out, x));  // a row is written while others are read
    require(out.dims == 1 && out.shape[0] == space.rows && space.n > 0 && q >= 0.0 && q <= 1.0);
    Unlocked unlocked(space.rows * space.n);
    x.type == F64 ? quantile_in<double>(space, out, q) : quantile_in<float>(space, out, q);
}

}  // namespace odesolve
