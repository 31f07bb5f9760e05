// The ops, as Python calls them. Each throws Leave before it has written anything.
#pragma once

#include <vector>

#include "space.h"
#include "tensor.h"

namespace odesolve {

void combine(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void normal(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void rms(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void inner(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void quadratic_form(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void quantile(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void window(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void normal_sums(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void assignment(PyObject* const* args, Py_ssize_t count, Arguments& arguments);
void control(PyObject* const* args, Py_ssize_t count, Arguments& arguments);

// Lets other Python threads run while there is much to do.
class Unlocked {
  public:
    explicit Unlocked(int64_t elements) : state_(elements > 16 * TILE ? PyEval_SaveThread() : nullptr) {}
    ~Unlocked() {
        if (state_) PyEval_RestoreThread(state_);
    }
    Unlocked(const Unlocked&) = delete;

  private:
    PyThreadState* state_;
};

// The sum over a row of what its tiles left, in order.
inline double row_sum(const Space& space, const std::vector<double>& blocks, int64_t row) {
    double total = 0.0;
    for (int64_t i = 0; i < space.tiles_a_row(); ++i) total += blocks[row * space.tiles_a_row() + i];
    return total;
}

}  // namespace odesolve
