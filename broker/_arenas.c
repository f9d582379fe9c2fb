/* A bound on the arenas of the interpreter's allocator of small objects.

   CPython takes the memory of small objects from the operating system in arenas of a megabyte, and gives one
   back when no object is left in it.  After a burst there is hardly such a one: whatever was made meanwhile
   and stays keeps a megabyte.  Where there are no more arenas the interpreter asks malloc() for small objects,
   too, and malloc_trim() gives back each page that is free.

   All of this is public: PyObject_SetArenaAllocator, https://docs.python.org/3/c-api/memory.html. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* As the allocator is the process's, so is this; who allocates an arena holds the GIL. */
static PyObjectArenaAllocator system_arenas;
static Py_ssize_t in_use, limit; /* arenas, counted from the first call of limit_arenas() */
static int installed;

static void *
alloc_arena(void *context, size_t size)
{
    void *arena = in_use < limit ? system_arenas.alloc(context, size) : NULL;

    if (arena != NULL)
        in_use++;
    return arena;
}

static void
free_arena(void *context, void *arena, size_t size)
{
    in_use--;
    system_arenas.free(context, arena, size);
}

PyDoc_STRVAR(limit_arenas_doc,
             "limit_arenas(count, /)\n--\n\n"
             "Let the interpreter use at most *count* arenas more than when this was called first.\n\n"
             "Those that it has already are left to it.  Return how many more it has now.");

static PyObject *
limit_arenas(PyObject *module, PyObject *count)
{
    Py_ssize_t most = PyLong_AsSsize_t(count);

    if (most == -1 && PyErr_Occurred())
        return NULL;
    if (!installed) {
        PyObjectArenaAllocator bounded;

        PyObject_GetArenaAllocator(&system_arenas);
        bounded = (PyObjectArenaAllocator){system_arenas.ctx, alloc_arena, free_arena};
        PyObject_SetArenaAllocator(&bounded);
        installed = 1;
    }
    limit = most;
    return PyLong_FromSsize_t(in_use);
}

static PyMethodDef methods[] = {
    {"limit_arenas", limit_arenas, METH_O, limit_arenas_doc},
    {NULL},
};

static struct PyModuleDef arenas = {
    PyModuleDef_HEAD_INIT,
    .m_name = "broker._arenas",
    .m_doc = PyDoc_STR("A bound on the arenas of the interpreter's allocator of small objects."),
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__arenas(void)
{
    return PyModuleDef_Init(&arenas);
}
