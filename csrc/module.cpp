// odesolve._native: one function an op, called with positional arguments. False means: left to the reference.
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "ops.h"
#include "parallel.h"

namespace odesolve {

const Kernels* kernels = &kernels_baseline;

namespace {

using Op = void (*)(PyObject* const*, Py_ssize_t, Arguments&);

template <Op op>
PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    try {
        Arguments arguments;
        op(args, count, arguments);
        arguments.written();
        Py_RETURN_NONE;
    } catch (const Leave&) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    }
}

PyObject* bind(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 6) return PyErr_Format(PyExc_TypeError, "bind takes 6 arguments, got %zd", count);
    Held path(PyUnicode_AsUTF8String(args[5]));
    const char* libtorch = path ? PyBytes_AsString(path.get()) : nullptr;
    if (!libtorch) return nullptr;
    try {
        bind_tensors(args);
    } catch (const std::exception& e) {
        return PyErr_Occurred() ? nullptr : PyErr_Format(PyExc_ImportError, "%s", e.what());
    }
    bind_threads(libtorch);
    Py_RETURN_NONE;
}

// The widest instruction set that the processor has and ODESOLVE_ISA allows; nullptr for a name that is none.
const Kernels* choose(const char* cap) {
    const Kernels* best = &kernels_baseline;
    bool capped = cap && std::strcmp(cap, best->isa) == 0;
#ifdef ODESOLVE_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    const struct {
        const Kernels* table;
        bool here;
    } wider[] = {{&kernels_avx2, avx2}, {&kernels_avx512, avx512}};
    for (const auto& [table, here] : wider) {
        if (here && !capped) best = table;
        capped = capped || (cap && std::strcmp(cap, table->isa) == 0);
    }
#endif
    return capped || !cap ? best : nullptr;
}

#define OP(name) {#name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call<name>)), METH_FASTCALL, nullptr}
PyMethodDef methods[] = {
    OP(combine),
    OP(normal),
    OP(rms),
    OP(inner),
    OP(quadratic_form),
    OP(quantile),
    OP(window),
    OP(control),
    OP(normal_sums),
    OP(assignment),
    {"bind", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(bind)), METH_FASTCALL,
     "bind(Tensor, Parameter, exchange table, is_grad_enabled, increment_version, path of libtorch_cpu)"},
    {nullptr, nullptr, 0, nullptr},
};

int start(PyObject* module) {
    const char* cap = std::getenv("ODESOLVE_ISA");
    const Kernels* chosen = choose(cap && *cap ? cap : nullptr);
    if (!chosen) {
        PyErr_Format(PyExc_ImportError, "ODESOLVE_ISA='%s' is no instruction set known here", cap);
        return -1;
    }
    kernels = chosen;
    return PyModule_AddStringConstant(module, "isa", kernels->isa);
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(start)}, {0, nullptr}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "CPU kernels.", 0, methods, slots, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace odesolve

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&odesolve::definition); }
