// Tensors and other arguments, read from Python objects.
#pragma once

#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace odesolve {

// Thrown for arguments that an op leaves to the reference, before anything is written. The op returns False then.
struct Leave {};
inline void require(bool condition) {
    if (!condition) throw Leave();
}

constexpr int MAX_DIMS = 16;

// A strided array in CPU memory. Whoever holds one holds the Python object too: see `Held`.
struct Tensor {
    char* data = nullptr;
    Type type = F32;
    int dims = 0;
    int64_t shape[MAX_DIMS], stride[MAX_DIMS];

    int64_t numel() const;
    bool is_float() const { return type != I64; }
    bool same_shape(const Tensor& other) const;
};

constexpr int64_t size_of(Type type) { return type == F64 || type == I64 ? 8 : type == F32 ? 4 : 2; }

// An owned reference.
class Held {
  public:
    explicit Held(PyObject* object = nullptr) : object_(object) {}
    Held(Held&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
    Held& operator=(Held&& other) noexcept {
        PyObject* old = object_;
        object_ = other.object_;
        other.object_ = nullptr;
        Py_XDECREF(old);
        return *this;
    }
    ~Held() { Py_XDECREF(object_); }
    PyObject* get() const { return object_; }
    explicit operator bool() const { return object_; }

  private:
    PyObject* object_;
};

inline Held hold(PyObject* borrowed) {
    Py_INCREF(borrowed);
    return Held(borrowed);
}

// A list or tuple, or anything that can become one.
class Items {
  public:
    explicit Items(PyObject* sequence);
    int size() const { return int(size_); }
    PyObject* operator[](int i) const;

  private:
    Held owner_;
    Py_ssize_t size_;
    bool list_;
};

// Reads the tensors of one call, keeps them alive, and tells autograd afterwards which were written.
class Arguments {
  public:
    Arguments();
    Tensor read(PyObject* object);
    Tensor write(PyObject* object);
    void written();

  private:
    bool grad_;
    std::vector<Held> held_;
    std::vector<PyObject*> written_;
};

// A number, or one a sample.
struct Scale {
    double value = 0.0;
    Tensor each;
    bool many = false;
    double at(int64_t b) const;
};

double number(PyObject* object);
uint64_t word(PyObject* object);
bool truth(PyObject* object);
Scale scale(PyObject* object, Arguments& arguments, int64_t batch);
inline bool is_none(PyObject* object) { return object == Py_None; }
bool is_tensor(PyObject* object);

double float_at(const Tensor& x, int64_t offset);
inline uint64_t word_at(const Tensor& x, int64_t offset) { return reinterpret_cast<const uint64_t*>(x.data)[offset]; }
void put(const Tensor& x, int64_t offset, double value);

// Outputs may share memory with nothing, except with an input of the same layout where `in_place` says so.
bool overlap(const Tensor& a, const Tensor& b);
bool same_place(const Tensor& a, const Tensor& b);
bool overlaps_itself(const Tensor& x);

// Takes what reads torch tensors: the Tensor and Parameter types, the exchange table, torch.is_grad_enabled and
// torch._C._increment_version. Raises ValueError for a table of another version.
void bind_tensors(PyObject* const* objects);

}  // namespace odesolve
