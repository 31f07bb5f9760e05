#include "tensor.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace odesolve {
namespace {

// DLPack 1.x, as far as it is used here: https://dmlc.github.io/dlpack/latest/c_api.html
struct Device {
    int32_t kind, id;
};
struct DataType {
    uint8_t code, bits;
    uint16_t lanes;
};
struct Exported {
    void* data;
    Device device;
    int32_t dims;
    DataType type;
    int64_t *shape, *stride;
    uint64_t byte_offset;
};
struct ExchangeTable {
    uint32_t major, minor;
    ExchangeTable* previous;
    void *allocate, *to_managed, *from_managed;
    int (*read)(void* object, Exported* out);
    void* stream;
};
constexpr int32_t CPU = 1;
enum Code : uint8_t { INT = 0, FLOAT = 2, BFLOAT = 4 };

struct Torch {
    PyObject *tensor, *parameter, *capsule, *grad_enabled, *increment_version;
    PyObject *is_neg, *requires_grad;
    int (*read)(void*, Exported*);
} torch;

Type type_of(DataType type) {
    require(type.lanes == 1);
    if (type.code == FLOAT && type.bits == 32) return F32;
    if (type.code == FLOAT && type.bits == 64) return F64;
    if (type.code == FLOAT && type.bits == 16) return F16;
    if (type.code == BFLOAT && type.bits == 16) return BF16;
    require(type.code == INT && type.bits == 64);
    return I64;
}

bool true_result(PyObject* owned) {
    Held result(owned);
    return result.get() == Py_True;
}

void set_shape(Tensor& x, const Exported& from) {
    x.dims = from.dims;
    x.numel = 1;
    x.first = x.end = nullptr;
    for (int d = 0; d < x.dims; ++d) {
        x.shape[d] = from.shape[d];
        x.stride[d] = from.stride[d];
        x.numel *= x.shape[d];
    }
    if (x.numel == 0) return;  // there may be no memory to point into
    x.first = x.end = x.data;
    for (int d = 0; d < x.dims; ++d)
        (x.stride[d] < 0 ? x.first : x.end) += (x.shape[d] - 1) * x.stride[d] * size_of(x.type);
    x.end += size_of(x.type);
}

// Negated views come from imaginary parts, whose strides are even: most tensors need no question.
bool may_be_negated(const Tensor& x) {
    for (int d = 0; d < x.dims; ++d)
        if (x.shape[d] > 1 && x.stride[d] % 2) return false;
    return true;
}

}  // namespace

bool Tensor::same_shape(const Tensor& other) const {
    return dims == other.dims && std::equal(shape, shape + dims, other.shape);
}

bool is_tensor(PyObject* object) {
    auto type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    return type == torch.tensor || type == torch.parameter;
}

Items::Items(PyObject* sequence) {
    list_ = PyList_Check(sequence);
    owner_ = list_ || PyTuple_Check(sequence) ? hold(sequence) : Held(PySequence_Tuple(sequence));
    require(bool(owner_));
    size_ = list_ ? PyList_Size(owner_.get()) : PyTuple_Size(owner_.get());
}

PyObject* Items::operator[](int i) const {
    PyObject* item = list_ ? PyList_GetItem(owner_.get(), i) : PyTuple_GetItem(owner_.get(), i);
    require(item);
    return item;
}

Arguments::Arguments() {
    require(torch.read);
    grad_ = true_result(PyObject_CallObject(torch.grad_enabled, nullptr));
}

Arguments::~Arguments() {
    for (PyObject* object : held_) Py_DECREF(object);
}

Tensor Arguments::read(PyObject* object) {
    require(is_tensor(object));
    Exported from;
    require(torch.read(object, &from) == 0 && from.device.kind == CPU && from.dims <= MAX_DIMS);
    Tensor x;
    x.data = static_cast<char*>(from.data) + from.byte_offset;
    x.type = type_of(from.type);
    set_shape(x, from);
    require(from.data || x.numel == 0);  // fake tensors have none
    require(!(reinterpret_cast<uintptr_t>(x.data) & (size_of(x.type) - 1)));  // a buffer may begin anywhere
    // The table passes over both: a negated view would lose its sign, and a graph would miss the op.
    require(!may_be_negated(x) || !true_result(PyObject_CallFunctionObjArgs(torch.is_neg, object, nullptr)));
    require(!grad_ || !true_result(PyObject_GetAttr(object, torch.requires_grad)));
    held_.push_back(object);
    Py_INCREF(object);
    return x;
}

