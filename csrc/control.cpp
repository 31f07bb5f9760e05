// control: see kernels/control.py for the contract, and for what the rows and settings are.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops.h"

namespace odesolve {
namespace {

enum Row { T, H, ERROR, OLDER, STATUS, TOOK, NFE, STEPS, REJECTED, T0, H0, NORM, END, SHORTEST, ROWS };
enum Status { RUNNING, OK, EVENT, MAX_STEPS, MIN_STEP, DIVERGED };
enum Kind { BY_STEP = 1, IF_TOOK = 2, IF_KEPT = 4, KINDS = 8 };
constexpr double LANDING = 1.01, SMALLEST = 1e-10, RESOLUTION = 8 * 0x1p-52;

// In the order in which they lie in memory.
struct Settings {
    double beta[3], exponent, safety, least, most, accept, floor, longest, limit, evaluations;
};
constexpr int64_t SETTINGS = sizeof(Settings) / sizeof(double);

// x^-exponent: most controllers remember nothing.
double power(double x, double exponent) { return exponent == 0.0 ? 1.0 : std::pow(x, -exponent); }

// The control state of one sample.
class Sample {
  public:
    Sample(double* state, int64_t stride, const Settings& given)
        : end(state[END * stride]), state_(state), stride_(stride), given_(given) {}
    const double end;
    double& operator[](Row row) const { return state_[row * stride_]; }

    void judge(double norm) const {
        const Sample& s = *this;
        const bool running = s[STATUS] == RUNNING, finite = std::isfinite(norm), kept = s[TOOK] == 0.0;
        s[TOOK] = 0.0;
        if (!running) return;
        double error, change;
        const bool accepted = factor(norm, kept, change, error) && finite;
        if (!finite) change = given_.least;
        const double t = s[T], h = s[H], least = std::max(RESOLUTION * std::fabs(t), s[SHORTEST]);
        const bool landed = accepted && h == end - t;
        s[T0] = t;
        s[H0] = h;
        s[NORM] = norm;
        s[NFE] += given_.evaluations;
        s[accepted ? STEPS : REJECTED] += 1.0;
        if (s[STEPS] + s[REJECTED] >= given_.limit) s[STATUS] = MAX_STEPS;
        if (accepted) {
            s[T] = landed ? end : t + h;
            s[OLDER] = s[ERROR] > 0.0 ? s[ERROR] : error;
            s[ERROR] = error;
            s[TOOK] = 1.0;
        } else if (std::fabs(h) <= least) {
            s[STATUS] = finite ? MIN_STEP : DIVERGED;
        }
        if (landed) s[STATUS] = OK;
        s[H] = std::copysign(std::max(std::fabs(h) * change, least), h);
    }

    void aim() const {
        const Sample& s = *this;
        const double left = end - s[T], h = std::min(std::fabs(s[H]), given_.longest);
        s[H] = s[STATUS] != RUNNING ? 0.0 : LANDING * h >= std::fabs(left) ? left : std::copysign(h, left);
    }

  private:
    double* state_;
    int64_t stride_;
    const Settings& given_;

    // By how much the step changes, the error to remember, and whether the attempt is accepted.
    bool factor(double norm, bool kept, double& change, double& error) const {
        const Sample& s = *this;
        const bool smooth = given_.accept > 0.0;
        error = smooth ? norm + given_.floor : std::max(norm, SMALLEST);
        const double last = s[ERROR] > 0.0 ? s[ERROR] : error, older = s[OLDER] > 0.0 ? s[OLDER] : last;
        change = power(error, given_.beta[0]) * power(last, given_.beta[1]) * power(older, given_.beta[2]);
        change *= given_.safety;
        if (smooth) {
            change = float(1.0 + std::atan(change - 1.0));
            return change >= given_.accept;
        }
        const bool accepted = norm <= 1.0;
        if (!accepted) change = std::pow(error, -given_.exponent) * given_.safety;
        change = float(std::min(std::max(change, given_.least), given_.most));
        if (accepted && kept) change = std::min(change, 1.0);
        error = std::max(error, given_.floor);
        return accepted;
    }
};

const double* doubles(const Tensor& x, int64_t numel) {
    require(x.type == F64 && x.numel == numel);
    for (int64_t d = x.dims - 1, run = 1; d >= 0; run *= x.shape[d--]) require(x.shape[d] == 1 || x.stride[d] == run);
    return reinterpret_cast<const double*>(x.data);
}

}  // namespace

void control(PyObject* const* args, Py_ssize_t count, Arguments& arguments) {
    require(count == 7 || count == 8);
    const Tensor state = arguments.write(args[0]), norm = arguments.read(args[1]);
    const Tensor weights = arguments.write(args[2]), times = arguments.write(args[3]);
    const Tensor table = arguments.read(args[4]), nodes = arguments.read(args[5]), settings = arguments.read(args[6]);
    const bool begin = count > 7 && truth(args[7]);
    require(state.dims == 2 && weights.dims == 2 && times.dims == 2 && table.dims == 2);
    require(norm.dims == 1 && nodes.dims == 1 && settings.dims == 1 && weights.shape[0] == state.shape[1]);
    require(!overlap(state, weights) && !overlap(state, times) && !overlap(weights, times));
    for (const Tensor* out : {&state, &weights, &times})
        for (const Tensor* x : {&norm, &table, &nodes, &settings}) require(!overlap(*out, *x));
    const int64_t batch = state.shape[1], columns = table.shape[1], stages = nodes.numel;
    require(times.shape[0] == stages && times.shape[1] == batch);
    auto* const rows = const_cast<double*>(doubles(state, ROWS * batch));
    auto* const out = const_cast<double*>(doubles(weights, batch * columns));
    const double *const errors = doubles(norm, batch), *const coefficient = doubles(table, 2 * columns);
    const double* const node = doubles(nodes, stages);
    const Settings& given = *reinterpret_cast<const Settings*>(doubles(settings, SETTINGS));
    std::vector<int> kinds(columns);
    for (int64_t w = 0; w < columns; ++w) {
        const double kind = coefficient[columns + w];
        require(kind >= 0 && kind < KINDS);
        kinds[w] = int(kind);
    }
    for (int64_t b = 0; b < batch; ++b) {
        const Sample s(rows + b, batch, given);
        if (!begin) s.judge(errors[b]);
        s.aim();
        const double t = s[T], h = s[H];
        double by_kind[KINDS];
        for (int kind = 0; kind < KINDS; ++kind) {
            const bool off = kind & (s[TOOK] != 0.0 ? IF_KEPT : IF_TOOK);
            by_kind[kind] = off ? 0.0 : kind & BY_STEP ? h : 1.0;
        }
        for (int64_t w = 0; w < columns; ++w) out[b * columns + w] = coefficient[w] * by_kind[kinds[w]];
        for (int64_t i = 0; i < stages; ++i) {
            const bool landing = node[i] == 1.0 && h == s.end - t;
            put(times, i * times.stride[0] + b * times.stride[1], landing ? s.end : t + node[i] * h);
        }
    }
}

}  // namespace odesolve
