// Tensors and other arguments, read from Python objects.
#pragma once

#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <type_traits>

#include "kernels.h"

namespace odesolve {

// Thrown for arguments that an op leaves to the reference, before anything is written. The op returns False then.
struct Leave {};
inline void require(bool condition) {
    if (!condition) throw Leave();
}

constexpr int MAX_DIMS = 16, MAX_TENSORS = 64;

// A strided array in CPU memory, and the first and one past the last byte that it reaches.
struct Tensor {
    char *data, *first, *end;
    Type type;
    int dims;
    int64_t numel, shape[MAX_DIMS], stride[MAX_DIMS];

    bool is_float() const { return type != I64; }
    bool same_shape(const Tensor& other) const;
};

// A short list that needs no allocation: a small op is over in the time of a dozen. Too many items leave the op.
template <class T, int N = MAX_TENSORS>
class Few {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    void push_back(const T& item) {
        require(size_ < N);
        begin()[size_++] = item;
    }
    int size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T* begin() { return reinterpret_cast<T*>(memory_); }
    T* end() { return begin() + size_; }
    const T* begin() const { return reinterpret_cast<const T*>(memory_); }
    const T* end() const { return begin() + size_; }
    T& operator[](int i) { return begin()[i]; }
    const T& operator[](int i) const { return begin()[i]; }

  private:
    int size_ = 0;
    alignas(T) unsigned char memory_[N * sizeof(T)];
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
    ~Arguments();
    Arguments(const Arguments&) = delete;
    Tensor read(PyObject* object);
    Tensor write(PyObject* object, bool whole = false);
    void written();

  private:
    bool grad_;
    Few<PyObject*, 2 * MAX_TENSORS> held_;
    Few<PyObject*> written_;
};

// A number, or one a sample.
struct Scale {
    double value;
    bool many;
    Tensor each;
    double at(int64_t b) const;
};

double number(PyObject* object);
int64_t index(PyObject* object);
uint64_t word(PyObject* object);
bool truth(PyObject* object);
Scale scale(PyObject* object, Arguments& arguments, int64_t batch);
inline bool is_none(PyObject* object) { return object == Py_None; }
bool is_tensor(PyObject* object);

double half_at(const Tensor& x, int64_t offset);
inline double float_at(const Tensor& x, int64_t offset) {
    if (x.type == F64) return reinterpret_cast<const double*>(x.data)[offset];
    return x.type == F32 ? double(reinterpret_cast<const float*>(x.data)[offset]) : half_at(x, offset);
}
inline uint64_t word_at(const Tensor& x, int64_t offset) { return reinterpret_cast<const uint64_t*>(x.data)[offset]; }
void put(const Tensor& x, int64_t offset, double value);

// Outputs may share memory with nothing, except with an input of the same layout where `in_place` says so.
bool overlap(const Tensor& a, const Tensor& b);
bool overlap(const Tensor& a, const Scale& b);
bool same_place(const Tensor& a, const Tensor& b);
bool overlaps_itself(const Tensor& x);

// Takes what reads torch tensors: the Tensor and Parameter types, the exchange table, torch.is_grad_enabled and
// torch._C._increment_version. Raises ValueError for a table of another version.
void bind_tensors(PyObject* const* objects);

}  // namespace odesolve