Tensor Arguments::write(PyObject* object, bool whole) {
    Tensor x = read(object);
    require(x.is_float() != whole && !overlaps_itself(x));
    written_.push_back(object);
    return x;
}

void Arguments::written() {
    if (!grad_ || written_.empty()) return;
    Held list(PyList_New(0));
    for (PyObject* x : written_)
        if (list) PyList_Append(list.get(), x);
    // An inference tensor has no version; then nobody can save it for a backward pass either.
    if (!list || !Held(PyObject_CallFunctionObjArgs(torch.increment_version, list.get(), nullptr))) PyErr_Clear();
}

double number(PyObject* object) {
    double value = PyFloat_AsDouble(object);
    require(value != -1.0 || !PyErr_Occurred());
    return value;
}

int64_t index(PyObject* object) {
    const Py_ssize_t value = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    require(value != -1 || !PyErr_Occurred());
    return value;
}

uint64_t word(PyObject* object) {
    Held index(PyNumber_Index(object));
    require(bool(index));
    return PyLong_AsUnsignedLongLongMask(index.get());
}

bool truth(PyObject* object) {
    int value = PyObject_IsTrue(object);
    require(value >= 0);
    return value;
}

Scale scale(PyObject* object, Arguments& arguments, int64_t batch) {
    Scale s;
    s.value = 0.0;
    s.many = is_tensor(object);
    if (!s.many) {
        s.value = number(object);
        return s;
    }
    s.each = arguments.read(object);
    require(s.each.is_float() && s.each.dims == 1 && s.each.shape[0] == batch);
    return s;
}

double Scale::at(int64_t b) const { return many ? float_at(each, b * each.stride[0]) : value; }

double half_at(const Tensor& x, int64_t offset) {
    double value = 0.0;
    kernels->f64.load[x.type](&value, x.data + offset * size_of(x.type), 1, 1);
    return value;
}

void put(const Tensor& x, int64_t offset, double value) {
    kernels->f64.store[x.type](x.data + offset * size_of(x.type), 1, &value, 1);
}

bool overlap(const Tensor& a, const Tensor& b) { return a.first < b.end && b.first < a.end; }

bool overlap(const Tensor& a, const Scale& b) { return b.many && overlap(a, b.each); }

bool same_place(const Tensor& a, const Tensor& b) {
    if (a.data != b.data || a.type != b.type || !a.same_shape(b)) return false;
    for (int d = 0; d < a.dims; ++d)
        if (a.shape[d] > 1 && a.stride[d] != b.stride[d]) return false;
    return true;
}

// Conservative: every stride must clear all that smaller strides reach.
bool overlaps_itself(const Tensor& x) {
    int order[MAX_DIMS], count = 0;
    if (x.numel == 0) return false;
    for (int d = 0; d < x.dims; ++d)
        if (x.shape[d] > 1) order[count++] = d;
    std::sort(order, order + count, [&](int a, int b) { return std::abs(x.stride[a]) < std::abs(x.stride[b]); });
    int64_t reach = 0;
    for (int i = 0; i < count; ++i) {
        int64_t stride = std::abs(x.stride[order[i]]);
        if (stride <= reach) return true;
        reach += stride * (x.shape[order[i]] - 1);
    }
    return false;
}

void bind_tensors(PyObject* const* objects) {
    auto table = static_cast<ExchangeTable*>(PyCapsule_GetPointer(objects[2], "dlpack_exchange_api"));
    while (table && table->major > 1) table = table->previous;
    if (!table || table->major != 1 || !table->read) throw std::runtime_error("torch's exchange table is not DLPack 1");
    torch = {objects[0], objects[1], objects[2], objects[3], objects[4], nullptr, nullptr, table->read};
    torch.is_neg = PyObject_GetAttrString(objects[0], "is_neg");
    torch.requires_grad = PyUnicode_InternFromString("requires_grad");
    if (!torch.is_neg || !torch.requires_grad) throw std::runtime_error("torch.Tensor has no is_neg");
    for (int i = 0; i < 5; ++i) Py_INCREF(objects[i]);
}

}  // namespace odesolve
